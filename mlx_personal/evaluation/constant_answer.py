"""A reference that does not depend on the question: one answer for all.

ROUGE counts shared words, and answers of one kind share many: their openings and function words. A model can reach the
score of one answer for all through the style of its answers alone, so only a higher score shows that it uses the
question.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from mlx_personal.dialogue import words
from mlx_personal.dialogue.similarity import bag_overlap


def choose_constant_answer(candidates: Sequence[str], answers: Sequence[str]) -> str | None:
    """Return the candidate with the highest mean ROUGE-1 against all answers except its own.

    Args:
        candidates: One per answer: the answer, truncated where a model's answer would be.
        answers: Answers of dialogues outside the evaluation; n answers take n² comparisons.

    Returns:
        The candidate; None without candidates.
    """
    candidate_bags, bags = ([Counter(words(text)) for text in texts] for texts in (candidates, answers))
    totals = [
        sum(bag_overlap(candidate, bag) for j, bag in enumerate(bags) if j != i)
        for i, candidate in enumerate(candidate_bags)
    ]
    return candidates[int(np.argmax(totals))] if totals else None
