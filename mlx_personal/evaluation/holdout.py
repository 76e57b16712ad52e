"""The held-out split: which annotated dialogues are evaluated on, and so never trained on or rewritten.

Dialogues are held out by group. A group holds the near-duplicates of a question, and all of it is on one side. Groups
are numbered as they appear. With a `holdout_ratio` of p / q, exactly p of each q consecutive groups are held out; the
seed draws which. So the ratio of the groups is exact after every q of them, whatever the stream; that of the dialogues
follows only as far as groups are of equal size.

A group's side never changes, neither when dialogues are added nor when the settings are edited: those apply to new
groups only. There is one limit: a dialogue that is a near-duplicate of both a trained and a held-out group joins the
held-out one, and then has a near-duplicate in the training set.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from mlx_personal.annotation import GroupedDialogue
from mlx_personal.dialogue import Dialogue, dialogue_similarity
from mlx_personal.dialogue.similarity import NEAR_DUPLICATE_THRESHOLD
from mlx_personal.evaluation.config import LARGEST_BLOCK, EvaluationConfig


def assign_split(dialogue: Dialogue, earlier: Sequence[GroupedDialogue], config: EvaluationConfig) -> tuple[int, bool]:
    """Assign a newly annotated dialogue to a group, and so to a side of the split.

    A near-duplicate of earlier dialogues joins the group of the most similar one, held-out groups first. Any other
    dialogue opens a new group, whose side is drawn.

    Args:
        dialogue: The newly annotated dialogue.
        earlier: The dialogues annotated before.
        config: Settings of the split.

    Returns:
        The group, and whether it is held out.
    """
    similarities = [(other.held_out, dialogue_similarity(dialogue, other.dialogue), other.group) for other in earlier]
    near_duplicates = [entry for entry in similarities if entry[1] >= NEAR_DUPLICATE_THRESHOLD]
    if near_duplicates:
        # Of equally similar ones `max` takes the first.
        held_out, _, group = max(near_duplicates, key=lambda entry: entry[:2])
        return group, held_out
    group = max((other.group for other in earlier), default=-1) + 1
    return group, is_held_out(group, config.seed, config.holdout_ratio)


def is_held_out(group: int, seed: int, share: float = 0.1) -> bool:
    """Return whether a new group is held out.

    Args:
        group: Number of the group.
        seed: Random seed of the split.
        share: Fraction that is held out, rounded to the nearest p / q with a q of at most 20.
    """
    fraction = Fraction(share).limit_denominator(LARGEST_BLOCK)
    p, q = fraction.numerator, fraction.denominator
    offset = int(np.random.default_rng([seed, group // q]).integers(q))
    # p and q have no common factor, so the products run through all remainders once: p of q groups are below p.
    return (group % q - offset) * p % q < p
