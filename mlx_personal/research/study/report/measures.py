"""The findings of finished cells: what the tables print, the figures draw and `report.json` holds.

Each comparison names its reference and its family. A family is the comparisons of one table, of one score and one
number of synthetic sets; Holm's correction is over these and no others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from mlx_personal.research.study.cell import OWN, PAPER_POLICIES, POLICIES, SCRIPTS, SINGLE_SCORES
from mlx_personal.research.study.report import statistics
from mlx_personal.research.study.report.cell_group import Group
from mlx_personal.research.study.report.findings import (
    Comparison,
    Curve,
    Entry,
    Findings,
    Line,
    Point,
    Row,
    Swept,
    Tuning,
    Unwritten,
)
from mlx_personal.research.study.report.grouped_cells import REFERENCE, Study
from mlx_personal.research.study.report.other_metrics import beyond
from mlx_personal.research.study.report.pairing import corrected, difference
from mlx_personal.research.study.report.statistics import Difference

SCORES: Final = ("rouge1", "rougeL")
ABLATION: Final = (REFERENCE, *SINGLE_SCORES, *SCRIPTS)


@dataclass(frozen=True)
class Setting:
    """A setting to sweep. `fields`: it, and what only goes with it. `usual`: the value that others are compared with;
    None compares the policies at each value instead. `least`: values that make a sweep."""

    fields: tuple[str, ...]
    usual: Any = None
    least: int = 2


SWEEPS: Final = {
    "bins": Setting(("bins",)),
    # Two numbers of synthetic sets are what every policy of the main tables has.
    "synthetic": Setting(("synthetic",), 0, 3),
    "entropy": Setting(("entropy",), "spectral"),
    "annotations": Setting(("annotations",)),
    "order": Setting(("order", "strength")),
}


def measure(study: Study) -> Findings:
    """Everything that the cells at hand can say; what they cannot is empty."""
    settings = study.settings()
    shown = (*PAPER_POLICIES, OWN)
    return Findings(
        model=study.name,
        main=main(study),
        ablation=ablation(study),
        own=own(study),
        curves=[curve for n in settings for curve in curves(study, shown, n)],
        sweeps={name: found for name, setting in SWEEPS.items() if (found := sweep(study, setting))},
        beyond=[found for n in settings for found in beyond(study, POLICIES, n)],
        own_beyond=[found for n in study.settings("second") for found in beyond(study, (REFERENCE, OWN), n, "second")],
        tuning=tuning(study),
        unwritten=_unwritten(study, None),
        own_unwritten=_unwritten(study, "second"),
    )


def main(study: Study) -> list[Comparison]:
    """The paper's policy and its baselines, for each number of synthetic sets and each score."""
    settings = study.settings()
    return _present(compare(study, PAPER_POLICIES, REFERENCE, score, n) for n in settings for score in SCORES)


def ablation(study: Study) -> list[Comparison]:
    """Each score alone, as the paper reads and as the authors' script behaves, against all three."""
    return _present(compare(study, ABLATION, REFERENCE, "rouge1", n) for n in study.settings())


def own(study: Study) -> list[Comparison]:
    """This project's policy against the paper's, on the halves that it was not tuned on: the primary comparison first,
    ROUGE-1 without synthetic sets."""
    settings = sorted(study.settings("second"))
    return _present(
        compare(study, (REFERENCE, OWN), REFERENCE, score, n, "second") for n in settings for score in SCORES
    )


def tuning(study: Study) -> Tuning | None:
    """This project's policy at several weights on the first halves, against the paper's; None without a weight."""
    found = {data: groups for data in study.data if (groups := study.weights(data))}
    rows = [(Row(data, _any(groups).cell.synthetic, None, {}), groups) for data, groups in found.items()]
    comparison = _comparison(study, "rouge1", REFERENCE, rows)
    if comparison is None:
        return None
    weights = sorted({name for groups in found.values() for name in groups if name != REFERENCE})
    seeds = {data: set.intersection(*(set(g.results) for g in groups.values())) for data, groups in found.items()}
    gains = {
        weight: _gain([(groups, sorted(seeds[data])) for data, groups in found.items()], weight) for weight in weights
    }
    known = {weight: gain for weight, gain in gains.items() if gain is not None}
    best = max(known, key=lambda weight: known[weight], default=None)
    return Tuning(comparison, gains, best, min(map(len, seeds.values())))


def compare(
    study: Study, policies: Sequence[str], reference: str, score: str, synthetic: int, part: str | None = None
) -> Comparison | None:
    """Policies against a reference one on every data set; None where nothing is there to compare."""
    rows = []
    for data in study.data:
        found = {policy: study.group(data, policy, synthetic, part) for policy in policies}
        if groups := {policy: group for policy, group in found.items() if group}:
            rows.append((Row(data, synthetic, None, {}), groups))
    return _comparison(study, score, reference, rows)


