"""Soft lexical constraints: raise the logits of given tokens until each has been generated.

Hard constraints force words into a beam [Hokamp17]; a bonus on the logits keeps sampling and its batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx


@dataclass(frozen=True)
class LexicalConstraint:
    """Tokens that an answer should contain.

    Attributes:
        token_ids: The tokens, each once.
        bonuses: What is added to the logit of each of them until it has been generated, in nats.
    """

    token_ids: tuple[int, ...]
    bonuses: tuple[float, ...]


class TokenBonuses:
    """The bonuses of the sequences of a batch; they stay on the device, so that decoding does not wait for them.

    Args:
        ids: Token ids [N, C].
        values: The bonus of each token [N, C]; 0 for padding, and for tokens that have been generated.
    """

    def __init__(self, ids: mx.array, values: mx.array):
        self._ids, self._values = ids, values

    @classmethod
    def of(cls, constraints: Sequence[LexicalConstraint]) -> TokenBonuses:
        """Return the bonuses of N constraints, before the first token.

        Args:
            constraints: The constraint of each sequence; one without tokens has no effect.
        """
        width = max((len(constraint.token_ids) for constraint in constraints), default=0) or 1
        ids = [[*c.token_ids, *[0] * (width - len(c.token_ids))] for c in constraints]
        values = [[*c.bonuses, *[0.0] * (width - len(c.bonuses))] for c in constraints]
        return cls(mx.array(ids, mx.int32), mx.array(values, mx.float32))

    def add_to(self, logits: mx.array) -> mx.array:
        """Return the logits [N, V] with the bonuses added."""
        rows = mx.arange(logits.shape[0])[:, None]
        changed: Any = logits.at[rows, self._ids]
        return mx.array(changed.add(self._values.astype(logits.dtype)))

    def without(self, tokens: mx.array) -> TokenBonuses:
        """Return the bonuses after each sequence has got a token.

        Args:
            tokens: Token ids [N].
        """
        return TokenBonuses(self._ids, mx.where(self._ids == tokens[:, None], 0, self._values))

    def filter(self, rows: mx.array) -> TokenBonuses:
        """Return the bonuses of some rows."""
        return TokenBonuses(self._ids[rows], self._values[rows])

    def concatenate(self, other: TokenBonuses) -> TokenBonuses:
        """Return the bonuses of both batches."""
        width = max(self._ids.shape[1], other._ids.shape[1])
        pairs = [
            [mx.pad(array, [(0, 0), (0, width - array.shape[1])]) for array in (part._ids, part._values)]
            for part in (self, other)
        ]
        return TokenBonuses(*(mx.concatenate(list(arrays)) for arrays in zip(*pairs, strict=True)))
