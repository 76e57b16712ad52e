"""The rule for near-duplicates of dialogues, used by the held-out split, synthesis and studies.

It compares the words of the user turns instead of embeddings, because a split must not change with the base model.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from mlx_personal.dialogue.types import Dialogue
from mlx_personal.dialogue.words import words

# Two questions with at least this ROUGE-1 ask the same thing in nearly the same words.
NEAR_DUPLICATE_THRESHOLD: Final = 0.8
# Shorter texts ("ok thanks", "why is that?") may share most of their words and still have different meanings.
MIN_WORDS: Final = 4
# Tolerance for rounding errors in the search of `NearDuplicateIndex`, whose candidates are then compared exactly.
_SEARCH_TOLERANCE: Final = 1e-9

# A word and how many times it has occurred so far: in this form a multiset of words is a set.
_NumberedWord = tuple[str, int]
# The number of a dialogue, and the words of a bag.
_Bag = tuple[int, frozenset[_NumberedWord]]


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
    return max(bag_overlap(x, y) for x, y in [(all_a, all_b), *itertools.product(turns_a, turns_b)])


def bag_overlap(a: Counter[str], b: Counter[str]) -> float:
    """Return `rouge1` of two bags of words.

    Args:
        a: The words of a text and how often each occurs.
        b: Those of another text.
    """
    return 2 * (a & b).total() / max(a.total() + b.total(), 1)


def are_near_duplicates(a: Dialogue, b: Dialogue) -> bool:
    """Return whether two dialogues ask the same thing in nearly the same words; see `dialogue_similarity`.

    Args:
        a: A dialogue.
        b: Another dialogue.
    """
    return dialogue_similarity(a, b) >= NEAR_DUPLICATE_THRESHOLD


def flag_near_duplicates(dialogues: Iterable[Dialogue], references: Sequence[Dialogue]) -> list[bool]:
    """Return for each dialogue whether it is a near-duplicate of any reference.

    The result is that of `are_near_duplicates` for all pairs.

    Args:
        dialogues: The dialogues.
        references: The dialogues they are compared with.
    """
    index = NearDuplicateIndex(references)
    return [bool(index.find(dialogue)) for dialogue in dialogues]


class NearDuplicateIndex:
    """Dialogues among which the near-duplicates of another one are found without comparing it with all of them.

    Two bags of words that are similar enough share at least one of the rarest words of each [Bayardo07], so that only
    the bags with one of these words are compared.

    Args:
        dialogues: The first dialogues.
    """

    def __init__(self, dialogues: Iterable[Dialogue] = ()):
        self._count = 0
        self._by_user_turns: dict[tuple[str, ...], list[int]] = {}
        # Number of the dialogue and the words of each bag, and for each word the bags that contain it: for bags of all
        # turns, and for bags of single turns, which are compared with each other only.
        self._bags: tuple[list[_Bag], list[_Bag]] = ([], [])
        self._bags_with: tuple[dict[_NumberedWord, list[int]], dict[_NumberedWord, list[int]]] = ({}, {})
        for dialogue in dialogues:
            self.add(dialogue)

    def add(self, dialogue: Dialogue) -> None:
        """Add a dialogue, whose number is how many were added before it.

        Args:
            dialogue: The dialogue.
        """
        number, self._count = self._count, self._count + 1
        self._by_user_turns.setdefault(_user_turns(dialogue), []).append(number)
        for bags, bags_with, words_of_bags in zip(self._bags, self._bags_with, _numbered_bags(dialogue), strict=True):
            for bag in words_of_bags:
                for word in bag:
                    bags_with.setdefault(word, []).append(len(bags))
                bags.append((number, bag))

    def find(self, dialogue: Dialogue) -> dict[int, float]:
        """Return the near-duplicates of a dialogue.

        Args:
            dialogue: The dialogue.

        Returns:
            The `dialogue_similarity` of each near-duplicate, by its number.
        """
        found: dict[int, float] = {}
        for bags, bags_with, words_of_bags in zip(self._bags, self._bags_with, _numbered_bags(dialogue), strict=True):
            for bag in words_of_bags:
                for number, similarity in _similar_bags(bag, bags, bags_with):
                    found[number] = max(similarity, found.get(number, 0.0))
        return found | dict.fromkeys(self._by_user_turns.get(_user_turns(dialogue), ()), 1.0)


def _similar_bags(
    bag: frozenset[_NumberedWord], bags: Sequence[_Bag], bags_with: Mapping[_NumberedWord, Sequence[int]]
) -> Iterator[tuple[int, float]]:
    """Yield the dialogue and the similarity of each bag that is similar enough to this one."""
    # At least this many words are shared, since a smaller bag cannot share more than all of its own.
    min_shared = len(bag) * NEAR_DUPLICATE_THRESHOLD / (2 - NEAR_DUPLICATE_THRESHOLD) - _SEARCH_TOLERANCE
    rarest = sorted(bag, key=lambda word: len(bags_with.get(word, ())))[: len(bag) - math.ceil(min_shared) + 1]
    for candidate in {candidate for word in rarest for candidate in bags_with.get(word, ())}:
        number, other = bags[candidate]
        total = len(bag) + len(other)
        if 2 * min(len(bag), len(other)) < (NEAR_DUPLICATE_THRESHOLD - _SEARCH_TOLERANCE) * total:
            continue
        similarity = 2 * len(bag & other) / total
        if similarity >= NEAR_DUPLICATE_THRESHOLD:
            yield number, similarity


@functools.lru_cache(maxsize=2048)
def _word_counts(dialogue: Dialogue) -> tuple[Counter[str], ...]:
    """Return the words of all user turns together, then of each turn of at least `MIN_WORDS` words.

    The result is cached because all pairs of dialogues are compared.
    """
    turns = [Counter(words(turn)) for turn in _user_turns(dialogue)]
    return sum(turns, Counter()), *(turn for turn in turns if turn.total() >= MIN_WORDS)


def _user_turns(dialogue: Dialogue) -> tuple[str, ...]:
    """Return all user turns, including those that are only context: a later part of a conversation resembles it."""
    return tuple(m.content for m in dialogue.messages if m.role == "user")


def _numbered_bags(dialogue: Dialogue) -> tuple[list[frozenset[_NumberedWord]], list[frozenset[_NumberedWord]]]:
    """Return the bag of all user turns together, and those of the turns of at least `MIN_WORDS` words.

    Bags without words are left out.
    """
    turns = [words(turn) for turn in _user_turns(dialogue)]
    together = _number_words([word for turn in turns for word in turn])
    return [together] if together else [], [_number_words(turn) for turn in turns if len(turn) >= MIN_WORDS]


def _number_words(bag: Sequence[str]) -> frozenset[_NumberedWord]:
    counts: Counter[str] = Counter()
    numbered = []
    for word in bag:
        counts[word] += 1
        numbered.append((word, counts[word]))
    return frozenset(numbered)
