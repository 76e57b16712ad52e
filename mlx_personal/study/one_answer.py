"""A reference that knows no question: one answer, given to all of them.

ROUGE counts shared words, and answers of one kind share many: what opens them, what holds any sentence together. A
model that has learnt no more than how answers look can reach this score; only what lies above it is about the question.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlx_personal.dialogue import Dialogue, rouge1, strip_thoughts


def one_answer(others: Sequence[Dialogue]) -> str:
    """Of these dialogues' answers, the one with the highest mean ROUGE-1 to those of all others; "" of none.

    Args:
        others: dialogues that do not evaluate; n of them cost n² scores.
    """
    given = [strip_thoughts(dialogue.answer) for dialogue in others]
    means = [sum(rouge1(a, b) for j, b in enumerate(given) if j != i) for i, a in enumerate(given)]
    return given[int(np.argmax(means))] if given else ""
