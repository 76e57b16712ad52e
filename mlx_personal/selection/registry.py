"""Policies by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from mlx_personal.selection.baselines import FifoPolicy, KCenterPolicy, RandomPolicy
from mlx_personal.selection.config import SAMPLING_POLICY, SCORE_NAMES
from mlx_personal.selection.facility_location import FacilityLocationPolicy
from mlx_personal.selection.policies import Policy, QualityPolicy
from mlx_personal.selection.stream_sample import SampledDialogue
from mlx_personal.selection.weighted import WeightedPolicy


def make_policy(
    name: str,
    seed: int = 0,
    past_entropies: Callable[[], Iterable[float]] = tuple,
    stored_sample: Callable[[], Iterable[SampledDialogue]] = tuple,
    on_sampled: Callable[[SampledDialogue], None] | None = None,
) -> Policy:
    """Create the policy with this name.

    Args:
        name: A name in `POLICIES`.
        seed: Random seed of draws that are not made with the selector's generator.
        past_entropies: Returns the EOE of all earlier dialogues, for policies that use them.
        stored_sample: Returns the sample of the earlier stream, for policies that use one.
        on_sampled: Receives each dialogue that joins this sample.

    Raises:
        KeyError: If no policy has this name.
    """
    if name in SCORE_NAMES:
        return QualityPolicy([name])
    if name == "weighted":
        return WeightedPolicy(seed=seed, past_entropies=past_entropies())
    if name == SAMPLING_POLICY:
        return FacilityLocationPolicy(seed=seed, sample=stored_sample(), on_sampled=on_sampled)
    policies: dict[str, type[Policy]] = {
        "quality": QualityPolicy,
        "random": RandomPolicy,
        "fifo": FifoPolicy,
        "k-center": KCenterPolicy,
    }
    return policies[name]()
