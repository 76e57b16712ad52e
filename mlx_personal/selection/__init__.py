"""Which dialogues are kept (paper 1, 3.2): a small buffer, one rule for replacement, every decision explainable."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_personal.lazy_imports import lazy_exports

if TYPE_CHECKING:
    from mlx_personal.selection.baselines import FifoPolicy, KCenterPolicy, RandomPolicy
    from mlx_personal.selection.buffer import Bin, Buffer
    from mlx_personal.selection.policies import Candidate, Choice, Policy, QualityPolicy
    from mlx_personal.selection.registry import POLICIES, policy_named
    from mlx_personal.selection.selector import Decision, SelectionConfig, Selector, explain
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
            "Candidate": "policies",
            "Choice": "policies",
            "Policy": "policies",
            "QualityPolicy": "policies",
            "POLICIES": "registry",
            "policy_named": "registry",
            "Decision": "selector",
            "SelectionConfig": "selector",
            "Selector": "selector",
            "explain": "selector",
            "WeightedPolicy": "weighted",
        },
    )

__all__ = [
    "POLICIES",
    "Bin",
    "Buffer",
    "Candidate",
    "Choice",
    "Decision",
    "FifoPolicy",
    "KCenterPolicy",
    "Policy",
    "QualityPolicy",
    "RandomPolicy",
    "SelectionConfig",
    "Selector",
    "WeightedPolicy",
    "explain",
    "policy_named",
]
