"""A reference that knows no question: one answer, given to all of them.

ROUGE counts shared words, and answers of one kind share many: what opens them, what holds any sentence together. A
model may reach this score by how answers look alone, so a score that is not above it does not show that the question
was used.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlx_personal.dialogue import rouge1


def one_answer(candidates: Sequence[str], answers: Sequence[str]) -> str | None:
    """The candidate with the highest ROUGE-1 to all answers but its own, in the mean; None of none.

    Args:
        candidates: one for each answer: the answer as a model could give it, which is to say cut where a model's is.
        answers: of dialogues that do not evaluate; n of them cost n² scores.
    """
    totals = [sum(rouge1(c, a) for j, a in enumerate(answers) if j != i) for i, c in enumerate(candidates)]
    return candidates[int(np.argmax(totals))] if totals else None
