"""The main tables of the report as Markdown. Each table names its reference and its family of comparisons."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from mlx_personal.reporting import markdown_table
from mlx_personal.research.study.cell import BASE, PAPER_POLICIES, describe_synthetic
from mlx_personal.research.study.report.analysis import ABLATION_POLICIES
from mlx_personal.research.study.report.cell_group import MIN_SYNTHETIC_SHARE
from mlx_personal.research.study.report.findings import (
    Comparison,
    ComparisonEntry,
    ComparisonRow,
    FailedSynthesis,
    Findings,
    SweepFindings,
    count_verdicts,
)
from mlx_personal.research.study.report.labels import (
    CONSTANT_ANSWER_LABEL,
    POLICY_LABELS,
    SCORE_LABELS,
    data_label,
    format_difference,
    format_synthetic_counts,
    format_value,
    policy_label,
    value_label,
)
from mlx_personal.research.study.report.model_study import REFERENCE
from mlx_personal.research.study.report.published import (
    CITATION,
    published_final_score,
    published_results,
    published_synthesis_sweep,
)
from mlx_personal.research.study.report.statistics import NO_DIFFERENCE, TOO_FEW_SEEDS
from mlx_personal.research.study.stream import MAX_REFERENCE_ANSWERS

NOTE: Final = (
    "Scores are means over seeds and evaluation dialogues. In brackets: 95 % intervals of a paired bootstrap that "
    "resamples seeds and dialogues. A difference whose interval covers 0, or whose p-value after Holm's correction "
    "over the comparisons of its table is not below 0.05, is printed as `no difference`. Bold: the best of its row, "
    "where it differs from all others there. Constant answer: of up to {num_answers} answers of dialogues outside the "
    "evaluation, the one with the highest mean ROUGE-1 against the others, given to every question; only a higher "
    "score shows that the question was used. Synthetic dialogues: the number trained on at the last checkpoint, of "
    "those requested, mean over seeds. Rows labeled {citation} hold the scores of {source}, obtained with a {model} "
    "and other data sizes: compare orders and differences, not levels."
)
SYNTHESIS_FAILED: Final = "no synthetic dialogue passed the filters"
# Cells with too few synthetic dialogues that are listed individually.
_MAX_LISTED: Final = 20
# For each swept setting the section's title, the header of the table's first column, and a remark.
_SWEEPS: Final = {
    "bins": ("Buffer size", "buffer", f"The sweep of {CITATION} (32 to 512 bins) was not found in print."),
    "synthetic": ("Number of synthetic dialogues (Fig. 3)", "synthetic dialogues", ""),
    "entropy": (
        "Estimators of EOE",
        "estimator",
        f"{CITATION} do not state how the probabilities of EOE are formed.",
    ),
    "annotations": (
        "Annotation limit",
        "annotations",
        f"The limit on the dialogues that the user annotates in the whole stream. {CITATION} have no such sweep.",
    ),
    "order": (
        "Order of the stream",
        "order",
        f"Correlated: in bursts of one topic, with a strength of 0 to 1. {CITATION} have no such sweep.",
    ),
}


def reading_note() -> str:
    """Return an explanation of the tables."""
    paper = published_results()
    return NOTE.format(
        source=paper["source"], model=paper["model"], num_answers=MAX_REFERENCE_ANSWERS, citation=CITATION
    )


def main_tables(findings: Findings) -> str:
    """Return tables of data sets by policies, for each number of synthetic dialogues and each score.

    The published scores are added to ROUGE-1.
    """
    parts = [failed_synthesis_text(findings.failed_synthesis, findings.main, PAPER_POLICIES)]
    for comparison in findings.main:
        published = _published_text if comparison.score == "rouge1" else None
        table = comparison_table(comparison, "data set", row_data_label, policy_label, published)
        parts.append(
            f"### {comparison_title(comparison)}\n\n{table}\n{family_text(comparison)}\n{_verdict_list(comparison)}"
        )
    return "\n".join(filter(None, parts))


def ablation_tables(findings: Findings) -> str:
    """Return tables of policies by data sets: each score alone, by the paper's text and by the authors' scripts."""
    parts = [failed_synthesis_text(findings.failed_synthesis, findings.ablation, ABLATION_POLICIES)]
    for comparison in findings.ablation:
        rows = []
        for policy in comparison.columns:
            entries = [row.entries.get(policy) for row in comparison.rows]
            rows.append([policy_label(policy), *map(_score_text, entries)])
            if policy != comparison.reference:
                rows.append(["difference", *map(_difference_text, entries)])
            if any(counts := list(map(_synthetic_text, entries))):
                rows.append(["synthetic dialogues", *counts])
            published = [_published_text(row.data, policy) for row in comparison.rows]
            if any(published):
                label = "all three" if policy == REFERENCE else policy_label(policy)
                rows.append([f"{CITATION}, {label}", *published])
        head = ["policy", *(data_label(row.data) for row in comparison.rows)]
        notes = f"{family_text(comparison)}\n{shortfall_list(comparison, row_data_label, policy_label)}"
        parts.append(f"### {comparison_title(comparison)}\n\n{markdown_table(head, rows)}\n{notes}")
    return "\n".join(filter(None, parts))


def sweep_title(name: str) -> str:
    """Return the title of a sweep's section."""
    return _SWEEPS[name][0]


