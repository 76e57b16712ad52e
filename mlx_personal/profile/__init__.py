"""Profiles on disk: a profile's SQLite database, and the records it stores."""

from mlx_personal.profile.imports import ImportRow, InferredVerdictRow, Origin
from mlx_personal.profile.preference_pairs import PreferencePairRow
from mlx_personal.profile.records import (
    AdapterRow,
    AnnotationCounts,
    AnnotationRow,
    BinRow,
    DecisionRow,
    DialogueRow,
    NewSynthetic,
    RunRow,
    SyntheticRow,
    TrainingSource,
)
from mlx_personal.profile.store import Store, check_profile_exists, is_profile

__all__ = [
    "AdapterRow",
    "AnnotationCounts",
    "AnnotationRow",
    "BinRow",
    "DecisionRow",
    "DialogueRow",
    "ImportRow",
    "InferredVerdictRow",
    "NewSynthetic",
    "Origin",
    "PreferencePairRow",
    "RunRow",
    "Store",
    "SyntheticRow",
    "TrainingSource",
    "check_profile_exists",
    "is_profile",
]
