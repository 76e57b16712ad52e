"""Tuning: search the settings of training on the profile's own held-out dialogues, within a time budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_personal.lazy_imports import lazy_exports

if TYPE_CHECKING:
    from mlx_personal.personalizer.tuning.tuner import TuningPlan, TuningResult, plan_tuning, summary, tune
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "TuningPlan": "tuner",
            "TuningResult": "tuner",
            "plan_tuning": "tuner",
            "summary": "tuner",
            "tune": "tuner",
        },
    )

__all__ = [
    "TuningPlan",
    "TuningResult",
    "plan_tuning",
    "summary",
    "tune",
]
