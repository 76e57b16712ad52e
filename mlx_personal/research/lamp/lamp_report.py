"""Tables of a run: for every method the official metrics with intervals over users, paired gains, and the costs.

Users are resampled with all their queries, because the queries of one user are not independent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from mlx_personal.reporting import counted, markdown_table
from mlx_personal.research.lamp.lamp_folder import LampFolder, LampSetting
from mlx_personal.research.lamp.lamp_results import MethodResult
from mlx_personal.research.lamp.lamp_users import FileCounts
from mlx_personal.research.lamp.methods import MAJORITY, NON_PERSONALIZED
from mlx_personal.research.lamp.metrics import (
    ERROR_METRICS,
    METRICS,
    UNICODE_METRICS,
    TokenizerCounts,
    compute_metrics,
    tokenizer_counts,
)
from mlx_personal.research.lamp.tasks import LampTask
from mlx_personal.research.statistics import Interval, statistic_intervals
from mlx_personal.storage.files import atomic_write

# Methods that all others are compared with: without the user's items, without a model, and the items in the prompt
# alone or in an adapter alone.
REFERENCES: Final = (NON_PERSONALIZED, MAJORITY, "bm25", "oppu")


# Costs of a method by their names in JSON, with their titles in a table.
_COSTS: Final = {
    "train_seconds": "training, s a user",
    "answer_seconds": "answer, s a query",
    "tokens_read": "tokens read",
    "tokens_written": "tokens written",
    "joules": "joules a user",
    "adapter_kb": "adapter, KB",
    "training_samples": "training samples",
}


@dataclass(frozen=True)
class MethodRow:
    """The metrics and costs of one method.

    Attributes:
        method: Name of the method.
        num_users: Users that were answered.
        num_queries: Queries that were answered.
        metrics: The metrics, under LaMP's names.
        gains: For each other method of `REFERENCES` how much better each metric is, on the users that both have.
        costs: Means under the names of `_COSTS`, None where not known: tokens are a query's, and the seconds of a
            server's answers are those with several requests at once.
        counts: What was left out or dropped, by `lamp_results.Count`, over all users.
        tokenizer_counts: What the tokenizers of ROUGE know of the texts.
    """

    method: str
    num_users: int
    num_queries: int
    metrics: Mapping[str, Interval]
    gains: Mapping[str, Mapping[str, Interval]]
    costs: Mapping[str, float | None]
    counts: Mapping[str, int]
    tokenizer_counts: TokenizerCounts

    def is_scorable(self, metric: str) -> bool:
        """Return whether a metric can score any gold answer."""
        return self.tokenizer_counts.unscorable(metric) < self.tokenizer_counts.golds

    def to_json(self) -> dict[str, Any]:
        """Return the values for the command line's JSON."""
        return {
            "method": self.method,
            "users": self.num_users,
            "queries": self.num_queries,
            "metrics": _intervals_to_json(self.metrics),
            "gains": {reference: _intervals_to_json(gains) for reference, gains in self.gains.items()},
            **self.costs,
            "counts": dict(self.counts),
            "unscorable": {name: count for name in self.metrics if (count := self.tokenizer_counts.unscorable(name))},
        }


def method_rows(setting: LampSetting) -> list[MethodRow]:
    """Return a row for every method that has queries to score, in the order of their first results.

    Args:
        setting: The results.
    """
    scored = {
        method: of_method
        for method, of_method in setting.results.items()
        if any(result.num_scored for result in of_method.values())
    }
    return [
        _method_row(setting.task, method, of_method, {name: scored[name] for name in REFERENCES if name in scored})
        for method, of_method in scored.items()
    ]


