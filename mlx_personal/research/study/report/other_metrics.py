"""Metrics other than ROUGE: perplexity of the preferred answers, win rate over the base model, and forgetting."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from mlx_personal.research.study.cell import BASE
from mlx_personal.research.study.report import statistics
from mlx_personal.research.study.report.cell_group import CellGroup
from mlx_personal.research.study.report.findings import OtherMetrics
from mlx_personal.research.study.report.model_study import REFERENCE, ModelStudy
from mlx_personal.research.study.report.pairing import broadcast_scores, common_seeds, holm_corrected
from mlx_personal.research.study.report.statistics import IntervalEstimate, PairedDifference


def other_metrics(
    study: ModelStudy, policies: Sequence[str], synthetic: int, part: str | None = None
) -> list[OtherMetrics]:
    """Compute the other metrics of some policies on every data set, each with the base model first.

    Holm's correction covers all returned differences in perplexity.
    """
    metrics: list[OtherMetrics] = []
    for data in study.datasets:
        groups = [g for policy in policies if (g := study.find_group(data, policy, synthetic, part))]
        if groups and (base := study.base_of(groups[0])):
            answer_words = base.last_checkpoint_mean("answer_words")
            metrics.append(OtherMetrics(data, BASE, synthetic, group_perplexity(base), None, None, None, answer_words))
        reference = next((group for group in groups if group.cell.policy == REFERENCE), None)
        metrics += [_policy_metrics(study, group, None if group is reference else reference) for group in groups]
    differences = holm_corrected({n: m.perplexity_difference for n, m in enumerate(metrics) if m.perplexity_difference})
    return [dataclasses.replace(m, perplexity_difference=differences.get(n)) for n, m in enumerate(metrics)]


def group_perplexity(group: CellGroup) -> IntervalEstimate | None:
    """Return the perplexity of a group's preferred answers; None without losses or token counts."""
    nats, tokens = group.final_losses("nats"), group.final_losses("tokens")
    return statistics.perplexity_estimate(nats, tokens) if nats.size and tokens.shape == nats.shape else None


def _policy_metrics(study: ModelStudy, group: CellGroup, reference: CellGroup | None) -> OtherMetrics:
    base = study.base_of(group)
    not_comparable = []
    perplexity_difference, is_comparable = _perplexity_difference(group, reference)
    if reference and not is_comparable:
        not_comparable.append(f"perplexity to that of {reference.cell.policy}")
    forgetting, is_comparable = _forgetting(group, base)
    if not is_comparable:
        not_comparable.append("forgetting")
    return OtherMetrics(
        group.cell.data,
        group.cell.policy,
        group.cell.synthetic,
        group_perplexity(group),
        perplexity_difference,
        _win_rate(group, base),
        forgetting,
        group.last_checkpoint_mean("answer_words"),
        group.synthetic_counts,
        not_comparable,
    )


# Summed losses can be compared only on the same tokens, which differ if samples were truncated differently. The two
# functions below return None and False where the tokens differ, None and True where there is nothing to compare.


def _perplexity_difference(group: CellGroup, reference: CellGroup | None) -> tuple[PairedDifference | None, bool]:
    if not reference or not (seeds := common_seeds(group, reference)):
        return None, True
    nats, reference_nats = group.final_losses("nats", seeds), reference.final_losses("nats", seeds)
    if not nats.size or not reference_nats.size:
        return None, True
    tokens = group.final_losses("tokens", seeds)
    if tokens.shape != nats.shape or not np.array_equal(tokens, reference.final_losses("tokens", seeds)):
        return None, False
    return statistics.perplexity_difference(nats, reference_nats, tokens), True


def _forgetting(group: CellGroup, base: CellGroup | None) -> tuple[IntervalEstimate | None, bool]:
    if not base:
        return None, True
    nats, base_nats = group.final_losses("general_nats"), base.final_losses("general_nats")
    if not nats.size or not base_nats.size:
        return None, True
    tokens, base_tokens = group.final_losses("general_tokens"), base.final_losses("general_tokens")
    if tokens.shape != nats.shape or base_tokens.size != nats.shape[1] or not (tokens == base_tokens).all():
        return None, False
    return statistics.forgetting_estimate(nats, np.broadcast_to(base_nats, nats.shape)), True


def _win_rate(group: CellGroup, base: CellGroup | None) -> IntervalEstimate | None:
    """Return the win rate over the base model, which has no seeds: its scores are compared with those of every seed."""
    if not base:
        return None
    scores, base_scores = broadcast_scores(group, group.scores("rouge1"), base, base.scores("rouge1"))
    return statistics.mean_estimate(statistics.win_matrix(scores, base_scores))
