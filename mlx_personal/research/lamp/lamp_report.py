"""Tables of a run: for every method the official metrics with confidence intervals, and the costs.

The bootstrap resamples users, not queries, because the queries of one user are not independent [Efron93]. All methods
use the same resamples, so that a difference between two of them is paired.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from mlx_personal.errors import Action, Remedy, UserError
from mlx_personal.reporting import markdown_table
from mlx_personal.research.lamp.lamp_database import LampDatabase
from mlx_personal.research.lamp.lamp_results import DISPLAY_NAMES, MethodResult, StoredResult
from mlx_personal.research.lamp.metrics import (
    METRICS,
    UNICODE_METRICS,
    TokenizerCounts,
    compute_metrics,
    pair_statistics,
    tokenizer_counts,
)
from mlx_personal.research.lamp.tasks import TASKS, LampTask
from mlx_personal.storage.files import atomic_write

NUM_RESAMPLES: Final = 10_000
# Differences are relative to the adapter that is trained on the user's real records alone.
REFERENCE_METHOD: Final = "oppu"


@dataclass(frozen=True)
class MetricEstimate:
    """A value with its 95 % percentile interval over the resamples.

    Attributes:
        value: Value over all users.
        low: Lower bound of the interval.
        high: Upper bound of the interval.
    """

    value: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """-1 or 1 where the interval excludes 0, else 0."""
        return int(self.low > 0) - int(self.high < 0)

    def to_json(self) -> dict[str, float]:
        """Return the numbers under the keys of the command line's JSON."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class MethodRow:
    """The metrics and costs of one method. Costs are None where they are not known.

    Attributes:
        method: Name of the method.
        num_users: Users that were answered.
        num_queries: Queries that were answered.
        metrics: The metrics, under LaMP's names.
        differences: The metrics minus those of the reference method, on the users that both have; empty for the
            reference itself.
        train_s: Seconds of training a user's adapter.
        answer_s: Seconds of answering a query; those of a server with several requests at once.
        tokens_read: Tokens of a query's prompt on the device.
        tokens_written: Tokens of a query's answer on the device.
        energy_joules: Energy of training and answering a user.
        adapter_kb: Size of a user's adapter in KiB.
        training_samples: Samples that a user's adapter was trained on; 0 without one.
        counts: What was left out or dropped, by `lamp_results.Count`, over all users.
        tokenizer_counts: What the tokenizers of ROUGE know of the texts; None for tasks without ROUGE.
    """

    method: str
    num_users: int
    num_queries: int
    metrics: Mapping[str, MetricEstimate]
    differences: Mapping[str, MetricEstimate]
    train_s: float
    answer_s: float | None
    tokens_read: float | None
    tokens_written: float | None
    energy_joules: float | None
    adapter_kb: float | None
    training_samples: float
    counts: Mapping[str, int]
    tokenizer_counts: TokenizerCounts | None = None

    def num_unscorable(self, metric: str) -> int:
        """Return the number of gold answers that a metric cannot score."""
        return 0 if self.tokenizer_counts is None else self.tokenizer_counts.unscorable(metric)

    def is_scorable(self, metric: str) -> bool:
        """Return whether a metric can score any gold answer."""
        return self.tokenizer_counts is None or self.num_unscorable(metric) < self.tokenizer_counts.golds

    def to_json(self) -> dict[str, Any]:
        """Return the values under the keys of the command line's JSON: those of version 0.1, and `unscorable`."""
        return {
            "method": self.method,
            "users": self.num_users,
            "queries": self.num_queries,
            "metrics": {name: estimate.to_json() for name, estimate in self.metrics.items()},
            "differences": {name: estimate.to_json() for name, estimate in self.differences.items()},
            "train_seconds": self.train_s,
            "answer_seconds": self.answer_s,
            "tokens_read": self.tokens_read,
            "tokens_written": self.tokens_written,
            "joules": self.energy_joules,
            "adapter_kb": self.adapter_kb,
            "rows": self.training_samples,
            "counts": dict(self.counts),
            "unscorable": {name: number for name in self.metrics if (number := self.num_unscorable(name))},
        }