def method_tables(task: LampTask, rows: Sequence[MethodRow]) -> str:
    """Return Markdown tables of the metrics, the gains and the costs, and a list of what was left out.

    Args:
        task: Task of the rows.
        rows: Rows of `method_rows`, at least one.
    """
    names: tuple[str, ...] = METRICS[task.kind]
    compared: tuple[str, ...] = names[:1]
    if any(row.tokenizer_counts.pairs_with_other_words for row in rows):
        names, compared = (*names, *UNICODE_METRICS), (*compared, UNICODE_METRICS[0])
    quality = markdown_table(
        ["method", "users", "queries", *names],
        ([row.method, row.num_users, row.num_queries, *(_metric_text(row, name) for name in names)] for row in rows),
    )
    tables = [quality + _tokenizer_note(rows), *(_gain_table(rows, metric) for metric in compared), _cost_table(rows)]
    counts = {row.method: ", ".join(f"{count} {name}" for name, count in row.counts.items()) for row in rows}
    notes = [f"- {method}: {text}\n" for method, text in counts.items() if text]
    if notes:
        tables.append("Left out, shortened or dropped:\n\n" + "".join(notes))
    return "\n".join(filter(None, tables))


def file_remarks(counts: FileCounts) -> list[str]:
    """Return what is to be said about the files: their sizes, and what cannot be personalized or scored.

    Args:
        counts: Counts of the files.
    """
    remarks = (
        (counts.skipped_items, "items were skipped because they lack a text or an answer"),
        (counts.empty_profiles, "users have no items"),
        (counts.single_items, "users have one item"),
        (counts.users_without_queries, "users have no queries and were skipped"),
        (counts.unscorable_queries, "queries have an empty gold answer, so they are answered but not scored"),
        (counts.unasked_outputs, "outputs have no question"),
    )
    lines = [
        f"{counts.users} users, {counts.queries} queries, {counts.items} items.",
        *(f"{count} {remark}." for count, remark in remarks if count),
    ]
    if counts.distinct_golds == 1:
        lines.append("All gold answers are equal, so one answer for all is right: no gain here is personalization.")
    return lines


def write_report(folder: LampFolder, out: Path | None = None) -> str:
    """Return the tables of all settings of a run as Markdown.

    Args:
        folder: The results.
        out: File to write the tables to as well; None for none.

    Raises:
        UserError: If there are no results of this version.
    """
    folder.require_results()
    sections = []
    for setting in folder.settings.values():
        if rows := method_rows(setting):
            server = setting.metadata["server"]
            writer = "the model itself" if server is None else server["model"]
            heading = f"## LaMP-{setting.task.name}, {setting.metadata['model_name']}; synthetic records by {writer}"
            remarks = "\n".join(file_remarks(setting.counts))
            sections.append(f"{heading}\n\n{remarks}\n\n{method_tables(setting.task, rows)}")
    if folder.num_outdated:
        results = counted(folder.num_outdated, "result")
        sections.append(f"Left out: {results} of another version of mlx-personal.\n")
    text = "\n".join(sections)
    if out is not None:
        atomic_write(out, text)
    return text


def _method_row(
    task: LampTask, method: str, by_user: Mapping[int, MethodResult], references: Mapping[str, dict[int, MethodResult]]
) -> MethodRow:
    results = list(by_user.values())
    num_queries = sum(result.num_queries for result in results)
    num_timed = sum(result.num_queries for result in results if result.answer_s is not None)
    counts: Counter[str] = Counter()
    for result in results:
        counts.update(result.counts)
    sizes = [result.adapter_bytes for result in results if result.adapter_bytes is not None]
    costs = {
        "train_seconds": _mean(result.train_s for result in results),
        "answer_seconds": _mean((result.answer_s for result in results), num_timed),
        "tokens_read": _mean((result.tokens_read for result in results), num_queries),
        "tokens_written": _mean((result.tokens_written for result in results), num_queries),
        "joules": _mean(result.energy_joules for result in results),
        "adapter_kb": _mean(size / 1024 for size in sizes),
        "training_samples": _mean(result.training_samples for result in results),
    }
    sums = np.array([result.sums for result in results if result.num_scored], np.float64)
    return MethodRow(
        method=method,
        num_users=len(results),
        num_queries=num_queries,
        metrics=statistic_intervals(sums, lambda totals: compute_metrics(task, totals)),
        gains={
            name: gains
            for name, reference in references.items()
            if name != method and (gains := _gains(task, reference, by_user))
        },
        costs=costs,
        counts=dict(counts),
        tokenizer_counts=tokenizer_counts(task, sums.sum(axis=0)),
    )


