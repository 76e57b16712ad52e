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
        closing_ids: Tokens that end the answer, which become likelier as the others are generated.
        closing_bonus: What is added to the logit of each closing token when all others have been generated.
    """

    token_ids: tuple[int, ...]
    bonuses: tuple[float, ...]
    closing_ids: tuple[int, ...] = ()
    closing_bonus: float = 0.0


class TokenBonuses:
    """The bonuses of the sequences of a batch; they stay on the device, so that decoding does not wait for them.

    Args:
        ids: Token ids [N, C].
        values: The bonus of each token [N, C]; 0 for padding, and for tokens that have been generated.
        totals: The sum of each sequence's bonuses before the first token [N].
        closing_ids: Closing tokens [N, E].
        closing_values: The bonus of each of them when no other is left [N, E]; 0 for padding.
    """

    def __init__(
        self, ids: mx.array, values: mx.array, totals: mx.array, closing_ids: mx.array, closing_values: mx.array
    ):
        self._ids, self._values, self._totals = ids, values, totals
        self._closing_ids, self._closing_values = closing_ids, closing_values

    @classmethod
    def of(cls, constraints: Sequence[LexicalConstraint]) -> TokenBonuses:
        """Return the bonuses of N constraints, before the first token.

        Args:
            constraints: The constraint of each sequence; one without tokens has no effect.
        """
        ids, values = _padded([c.token_ids for c in constraints]), _padded([c.bonuses for c in constraints])
        closing_ids = _padded([c.closing_ids for c in constraints])
        closing_values = _padded([(c.closing_bonus,) * len(c.closing_ids) for c in constraints])
        bonuses = mx.array(values, mx.float32)
        totals = bonuses.sum(axis=1)
        return cls(
            mx.array(ids, mx.int32),
            bonuses,
            totals,
            mx.array(closing_ids, mx.int32),
            mx.array(closing_values, mx.float32),
        )

    def add_to(self, logits: mx.array) -> mx.array:
        """Return the logits [N, V] with the bonuses added."""
        rows = mx.arange(logits.shape[0])[:, None]
        generated = 1 - self._values.sum(axis=1) / mx.maximum(self._totals, 1e-6)
        closing = self._closing_values * generated[:, None]
        added: Any = logits.at[rows, self._ids]
        logits = added.add(self._values.astype(logits.dtype))
        added = logits.at[rows, self._closing_ids]
        return mx.array(added.add(closing.astype(logits.dtype)))

    def without(self, tokens: mx.array) -> TokenBonuses:
        """Return the bonuses after each sequence has got a token.

        Args:
            tokens: Token ids [N].
        """
        values = mx.where(self._ids == tokens[:, None], 0, self._values)
        return TokenBonuses(self._ids, values, self._totals, self._closing_ids, self._closing_values)

    def filter(self, rows: mx.array) -> TokenBonuses:
        """Return the bonuses of some rows."""
        return TokenBonuses(*(array[rows] for array in self._arrays()))

    def concatenate(self, other: TokenBonuses) -> TokenBonuses:
        """Return the bonuses of both batches."""
        return TokenBonuses(*(_concatenate(a, b) for a, b in zip(self._arrays(), other._arrays(), strict=True)))

    def _arrays(self) -> tuple[mx.array, ...]:
        return (self._ids, self._values, self._totals, self._closing_ids, self._closing_values)


def _padded(rows: Sequence[Sequence[float]]) -> list[list[float]]:
    """Return rows of equal length, at least 1, filled up with zeros."""
    width = max((len(row) for row in rows), default=0) or 1
    return [[*row, *[0] * (width - len(row))] for row in rows]


def _concatenate(one: mx.array, two: mx.array) -> mx.array:
    """Return the rows of both, filled up with zeros to the same width."""
    if one.ndim == 1:
        return mx.concatenate([one, two])
    width = max(one.shape[1], two.shape[1])
    return mx.concatenate([mx.pad(array, [(0, 0), (0, width - array.shape[1])]) for array in (one, two)])
