"""Evaluation on held-out dialogues: how likely the preferred answers are, and how similar the generated ones.

[Qin24 §4.1] reports ROUGE of generated answers only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_personal.lazy_imports import lazy_exports

if TYPE_CHECKING:
    from mlx_personal.evaluation.answer_loss import AnswerLoss, answer_losses
    from mlx_personal.evaluation.answer_modes import AnswerMode, ModeComparison, ModeResult
    from mlx_personal.evaluation.answer_similarity import answer_similarities, with_cache
    from mlx_personal.evaluation.choice import (
        ChoiceChange,
        compare_choice,
        group_by_length,
        reciprocal_ranks,
        top1_shares,
    )
    from mlx_personal.evaluation.comparison import (
        EvaluationPart,
        ModelOutputs,
        compare_outputs,
        compute_outputs,
        make_parts,
        typical_answer,
        with_likelihoods,
        without_questions,
    )
    from mlx_personal.evaluation.config import EvaluationConfig
    from mlx_personal.evaluation.constant_answer import choose_constant_answer
    from mlx_personal.evaluation.diversity import distinct_2, mean_words
    from mlx_personal.evaluation.evaluate import (
        AnswerStatistic,
        ConstantAnswer,
        EvaluatedDialogue,
        Evaluation,
        compare_answers,
        generate_answers,
    )
    from mlx_personal.evaluation.holdout import assign_split, is_held_out
    from mlx_personal.evaluation.intervals import MetricChange, bootstrap_interval
    from mlx_personal.evaluation.questions import Question, answer_likelihoods, make_questions, question_pairs
    from mlx_personal.evaluation.specificity import (
        SpecificityChange,
        compare_specificity,
        draw_other_questions,
        own_question_shares,
        specificities,
    )
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "AnswerLoss": "answer_loss",
            "answer_losses": "answer_loss",
            "answer_similarities": "answer_similarity",
            "with_cache": "answer_similarity",
            "AnswerMode": "answer_modes",
            "ModeComparison": "answer_modes",
            "ModeResult": "answer_modes",
            "ChoiceChange": "choice",
            "compare_choice": "choice",
            "group_by_length": "choice",
            "reciprocal_ranks": "choice",
            "top1_shares": "choice",
            "EvaluationPart": "comparison",
            "ModelOutputs": "comparison",
            "compare_outputs": "comparison",
            "compute_outputs": "comparison",
            "make_parts": "comparison",
            "typical_answer": "comparison",
            "with_likelihoods": "comparison",
            "without_questions": "comparison",
            "EvaluationConfig": "config",
            "choose_constant_answer": "constant_answer",
            "distinct_2": "diversity",
            "mean_words": "diversity",
            "AnswerStatistic": "evaluate",
            "ConstantAnswer": "evaluate",
            "EvaluatedDialogue": "evaluate",
            "Evaluation": "evaluate",
            "compare_answers": "evaluate",
            "generate_answers": "evaluate",
            "assign_split": "holdout",
            "is_held_out": "holdout",
            "MetricChange": "intervals",
            "bootstrap_interval": "intervals",
            "Question": "questions",
            "answer_likelihoods": "questions",
            "make_questions": "questions",
            "question_pairs": "questions",
            "SpecificityChange": "specificity",
            "compare_specificity": "specificity",
            "draw_other_questions": "specificity",
            "own_question_shares": "specificity",
            "specificities": "specificity",
        },
    )

__all__ = [
    "AnswerLoss",
    "AnswerMode",
    "AnswerStatistic",
    "ChoiceChange",
    "ConstantAnswer",
    "EvaluatedDialogue",
    "Evaluation",
    "EvaluationConfig",
    "EvaluationPart",
    "MetricChange",
    "ModeComparison",
    "ModeResult",
    "ModelOutputs",
    "Question",
    "SpecificityChange",
    "answer_likelihoods",
    "answer_losses",
    "answer_similarities",
    "assign_split",
    "bootstrap_interval",
    "choose_constant_answer",
    "compare_answers",
    "compare_choice",
    "compare_outputs",
    "compare_specificity",
    "compute_outputs",
    "distinct_2",
    "draw_other_questions",
    "generate_answers",
    "group_by_length",
    "is_held_out",
    "make_parts",
    "make_questions",
    "mean_words",
    "own_question_shares",
    "question_pairs",
    "reciprocal_ranks",
    "specificities",
    "top1_shares",
    "typical_answer",
    "with_cache",
    "with_likelihoods",
    "without_questions",
]
