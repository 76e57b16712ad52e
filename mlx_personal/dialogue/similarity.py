"""When two dialogues ask the same thing: the one rule for near-duplicates, of the split and of synthetic dialogues.

It compares words, not embeddings: a split must not move when the base model does.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter

from mlx_personal.dialogue.types import Dialogue
from mlx_personal.dialogue.words import words

# Two questions whose words overlap by this ROUGE-1 ask the same thing in the same words.
NEAR_DUPLICATE_THRESHOLD = 0.8
# A turn of fewer words ("ok thanks", "why is that?") says nothing without the turns before it.
_TELLING = 4


def dialogue_similarity(a: Dialogue, b: Dialogue) -> float:
    """The largest ROUGE-1, 0..1, between a user turn of one and one of the other, or between all of each.

    Turn by turn, because a conversation may open with another's question and go on. Turns of fewer than 4 words count
    only as a part of all turns together.
    """
    if a.user_turns == b.user_turns:
        return 1.0
    (all_a, *turns_a), (all_b, *turns_b) = _bags(a), _bags(b)
    return max(_overlap(x, y) for x, y in [(all_a, all_b), *itertools.product(turns_a, turns_b)])


def are_near_duplicates(a: Dialogue, b: Dialogue) -> bool:
    """Whether two dialogues ask the same thing in nearly the same words; see `dialogue_similarity`."""
    return dialogue_similarity(a, b) >= NEAR_DUPLICATE_THRESHOLD


@functools.lru_cache(maxsize=2048)
def _bags(dialogue: Dialogue) -> tuple[Counter[str], ...]:
    """The words of all user turns together, then of each telling one; cached, for each dialogue meets all others."""
    turns = [Counter(words(turn)) for turn in dialogue.user_turns]
    return sum(turns, Counter()), *(turn for turn in turns if turn.total() >= _TELLING)


def _overlap(a: Counter[str], b: Counter[str]) -> float:
    """`rouge1` of two bags of words."""
    return 2 * (a & b).total() / max(a.total() + b.total(), 1)
