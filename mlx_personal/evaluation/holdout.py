"""Which annotated dialogues are set aside for evaluation, and never trained on or rewritten.

Dialogues are set aside by group: one group holds the near-duplicates of a question, and all of it is on one side.
Groups are numbered as they appear. With a share of p / q, exactly p of each q consecutive numbers are held out, where
they begin is drawn by the seed: so the share of the groups is right after every q of them, whatever the stream. The
share of the dialogues is that of the groups only as far as groups are of one size.

A group's side never changes, neither when more dialogues come nor when share or seed are edited: those decide about
new groups only. What this cannot promise: a dialogue near to a trained and to a held-out group joins the held-out one,
and then has a relative in the training set.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from mlx_personal.dialogue import Dialogue, dialogue_similarity
from mlx_personal.dialogue.similarity import NEAR_DUPLICATE_THRESHOLD
from mlx_personal.evaluation.config import LARGEST_BLOCK, EvaluationConfig


def assign_split(
    dialogue: Dialogue, placed: Sequence[tuple[Dialogue, int, bool]], config: EvaluationConfig
) -> tuple[int, bool]:
    """(group, held out) of a newly annotated dialogue, given the earlier ones, each with its group and its side.

    A near-duplicate of earlier ones joins the group of the nearest, of a held-out one first, and takes that group's
    side. Any other opens a new group, whose side is drawn.
    """
    found = [(held_out, dialogue_similarity(dialogue, other), group) for other, group, held_out in placed]
    near = [(held_out, like, group) for held_out, like, group in found if like >= NEAR_DUPLICATE_THRESHOLD]
    if near:
        # Of equally near ones `max` takes the first.
        held_out, _, group = max(near, key=lambda n: n[:2])
        return group, held_out
    group = max((group for _, group, _ in placed), default=-1) + 1
    return group, is_held_out(group, config.seed, config.holdout_ratio)


def is_held_out(group: int, seed: int, share: float = 0.1) -> bool:
    """Whether a new group of this number is set aside; `share` is taken as the nearest p / q with a q of at most 20."""
    taken = Fraction(share).limit_denominator(LARGEST_BLOCK)
    p, q = taken.numerator, taken.denominator
    drawn = int(np.random.default_rng([seed, group // q]).integers(q))
    # p and q have no common factor: the products go once through all remainders, so p of q groups are below p.
    return (group % q - drawn) * p % q < p
