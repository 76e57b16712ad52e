"""The blocks of a study's experiments."""

from __future__ import annotations

import pytest

from mlx_personal.research.study import Cell
from mlx_personal.research.study.cell import BASE
from mlx_personal.research.study.grid import EXPERIMENTS, OWN_POLICIES, PAPER_POLICIES, experiment_blocks

CELL = Cell("", "", "tiny", "f00", 0, BASE, received=100, bins=8)
SOURCES = {"dolly": "a", "openorca": "b"}


def cells_of(experiment: str, seeds: int = 1) -> list[Cell]:
    return [cell for block in experiment_blocks(CELL, SOURCES, seeds, 3, [experiment]) for cell in block.cells]


def test_a_block_has_the_base_model_and_all_policies_of_a_data_set_and_seed() -> None:
    blocks = experiment_blocks(CELL, SOURCES, 2, 3, ["main"])
    assert [block.name for block in blocks] == [
        *("main on dolly, seed 0", "main on openorca, seed 0", "main on dolly, seed 1", "main on openorca, seed 1")
    ]
    for block in blocks:
        assert [cell.policy for cell in block.cells] == [BASE, *PAPER_POLICIES, *OWN_POLICIES]
        assert len({(cell.data, cell.source, cell.seed) for cell in block.cells}) == 1


def test_synthesis_has_the_same_number_for_all_policies_on_three_data_sets() -> None:
    cells = [cell for cell in cells_of("synthesis") if cell.policy != BASE]
    assert {(cell.data, cell.synthetic) for cell in cells} == {("dolly", 3)}
    assert {cell.synthetic for cell in cells_of("main")} == {0}


@pytest.mark.parametrize(("experiment", "part"), [("tuning", "first"), ("own", "second")])
def test_a_policy_is_tuned_and_tested_on_different_halves(experiment: str, part: str) -> None:
    assert {(cell.part, cell.received) for cell in cells_of(experiment)} == {(part, 50)}


def test_no_cell_occurs_twice() -> None:
    blocks = experiment_blocks(CELL, SOURCES, 2, 3, [*EXPERIMENTS, "main"])
    keys = [cell.key for block in blocks for cell in block.cells]
    assert len(set(keys)) == len(keys)
    assert len({block.name for block in blocks}) == len(blocks)


def test_only_the_wanted_policies_are_run_beside_the_base_model() -> None:
    blocks = experiment_blocks(CELL, SOURCES, 1, 3, ["main"], ["random"])
    assert [[cell.policy for cell in block.cells] for block in blocks] == [[BASE, "random"]] * 2