def _gains(
    task: LampTask, before: Mapping[int, MethodResult], after: Mapping[int, MethodResult]
) -> dict[str, Interval]:
    """Return how much better each metric is on the shared users; empty for fewer than two of them."""
    shared = [user for user, result in before.items() if result.num_scored and user in after]
    if len(shared) < 2:
        return {}
    sums = np.array([[before[user].sums, after[user].sums] for user in shared], np.float64)

    def differences(totals: np.ndarray) -> dict[str, np.ndarray]:
        old, new = (compute_metrics(task, half) for half in np.split(totals, 2, axis=-1))
        return {name: old[name] - new[name] if name in ERROR_METRICS else new[name] - old[name] for name in new}

    return statistic_intervals(sums.reshape(len(shared), -1), differences)


def _mean(values: Iterable[float | None], count: int | None = None) -> float | None:
    """Return the sum of the known values by a count, or by how many there are; None where none is known."""
    known = [value for value in values if value is not None]
    return sum(known) / (count or len(known)) if known else None


def _gain_table(rows: Sequence[MethodRow], metric: str) -> str:
    """Return the gains over each reference; empty where no method can be compared with one."""
    references = [name for name in REFERENCES if any(name in row.gains for row in rows)]
    if not references:
        return ""
    what = f"how much lower {metric} is" if metric in ERROR_METRICS else f"how much higher {metric} is"
    table = markdown_table(
        ["method", *(f"gain over {name}" for name in references)],
        ([row.method, *(_gain_text(row, name, metric) for name in references)] for row in rows),
    )
    return f"Gains: {what}, paired by user.\n\n{table}"


def _cost_table(rows: Sequence[MethodRow]) -> str:
    table = markdown_table(
        ["method", *_COSTS.values()],
        ([row.method, *(None if (c := row.costs[name]) is None else f"{c:.3g}" for name in _COSTS)] for row in rows),
    )
    if any(row.costs["joules"] is not None for row in rows):
        table += "\nJoules are those of the whole machine while a user's job ran: compare runs with one worker only.\n"
    return table


def _tokenizer_note(rows: Sequence[MethodRow]) -> str:
    """Return what the columns of ROUGE mean, where its tokenizers differ or gold answers have no words."""
    known = [row.tokenizer_counts for row in rows]
    if not any(counts.pairs_with_other_words or counts.golds_without_ascii_words for counts in known):
        return ""
    most = max(known, key=lambda counts: counts.golds)
    note = (
        "\nrouge-1 and rouge-L are LaMP's: their tokenizer knows only a-z and 0-9. (Unicode) is over the words of all "
        "scripts and emoji."
    )
    if most.golds_without_ascii_words:
        note += (
            f" {most.golds_without_ascii_words} of {most.golds} gold answers have none of a-z and 0-9, so they count 0 "
            "in LaMP's."
        )
    if most.golds_without_words:
        note += f" {most.golds_without_words} have no word and no emoji, so they count 0 in both."
    return f"{note}\n"


def _metric_text(row: MethodRow, metric: str) -> str:
    if not row.is_scorable(metric):
        return "not scorable"
    interval = row.metrics[metric]
    return f"{interval.value:.3f}" if row.num_users < 2 else interval.text()


def _gain_text(row: MethodRow, reference: str, metric: str) -> str | None:
    if reference not in row.gains:
        return None
    if not row.is_scorable(metric):
        return "not scorable"
    gain = row.gains[reference][metric]
    return gain.text(signed=True) + ("" if gain.sign else ", no difference")


def _intervals_to_json(intervals: Mapping[str, Interval]) -> dict[str, dict[str, float]]:
    return {name: interval._asdict() for name, interval in intervals.items()}
