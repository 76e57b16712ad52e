"""A reference that does not depend on the question: one constant answer.

ROUGE counts shared words, and answers of one kind share many: their openings and function words. A model can reach the
score of the constant answer through the style of its answers alone, so only a higher score shows that it uses the
question.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlx_personal.dialogue import rouge1


def choose_constant_answer(candidates: Sequence[str], answers: Sequence[str]) -> str | None:
    """Return the candidate with the highest mean ROUGE-1 against all answers except its own.

    Args:
        candidates: One per answer: the answer, truncated where a model's answer would be.
        answers: Answers of dialogues outside the evaluation; n answers take n² comparisons.

    Returns:
        The candidate; None without candidates.
    """
    totals = [sum(rouge1(c, a) for j, a in enumerate(answers) if j != i) for i, c in enumerate(candidates)]
    return candidates[int(np.argmax(totals))] if totals else None
