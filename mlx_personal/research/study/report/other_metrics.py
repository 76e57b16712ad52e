"""What ROUGE does not show: perplexity of the preferred answers, win rate over the untrained model, and forgetting."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from mlx_personal.research.study.cell import BASE
from mlx_personal.research.study.report import statistics
from mlx_personal.research.study.report.cell_group import Group
from mlx_personal.research.study.report.findings import Beyond
from mlx_personal.research.study.report.grouped_cells import REFERENCE, Study
from mlx_personal.research.study.report.pairing import alike, corrected, shared
from mlx_personal.research.study.report.statistics import Estimate


def beyond(study: Study, policies: Sequence[str], synthetic: int, part: str | None = None) -> list[Beyond]:
    """Perplexity, win rate, forgetting and length, a data set's untrained model first.

    The family of the differences in perplexity is all of them.
    """
    found: list[Beyond] = []
    for data in study.data:
        groups = [g for policy in policies if (g := study.group(data, policy, synthetic, part))]
        if groups and (base := study.base(groups[0])):
            words = base.last("answer_words")
            found.append(Beyond(data, BASE, synthetic, perplexity(base), None, None, None, words))
        reference = next((group for group in groups if group.cell.policy == REFERENCE), None)
        found += [_beyond_one(study, group, None if group is reference else reference) for group in groups]
    differences = corrected({n: b.perplexity_difference for n, b in enumerate(found) if b.perplexity_difference})
    return [dataclasses.replace(b, perplexity_difference=differences.get(n)) for n, b in enumerate(found)]


def _beyond_one(study: Study, group: Group, reference: Group | None) -> Beyond:
    """One policy's; summed losses of other tokens (rows cut elsewhere, other dialogues) are compared with nothing."""
    base = study.base(group)
    cell = group.cell
    compared = win_rate = forgotten = None
    unequal = []
    if reference and (seeds := shared(group, reference)):
        nats, others = group.final("nats", seeds), reference.final("nats", seeds)
        if nats.size and others.size:
            tokens = group.final("tokens", seeds)
            if tokens.shape == nats.shape and np.array_equal(tokens, reference.final("tokens", seeds)):
                compared = statistics.perplexity_difference(nats, others, tokens)
            else:
                unequal.append(f"perplexity to that of {reference.cell.policy}")
    if base:
        # The untrained model has no seed: it stands beside every one.
        win_rate = statistics.mean(statistics.wins(*alike(group, group.scores("rouge1"), base, base.scores("rouge1"))))
        nats, before = group.final("general_nats"), base.final("general_nats")
        if nats.size and before.size:
            tokens, tokens_before = group.final("general_tokens"), base.final("general_tokens")
            if tokens.shape == nats.shape and tokens_before.size == nats.shape[1] and (tokens == tokens_before).all():
                forgotten = statistics.forgetting(nats, np.broadcast_to(before, nats.shape))
            else:
                unequal.append("forgetting")
    return Beyond(
        cell.data,
        cell.policy,
        cell.synthetic,
        perplexity(group),
        compared,
        win_rate,
        forgotten,
        group.last("answer_words"),
        group.sets,
        unequal,
    )


def perplexity(group: Group) -> Estimate | None:
    """Of a group's preferred answers; None where there are no losses, or not as many token counts."""
    nats, tokens = group.final("nats"), group.final("tokens")
    return statistics.perplexity(nats, tokens) if nats.size and tokens.shape == nats.shape else None