def method_rows(
    task: LampTask, results: Sequence[StoredResult], reference: str = REFERENCE_METHOD, seed: int = 0
) -> list[MethodRow]:
    """Return a row for every method among the results of one setting that has queries to score, in their order.

    Args:
        task: Task of the results.
        results: Results of one setting.
        reference: Method that differences are relative to; the first method where there is none of this name.
        seed: Random seed of the bootstrap.
    """
    by_method: dict[str, dict[str, MethodResult]] = {}
    for stored in results:
        by_method.setdefault(stored.method, {})[stored.user] = stored.result
    by_method = {
        method: by_user for method, by_user in by_method.items() if any(result.golds for result in by_user.values())
    }
    if not by_method:
        return []
    reference_results = by_method.get(reference) or next(iter(by_method.values()))
    return [
        _method_row(task, method, by_user, {} if by_user is reference_results else reference_results, seed)
        for method, by_user in by_method.items()
    ]


def method_tables(task: LampTask, rows: Sequence[MethodRow], reference: str = REFERENCE_METHOD) -> str:
    """Return two Markdown tables, of the metrics and of the costs, and a list of what was left out.

    Args:
        task: Task of the rows.
        rows: Rows of `method_rows`, at least one.
        reference: Reference method that the rows were made with.
    """
    names: tuple[str, ...] = METRICS[task.kind]
    compared: tuple[str, ...] = names[:1]
    if any(row.tokenizer_counts is not None and row.tokenizer_counts.pairs_with_other_words for row in rows):
        names, compared = (*names, *UNICODE_METRICS), (*compared, UNICODE_METRICS[0])
    reference = reference if any(row.method == reference for row in rows) else rows[0].method
    quality = markdown_table(
        ["method", "users", "queries", *names, *(f"{name}, difference to {reference}" for name in compared)],
        (
            [
                row.method,
                row.num_users,
                row.num_queries,
                *(_format_estimate(row, name) for name in names),
                *(_format_difference(row, name) for name in compared),
            ]
            for row in rows
        ),
    )
    quality += _tokenizer_note(rows)
    columns = ["method", "training, s a user", "answer, s a query", "tokens read", "tokens written"]
    costs = markdown_table(
        [*columns, "joules a user", "adapter, KB", "training samples"],
        (
            [
                row.method,
                *(_format_number(value) for value in (row.train_s, row.answer_s, row.tokens_read)),
                *(_format_number(value) for value in (row.tokens_written, row.energy_joules, row.adapter_kb)),
                _format_number(row.training_samples),
            ]
            for row in rows
        ),
    )
    if any(row.energy_joules is not None for row in rows):
        costs += "\nJoules are those of the whole machine while a user's job ran: compare runs with one worker only.\n"
    notes = [f"- {row.method}: {_format_counts(row.counts)}\n" for row in rows if row.counts]
    left_out = "\nLeft out, shortened or dropped:\n\n" + "".join(notes) if notes else ""
    return f"{quality}\n{costs}{left_out}"


def write_report(database: LampDatabase, out: Path | None = None) -> str:
    """Return the tables of all settings of a run as Markdown.

    Args:
        database: Database of the run.
        out: File to write the tables to as well; None for none.

    Raises:
        UserError: If the run has no results.
    """
    sections = []
    for setting, metadata in database.settings().items():
        task = TASKS[metadata["task"]]
        if rows := method_rows(task, database.results(setting)):
            server = "the model itself" if metadata["server"] is None else metadata["server"]["model"]
            heading = f"## LaMP-{task.name}, {metadata['model_name']}; synthetic records by {server}\n\n"
            sections.append(heading + method_tables(task, rows))
    if not sections:
        remedy = Remedy(Action.RUN_LAMP, {"folder": str(database.folder)})
        raise UserError("this run has no results yet", database.folder, remedy=remedy)
    text = "\n".join(sections)
    if out is not None:
        atomic_write(out, text)
    return text


