"""Rows one behind the other in a single sequence, without padding; those that begin alike share their beginning.

A piece is a run of one row's tokens. A row is usually one piece. Where rows share their first tokens (the rewrites of
one dialogue, a system prompt), these are a piece of their own, and each row goes on in another piece, which sees its
own tokens and those it descends from. That is exact: what a causal model makes of a token follows from the tokens
before it alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# A shared beginning of fewer tokens costs more in bookkeeping than it saves.
_LEAST_SHARED = 8


@dataclass(frozen=True)
class Segment:
    """Tokens `start` to `stop` of a row, which follow those of the piece `parent` of the same sequence (-1: none)."""

    row: int
    start: int
    stop: int
    parent: int = -1

    def __len__(self) -> int:
        return self.stop - self.start


def pack(tokens: Sequence[np.ndarray], shareable: Sequence[int]) -> list[Segment]:
    """A sequence of all these rows (int [T] each), parents before children.

    Only the first `shareable[i]` tokens of row i may be shared with others; 0 keeps the rows apart.
    """
    segments: list[Segment] = []

    def grow(rows: list[int], start: int, depth: int, parent: int) -> None:
        """Adds rows that agree on `depth` tokens, of which those before `start` are in the sequence already."""
        if len(rows) == 1:
            segments.append(Segment(rows[0], start, len(tokens[rows[0]]), parent))
            return
        depth += _agreeing([tokens[row][depth : shareable[row]] for row in rows])
        if depth - start >= _LEAST_SHARED:
            segments.append(Segment(rows[0], start, depth, parent))
            start, parent = depth, len(segments) - 1
        following: dict[int, list[int]] = {}
        for row in rows:
            if depth < shareable[row]:
                following.setdefault(int(tokens[row][depth]), []).append(row)
            else:
                grow([row], start, depth, parent)
        for group in following.values():
            grow(group, start, depth, parent)

    if len(tokens):
        grow(list(range(len(tokens))), 0, 0, -1)
    return segments


def max_packed_length(model_args: Any) -> int:
    """How many tokens may stand one behind the other, by a model's settings.

    Distances are all that most models see of positions. Some (Llama 4, Mistral 3, LongRoPE) compute a token otherwise
    beyond a place that their settings name, though it would be before it in a row of its own.
    """
    return min(_places(model_args), default=2**31)


def _places(settings: Any) -> Iterator[int]:
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        settings = vars(settings)
    for name, value in settings.items() if isinstance(settings, Mapping) else ():
        if name in ("original_max_position_embeddings", "floor_scale") and value:
            yield int(value)
        yield from _places(value)


def segment_path(segments: Sequence[Segment], index: int) -> list[int]:
    """The pieces a row has gone through when it is in `index`: its ancestors, the first one first, and itself."""
    trail = [index]
    while (parent := segments[trail[0]].parent) != -1:
        trail.insert(0, parent)
    return trail


def _agreeing(rows: Sequence[np.ndarray]) -> int:
    """How many first tokens all these rows have in common."""
    first = rows[0][: min(map(len, rows))]
    for row in rows[1:]:
        differing = np.flatnonzero(row[: len(first)] != first)
        first = first[: differing[0]] if len(differing) else first
    return len(first)
