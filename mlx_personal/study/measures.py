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

from mlx_personal.study import statistics
from mlx_personal.study.comparing import Group, Study
from mlx_personal.study.findings import Beyond, Comparison, Curve, Entry, Findings, Line, Point, Row, Swept
from mlx_personal.study.settings import BASE, OWN, PAPER_POLICIES, POLICIES, SCRIPTS, SINGLE_SCORES
from mlx_personal.study.statistics import Difference, Estimate

REFERENCE: Final = "quality"
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
    "weight": Setting(("weight",), 0.0),
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
    )


def main(study: Study) -> list[Comparison]:
    """The paper's policy and its baselines, for each number of synthetic sets and each score."""
    settings = study.settings()
    return _present(compare(study, PAPER_POLICIES, REFERENCE, score, n) for n in settings for score in SCORES)


def ablation(study: Study) -> list[Comparison]:
    """Each score alone, as the paper reads and as the authors' script behaves, against all three."""
    return _present(compare(study, ABLATION, REFERENCE, "rouge1", n) for n in study.settings())


def own(study: Study) -> list[Comparison]:
    """This project's policy against the paper's, on the halves that it was not tuned on."""
    settings = study.settings("second")
    return _present(
        compare(study, (REFERENCE, OWN), REFERENCE, score, n, "second") for n in settings for score in SCORES
    )


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
                received = [checkpoint["received"] for checkpoint in next(iter(group.results.values()))["checkpoints"]]
                points = {r: statistics.mean(group.scores("rouge1", checkpoint=n)) for n, r in enumerate(received)}
                found.append(Curve(data, policy, synthetic, points))
    return found


def beyond(study: Study, policies: Sequence[str], synthetic: int, part: str | None = None) -> list[Beyond]:
    """Perplexity, win rate, forgetting and length, a data set's untrained model first.

    The family of the differences in perplexity is all of them.
    """
    found: list[Beyond] = []
    for data in study.data:
        groups = [g for policy in policies if (g := study.group(data, policy, synthetic, part))]
        if groups and (base := study.base(groups[0])):
            words = base.last("answer_words")
            found.append(Beyond(data, BASE, synthetic, _perplexity(base), None, None, None, words))
        reference = next((group for group in groups if group.cell.policy == REFERENCE), None)
        found += [_beyond_one(study, group, None if group is reference else reference) for group in groups]
    corrected = _corrected({n: b.perplexity_difference for n, b in enumerate(found) if b.perplexity_difference})
    return [dataclasses.replace(b, perplexity_difference=corrected.get(n)) for n, b in enumerate(found)]


def _present(comparisons: Iterable[Comparison | None]) -> list[Comparison]:
    """Those with at least two columns: one alone compares nothing."""
    return [found for found in comparisons if found and len(found.columns) > 1]


def _comparison(
    study: Study, score: str, reference: Any, rows: Sequence[tuple[Row, Mapping[Any, Group]]]
) -> Comparison | None:
    """The rows, filled in; differences are to the reference within each row, and all of them are one family."""
    if not rows:
        return None
    references = [reference if reference in groups else next(iter(groups)) for _, groups in rows]
    family: dict[Hashable, Difference] = {}
    for n, (_, groups) in enumerate(rows):
        for name, group in groups.items():
            if name != references[n] and (found := _difference(group, groups[references[n]], score)):
                family[n, name] = found
    corrected = _corrected(family)
    made = []
    for n, (row, groups) in enumerate(rows):
        base = study.base(next(iter(groups.values())))
        entries = {
            name: Entry(statistics.mean(group.scores(score)), corrected.get((n, name)))
            for name, group in groups.items()
        }
        best = max(entries, key=lambda name: entries[name].score.value)
        if _stands_out(best, groups, entries, references[n], score):
            entries[best] = dataclasses.replace(entries[best], best=True)
        untrained = statistics.mean(base.scores(score)) if base else None
        made.append(dataclasses.replace(row, base=untrained, entries=entries))
    return Comparison(score, reference, made, len(family))


def _stands_out(
    best: Any, groups: Mapping[Any, Group], entries: Mapping[Any, Entry], reference: Any, score: str
) -> bool:
    """Whether the best of a row differs from all others in it: by the table's verdicts where it or they have one."""
    others = [name for name in groups if name != best]
    if best == reference:
        found = [entries[name].difference for name in others]
        return bool(found) and all(d is not None and d.verdict == "lower" for d in found)
    own = entries[best].difference
    against = {name: _difference(groups[best], groups[name], score) for name in others}
    if own is None or own.verdict != "higher" or any(d is None for d in against.values()):
        return False
    return all(d.verdict == "higher" for d in _corrected({name: d for name, d in against.items() if d}).values())


def _difference(group: Group, other: Group, score: str) -> Difference | None:
    seeds = _shared(group, other)
    return statistics.difference(group.scores(score, seeds), other.scores(score, seeds)) if seeds else None


def _corrected(family: Mapping[Any, Difference]) -> dict[Any, Difference]:
    adjusted = statistics.holm([d.p for d in family.values()])
    return {name: dataclasses.replace(d, adjusted=p) for (name, d), p in zip(family.items(), adjusted, strict=True)}


def _beyond_one(study: Study, group: Group, reference: Group | None) -> Beyond:
    base = study.base(group)
    cell = group.cell
    compared = win_rate = forgotten = None
    if reference and (seeds := _shared(group, reference)):
        nats, others = group.final("nats", seeds), reference.final("nats", seeds)
        if nats.size and others.size:
            compared = statistics.perplexity_difference(nats, others, group.final("tokens", seeds))
    if base:
        # The untrained model has no seed: it stands beside every one.
        scores = group.scores("rouge1")
        win_rate = statistics.mean(statistics.wins(scores, np.broadcast_to(base.scores("rouge1"), scores.shape)))
        nats, before = group.final("general_nats"), base.final("general_nats")
        if nats.size and before.size:
            forgotten = statistics.forgetting(nats, np.broadcast_to(before, nats.shape))
    words = group.last("answer_words")
    return Beyond(cell.data, cell.policy, cell.synthetic, _perplexity(group), compared, win_rate, forgotten, words)


def _perplexity(group: Group) -> Estimate | None:
    nats, tokens = group.final("nats"), group.final("tokens")
    return statistics.perplexity(nats, tokens) if nats.size else None


def _shared(group: Group, other: Group) -> list[int]:
    return [seed for seed in group.results if seed in other.results]


def _point(group: Group) -> Point:
    seconds, epochs = group.last("train_seconds"), group.last("epochs")
    each = seconds / epochs if seconds is not None and epochs else None
    return Point(statistics.mean(group.scores("rouge1")), each, group.last("questions"))