def sweep_table(name: str, sweep: SweepFindings) -> str:
    """Return the tables of a sweep: scores, and training time or annotations where they matter."""
    comparison = sweep.comparison
    _, first_column, remark = _SWEEPS[name]
    has_several_datasets = len({row.data for row in comparison.rows}) > 1
    compares_policies = any(row.policy is None for row in comparison.rows)

    def row_label(row: ComparisonRow) -> str:
        parts = [data_label(row.data)] if has_several_datasets or row.policy else []
        parts += [policy_label(row.policy)] if row.policy else [value_label(name, row.value)]
        parts += [] if row.synthetic is None else [describe_synthetic(row.synthetic)]
        return ", ".join(parts)

    def column_label(value: Any) -> str:
        return policy_label(value) if compares_policies else value_label(name, value)

    text = comparison_table(comparison, first_column, row_label, column_label, None)
    dataset = "" if has_several_datasets else f"On {data_label(comparison.rows[0].data)}. "
    reference = describe_synthetic(comparison.reference) if name == "synthetic" else column_label(comparison.reference)
    differences = f"Differences are from {reference}. " if comparison.family_size else ""
    text += f"\n{dataset}{differences}{family_text(comparison, row_label, reference)}"
    if remark:
        text += f" {remark}"
    return f"{text}\n{_cost_table(name, sweep)}"


def comparison_table(
    comparison: Comparison,
    first_column: str,
    row_label: Callable[[ComparisonRow], str],
    column_label: Callable[[Any], str],
    published: Callable[[str, Any], str | None] | None,
) -> str:
    """Return a comparison as a table, followed by the cells with too few synthetic dialogues.

    A row takes up to four lines: scores, differences from the reference, synthetic dialogues and published scores.

    Args:
        comparison: The comparison.
        first_column: Header of the first column.
        row_label: Returns the label of a row.
        column_label: Returns the label of a column.
        published: Returns the published score of a data set and a column; None to leave it out.
    """
    columns = comparison.columns
    # Scores that do not belong to a policy, if there are any.
    references = {
        label: scores
        for label, scores in (
            (POLICY_LABELS[BASE], [row.base for row in comparison.rows]),
            (CONSTANT_ANSWER_LABEL, [row.constant_answer for row in comparison.rows]),
        )
        if any(scores)
    }
    lines: list[list[str | None]] = []
    for n, row in enumerate(comparison.rows):
        entries = [row.entries.get(name) for name in columns]
        reference_scores = (format_value(scores[n]) for scores in references.values())
        lines.append([row_label(row), "score", *reference_scores, *map(_score_text, entries)])
        blank: list[str | None] = [None for _ in references]
        if any(entry and entry.difference for entry in entries):
            lines.append(["", "difference", *blank, *map(_difference_text, entries)])
        if any(counts := list(map(_synthetic_text, entries))):
            lines.append(["", "synthetic dialogues", *blank, *counts])
        if published and any(published_scores := [published(row.data, name) for name in columns]):
            lines.append(["", CITATION, *blank, *published_scores])
    head = [first_column, "", *references, *map(column_label, columns)]
    shortfalls = shortfall_list(comparison, row_label, column_label)
    return markdown_table(head, lines) + (f"\n{shortfalls}" if shortfalls else "")


