"""The study's numbers as Markdown. Every table names its reference and its family, and the paper's figures as such."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from mlx_personal.benchmark.report import table
from mlx_personal.study import published
from mlx_personal.study.findings import Beyond, Comparison, Entry, Findings, Row, Swept, verdicts
from mlx_personal.study.labels import (
    POLICIES,
    SCORES,
    data_label,
    difference_text,
    number,
    policy_label,
    setting_label,
    value_label,
    with_interval,
)
from mlx_personal.study.measures import REFERENCE
from mlx_personal.study.published import published as paper
from mlx_personal.study.settings import BASE, OWN
from mlx_personal.study.statistics import NO_DIFFERENCE

NOTE: Final = (
    "Scores are means over seeds and evaluation dialogues. In brackets: 95 % intervals of a paired bootstrap that "
    "draws seeds and dialogues. A difference whose interval covers 0, or whose p by Holm's correction over its "
    "table's comparisons is not below 0.05, is printed as `no difference`. Bold: the best of its row, where it "
    "differs from all others there. Rows named paper hold the figures of {source}, made with a {model} and other data "
    "sizes: compare orders and differences, not levels."
)
# On how many data sets this project's policy must be higher, and lower on none.
_STREAMS_TO_WIN: Final = 3
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
    "weight": (
        "Tuning of this project's policy",
        "weight of EOE",
        "On the first half of the data alone; a weight of 0 is a plain random sample.",
    ),
}


def note() -> str:
    """How to read the tables."""
    return NOTE.format(source=paper()["source"], model=paper()["model"])


def main_tables(found: Findings) -> str:
    """Data sets by policies, once for each number of synthetic sets and score; the paper's under ROUGE-1."""
    parts = []
    for comparison in found.main:
        with_paper = comparison.score == "rouge1"
        text = _by_data(comparison, "data set", _data_label_of, policy_label, _paper_final if with_paper else None)
        parts.append(f"### {_title(comparison)}\n\n{text}\n{_family(comparison.family)}\n{_counted(comparison)}")
    return "\n".join(parts)


def ablation_tables(found: Findings) -> str:
    """Policies by data sets; each score alone as the paper reads and as the authors' script behaves."""
    parts = []
    for comparison in found.ablation:
        rows = []
        for policy in comparison.columns:
            entries = [row.entries.get(policy) for row in comparison.rows]
            rows.append([f"{policy_label(policy)}", *map(_score, entries)])
            if policy != comparison.reference:
                rows.append(["difference", *map(_differs, entries)])
            theirs = [_paper_final(row.data, policy) for row in comparison.rows]
            if any(theirs):
                rows.append([f"paper, {'all three' if policy == REFERENCE else policy_label(policy)}", *theirs])
        head = ["policy", *(data_label(row.data) for row in comparison.rows)]
        parts.append(f"### {_title(comparison)}\n\n{table(head, rows)}\n{_family(comparison.family)}\n")
    return "\n".join(parts)


def sweep_table(name: str, swept: Swept) -> str:
    """One setting's sweep: policies at each value, or each policy's values beside the usual one."""
    comparison = swept.comparison
    _, what, remark = _SWEEPS[name]
    several = len({row.data for row in comparison.rows}) > 1

    def about(row: Row) -> str:
        parts = [data_label(row.data)] if several or row.policy else []
        parts += [policy_label(row.policy)] if row.policy else [value_label(name, row.value)]
        parts += [] if row.synthetic is None else [setting_label(row.synthetic)]
        return ", ".join(parts)

    def column(value: Any) -> str:
        return policy_label(value) if by_policy else value_label(name, value)

    by_policy = any(row.policy is None for row in comparison.rows)
    text = _by_data(comparison, what, about, column, None)
    where = "" if several else f"On {data_label(comparison.rows[0].data)}. "
    reference = policy_label(REFERENCE) if by_policy else column(comparison.reference)
    text += f"\n{where}Differences are to {reference}. {_family(comparison.family)}"
    if remark:
        text += f" {remark}"
    return f"{text}\n{_costs(name, swept)}"


