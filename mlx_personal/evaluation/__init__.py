"""Evaluation (paper 1, 4.1): ROUGE of generated against preferred answers, on dialogues that nothing was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_personal.lazy_imports import lazy_exports

if TYPE_CHECKING:
    from mlx_personal.evaluation.answer_loss import AnswerLoss, answer_losses
    from mlx_personal.evaluation.config import EvaluationConfig
    from mlx_personal.evaluation.evaluate import Evaluation, Gain, Sample, answers, bootstrap_interval, compare
    from mlx_personal.evaluation.holdout import is_held_out, place
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "AnswerLoss": "answer_loss",
            "answer_losses": "answer_loss",
            "EvaluationConfig": "config",
            "Evaluation": "evaluate",
            "Gain": "evaluate",
            "Sample": "evaluate",
            "answers": "evaluate",
            "bootstrap_interval": "evaluate",
            "compare": "evaluate",
            "is_held_out": "holdout",
            "place": "holdout",
        },
    )

__all__ = [
    "AnswerLoss",
    "Evaluation",
    "EvaluationConfig",
    "Gain",
    "Sample",
    "answer_losses",
    "answers",
    "bootstrap_interval",
    "compare",
    "is_held_out",
    "place",
]