def shortfall_list(
    comparison: Comparison, row_label: Callable[[ComparisonRow], str], column_label: Callable[[Any], str]
) -> str:
    """Return the cells of a table with clearly fewer synthetic dialogues than requested, as Markdown."""
    lines = [
        f"{row_label(row)}, {column_label(name)}, seed {seed}: {shortfall.available:,} of {shortfall.requested:,}, at "
        f"{shortfall.received:,} received"
        for row in comparison.rows
        for name, entry in row.entries.items()
        for seed, shortfall in (entry.synthetic_counts.shortfalls if entry.synthetic_counts else {}).items()
    ]
    if not lines:
        return ""
    more = [f"and {len(lines) - _MAX_LISTED} more"] if len(lines) > _MAX_LISTED else []
    listed = "".join(f"- {line}\n" for line in [*lines[:_MAX_LISTED], *more])
    return f"Cells with less than {100 * MIN_SYNTHETIC_SHARE:.0f} % of the requested synthetic dialogues:\n\n{listed}"


def failed_synthesis_text(
    failures: Sequence[FailedSynthesis], comparisons: Sequence[Comparison], policies: Sequence[str]
) -> str:
    """Return a note on the tables and cells that are left out because no synthetic dialogue was available.

    Args:
        failures: All failures.
        comparisons: Comparisons that are shown.
        policies: Policies of the tables.
    """
    failures = [failure for failure in failures if failure.policy in policies]
    shown = {comparison.rows[0].synthetic for comparison in comparisons}
    text = ""
    for synthetic in sorted({failure.synthetic for failure in failures}):
        if synthetic not in shown:
            text += (
                f"With {describe_synthetic(synthetic)} there is no table: {SYNTHESIS_FAILED}, so it would repeat the "
                "results without them.\n"
            )
        else:
            cells = (f"{data_label(f.data)}, {policy_label(f.policy)}" for f in failures if f.synthetic == synthetic)
            text += (
                f"Left out of the tables with {describe_synthetic(synthetic)}, because {SYNTHESIS_FAILED}: "
                f"{'; '.join(cells)}.\n"
            )
    return text


def comparison_title(comparison: Comparison) -> str:
    """Return the title of a comparison: its score and its number of synthetic dialogues."""
    synthetic = comparison.rows[0].synthetic or 0
    return f"{SCORE_LABELS[comparison.score]}, {describe_synthetic(synthetic)}"


def row_data_label(row: ComparisonRow) -> str:
    """Return the title of a row's data set."""
    return data_label(row.data)


def family_text(
    comparison: Comparison,
    row_label: Callable[[ComparisonRow], str] = row_data_label,
    reference: str | None = None,
) -> str:
    """Return a note on the family of Holm's correction, and on rows without the reference.

    Args:
        comparison: The comparison.
        row_label: Returns the label of a row.
        reference: Label of the reference; None for the label of the reference policy.
    """
    reference = reference or policy_label(comparison.reference)
    text = family_size_text(comparison.family_size)
    without = [row_label(row) for row in comparison.rows if comparison.reference not in row.entries]
    if without:
        text += f" No differences for {'; '.join(without)}: {reference} is missing there."
    return text


