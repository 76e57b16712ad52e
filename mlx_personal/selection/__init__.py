"""Selection [Qin24 §3.2]: a small buffer of dialogues, replacement policies, and decisions that can be explained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_personal.lazy_imports import lazy_exports

if TYPE_CHECKING:
    from mlx_personal.selection.baselines import FifoPolicy, KCenterPolicy, RandomPolicy
    from mlx_personal.selection.buffer import Bin, Buffer
    from mlx_personal.selection.config import POLICIES, SelectionConfig
    from mlx_personal.selection.explanation import explain
    from mlx_personal.selection.facility_location import FacilityLocationPolicy
    from mlx_personal.selection.policies import Policy, PolicyDecision, QualityPolicy, SelectionCandidate
    from mlx_personal.selection.registry import make_policy
    from mlx_personal.selection.selector import Decision, Selector
    from mlx_personal.selection.stream_sample import SampledDialogue
    from mlx_personal.selection.weighted import WeightedPolicy
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "FifoPolicy": "baselines",
            "KCenterPolicy": "baselines",
            "RandomPolicy": "baselines",
            "Bin": "buffer",
            "Buffer": "buffer",
            "POLICIES": "config",
            "SelectionConfig": "config",
            "FacilityLocationPolicy": "facility_location",
            "Policy": "policies",
            "PolicyDecision": "policies",
            "QualityPolicy": "policies",
            "SelectionCandidate": "policies",
            "make_policy": "registry",
            "Decision": "selector",
            "Selector": "selector",
            "SampledDialogue": "stream_sample",
            "explain": "explanation",
            "WeightedPolicy": "weighted",
        },
    )

__all__ = [
    "POLICIES",
    "Bin",
    "Buffer",
    "Decision",
    "FacilityLocationPolicy",
    "FifoPolicy",
    "KCenterPolicy",
    "Policy",
    "PolicyDecision",
    "QualityPolicy",
    "RandomPolicy",
    "SampledDialogue",
    "SelectionCandidate",
    "SelectionConfig",
    "Selector",
    "WeightedPolicy",
    "explain",
    "make_policy",
]
