"""Compute the findings of a study from its finished cells.

The findings are printed in tables, drawn in figures and stored in `report.json`. Each comparison has a reference and a
family. A family consists of the comparisons of one table, of one score and one number of synthetic dialogues; Holm's
correction covers exactly these.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from mlx_personal.research.study.cell import AUTHORS_SCRIPTS, PAPER_POLICIES, POLICIES, SINGLE_SCORES, WEIGHTED
from mlx_personal.research.study.report import statistics
from mlx_personal.research.study.report.cell_group import CellGroup
from mlx_personal.research.study.report.findings import (
    Comparison,
    ComparisonEntry,
    ComparisonRow,
    FailedSynthesis,
    Findings,
    LearningCurve,
    SweepFindings,
    SweepLine,
    SweepPoint,
    WeightTuning,
)
from mlx_personal.research.study.report.model_study import REFERENCE, ModelStudy
from mlx_personal.research.study.report.other_metrics import other_metrics
from mlx_personal.research.study.report.pairing import holm_corrected, score_difference
from mlx_personal.research.study.report.statistics import PairedDifference

SCORES: Final = ("rouge1", "rougeL")
ABLATION_POLICIES: Final = (REFERENCE, *SINGLE_SCORES, *AUTHORS_SCRIPTS)


@dataclass(frozen=True)
class SweepSetting:
    """A setting to sweep.

    Attributes:
        fields: The setting, and settings that vary with it.
        usual_value: Value that the others are compared with; None to compare the policies at each value instead.
        min_values: Minimum number of values of a sweep.
    """

    fields: tuple[str, ...]
    usual_value: Any = None
    min_values: int = 2


SWEEPS: Final = {
    "bins": SweepSetting(("bins",)),
    # Every policy of the main tables has two numbers of synthetic dialogues, which is no sweep.
    "synthetic": SweepSetting(("synthetic",), usual_value=0, min_values=3),
    "entropy": SweepSetting(("entropy",), usual_value="spectral"),
    "annotations": SweepSetting(("annotations",)),
    "order": SweepSetting(("order", "strength")),
}


def analyze(study: ModelStudy) -> Findings:
    """Compute all findings for which there are cells; the others are empty."""
    settings = study.synthetic_settings()
    second_half_settings = study.synthetic_settings("second")
    curve_policies, weighted_policies = (*PAPER_POLICIES, WEIGHTED), (REFERENCE, WEIGHTED)
    return Findings(
        model=study.model_name,
        main=main_comparisons(study),
        ablation=ablation_comparisons(study),
        weighted=weighted_comparisons(study),
        curves=[curve for n in settings for curve in learning_curves(study, curve_policies, n)],
        sweeps={name: sweep for name, setting in SWEEPS.items() if (sweep := analyze_sweep(study, setting))},
        other_metrics=[m for n in settings for m in other_metrics(study, POLICIES, n)],
        weighted_other_metrics=[
            m for n in second_half_settings for m in other_metrics(study, weighted_policies, n, "second")
        ],
        tuning=analyze_tuning(study),
        failed_synthesis=_failed_synthesis(study, None),
        weighted_failed_synthesis=_failed_synthesis(study, "second"),
    )


def main_comparisons(study: ModelStudy) -> list[Comparison]:
    """Compare the policy of [Qin24] with its baselines, for each number of synthetic dialogues and each score."""
    settings = study.synthetic_settings()
    return _nontrivial(
        compare_policies(study, PAPER_POLICIES, REFERENCE, score, n) for n in settings for score in SCORES
    )


def ablation_comparisons(study: ModelStudy) -> list[Comparison]:
    """Compare single scores, by the paper's text and by the authors' scripts, with all three scores together."""
    settings = study.synthetic_settings()
    return _nontrivial(compare_policies(study, ABLATION_POLICIES, REFERENCE, "rouge1", n) for n in settings)


def weighted_comparisons(study: ModelStudy) -> list[Comparison]:
    """Compare the policy `weighted` with that of [Qin24] on the second halves, which were not used for tuning.

    The primary comparison, ROUGE-1 without synthetic dialogues, is the first one.
    """
    settings = sorted(study.synthetic_settings("second"))
    return _nontrivial(
        compare_policies(study, (REFERENCE, WEIGHTED), REFERENCE, score, n, "second")
        for n in settings
        for score in SCORES
    )


def analyze_tuning(study: ModelStudy) -> WeightTuning | None:
    """Compare weights of the policy `weighted` on the first halves; None without any."""
    groups_by_data = {data: groups for data in study.datasets if (groups := study.weight_groups(data))}
    rows = [
        (ComparisonRow(data, _first(groups).cell.synthetic, None, {}), groups)
        for data, groups in groups_by_data.items()
    ]
    comparison = _compare(study, "rouge1", REFERENCE, rows)
    if comparison is None:
        return None
    weights = sorted({name for groups in groups_by_data.values() for name in groups if name != REFERENCE})
    seeds = {
        data: set.intersection(*(set(g.results) for g in groups.values())) for data, groups in groups_by_data.items()
    }
    groups_and_seeds = [(groups, sorted(seeds[data])) for data, groups in groups_by_data.items()]
    gains = {weight: _relative_gain(groups_and_seeds, weight) for weight in weights}
    known = {weight: gain for weight, gain in gains.items() if gain is not None}
    best = max(known, key=lambda weight: known[weight], default=None)
    return WeightTuning(comparison, gains, best, min(map(len, seeds.values())))


def compare_policies(
    study: ModelStudy,
    policies: Sequence[str],
    reference: str,
    score: str,
    synthetic: int,
    part: str | None = None,
) -> Comparison | None:
    """Compare policies with a reference policy on every data set.

    Args:
        study: The cells of a model.
        policies: Policies to compare, including the reference.
        reference: Policy that the others are compared with.
        score: `rouge1` or `rougeL`.
        synthetic: Synthetic dialogues per selected one.
        part: Part of the data; None for that of the main protocol.

    Returns:
        The comparison; None without cells.
    """
    rows = []
    for data in study.datasets:
        groups = {policy: g for policy in policies if (g := study.find_group(data, policy, synthetic, part))}
        if groups:
            rows.append((ComparisonRow(data, synthetic, None, {}), groups))
    return _compare(study, score, reference, rows)


def analyze_sweep(study: ModelStudy, setting: SweepSetting) -> SweepFindings | None:
    """Compare the values of a setting, or the policies at each value; None without cells."""
    sweeps = study.sweeps(*setting.fields, min_values=setting.min_values)
    rows: list[tuple[ComparisonRow, dict[Any, CellGroup]]] = []
    if setting.usual_value is not None:
        rows = [(ComparisonRow(s.data, s.synthetic, None, {}, policy=s.policy), dict(s.groups)) for s in sweeps]
    else:
        by_value: dict[tuple[str, int | None, Any], dict[Any, CellGroup]] = {}
        for s in sweeps:
            for value, group in s.groups.items():
                by_value.setdefault((s.data, s.synthetic, value), {})[s.policy] = group
        rows = [
            (ComparisonRow(data, n, None, {}, value=value), groups) for (data, n, value), groups in by_value.items()
        ]
    reference = REFERENCE if setting.usual_value is None else setting.usual_value
    comparison = _compare(study, "rouge1", reference, rows)
    if comparison is None:
        return None
    lines = [
        SweepLine(s.data, s.policy, s.synthetic, {value: _sweep_point(group) for value, group in s.groups.items()})
        for s in sweeps
    ]
    return SweepFindings(comparison, lines)


def learning_curves(study: ModelStudy, policies: Sequence[str], synthetic: int) -> list[LearningCurve]:
    """Return the learning curves of the main protocol."""
    curves = []
    for data in study.datasets:
        for policy in policies:
            if group := study.find_group(data, policy, synthetic):
                points = {
                    received: statistics.mean_estimate(group.scores("rouge1", checkpoint=n))
                    for n, received in enumerate(group.received)
                }
                curves.append(LearningCurve(data, policy, synthetic, points))
    return curves


def _nontrivial(comparisons: Iterable[Comparison | None]) -> list[Comparison]:
    """Return the comparisons with at least two columns."""
    return [comparison for comparison in comparisons if comparison and len(comparison.columns) > 1]


def _compare(
    study: ModelStudy, score: str, reference: Any, rows: Sequence[tuple[ComparisonRow, Mapping[Any, CellGroup]]]
) -> Comparison | None:
    """Fill in the rows of a comparison; differences are from the reference within each row, all in one family."""
    if not rows:
        return None
    family: dict[tuple[int, Any], PairedDifference] = {}
    for n, (_, groups) in enumerate(rows):
        for name, group in groups.items():
            if (
                name != reference
                and reference in groups
                and (difference := score_difference(group, groups[reference], score))
            ):
                family[n, name] = difference
    differences = holm_corrected(family)
    complete_rows = []
    for n, (row, groups) in enumerate(rows):
        base = study.base_of(_first(groups))
        entries = {
            name: ComparisonEntry(
                statistics.mean_estimate(group.scores(score)),
                differences.get((n, name)),
                synthetic_counts=group.synthetic_counts,
            )
            for name, group in groups.items()
        }
        best = max(entries, key=lambda name: entries[name].score.value)
        if _differs_from_all(best, groups, entries, reference, score):
            entries[best] = dataclasses.replace(entries[best], is_best=True)
        base_score = statistics.mean_estimate(base.scores(score)) if base else None
        constant = base.constant_answer if base else None
        constant_score = statistics.mean_estimate(np.array([constant[score]])) if constant else None
        complete_rows.append(dataclasses.replace(row, base=base_score, constant_answer=constant_score, entries=entries))
    return Comparison(score, reference, complete_rows, len(family))


def _differs_from_all(
    best: Any,
    groups: Mapping[Any, CellGroup],
    entries: Mapping[Any, ComparisonEntry],
    reference: Any,
    score: str,
) -> bool:
    """Check whether the best entry of a row differs from all others.

    It uses the verdicts of the table where there are any. In a row without the reference, no entry is marked.
    """
    others = [name for name in groups if name != best]
    if best == reference:
        differences = [entries[name].difference for name in others]
        return bool(differences) and all(d is not None and d.verdict == "lower" for d in differences)
    from_reference = entries[best].difference
    from_others = {name: score_difference(groups[best], groups[name], score) for name in others}
    if from_reference is None or from_reference.verdict != "higher" or any(d is None for d in from_others.values()):
        return False
    corrected = holm_corrected({name: d for name, d in from_others.items() if d})
    return all(d.verdict == "higher" for d in corrected.values())


def _relative_gain(
    groups_and_seeds: Sequence[tuple[Mapping[Any, CellGroup], Sequence[int]]], weight: float
) -> float | None:
    """Return a weight's relative gain in ROUGE-1 over the reference policy, the mean over data sets.

    Args:
        groups_and_seeds: For each data set its groups by name and the seeds to use.
        weight: The weight.

    Returns:
        The gain; None if a data set lacks the weight or the reference.
    """
    gains = []
    for groups, seeds in groups_and_seeds:
        if weight not in groups or REFERENCE not in groups or not seeds:
            return None
        score, reference_score = (groups[name].scores("rouge1", seeds).mean() for name in (weight, REFERENCE))
        if not reference_score:
            return None
        gains.append(float(score / reference_score - 1))
    return float(np.mean(gains))


def _failed_synthesis(study: ModelStudy, part: str | None) -> list[FailedSynthesis]:
    return [FailedSynthesis(g.cell.data, g.cell.policy, g.cell.synthetic) for g in study.failed_synthesis(part)]


def _first(groups: Mapping[Any, CellGroup]) -> CellGroup:
    return next(iter(groups.values()))


def _sweep_point(group: CellGroup) -> SweepPoint:
    train_s, epochs = group.last_checkpoint_mean("train_seconds"), group.last_checkpoint_mean("epochs")
    return SweepPoint(
        statistics.mean_estimate(group.scores("rouge1")),
        seconds_per_epoch=train_s / epochs if train_s is not None and epochs else None,
        questions=group.last_checkpoint_mean("questions"),
        synthetic_counts=group.synthetic_counts,
    )
