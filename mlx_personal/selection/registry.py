"""Policies by the names that settings and studies use."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from mlx_personal.selection.baselines import FifoPolicy, KCenterPolicy, RandomPolicy
from mlx_personal.selection.policies import SCORE_NAMES, Policy, QualityPolicy
from mlx_personal.selection.weighted import WeightedPolicy

# The paper's, this project's own, the paper's baselines, and its ablation.
POLICIES: Final = ("quality", "weighted", "random", "fifo", "k-center", *SCORE_NAMES)


def policy_named(name: str, seed: int = 0, seen: Callable[[], Iterable[float]] = tuple) -> Policy:
    """The policy of this name; KeyError for none of `POLICIES`.

    Args:
        seed: of the draws that the selector's generator does not make.
        seen: gives the EOE of the stream's earlier dialogues, for a policy that goes by the whole stream's.
    """
    if name in SCORE_NAMES:
        return QualityPolicy([name])
    if name == "weighted":
        return WeightedPolicy(seed=seed, seen=seen())
    made: dict[str, type[Policy]] = {
        "quality": QualityPolicy,
        "random": RandomPolicy,
        "fifo": FifoPolicy,
        "k-center": KCenterPolicy,
    }
    return made[name]()
