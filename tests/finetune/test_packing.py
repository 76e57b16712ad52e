"""Rows in one sequence: each is read off its pieces again, and a common beginning is there once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mlx_personal.finetune.data.packing import Segment, pack, segment_path

# Few tokens, so that rows often begin alike, also over the 8 that are the least worth sharing.
TOKENS = st.lists(st.integers(0, 1), min_size=1, max_size=30).map(lambda row: np.array([0] * 8 + row, np.int32))


def tokens_on_path(tokens: Sequence[np.ndarray], segments: Sequence[Segment], index: int) -> np.ndarray:
    """What stands in the pieces on the way to this one."""
    trail = [segments[i] for i in segment_path(segments, index)]
    return np.concatenate([tokens[segment.sample][segment.start : segment.stop] for segment in trail])


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
def test_segment_paths_restore_every_sample(tokens: list[np.ndarray], data: st.DataObject) -> None:
    shareable = [data.draw(st.integers(0, len(row))) for row in tokens]
    segments = pack(tokens, shareable)
    assert all(segment.parent < index for index, segment in enumerate(segments))
    last: dict[int, int] = {}
    for index, segment in enumerate(segments):
        if segment.stop == len(tokens[segment.sample]):
            last[segment.sample] = index
    assert sorted(last) == list(range(len(tokens)))
    for row, index in last.items():
        assert tokens_on_path(tokens, segments, index).tolist() == tokens[row].tolist()
        # A row's places follow one another, from 0.
        trail = [segments[i] for i in segment_path(segments, index)]
        assert [segment.start for segment in trail] == [0, *(segment.stop for segment in trail[:-1])]


@given(st.lists(TOKENS, min_size=1, max_size=8), st.data())
def test_only_shareable_tokens_are_shared(tokens: list[np.ndarray], data: st.DataObject) -> None:
    shareable = [data.draw(st.integers(0, len(row))) for row in tokens]
    segments = pack(tokens, shareable)
    ends = {
        segments[i].sample: segment_path(segments, i)
        for i in range(len(segments))
        if segments[i].stop == len(tokens[segments[i].sample])
    }
    for row, trail in ends.items():
        for other, other_trail in ends.items():
            both = set(trail) & set(other_trail)
            if row != other and both:
                depth = max(segments[i].stop for i in both)
                assert depth <= min(shareable[row], shareable[other])
                assert depth <= common(tokens[row], tokens[other])


@given(st.lists(TOKENS, min_size=1, max_size=8))
def test_samples_that_share_nothing_are_packed_in_order(tokens: list[np.ndarray]) -> None:
    assert pack(tokens, [0] * len(tokens)) == [Segment(i, 0, len(row)) for i, row in enumerate(tokens)]


@given(st.lists(TOKENS, min_size=2, max_size=2))
def test_two_samples_store_their_common_prefix_once(tokens: list[np.ndarray]) -> None:
    shareable = [len(row) - 1 for row in tokens]
    shared = min(common(*tokens), *shareable)
    saved = shared if shared >= 8 else 0
    assert sum(map(len, pack(tokens, shareable))) == sum(map(len, tokens)) - saved


def test_a_tree_of_several_levels() -> None:
    tokens = arrays("system: question one, a", "system: question one, b", "system: question two", "system: 1", "else")
    assert pack(tokens, [len(row) - 1 for row in tokens]) == [
        Segment(0, 0, 8),
        Segment(3, 8, 9, 0),
        Segment(0, 8, 17, 0),
        Segment(0, 17, 23, 2),  # of `one, ` six letters more are not worth a level
        Segment(1, 17, 23, 2),
        Segment(2, 17, 20, 2),
        Segment(4, 0, 4),
    ]


def test_equal_samples_share_all_shareable_tokens() -> None:
    (row,) = arrays("the same row")
    assert pack([row, row], [10, 10]) == [Segment(0, 0, 10), Segment(0, 10, 12, 0), Segment(1, 10, 12, 0)]


def test_no_samples_give_no_segments() -> None:
    assert pack([], []) == []
