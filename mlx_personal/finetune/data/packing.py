"""Pack samples into a single sequence without padding [Krell21], and store common prefixes once.

A segment is a run of consecutive tokens of a sample. Usually a sample is one segment. If samples share their first
tokens, such as a system prompt, these tokens are one segment, and each sample continues in another segment, which
attends to its own tokens and to those of its ancestors. This is exact, because what a causal model computes for a token
depends only on the tokens before it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# Sharing fewer tokens costs more in bookkeeping than it saves.
_MIN_SHARED_TOKENS = 8


@dataclass(frozen=True)
class Segment:
    """A run of consecutive tokens of a sample in a packed sequence.

    Attributes:
        sample: Index of the sample.
        start: Index of the first token in the sample.
        stop: Index after the last token in the sample.
        parent: Index of the segment that contains the tokens before `start`; -1 for none.
    """

    sample: int
    start: int
    stop: int
    parent: int = -1

    def __len__(self) -> int:
        return self.stop - self.start


def pack(tokens: Sequence[np.ndarray], shareable: Sequence[int]) -> list[Segment]:
    """Return the layout of all samples in one sequence.

    Args:
        tokens: Tokens of each sample, int [T].
        shareable: Number of first tokens of each sample that may be shared with others; 0 for none.

    Returns:
        The segments in the order of the sequence, parents before children.
    """
    segments: list[Segment] = []

    def add(samples: list[int], start: int, depth: int, parent: int) -> None:
        """Add samples that have `depth` tokens in common, of which those before `start` are already in the sequence."""
        if len(samples) == 1:
            segments.append(Segment(samples[0], start, len(tokens[samples[0]]), parent))
            return
        depth += _common_prefix_length([tokens[sample][depth : shareable[sample]] for sample in samples])
        if depth - start >= _MIN_SHARED_TOKENS:
            segments.append(Segment(samples[0], start, depth, parent))
            start, parent = depth, len(segments) - 1
        by_next_token: dict[int, list[int]] = {}
        for sample in samples:
            if depth < shareable[sample]:
                by_next_token.setdefault(int(tokens[sample][depth]), []).append(sample)
            else:
                add([sample], start, depth, parent)
        for subset in by_next_token.values():
            add(subset, start, depth, parent)

    if len(tokens):
        add(list(range(len(tokens))), 0, 0, -1)
    return segments


def segment_path(segments: Sequence[Segment], index: int) -> list[int]:
    """Return the ancestors of a segment, the first one first, and the segment itself.

    Args:
        segments: The layout of a packed sequence.
        index: Index of the segment.

    Returns:
        Indices of the segments that contain the sample's tokens up to the end of the segment.
    """
    path = [index]
    while (parent := segments[path[0]].parent) != -1:
        path.insert(0, parent)
    return path


def max_packed_length(model_args: Any) -> int:
    """Return the maximum number of tokens of a packed sequence.

    Most models depend on the distance between positions only. Some (Llama 4, Mistral 3, LongRoPE) compute tokens
    differently from a position in their settings on, which a token may reach in a packed sequence although it would not
    in its own sample.

    Args:
        model_args: mlx-lm's settings of the model.
    """
    return min(_position_limits(model_args), default=2**31)


def _position_limits(settings: Any) -> Iterator[int]:
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        settings = vars(settings)
    for name, value in settings.items() if isinstance(settings, Mapping) else ():
        if name in ("original_max_position_embeddings", "floor_scale") and value:
            yield int(value)
        yield from _position_limits(value)


def _common_prefix_length(sequences: Sequence[np.ndarray]) -> int:
    prefix = sequences[0][: min(map(len, sequences))]
    for sequence in sequences[1:]:
        different = np.flatnonzero(sequence[: len(prefix)] != prefix)
        prefix = prefix[: different[0]] if len(different) else prefix
    return len(prefix)
