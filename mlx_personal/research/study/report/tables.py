"""The study's numbers as Markdown. Every table names its reference and its family, and the paper's figures as such."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from mlx_personal.reporting import table
from mlx_personal.research.study.cell import BASE, PAPER_POLICIES, synthetic_text
from mlx_personal.research.study.report import published
from mlx_personal.research.study.report.cell_group import ENOUGH
from mlx_personal.research.study.report.findings import Comparison, Entry, Findings, Row, Swept, Unwritten, verdicts
from mlx_personal.research.study.report.grouped_cells import REFERENCE
from mlx_personal.research.study.report.labels import (
    ONE_ANSWER,
    POLICIES,
    SCORES,
    data_label,
    difference_text,
    number,
    policy_label,
    sets_text,
    value_label,
)
from mlx_personal.research.study.report.measures import ABLATION
from mlx_personal.research.study.report.published import published as paper
from mlx_personal.research.study.report.statistics import NO_DIFFERENCE, TOO_FEW
from mlx_personal.research.study.stream import OTHERS

NOTE: Final = (
    "Scores are means over seeds and evaluation dialogues. In brackets: 95 % intervals of a paired bootstrap that "
    "draws seeds and dialogues. A difference whose interval covers 0, or whose p by Holm's correction over its "
    "table's comparisons is not below 0.05, is printed as `no difference`. Bold: the best of its row, where it "
    "differs from all others there. One answer for all: of up to {others} answers of dialogues that do not "
    "evaluate, the one that is most like all others by ROUGE-1, given to every question; a score that is not above "
    "it does not show that the question was used. Synthetic sets: those learnt at the last checkpoint, of those "
    "asked for, in the mean over seeds. Rows named paper hold the figures of {source}, made with a {model} and "
    "other data sizes: compare orders and differences, not levels."
)
NONE_PASSED: Final = "no synthetic set passed the checks"
_LISTED: Final = 20  # cells short of synthetic sets that are named one by one
# By the setting that is swept: its section's title, the table's first column, and what to know of it.
_SWEEPS: Final = {
    "bins": ("Buffer size", "buffer", "The paper's sweep (32 to 512 bins) was not found in print."),
    "synthetic": ("Number of synthetic sets (Fig. 3)", "synthetic sets", ""),
    "entropy": ("Estimators of EOE", "estimator", "The paper leaves open how its probabilities are formed."),
    "annotations": (
        "Annotation budget",
        "questions",
        "Most questions put to the owner in the whole stream. The paper has no such sweep.",
    ),
    "order": (
        "Order of the stream",
        "order",
        "Correlated: sorted by topic in bursts, with a strength of 0 to 1. The paper has no such sweep.",
    ),
}


def note() -> str:
    """How to read the tables."""
    return NOTE.format(source=paper()["source"], model=paper()["model"], others=OTHERS)


def main_tables(found: Findings) -> str:
    """Data sets by policies, once for each number of synthetic sets and score; the paper's under ROUGE-1."""
    parts = [unwritten_text(found.unwritten, found.main, PAPER_POLICIES)]
    for comparison in found.main:
        theirs = _paper_final if comparison.score == "rouge1" else None
        text = by_data(comparison, "data set", data_label_of, policy_label, theirs)
        parts.append(f"### {title(comparison)}\n\n{text}\n{family(comparison)}\n{_counted(comparison)}")
    return "\n".join(filter(None, parts))


def ablation_tables(found: Findings) -> str:
    """Policies by data sets; each score alone as the paper reads and as the authors' script behaves."""
    parts = [unwritten_text(found.unwritten, found.ablation, ABLATION)]
    for comparison in found.ablation:
        rows = []
        for policy in comparison.columns:
            entries = [row.entries.get(policy) for row in comparison.rows]
            rows.append([f"{policy_label(policy)}", *map(_score, entries)])
            if policy != comparison.reference:
                rows.append(["difference", *map(_differs, entries)])
            if any(counts := list(map(_sets, entries))):
                rows.append(["synthetic sets", *counts])
            theirs = [_paper_final(row.data, policy) for row in comparison.rows]
            if any(theirs):
                rows.append([f"paper, {'all three' if policy == REFERENCE else policy_label(policy)}", *theirs])
        head = ["policy", *(data_label(row.data) for row in comparison.rows)]
        short = shortages(comparison, data_label_of, policy_label)
        parts.append(f"### {title(comparison)}\n\n{table(head, rows)}\n{family(comparison)}\n{short}")
    return "\n".join(filter(None, parts))


