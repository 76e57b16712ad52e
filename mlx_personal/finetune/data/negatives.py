"""Preference pairs from dialogues alone: the answer to another question is the rejected one.

A model that has learned only what the owner's answers look like finds each of them likely after any question. These
pairs teach which answer belongs to which question, as in-batch negatives do for embedding models.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

import numpy as np

from mlx_personal.dialogue import Dialogue
from mlx_personal.dialogue.similarity import NearDuplicateIndex
from mlx_personal.finetune.data.examples import Example, PreferencePair, visible_answer

# Separates this draw from others with the same seed.
_STREAM: Final = 3


def negative_pairs(examples: Sequence[Example], count: int, seed: int = 0) -> list[PreferencePair]:
    """Return pairs whose chosen answer is the last one of a dialogue, and the rejected one that of another dialogue.

    The other dialogue is of another group and no near-duplicate, and its answer is another one. Each answer is rejected
    about as often as any other, so that none becomes unlikely in general.

    Args:
        examples: N dialogues to train on.
        count: Number of pairs for each dialogue, or 0 for none; fewer if there are not as many others.
        seed: Random seed of the draw.

    Returns:
        The pairs in the order of the dialogues, each in the group of its dialogue.
    """
    if not count:
        return []
    order = np.random.default_rng([seed, _STREAM]).permutation(len(examples)).tolist()
    answers = [visible_answer(example.dialogue) for example in examples]
    index = NearDuplicateIndex([example.dialogue for example in examples])
    drawn: dict[int, list[PreferencePair]] = {}
    for place, own in enumerate(order):
        if not answers[own]:
            continue
        near_duplicates = index.find(examples[own].dialogue)
        # The next ones of a random order: each answer is the next one of exactly one other.
        others = (
            other
            for other in [*order[place + 1 :], *order[:place]]
            if other not in near_duplicates
            and answers[other] not in ("", answers[own])
            and (examples[own].group is None or examples[own].group != examples[other].group)
        )
        drawn[own] = [_pair(examples[own], answers[other]) for other, _ in zip(others, range(count), strict=False)]
    return [pair for own in sorted(drawn) for pair in drawn[own]]


def _pair(example: Example, other_answer: str) -> PreferencePair:
    *context, last = example.dialogue.messages
    rejected = Dialogue((*context, dataclasses.replace(last, content=other_answer)))
    return PreferencePair(example.dialogue, rejected, example.group)
