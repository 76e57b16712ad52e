"""The learning loop of one profile, which connects selection, annotation, synthesis, training, evaluation and chat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_personal.lazy_imports import lazy_exports

if TYPE_CHECKING:
    from mlx_personal.personalizer.importing import ImportOptions, ImportResult
    from mlx_personal.personalizer.pending import PendingStep
    from mlx_personal.personalizer.personalizer import ObserveResult, Personalizer, SynthesisResult, TrainResult
    from mlx_personal.personalizer.promotion import PromotionResult
    from mlx_personal.personalizer.status import ProfileStatus, read_status
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "ImportOptions": "importing",
            "ImportResult": "importing",
            "PendingStep": "pending",
            "ObserveResult": "personalizer",
            "Personalizer": "personalizer",
            "SynthesisResult": "personalizer",
            "TrainResult": "personalizer",
            "PromotionResult": "promotion",
            "ProfileStatus": "status",
            "read_status": "status",
        },
    )

__all__ = [
    "ImportOptions",
    "ImportResult",
    "ObserveResult",
    "PendingStep",
    "Personalizer",
    "ProfileStatus",
    "PromotionResult",
    "SynthesisResult",
    "TrainResult",
    "read_status",
]
