"""Numbers are printed with the right form of what they count."""

from __future__ import annotations

from mlx_personal.reporting import counted


def test_one_is_singular_and_all_other_numbers_are_plural() -> None:
    assert [counted(count, "pair") for count in (0, 1, 2, 1200)] == ["0 pairs", "1 pair", "2 pairs", "1,200 pairs"]
    assert [counted(count, "box is", "boxes are") for count in (0, 1, 2)] == ["0 boxes are", "1 box is", "2 boxes are"]
