"""Packed sequences: samples can be restored from their segments, and a common prefix is stored once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mlx_personal.finetune.data.packing import Segment, pack, segment_path

# Few different tokens, so that samples often share a prefix, also one longer than the 8 tokens that are always equal.
TOKENS = st.lists(st.integers(0, 1), min_size=1, max_size=30).map(lambda sample: np.array([0] * 8 + sample, np.int32))


def tokens_on_path(tokens: Sequence[np.ndarray], segments: Sequence[Segment], index: int) -> np.ndarray:
    """Return the tokens of a segment and its ancestors."""
    path = [segments[i] for i in segment_path(segments, index)]
    return np.concatenate([tokens[segment.sample][segment.start : segment.stop] for segment in path])


def arrays(*samples: str) -> list[np.ndarray]:
    """Return one token per letter."""
    return [np.frombuffer(sample.encode(), np.uint8).astype(np.int32) for sample in samples]


def common_prefix_length(a: np.ndarray, b: np.ndarray) -> int:
    """Return how many first tokens are equal, by a plain loop."""
    count = 0
    while count < min(len(a), len(b)) and a[count] == b[count]:
        count += 1
    return count


@given(st.lists(TOKENS, max_size=8), st.data())
def test_segment_paths_restore_every_sample(tokens: list[np.ndarray], data: st.DataObject) -> None:
    shareable = [data.draw(st.integers(0, len(sample))) for sample in tokens]
    segments = pack(tokens, shareable)
    assert all(segment.parent < index for index, segment in enumerate(segments))
    last: dict[int, int] = {}
    for index, segment in enumerate(segments):
        if segment.stop == len(tokens[segment.sample]):
            last[segment.sample] = index
    assert sorted(last) == list(range(len(tokens)))
    for sample, index in last.items():
        assert tokens_on_path(tokens, segments, index).tolist() == tokens[sample].tolist()
        # The segments of a sample are contiguous and start at 0.
        path = [segments[i] for i in segment_path(segments, index)]
        assert [segment.start for segment in path] == [0, *(segment.stop for segment in path[:-1])]


@given(st.lists(TOKENS, min_size=1, max_size=8), st.data())
def test_only_shareable_tokens_are_shared(tokens: list[np.ndarray], data: st.DataObject) -> None:
    shareable = [data.draw(st.integers(0, len(sample))) for sample in tokens]
    segments = pack(tokens, shareable)
    paths = {
        segments[i].sample: segment_path(segments, i)
        for i in range(len(segments))
        if segments[i].stop == len(tokens[segments[i].sample])
    }
    for sample, path in paths.items():
        for other, other_path in paths.items():
            common = set(path) & set(other_path)
            if sample != other and common:
                depth = max(segments[i].stop for i in common)
                assert depth <= min(shareable[sample], shareable[other])
                assert depth <= common_prefix_length(tokens[sample], tokens[other])


@given(st.lists(TOKENS, min_size=1, max_size=8))
def test_samples_that_share_nothing_are_packed_in_order(tokens: list[np.ndarray]) -> None:
    assert pack(tokens, [0] * len(tokens)) == [Segment(i, 0, len(sample)) for i, sample in enumerate(tokens)]


@given(st.lists(TOKENS, min_size=2, max_size=2))
def test_two_samples_store_their_common_prefix_once(tokens: list[np.ndarray]) -> None:
    shareable = [len(sample) - 1 for sample in tokens]
    shared = min(common_prefix_length(*tokens), *shareable)
    saved = shared if shared >= 8 else 0
    assert sum(map(len, pack(tokens, shareable))) == sum(map(len, tokens)) - saved


def test_a_tree_of_several_levels() -> None:
    tokens = arrays("system: question one, a", "system: question one, b", "system: question two", "system: 1", "else")
    assert pack(tokens, [len(sample) - 1 for sample in tokens]) == [
        Segment(0, 0, 8),
        Segment(3, 8, 9, 0),
        Segment(0, 8, 17, 0),
        Segment(0, 17, 23, 2),  # the 6 common tokens `one, ` are too few for a segment
        Segment(1, 17, 23, 2),
        Segment(2, 17, 20, 2),
        Segment(4, 0, 4),
    ]


def test_equal_samples_share_all_shareable_tokens() -> None:
    (sample,) = arrays("the same row")
    assert pack([sample, sample], [10, 10]) == [Segment(0, 0, 10), Segment(0, 10, 12, 0), Segment(1, 10, 12, 0)]


def test_no_samples_give_no_segments() -> None:
    assert pack([], []) == []
