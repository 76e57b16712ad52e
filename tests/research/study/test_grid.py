"""The names of a study's blocks, which are shown when a time limit skips them, and the weights of the tuning."""

from __future__ import annotations

import pytest

from mlx_personal.research.study import Cell
from mlx_personal.research.study.cell import WEIGHTED
from mlx_personal.research.study.grid import EXPERIMENTS, experiment_blocks

CELL = Cell("", "", "tiny", "f00", 0, "base", bins=8)


def block_names(*experiments: str) -> list[str]:
    return [block.name for block in experiment_blocks(CELL, {"alpaca": "a"}, 1, 3, experiments)]


@pytest.mark.parametrize(
    ("experiment", "last"),
    [
        ("main", "main on alpaca, 3 synthetic dialogues per selected one, seed 0"),
        ("own", "own on alpaca, the second half, 3 synthetic dialogues per selected one, seed 0"),
        ("tuning", "tuning on alpaca, the first half, seed 0"),
        ("base", "base on alpaca, seed 0"),
        ("synthesis", "synthesis on alpaca, seed 0"),
        ("buffer", "buffer on alpaca, 512 bins, seed 0"),
        ("entropy", "entropy on alpaca, seed 0"),
        ("annotations", "annotations on alpaca, no limit of annotations, seed 0"),
        ("order", "order on alpaca, correlated, strength 1, seed 0"),
    ],
)
def test_a_block_is_named_after_the_settings_that_its_cells_share(experiment: str, last: str) -> None:
    assert block_names(experiment)[-1] == last


def test_block_names_are_unique() -> None:
    names = block_names(*EXPERIMENTS)
    assert len(set(names)) == len(names)
    assert "main on alpaca, no synthetic dialogues, seed 0" in names
    assert "annotations on alpaca, at most 4 annotations, seed 0" in names


def test_the_weighted_policy_is_tuned_from_weight_zero_on_the_first_half() -> None:
    cells = [cell for block in experiment_blocks(CELL, {"alpaca": "a"}, 1, 3, ["tuning"]) for cell in block.cells]
    assert [cell.weight for cell in cells if cell.policy == WEIGHTED] == [0, 1, 2, 4, 8, 16]
    assert {(cell.part, cell.synthetic) for cell in cells} == {("first", 0)}