def _method_row(
    task: LampTask, method: str, by_user: Mapping[str, MethodResult], reference: Mapping[str, MethodResult], seed: int
) -> MethodRow:
    results = list(by_user.values())
    num_queries = sum(len(result.predictions) for result in results)
    timed = [(result.answer_s, len(result.predictions)) for result in results if result.answer_s is not None]
    read = [result.tokens_read for result in results if result.tokens_read is not None]
    written = [result.tokens_written for result in results if result.tokens_written is not None]
    joules = [result.energy_joules for result in results if result.energy_joules is not None]
    sizes = [result.adapter_bytes / 1024 for result in results if result.adapter_bytes is not None]
    counts: Counter[str] = Counter()
    for result in results:
        counts.update(result.counts)
    sums = _user_sums(task, results)
    return MethodRow(
        method=method,
        num_users=len(results),
        num_queries=num_queries,
        metrics=_estimate_metrics(task, sums, seed),
        differences=_estimate_differences(task, by_user, reference, seed),
        train_s=sum(result.train_s for result in results) / len(results),
        answer_s=sum(answer_s for answer_s, _ in timed) / sum(number for _, number in timed) if timed else None,
        tokens_read=sum(read) / num_queries if read else None,
        tokens_written=sum(written) / num_queries if written else None,
        energy_joules=sum(joules) / len(joules) if joules else None,
        adapter_kb=sum(sizes) / len(sizes) if sizes else None,
        training_samples=sum(result.training_samples for result in results) / len(results),
        counts=dict(counts),
        tokenizer_counts=tokenizer_counts(task, sums.sum(axis=0)),
    )


def _estimate_metrics(task: LampTask, sums: np.ndarray, seed: int) -> dict[str, MetricEstimate]:
    values = compute_metrics(task, sums.sum(axis=0))
    resampled = compute_metrics(task, _draw_users(len(sums), seed) @ sums)
    return {name: _interval(values[name], resampled[name]) for name in values}


def _estimate_differences(
    task: LampTask, by_user: Mapping[str, MethodResult], reference: Mapping[str, MethodResult], seed: int
) -> dict[str, MetricEstimate]:
    """Return the paired difference of each metric on the shared users; empty for fewer than two of them."""
    shared = [user for user, result in by_user.items() if result.golds and user in reference]
    if len(shared) < 2:
        return {}
    draws = _draw_users(len(shared), seed)
    ours, theirs = (_user_sums(task, [results[user] for user in shared]) for results in (by_user, reference))
    our_values, their_values = (compute_metrics(task, sums.sum(axis=0)) for sums in (ours, theirs))
    our_resampled, their_resampled = (compute_metrics(task, draws @ sums) for sums in (ours, theirs))
    return {
        name: _interval(our_values[name] - their_values[name], our_resampled[name] - their_resampled[name])
        for name in our_values
    }


def _user_sums(task: LampTask, results: Iterable[MethodResult]) -> np.ndarray:
    """Return the sums of the pair statistics of each user with a gold answer, float64 [users, S]."""
    return np.stack(
        [
            pair_statistics(task, [result.predictions[key] for key in result.golds], list(result.golds.values())).sum(
                axis=0
            )
            for result in results
            if result.golds
        ]
    )


def _draw_users(num_users: int, seed: int) -> np.ndarray:
    """Return how often each user is drawn in each resample, int [resamples, users]; the same for the same numbers."""
    rng = np.random.default_rng([seed, num_users])
    return rng.multinomial(num_users, np.full(num_users, 1 / num_users), size=NUM_RESAMPLES)


def _interval(value: np.ndarray, resampled: np.ndarray) -> MetricEstimate:
    low, high = np.quantile(resampled, [0.025, 0.975])
    return MetricEstimate(float(value), float(low), float(high))


def _tokenizer_note(rows: Sequence[MethodRow]) -> str:
    """Return what the columns of ROUGE mean, where its tokenizers differ or gold answers have no words."""
    counted = [row.tokenizer_counts for row in rows if row.tokenizer_counts is not None]
    if not any(counts.pairs_with_other_words or counts.golds_without_ascii_words for counts in counted):
        return ""
    most = max(counted, key=lambda counts: counts.golds)
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


def _format_estimate(row: MethodRow, metric: str) -> str:
    if not row.is_scorable(metric):
        return "not scorable"
    estimate = row.metrics[metric]
    if row.num_users < 2:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _format_difference(row: MethodRow, metric: str) -> str | None:
    estimate = row.differences.get(metric)
    if estimate is None:
        return None
    if not row.is_scorable(metric):
        return "not scorable"
    verdict = "" if estimate.sign else ", no difference"
    return f"{estimate.value:+.3f} [{estimate.low:+.3f}, {estimate.high:+.3f}]{verdict}"


def _format_number(value: float | None) -> str | None:
    return None if value is None else f"{value:.3g}"


def _format_counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {DISPLAY_NAMES.get(name, name)}" for name, count in counts.items())
