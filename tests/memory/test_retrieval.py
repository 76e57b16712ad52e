"""Ranking: reciprocal rank fusion against plain loops, annotated entries first, and ties."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_personal.memory.retrieval import RankedEntry, rank_entries

# Few different values, so that there are ties.
SIMILARITY = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])


def ranks(similarity: list[float], entries: list[int]) -> dict[int, int]:
    """Return the rank of each entry, of which equal ones are ranked the latest first."""
    order = sorted(entries, key=lambda entry: (-similarity[entry], -entry))
    return {entry: rank for rank, entry in enumerate(order, 1)}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(SIMILARITY, SIMILARITY, st.booleans(), st.booleans()), max_size=20), st.integers(1, 25))
def test_entries_are_ranked_as_by_plain_loops(rows: list[tuple[float, float, bool, bool]], count: int) -> None:
    first, second = [row[0] for row in rows], [row[1] for row in rows]
    entries = [i for i, (_, _, _, is_allowed) in enumerate(rows) if is_allowed]
    tables = [ranks(s, [i for i in entries if s[i] >= limit]) for s, limit in ((first, 0.25), (second, 0.125))]
    scores = {i: sum(1 / (60 + table[i]) for table in tables if i in table) for i in entries}
    expected: list[RankedEntry] = []
    for tier in (True, False):
        near = [i for i in entries if scores[i] and rows[i][2] == tier]
        near.sort(key=lambda i: (-scores[i], -max(first[i], second[i]), -i))
        expected += [RankedEntry(i, max(first[i], second[i]), scores[i]) for i in near]
    arrays = [np.array(values, np.float32) for values in (first, second)]
    annotated, allowed = (np.array([row[column] for row in rows], bool) for column in (2, 3))
    assert rank_entries(arrays, annotated, allowed, [0.25, 0.125], count) == expected[:count]


def test_of_many_equal_entries_the_latest_are_taken() -> None:
    equal, every = np.full(1000, 0.5, np.float32), np.ones(1000, bool)
    equal[3] = 0.75
    ranked = rank_entries([equal], every, every, [0.5], 3)
    assert [(entry.index, entry.similarity) for entry in ranked] == [(3, 0.75), (999, 0.5), (998, 0.5)]


def test_annotated_entries_come_first_however_many_others_are_nearer() -> None:
    similarity, every = np.linspace(0.1, 1, 1000, dtype=np.float32), np.ones(1000, bool)
    annotated = np.arange(1000) < 2
    assert [entry.index for entry in rank_entries([similarity], annotated, every, [0.0], 4)] == [1, 0, 999, 998]
