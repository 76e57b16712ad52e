"""Rows in one sequence: each is read off its pieces again, and a common beginning is there once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mlx_personal.finetune.data.packing import Piece, arrange, path

# Few tokens, so that rows often begin alike, also over the 8 that are the least worth sharing.
TOKENS = st.lists(st.integers(0, 1), min_size=1, max_size=30).map(lambda row: np.array([0] * 8 + row, np.int32))


def row_of(tokens: Sequence[np.ndarray], pieces: Sequence[Piece], index: int) -> np.ndarray:
    """What stands in the pieces on the way to this one."""
    trail = [pieces[i] for i in path(pieces, index)]
    return np.concatenate([tokens[piece.row][piece.start : piece.stop] for piece in trail])


def arrays(*rows: str) -> list[np.ndarray]:
    """A token a letter."""
    return [np.frombuffer(row.encode(), np.uint8).astype(np.int32) for row in rows]


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """By a plain loop: how many first tokens are the same."""
    count = 0
    while count < min(len(a), len(b)) and a[count] == b[count]:
        count += 1
    return count


@given(st.lists(TOKENS, max_size=8), st.data())
def test_every_row_is_read_off_its_last_piece(tokens: list[np.ndarray], data: st.DataObject) -> None:
    shareable = [data.draw(st.integers(0, len(row))) for row in tokens]
    pieces = arrange(tokens, shareable)
    assert all(piece.parent < index for index, piece in enumerate(pieces))
    last: dict[int, int] = {}
    for index, piece in enumerate(pieces):
        if piece.stop == len(tokens[piece.row]):
            last[piece.row] = index
    assert sorted(last) == list(range(len(tokens)))
    for row, index in last.items():
        assert row_of(tokens, pieces, index).tolist() == tokens[row].tolist()
        # A row's places follow one another, from 0.
        trail = [pieces[i] for i in path(pieces, index)]
        assert [piece.start for piece in trail] == [0, *(piece.stop for piece in trail[:-1])]


@given(st.lists(TOKENS, min_size=1, max_size=8), st.data())
def test_nothing_beyond_what_may_be_shared_is(tokens: list[np.ndarray], data: st.DataObject) -> None:
    shareable = [data.draw(st.integers(0, len(row))) for row in tokens]
    pieces = arrange(tokens, shareable)
    ends = {pieces[i].row: path(pieces, i) for i in range(len(pieces)) if pieces[i].stop == len(tokens[pieces[i].row])}
    for row, trail in ends.items():
        for other, other_trail in ends.items():
            both = set(trail) & set(other_trail)
            if row != other and both:
                depth = max(pieces[i].stop for i in both)
                assert depth <= min(shareable[row], shareable[other])
                assert depth <= common(tokens[row], tokens[other])


@given(st.lists(TOKENS, min_size=1, max_size=8))
def test_apart_they_stand_in_order(tokens: list[np.ndarray]) -> None:
    assert arrange(tokens, [0] * len(tokens)) == [Piece(i, 0, len(row)) for i, row in enumerate(tokens)]


@given(st.lists(TOKENS, min_size=2, max_size=2))
def test_two_rows_pay_once_for_all_they_share(tokens: list[np.ndarray]) -> None:
    shareable = [len(row) - 1 for row in tokens]
    shared = min(common(*tokens), *shareable)
    saved = shared if shared >= 8 else 0
    assert sum(map(len, arrange(tokens, shareable))) == sum(map(len, tokens)) - saved


def test_a_tree_of_several_levels() -> None:
    tokens = arrays("system: question one, a", "system: question one, b", "system: question two", "system: 1", "else")
    assert arrange(tokens, [len(row) - 1 for row in tokens]) == [
        Piece(0, 0, 8),
        Piece(3, 8, 9, 0),
        Piece(0, 8, 17, 0),
        Piece(0, 17, 23, 2),  # of `one, ` six letters more are not worth a level
        Piece(1, 17, 23, 2),
        Piece(2, 17, 20, 2),
        Piece(4, 0, 4),
    ]


def test_the_same_row_twice_shares_all_that_it_may() -> None:
    (row,) = arrays("the same row")
    assert arrange([row, row], [10, 10]) == [Piece(0, 0, 10), Piece(0, 10, 12, 0), Piece(1, 10, 12, 0)]


def test_no_rows_are_no_pieces() -> None:
    assert arrange([], []) == []
