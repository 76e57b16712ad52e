"""Annotation [Qin24 §3.3]: the user is asked about the selected dialogues, with a daily limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_personal.lazy_imports import lazy_exports

if TYPE_CHECKING:
    from mlx_personal.annotation.config import AnnotationConfig, InferredMode
    from mlx_personal.annotation.groups import NO_GROUP, GroupedDialogue, GroupedDialogues, SplitRule
    from mlx_personal.annotation.proposals import Proposal, proposal_of
    from mlx_personal.annotation.queue import (
        AnnotationQueue,
        ProposedQuestion,
        Question,
        Verdict,
        left_today,
        open_question_count,
    )
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "AnnotationConfig": "config",
            "InferredMode": "config",
            "NO_GROUP": "groups",
            "GroupedDialogue": "groups",
            "GroupedDialogues": "groups",
            "SplitRule": "groups",
            "Proposal": "proposals",
            "proposal_of": "proposals",
            "AnnotationQueue": "queue",
            "ProposedQuestion": "queue",
            "Question": "queue",
            "Verdict": "queue",
            "left_today": "queue",
            "open_question_count": "queue",
        },
    )

__all__ = [
    "NO_GROUP",
    "AnnotationConfig",
    "AnnotationQueue",
    "GroupedDialogue",
    "GroupedDialogues",
    "InferredMode",
    "Proposal",
    "ProposedQuestion",
    "Question",
    "SplitRule",
    "Verdict",
    "left_today",
    "open_question_count",
    "proposal_of",
]
