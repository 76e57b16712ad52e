"""`copy`: a text that repeats one of the user's own, or a synthetic one that is kept already, teaches nothing new."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from mlx_personal.dialogue import rouge1, words

# Of fewer words, two texts easily share most without saying the same: these repeat each other only if equal.
TELLING: Final = 4


def overlap(a: str, b: str) -> float:
    """How much one text repeats the other, 0..1: ROUGE-1, where both have at least 4 words."""
    words_a, words_b = words(a), words(b)
    if words_a == words_b:
        # Texts without words (emoji alone) may differ all the same.
        return float(bool(words_a) or a.strip() == b.strip())
    return rouge1(a, b) if min(len(words_a), len(words_b)) >= TELLING else 0.0


def most_overlap(text: str, others: Iterable[str]) -> float:
    """The largest `overlap` with any of the others; 0 without others."""
    return max((overlap(text, other) for other in others), default=0.0)
