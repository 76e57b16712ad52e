"""The `copy` filter: a text that repeats one of the user's, or a synthetic text kept before, adds nothing new."""

from __future__ import annotations

from collections.abc import Iterable

from mlx_personal.dialogue import rouge1, words
from mlx_personal.dialogue.similarity import MIN_WORDS


def text_overlap(a: str, b: str) -> float:
    """Return how much two texts overlap, 0..1: ROUGE-1 where both have at least 4 words, else 1 for equal words."""
    words_a, words_b = words(a), words(b)
    if words_a == words_b:
        # Texts without words, such as emoji, may still differ.
        return float(bool(words_a) or a.strip() == b.strip())
    return rouge1(a, b) if min(len(words_a), len(words_b)) >= MIN_WORDS else 0.0


def max_overlap(text: str, others: Iterable[str]) -> float:
    """Return the largest `text_overlap` with one of the others; 0 without others."""
    return max((text_overlap(text, other) for other in others), default=0.0)
