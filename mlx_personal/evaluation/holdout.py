"""The held-out split: which annotated dialogues are used for evaluation and never for training or rewriting.

Whole groups of near-duplicates are held out. Groups are numbered in the order of their first dialogues. With a
`holdout_ratio` of p / q, exactly p of each q consecutive groups are held out, drawn with the seed. So the fraction of
the groups is exact after each q of them for any stream; the fraction of the dialogues also depends on the sizes of the
groups. Of the first 25 groups `initial_holdout_ratio` is held out, if that is more, so that there are soon enough
dialogues to decide whether an adapter is promoted.

The side of a group never changes, neither when dialogues are added nor when the settings change, which apply to new
groups only. There is one limitation: a dialogue that is a near-duplicate of both a training group and a held-out group
joins the held-out one, and then has a near-duplicate in the training set.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Final

import numpy as np

from mlx_personal.annotation import GroupedDialogue, GroupedDialogues
from mlx_personal.dialogue import Dialogue
from mlx_personal.evaluation.config import MAX_DENOMINATOR, MIN_HELD_OUT, EvaluationConfig

# With the default of `initial_holdout_ratio`, `MIN_HELD_OUT` of so many groups are held out.
_INITIAL_GROUPS: Final = 5 * MIN_HELD_OUT


def assign_split(dialogue: Dialogue, earlier: Sequence[GroupedDialogue], config: EvaluationConfig) -> tuple[int, bool]:
    """Assign a newly annotated dialogue to a group, and thereby to a side of the split.

    A near-duplicate of earlier dialogues joins the group of the most similar one, with priority for held-out groups.
    Any other dialogue starts a new group, whose side is drawn.

    Args:
        dialogue: The newly annotated dialogue.
        earlier: The dialogues annotated before.
        config: Settings of the split.

    Returns:
        The group, and whether it is held out.
    """
    grouped = earlier if isinstance(earlier, GroupedDialogues) else GroupedDialogues(earlier)
    near_duplicates = grouped.near_duplicates(dialogue)
    if near_duplicates:
        # Of equally similar ones `max` returns the first.
        nearest, _ = max(near_duplicates, key=lambda pair: (pair[0].held_out, pair[1]))
        return nearest.group, nearest.held_out
    group = grouped.next_group
    ratio = config.holdout_ratio
    if group < _INITIAL_GROUPS:
        ratio = max(ratio, config.initial_holdout_ratio)
    return group, is_held_out(group, config.seed, ratio)


def is_held_out(group: int, seed: int, holdout_ratio: float = 0.1) -> bool:
    """Return whether a new group is held out.

    Args:
        group: Number of the group, from 0.
        seed: Random seed of the split.
        holdout_ratio: Fraction of the groups that is held out, rounded to the nearest p / q with a q of at most 20.
    """
    fraction = Fraction(holdout_ratio).limit_denominator(MAX_DENOMINATOR)
    p, q = fraction.numerator, fraction.denominator
    offset = int(np.random.default_rng([seed, group // q]).integers(q))
    # p and q have no common factor, so the products have each remainder once, and p of them are below p.
    return (group % q - offset) * p % q < p