def sweep_title(name: str) -> str:
    return _SWEEPS[name][0]


def beyond_tables(found: Sequence[Beyond]) -> str:
    """Perplexity, win rate, forgetting and length, once for each number of synthetic sets."""
    head = ("data set", "policy", "perplexity", "to quality", "win rate", "forgetting", "words an answer")
    parts = []
    for synthetic in dict.fromkeys(b.synthetic for b in found):
        shown = [b for b in found if b.synthetic == synthetic]
        family = sum(b.perplexity_difference is not None for b in shown)
        parts.append(f"### {_capital(setting_label(synthetic))}\n\n{table(head, map(_beyond_row, shown))}\n")
        parts.append(f"{_family(family)}\n\n")
    return "".join(parts) + (
        "Perplexity is of the user's preferred answers, lower is better. Win rate: share of dialogues on which the "
        "adapted model's ROUGE-1 is above the base's, ties half. Forgetting: relative rise of the loss on general "
        "dialogues, 0.1 is 10 %.\n"
    )


def own_tables(found: Findings) -> str:
    """This project's policy against the paper's, on the half of each stream that it was not tuned on."""
    parts = []
    for comparison in found.own:
        text = _by_data(comparison, "data set", _data_label_of, policy_label, None)
        counts = verdicts(comparison, OWN)
        sets = sum(counts.values())
        won = counts["higher"] >= _STREAMS_TO_WIN and not counts["lower"]
        verdict = "It beats it" if won else "It does not beat it" if sets >= _STREAMS_TO_WIN else "Too few to say"
        parts.append(
            f"### {_title(comparison)}\n\n{text}\n{_family(comparison.family)} {policy_label(OWN)} is higher on "
            f"{counts['higher']}, lower on {counts['lower']}, and no different on {counts[NO_DIFFERENCE]} of {sets} "
            f"data sets. {verdict}, by the rule set before: higher on at least {_STREAMS_TO_WIN}, lower on none.\n"
        )
    if found.own_beyond:
        parts.append(beyond_tables(found.own_beyond))
    return "\n".join(parts)


def _beyond_row(b: Beyond) -> list[str | None]:
    return [
        data_label(b.data),
        policy_label(b.policy),
        with_interval(b.perplexity, 2),
        difference_text(b.perplexity_difference, 2),
        with_interval(b.win_rate, 3),
        with_interval(b.forgetting, 3, "+"),
        None if b.answer_words is None else f"{b.answer_words:.1f}",
    ]


def _data_label_of(row: Row) -> str:
    return data_label(row.data)


def _by_data(
    comparison: Comparison,
    what: str,
    about: Callable[[Row], str],
    column: Callable[[Any], str],
    theirs: Callable[[str, Any], str | None] | None,
) -> str:
    """Three lines a row: the scores, their differences to the reference, and the paper's scores where there are any."""
    columns = comparison.columns
    with_base = any(row.base for row in comparison.rows)
    rows: list[list[str | None]] = []
    for row in comparison.rows:
        entries = [row.entries.get(name) for name in columns]
        base = [number(row.base)] if with_base else []
        rows.append([about(row), "score", *base, *map(_score, entries)])
        blank: list[str | None] = [None] if with_base else []
        if any(entry and entry.difference for entry in entries):
            rows.append(["", "difference", *blank, *map(_differs, entries)])
        if theirs and any(found := [theirs(row.data, name) for name in columns]):
            rows.append(["", "paper", *blank, *found])
    head = [what, "", *([POLICIES[BASE]] if with_base else []), *map(column, columns)]
    return table(head, rows)


def _score(entry: Entry | None) -> str | None:
    text = number(entry.score) if entry else None
    return f"**{text}**" if entry and entry.best else text


def _differs(entry: Entry | None) -> str | None:
    return difference_text(entry.difference) if entry else None


def _title(comparison: Comparison) -> str:
    synthetic = comparison.rows[0].synthetic or 0
    return f"{SCORES[comparison.score]}, {setting_label(synthetic)}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _family(comparisons: int) -> str:
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