def family_size_text(num_comparisons: int) -> str:
    """Return a note on the size of the family of Holm's correction."""
    if not num_comparisons:
        return "Nothing is compared here."
    count = "one comparison" if num_comparisons == 1 else f"{num_comparisons} comparisons"
    return f"Holm's correction covers the {count} of this table."


def _verdict_list(comparison: Comparison) -> str:
    """Return the number of verdicts of each policy, one line each."""
    lines = []
    for policy in comparison.columns:
        counts = count_verdicts(comparison, policy)
        if policy != comparison.reference and (total := sum(counts.values())):
            lines.append(
                f"- {policy_label(policy)} against {policy_label(comparison.reference)}: higher on {counts['higher']}, "
                f"lower on {counts['lower']}, no difference on {counts[NO_DIFFERENCE]} of {total}"
                + (f", {TOO_FEW_SEEDS} on {counts[TOO_FEW_SEEDS]}" if counts[TOO_FEW_SEEDS] else "")
            )
    return "\n" + "".join(f"{line}\n" for line in lines)


def _score_text(entry: ComparisonEntry | None) -> str | None:
    text = format_value(entry.score) if entry else None
    return f"**{text}**" if entry and entry.is_best else text


def _difference_text(entry: ComparisonEntry | None) -> str | None:
    return format_difference(entry.difference) if entry else None


def _synthetic_text(entry: ComparisonEntry | None) -> str | None:
    return format_synthetic_counts(entry.synthetic_counts) if entry else None


def _published_text(data: str, policy: str) -> str | None:
    score = published_final_score(data, policy)
    return score.text if score else None


def _cost_table(name: str, sweep: SweepFindings) -> str:
    """Return a table of the training time or of the annotations, for the sweeps of which these are the cost."""
    values = list(dict.fromkeys(value for line in sweep.lines for value in line.points))
    rows: list[list[str | None]] = []
    if name == "synthetic":
        values, rows = _training_time_rows(sweep, values)
    elif name == "annotations":
        for line in sweep.lines:
            questions = {v: point.questions for v, point in line.points.items()}
            label = f"{data_label(line.data)}, {policy_label(line.policy)}: dialogues annotated"
            rows.append([label, *_format_values(values, questions, 1)])
    if not rows:
        return ""
    return f"\n{markdown_table(['', *(value_label(name, value) for value in values)], rows)}"


def _training_time_rows(sweep: SweepFindings, values: Sequence[int]) -> tuple[list[int], list[list[str | None]]]:
    """Return the columns and rows of available dialogues and training time, with the published values."""
    published = published_synthesis_sweep()
    values = sorted({*values, *published.rouge1})
    rows = []
    for line in sweep.lines:
        label = f"{data_label(line.data)}, {policy_label(line.policy)}"
        seconds = {v: point.seconds_per_epoch for v, point in line.points.items()}
        available = {
            v: point.synthetic_counts.available_per_selected if point.synthetic_counts else 0.0
            for v, point in line.points.items()
        }
        rows.append([f"{label}: synthetic dialogues per selected one", *_format_values(values, available, 2)])
        rows.append([f"{label}: s per epoch", *_format_values(values, seconds, 2)])
    label = f"{CITATION}, {data_label(published.data)}"
    rows.append([f"{label}: ROUGE-1 (digitized)", *_format_values(values, published.rouge1, 3)])
    rows.append([f"{label}: s per epoch (digitized)", *_format_values(values, published.seconds_per_epoch, 0)])
    return values, rows


def _format_values(values: Sequence[Any], numbers: Mapping[Any, float | None], digits: int) -> list[str | None]:
    return [None if numbers.get(v) is None else f"{numbers[v]:.{digits}f}" for v in values]