def sweep_table(name: str, swept: Swept) -> str:
    """One setting's sweep: policies at each value, or each policy's values beside the usual one."""
    comparison = swept.comparison
    _, what, remark = _SWEEPS[name]
    several = len({row.data for row in comparison.rows}) > 1

    def about(row: Row) -> str:
        parts = [data_label(row.data)] if several or row.policy else []
        parts += [policy_label(row.policy)] if row.policy else [value_label(name, row.value)]
        parts += [] if row.synthetic is None else [synthetic_text(row.synthetic)]
        return ", ".join(parts)

    def column(value: Any) -> str:
        return policy_label(value) if by_policy else value_label(name, value)

    by_policy = any(row.policy is None for row in comparison.rows)
    text = by_data(comparison, what, about, column, None)
    where = "" if several else f"On {data_label(comparison.rows[0].data)}. "
    usual = synthetic_text(comparison.reference) if name == "synthetic" else column(comparison.reference)
    against = f"Differences are to {usual}. " if comparison.family else ""
    text += f"\n{where}{against}{family(comparison, about, usual)}"
    if remark:
        text += f" {remark}"
    return f"{text}\n{_costs(name, swept)}"


def sweep_title(name: str) -> str:
    return _SWEEPS[name][0]


def by_data(
    comparison: Comparison,
    what: str,
    about: Callable[[Row], str],
    column: Callable[[Any], str],
    theirs: Callable[[str, Any], str | None] | None,
) -> str:
    """Up to four lines a row: the scores, their differences to the reference, the synthetic sets, and the paper's
    scores where there are any. Below it, the cells that are short of synthetic sets."""
    columns = comparison.columns
    # What stands beside the policies, if there is any of it.
    beside = {
        title: found
        for title, found in (
            (POLICIES[BASE], [row.base for row in comparison.rows]),
            (ONE_ANSWER, [row.one_answer for row in comparison.rows]),
        )
        if any(found)
    }
    rows: list[list[str | None]] = []
    for n, row in enumerate(comparison.rows):
        entries = [row.entries.get(name) for name in columns]
        rows.append([about(row), "score", *(number(found[n]) for found in beside.values()), *map(_score, entries)])
        blank: list[str | None] = [None for _ in beside]
        if any(entry and entry.difference for entry in entries):
            rows.append(["", "difference", *blank, *map(_differs, entries)])
        if any(counts := list(map(_sets, entries))):
            rows.append(["", "synthetic sets", *blank, *counts])
        if theirs and any(found := [theirs(row.data, name) for name in columns]):
            rows.append(["", "paper", *blank, *found])
    head = [what, "", *beside, *map(column, columns)]
    short = shortages(comparison, about, column)
    return table(head, rows) + (f"\n{short}" if short else "")


def shortages(comparison: Comparison, about: Callable[[Row], str], column: Callable[[Any], str]) -> str:
    """The cells of a table that got clearly less synthetic sets than they asked for, as Markdown."""
    lines = [
        f"{about(row)}, {column(name)}, seed {seed}: {got:,} of {wanted:,}, at {received:,} received"
        for row in comparison.rows
        for name, entry in row.entries.items()
        for seed, (received, got, wanted) in (entry.sets.short if entry.sets else {}).items()
    ]
    if not lines:
        return ""
    more = [f"and {len(lines) - _LISTED} more"] if len(lines) > _LISTED else []
    listed = "".join(f"- {line}\n" for line in [*lines[:_LISTED], *more])
    return f"Short of synthetic sets, under {100 * ENOUGH:.0f} % of those asked for:\n\n{listed}"


def unwritten_text(found: Sequence[Unwritten], shown: Sequence[Comparison], policies: Sequence[str]) -> str:
    """What stands in place of a table, or of some of its cells, for which not one synthetic set was written."""
    found = [cell for cell in found if cell.policy in policies]
    tables = {comparison.rows[0].synthetic for comparison in shown}
    text = ""
    for synthetic in sorted({cell.synthetic for cell in found}):
        if synthetic not in tables:
            text += (
                f"With {synthetic_text(synthetic)} there is no table: {NONE_PASSED}, so it is no second condition.\n"
            )
        else:
            left = (f"{data_label(c.data)}, {policy_label(c.policy)}" for c in found if c.synthetic == synthetic)
            text += f"Left out of the tables with {synthetic_text(synthetic)}: {NONE_PASSED} of {'; '.join(left)}.\n"
    return text


