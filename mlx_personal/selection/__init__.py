"""Which dialogues are kept (paper 1, 3.2): a small buffer, one rule for replacement, every decision explainable."""

from mlx_personal.selection.buffer import Bin, Buffer
from mlx_personal.selection.policies import Candidate, Choice, Policy, QualityPolicy
from mlx_personal.selection.selector import Decision, SelectionConfig, Selector, explain

__all__ = [
    "Bin",
    "Buffer",
    "Candidate",
    "Choice",
    "Decision",
    "Policy",
    "QualityPolicy",
    "SelectionConfig",
    "Selector",
    "explain",
]