def sweep(study: Study, setting: Setting) -> Swept | None:
    """All sweeps of a setting; None if there is none."""
    sweeps = study.sweeps(*setting.fields, least=setting.least)
    rows: list[tuple[Row, dict[Any, Group]]] = []
    if setting.usual is not None:
        rows = [(Row(s.data, s.synthetic, None, {}, policy=s.policy), dict(s.points)) for s in sweeps]
    else:
        by_place: dict[tuple[Any, ...], dict[Any, Group]] = {}
        for s in sweeps:
            for value, group in s.points.items():
                by_place.setdefault((s.data, s.synthetic, value), {})[s.policy] = group
        rows = [(Row(data, n, None, {}, value=value), groups) for (data, n, value), groups in by_place.items()]
    reference = REFERENCE if setting.usual is None else setting.usual
    comparison = _comparison(study, "rouge1", reference, rows)
    if comparison is None:
        return None
    lines = [
        Line(s.data, s.policy, s.synthetic, {value: _point(group) for value, group in s.points.items()}) for s in sweeps
    ]
    return Swept(comparison, lines)


def curves(study: Study, policies: Sequence[str], synthetic: int) -> list[Curve]:
    """The learning curves of the main protocol."""
    found = []
    for data in study.data:
        for policy in policies:
            if group := study.group(data, policy, synthetic):
                points = {
                    r: statistics.mean(group.scores("rouge1", checkpoint=n)) for n, r in enumerate(group.received)
                }
                found.append(Curve(data, policy, synthetic, points))
    return found


def _present(comparisons: Iterable[Comparison | None]) -> list[Comparison]:
    """Those with at least two columns: one alone compares nothing."""
    return [found for found in comparisons if found and len(found.columns) > 1]


def _comparison(
    study: Study, score: str, reference: Any, rows: Sequence[tuple[Row, Mapping[Any, Group]]]
) -> Comparison | None:
    """The rows, filled in; differences are to the reference within each row, and all of them are one family."""
    if not rows:
        return None
    family: dict[Hashable, Difference] = {}
    for n, (_, groups) in enumerate(rows):
        for name, group in groups.items():
            if name != reference and reference in groups and (found := difference(group, groups[reference], score)):
                family[n, name] = found
    differences = corrected(family)
    made = []
    for n, (row, groups) in enumerate(rows):
        base = study.base(_any(groups))
        entries = {
            name: Entry(statistics.mean(group.scores(score)), differences.get((n, name)), sets=group.sets)
            for name, group in groups.items()
        }
        best = max(entries, key=lambda name: entries[name].score.value)
        if _stands_out(best, groups, entries, reference, score):
            entries[best] = dataclasses.replace(entries[best], best=True)
        untrained = statistics.mean(base.scores(score)) if base else None
        one = statistics.mean(np.array([base.one_answer[score]])) if base and base.one_answer else None
        made.append(dataclasses.replace(row, base=untrained, one_answer=one, entries=entries))
    return Comparison(score, reference, made, len(family))


def _stands_out(
    best: Any, groups: Mapping[Any, Group], entries: Mapping[Any, Entry], reference: Any, score: str
) -> bool:
    """Whether the best of a row differs from all others in it: by the table's verdicts where it or they have one. In a
    row without the reference none does."""
    others = [name for name in groups if name != best]
    if best == reference:
        found = [entries[name].difference for name in others]
        return bool(found) and all(d is not None and d.verdict == "lower" for d in found)
    own = entries[best].difference
    against = {name: difference(groups[best], groups[name], score) for name in others}
    if own is None or own.verdict != "higher" or any(d is None for d in against.values()):
        return False
    return all(d.verdict == "higher" for d in corrected({name: d for name, d in against.items() if d}).values())


def _gain(found: Sequence[tuple[Mapping[Any, Group], Sequence[int]]], weight: float) -> float | None:
    """What a weight adds to the reference policy's ROUGE-1, as a share of it, in the mean over data sets: of each its
    groups, and the seeds to go by. None where one lacks either."""
    shares = []
    for groups, seeds in found:
        if weight not in groups or REFERENCE not in groups or not seeds:
            return None
        own, theirs = (groups[name].scores("rouge1", seeds).mean() for name in (weight, REFERENCE))
        if not theirs:
            return None
        shares.append(float(own / theirs - 1))
    return float(np.mean(shares))


def _unwritten(study: Study, part: str | None) -> list[Unwritten]:
    return [Unwritten(g.cell.data, g.cell.policy, g.cell.synthetic) for g in study.unwritten(part)]


def _any(groups: Mapping[Any, Group]) -> Group:
    return next(iter(groups.values()))


def _point(group: Group) -> Point:
    seconds, epochs = group.last("train_seconds"), group.last("epochs")
    each = seconds / epochs if seconds is not None and epochs else None
    return Point(statistics.mean(group.scores("rouge1")), each, group.last("questions"), group.sets)