def _sets(entry: Entry | None) -> str | None:
    return sets_text(entry.sets) if entry else None


def _score(entry: Entry | None) -> str | None:
    text = number(entry.score) if entry else None
    return f"**{text}**" if entry and entry.best else text


def _differs(entry: Entry | None) -> str | None:
    return difference_text(entry.difference) if entry else None


def title(comparison: Comparison) -> str:
    synthetic = comparison.rows[0].synthetic or 0
    return f"{SCORES[comparison.score]}, {synthetic_text(synthetic)}"


def data_label_of(row: Row) -> str:
    return data_label(row.data)


def family(comparison: Comparison, about: Callable[[Row], str] = data_label_of, reference: str | None = None) -> str:
    """What Holm's correction is over, and which rows have nothing to be compared with."""
    reference = reference or policy_label(comparison.reference)
    text = family_of(comparison.family)
    if without := [about(row) for row in comparison.rows if comparison.reference not in row.entries]:
        text += f" No differences for {'; '.join(without)}: {reference} is missing there."
    return text


def family_of(comparisons: int) -> str:
    if not comparisons:
        return "Nothing is compared here."
    count = "one comparison" if comparisons == 1 else f"{comparisons} comparisons"
    return f"Holm's correction is over the {count} of this table."


def _counted(comparison: Comparison) -> str:
    """Each policy's verdicts against the reference, in one line each."""
    lines = []
    for policy in comparison.columns:
        counts = verdicts(comparison, policy)
        if policy != comparison.reference and (sets := sum(counts.values())):
            lines.append(
                f"- {policy_label(policy)} against {policy_label(comparison.reference)}: higher on {counts['higher']}, "
                f"lower on {counts['lower']}, no difference on {counts[NO_DIFFERENCE]} of {sets}"
                + (f", {TOO_FEW} on {counts[TOO_FEW]}" if counts[TOO_FEW] else "")
            )
    return "\n" + "".join(f"{line}\n" for line in lines)


def _paper_final(data: str, policy: str) -> str | None:
    found = published.final(data, policy)
    return found.text if found else None


def _costs(name: str, swept: Swept) -> str:
    """What a sweep cost beside its scores, where that is the point of it: seconds, or questions."""
    rows: list[list[str | None]] = []
    values = list(dict.fromkeys(value for line in swept.lines for value in line.points))
    if name == "synthetic":
        theirs = paper()["synthetic"]
        values = sorted({*values, *theirs["sets"]})
        for line in swept.lines:
            seconds = {v: point.seconds_an_epoch for v, point in line.points.items()}
            got = {v: point.sets.got_each if point.sets else 0.0 for v, point in line.points.items()}
            rows.append(
                [f"{data_label(line.data)}, {policy_label(line.policy)}: sets got a kept one", *_row(values, got, 2)]
            )
            rows.append(
                [f"{data_label(line.data)}, {policy_label(line.policy)}: s an epoch", *_row(values, seconds, 2)]
            )
        for label, key, digits in (
            ("ROUGE-1 (digitised)", "rouge1", 3),
            ("s an epoch (digitised)", "seconds_an_epoch", 0),
        ):
            numbers = dict(zip(theirs["sets"], theirs[key]["digitised"], strict=True))
            rows.append([f"paper, {data_label(theirs['data'])}: {label}", *_row(values, numbers, digits)])
    elif name == "annotations":
        for line in swept.lines:
            asked = {v: point.questions for v, point in line.points.items()}
            about = f"{data_label(line.data)}, {policy_label(line.policy)}: questions asked"
            rows.append([about, *_row(values, asked, 1)])
    if not rows:
        return ""
    return f"\n{table(['', *(value_label(name, value) for value in values)], rows)}"


def _row(values: Sequence[Any], numbers: Mapping[Any, float | None], digits: int) -> list[str | None]:
    return [None if numbers.get(v) is None else f"{numbers[v]:.{digits}f}" for v in values]
