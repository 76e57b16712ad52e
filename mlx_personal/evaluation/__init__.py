"""Evaluation (paper 1, 4.1): ROUGE of generated against preferred answers, on dialogues that nothing was trained on."""

from mlx_personal.evaluation.answer_loss import AnswerLoss, answer_losses
from mlx_personal.evaluation.config import EvaluationConfig
from mlx_personal.evaluation.evaluate import Evaluation, Gain, Sample, answers, bootstrap_interval, compare
from mlx_personal.evaluation.holdout import is_held_out, place

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
