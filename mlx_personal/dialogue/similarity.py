"""The rule for near-duplicates of dialogues, used by the held-out split, synthesis and studies.

It compares the words of the user turns instead of embeddings, because a split must not change with the base model.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from mlx_personal.dialogue.types import Dialogue
from mlx_personal.dialogue.words import words

# Two questions with at least this ROUGE-1 ask the same thing in nearly the same words.
NEAR_DUPLICATE_THRESHOLD: Final = 0.8
# Shorter texts ("ok thanks", "why is that?") may share most of their words and still have different meanings.
MIN_WORDS: Final = 4
# Tolerance for rounding errors in the search of `flag_near_duplicates`, whose candidates are then compared exactly.
_SEARCH_TOLERANCE: Final = 1e-9

# A word and how many times it has occurred so far: in this form a multiset of words is a set.
_NumberedWord = tuple[str, int]


def dialogue_similarity(a: Dialogue, b: Dialogue) -> float:
    """Return the largest ROUGE-1 between user turns of two dialogues, or between all user turns of each.

    Single turns are compared because a conversation may begin with the question of another one and then continue. Turns
    of fewer than `MIN_WORDS` words are compared only as part of all turns together.

    Args:
        a: A dialogue.
        b: Another dialogue.

    Returns:
        The similarity, 0..1; 1 for identical user turns.
    """
    if a.user_turns == b.user_turns:
        return 1.0
    (all_a, *turns_a), (all_b, *turns_b) = _word_counts(a), _word_counts(b)
    return max(_overlap(x, y) for x, y in [(all_a, all_b), *itertools.product(turns_a, turns_b)])


def are_near_duplicates(a: Dialogue, b: Dialogue) -> bool:
    """Return whether two dialogues ask the same thing in nearly the same words; see `dialogue_similarity`.

    Args:
        a: A dialogue.
        b: Another dialogue.
    """
    return dialogue_similarity(a, b) >= NEAR_DUPLICATE_THRESHOLD


def flag_near_duplicates(dialogues: Iterable[Dialogue], references: Sequence[Dialogue]) -> list[bool]:
    """Return for each dialogue whether it is a near-duplicate of any reference.

    The result is that of `are_near_duplicates` for all pairs. Only pairs whose bags of words overlap enough are
    compared.

    Args:
        dialogues: The dialogues.
        references: The dialogues they are compared with.
    """
    # Imported here because most users of this module need no NumPy.
    import numpy as np

    bags = [(number, bag) for number, dialogue in enumerate(references) for bag in _numbered_bags(dialogue)]
    reference_of_bag = np.array([number for number, _ in bags], int)
    bag_sizes = np.array([len(bag) for _, bag in bags], int)
    word_rows: dict[_NumberedWord, int] = {}
    for _, bag in bags:
        for word in bag:
            word_rows.setdefault(word, len(word_rows))
    contains = np.zeros((len(word_rows), len(bags)), np.uint8)  # [words, bags]
    for column, (_, bag) in enumerate(bags):
        contains[[word_rows[word] for word in bag], column] = 1
    # Questions without words have no bag: they are near-duplicates only if they are identical.
    reference_questions = {dialogue.user_turns for dialogue in references}
    flags = []
    for dialogue in dialogues:
        candidates: set[int] = set()
        for bag in _numbered_bags(dialogue):
            rows = [word_rows[word] for word in bag if word in word_rows]
            shared = contains[rows].sum(axis=0, dtype=np.int32)
            min_shared = (NEAR_DUPLICATE_THRESHOLD - _SEARCH_TOLERANCE) * (bag_sizes + len(bag))
            candidates.update(reference_of_bag[2 * shared >= min_shared].tolist())
        is_similar = any(are_near_duplicates(dialogue, references[number]) for number in sorted(candidates))
        flags.append(is_similar or dialogue.user_turns in reference_questions)
    return flags


@functools.lru_cache(maxsize=2048)
def _word_counts(dialogue: Dialogue) -> tuple[Counter[str], ...]:
    """Return the words of all user turns together, then of each turn of at least `MIN_WORDS` words.

    The result is cached because all pairs of dialogues are compared.
    """
    turns = [Counter(words(turn)) for turn in dialogue.user_turns]
    return sum(turns, Counter()), *(turn for turn in turns if turn.total() >= MIN_WORDS)


def _overlap(a: Counter[str], b: Counter[str]) -> float:
    """Return `rouge1` of two bags of words."""
    return 2 * (a & b).total() / max(a.total() + b.total(), 1)


def _numbered_bags(dialogue: Dialogue) -> list[list[_NumberedWord]]:
    """Return the numbered words of all user turns together, and of each turn if there are several."""
    turns = [words(turn) for turn in dialogue.user_turns]
    together = [word for turn in turns for word in turn]
    return [_number_words(bag) for bag in ([together] if len(turns) == 1 else [together, *turns]) if bag]


def _number_words(bag: Sequence[str]) -> list[_NumberedWord]:
    counts: Counter[str] = Counter()
    numbered = []
    for word in bag:
        counts[word] += 1
        numbered.append((word, counts[word]))
    return numbered
