"""Which dialogues are kept (paper 1, 3.2): a small buffer, one rule for replacement, every decision explainable."""

from mlx_personal.selection.baselines import FifoPolicy, KCenterPolicy, RandomPolicy
from mlx_personal.selection.buffer import Bin, Buffer
from mlx_personal.selection.policies import Candidate, Choice, Policy, QualityPolicy
from mlx_personal.selection.registry import POLICIES, policy_named
from mlx_personal.selection.selector import Decision, SelectionConfig, Selector, explain
from mlx_personal.selection.weighted import WeightedPolicy

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
