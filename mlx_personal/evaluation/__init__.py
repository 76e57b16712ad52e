"""Evaluation [Qin24 §4.1]: ROUGE of generated against preferred answers, on dialogues held out of training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_personal.lazy_imports import lazy_exports

if TYPE_CHECKING:
    from mlx_personal.evaluation.answer_loss import AnswerLoss, answer_losses
    from mlx_personal.evaluation.config import EvaluationConfig
    from mlx_personal.evaluation.evaluate import (
        EvaluatedDialogue,
        Evaluation,
        MetricChange,
        bootstrap_interval,
        compare_answers,
        compare_apart,
        generate_answers,
    )
    from mlx_personal.evaluation.holdout import assign_split, is_held_out
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "AnswerLoss": "answer_loss",
            "answer_losses": "answer_loss",
            "EvaluationConfig": "config",
            "EvaluatedDialogue": "evaluate",
            "Evaluation": "evaluate",
            "MetricChange": "evaluate",
            "bootstrap_interval": "evaluate",
            "compare_answers": "evaluate",
            "compare_apart": "evaluate",
            "generate_answers": "evaluate",
            "assign_split": "holdout",
            "is_held_out": "holdout",
        },
    )

__all__ = [
    "AnswerLoss",
    "EvaluatedDialogue",
    "Evaluation",
    "EvaluationConfig",
    "MetricChange",
    "answer_losses",
    "assign_split",
    "bootstrap_interval",
    "compare_answers",
    "compare_apart",
    "generate_answers",
    "is_held_out",
]
