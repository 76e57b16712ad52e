"""The loss of a batch with preference pairs: DPO [Rafailov23] and ORPO [Hong24], as in trl.

Both samples of a pair are in the same batch, so that the gradient is that of the formula, for any size of the batches.
The reference model of DPO is the base model: the same model without its adapter.

A step of a training run minimizes the mean of the losses of its pairs, plus the weighted mean of the cross entropies of
its targets times `rpo_alpha` for `sft+dpo`, or 1 otherwise. Targets of samples of weight 0 are not counted.
docs/concepts/preferences.md has the formulas.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_personal.finetune.data.batching import Batch
from mlx_personal.finetune.forward.losses import weighted_sum

# trl's names of the statistics of pairs, in the order of `PairTerms.statistics`.
STATISTICS: Final = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")
# The mean log-probability of an answer is below this value: at 0 its odds would be infinite.
_MAX_MEAN_LOG_PROBABILITY: Final = -1e-6


@dataclass(frozen=True)
class PairTerms:
    """The losses and the rewards of P pairs.

    Attributes:
        losses: float32 [P].
        chosen_rewards: Rewards of the chosen answers as trl defines them, float32 [P].
        rejected_rewards: Those of the rejected answers.
    """

    losses: mx.array
    chosen_rewards: mx.array
    rejected_rewards: mx.array

    @property
    def statistics(self) -> mx.array:
        """The sums over the pairs of `STATISTICS`, float32 [4]."""
        margins = self.chosen_rewards - self.rejected_rewards
        sums = [x.sum() for x in (self.chosen_rewards, self.rejected_rewards, margins, margins > 0)]
        return mx.stack([x.astype(mx.float32) for x in sums])


def dpo_terms(
    chosen: mx.array, rejected: mx.array, reference_chosen: mx.array, reference_rejected: mx.array, beta: float
) -> PairTerms:
    """Return the terms of DPO.

    Args:
        chosen: Log-probabilities of the chosen answers in nats, float32 [P].
        rejected: Those of the rejected answers.
        reference_chosen: Those of the chosen answers under the base model.
        reference_rejected: Those of the rejected answers under the base model.
        beta: Strength of the penalty for leaving the base model.

    References:
        [Rafailov23 eq. 7]
    """
    chosen_rewards = beta * (chosen - reference_chosen)
    rejected_rewards = beta * (rejected - reference_rejected)
    return PairTerms(-nn.log_sigmoid(chosen_rewards - rejected_rewards), chosen_rewards, rejected_rewards)


def orpo_terms(chosen: mx.array, rejected: mx.array, beta: float) -> PairTerms:
    """Return the terms of ORPO, without the cross entropy.

    Args:
        chosen: Mean log-probabilities per token of the chosen answers in nats, float32 [P].
        rejected: Those of the rejected answers.
        beta: Weight of the odds ratio, lambda in the paper.

    References:
        [Hong24 eq. 4-7]
    """
    log_odds_ratio = _log_odds(chosen) - _log_odds(rejected)
    return PairTerms(-beta * nn.log_sigmoid(log_odds_ratio), beta * chosen, beta * rejected)


def _log_odds(log_probabilities: mx.array) -> mx.array:
    below_zero = mx.minimum(log_probabilities, _MAX_MEAN_LOG_PROBABILITY)
    return below_zero - mx.log(-mx.expm1(below_zero))


@dataclass(frozen=True)
class BatchObjective:
    """The objective of a training run, computed from the cross entropies of the targets of a batch.

    Attributes:
        chosen: Indices in the data set of the chosen samples of pairs; the rejected sample of each is the next one.
        name: The `objective` of the settings.
        beta: Its `beta`.
        reference: Log-probabilities of the samples of all pairs under the base model by their indices in the data set;
            None for an objective without a reference.
    """

    chosen: frozenset[int] = frozenset()
    name: str = "sft"
    beta: float = 0.1
    reference: Mapping[int, float] | None = None

    @property
    def needs_reference(self) -> bool:
        """Whether the loss compares with the base model."""
        return self.name in ("dpo", "sft+dpo")

    @property
    def sum_count(self) -> int:
        """Number of the sums that `sums` returns."""
        return 2 + len(STATISTICS) if self.chosen else 1

    def sums(self, losses: mx.array, batch: Batch) -> mx.array:
        """Return the sums of a batch.

        Args:
            losses: Cross entropies of its targets, float32 [N].
            batch: The batch; both samples of a pair are in it.

        Returns:
            The weighted sum of the cross entropies, and if there are pairs in the data set, the sum of the losses of
            the batch's pairs and those of `STATISTICS`; float32 [1] or [6].
        """
        cross_entropy = weighted_sum(losses, batch)[None]
        if not self.chosen:
            return cross_entropy
        places = [place for place, index in enumerate(batch.indices) if index in self.chosen]
        if not places:
            return mx.concatenate([cross_entropy, mx.zeros(1 + len(STATISTICS))])
        terms = self._terms(losses, batch, places)
        return mx.concatenate([cross_entropy, terms.losses.sum()[None], terms.statistics])

    def _terms(self, losses: mx.array, batch: Batch, places: list[int]) -> PairTerms:
        log_probabilities = sample_log_probabilities(losses, batch)
        chosen, rejected = mx.array(places), mx.array(places) + 1
        if self.name == "orpo":
            lengths = mx.array(np.bincount(batch.target_samples, minlength=len(batch.indices)).astype(np.float32))
            means = log_probabilities / lengths
            return orpo_terms(means[chosen], means[rejected], self.beta)
        if self.reference is None:
            raise ValueError("the log-probabilities of the base model are not known")
        reference = mx.array([self.reference.get(index, 0.0) for index in batch.indices], mx.float32)
        return dpo_terms(
            log_probabilities[chosen], log_probabilities[rejected], reference[chosen], reference[rejected], self.beta
        )


def sample_log_probabilities(losses: mx.array, batch: Batch) -> mx.array:
    """Return the log-probability of the targets of each sample of a batch.

    Args:
        losses: Cross entropies of its targets, float32 [N].
        batch: The batch of S samples.

    Returns:
        Log-probabilities in nats, float32 [S].
    """
    # A sum over a mask has the same order on every device and in every run, unlike an addition at indices.
    is_of_sample = batch.target_samples[None] == np.arange(len(batch.indices))[:, None]
    return -mx.where(mx.array(is_of_sample), losses[None], 0.0).sum(axis=1)
