"""A study's blocks as a budget names them when it leaves them out, and what the policy of our own is tuned over."""

from __future__ import annotations

import pytest

from mlx_personal.research.study import Cell
from mlx_personal.research.study.cell import OWN
from mlx_personal.research.study.grid import EXPERIMENTS, plan

CELL = Cell("", "", "tiny", "f00", 0, "base", bins=8)


def names(*experiments: str) -> list[str]:
    return [block.name for block in plan(CELL, {"alpaca": "a"}, 1, 3, experiments)]


@pytest.mark.parametrize(
    ("experiment", "last"),
    [
        ("main", "main on alpaca, 3 synthetic sets for each kept one, seed 0"),
        ("own", "own on alpaca, the second half, 3 synthetic sets for each kept one, seed 0"),
        ("tuning", "tuning on alpaca, the first half, seed 0"),
        ("base", "base on alpaca, seed 0"),
        ("synthesis", "synthesis on alpaca, seed 0"),
        ("buffer", "buffer on alpaca, 512 bins, seed 0"),
        ("entropy", "entropy on alpaca, seed 0"),
        ("annotations", "annotations on alpaca, no limit of questions, seed 0"),
        ("order", "order on alpaca, correlated, strength 1, seed 0"),
    ],
)
def test_a_block_is_named_for_what_all_its_cells_share(experiment: str, last: str) -> None:
    assert names(experiment)[-1] == last


def test_blocks_have_names_of_their_own() -> None:
    found = names(*EXPERIMENTS)
    assert len(set(found)) == len(found)
    assert "main on alpaca, no synthetic sets, seed 0" in found
    assert "annotations on alpaca, at most 4 questions, seed 0" in found


def test_the_policy_of_our_own_is_tuned_from_no_weight_on_the_first_half() -> None:
    cells = [cell for block in plan(CELL, {"alpaca": "a"}, 1, 3, ["tuning"]) for cell in block.cells]
    assert [cell.weight for cell in cells if cell.policy == OWN] == [0, 1, 2, 4, 8, 16]
    assert {(cell.part, cell.synthetic) for cell in cells} == {("first", 0)}
