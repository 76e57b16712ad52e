"""Which annotated dialogues are set aside for evaluation, and never trained on or rewritten.

Dialogues are set aside by group: one group holds the near-duplicates of a question, so that no held-out question has a
twin in the training set. Groups are numbered as they appear, and of each block of `1 / share` consecutive numbers
exactly one, drawn by the seed, is held out: the share is right after every block, whatever the stream, and a group's
side never changes when more dialogues come. Likeness is judged by words, not by embeddings: a split must not move when
the base model does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlx_personal.dialogue import Dialogue, rouge1
from mlx_personal.evaluation.config import EvaluationConfig

# Two questions whose words overlap by this ROUGE-1 ask the same thing in the same words.
NEAR_DUPLICATE = 0.8


def place(dialogue: Dialogue, placed: Sequence[tuple[Dialogue, int]], config: EvaluationConfig) -> tuple[int, bool]:
    """(group, held out) of a newly annotated dialogue, given the earlier ones with their groups."""
    texts = [("\n".join(other.user_turns), group) for other, group in placed]
    group = assign_group(texts, "\n".join(dialogue.user_turns))
    return group, is_held_out(group, config.seed, config.share)


def assign_group(placed: Sequence[tuple[str, int]], text: str) -> int:
    """The group of a dialogue with the user's turns `text`; the number after the highest where it opens a new one.

    `placed` holds the texts so far with their groups. The nearest near-duplicate decides, of equally near ones the
    first: a text that is near to two groups can join only one of them.
    """
    nearest, best = max((group for _, group in placed), default=-1) + 1, 0.0
    for other, group in placed:
        likeness = 1.0 if other == text else rouge1(text, other)
        if likeness >= NEAR_DUPLICATE and likeness > best:
            nearest, best = group, likeness
    return nearest


def is_held_out(group: int, seed: int, share: float = 0.1) -> bool:
    """Whether the group of this number is set aside."""
    block = round(1 / share)
    drawn = np.random.default_rng([seed, group // block]).integers(block)
    return bool(group % block == drawn)
