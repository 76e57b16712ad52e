"""What a run says: for every method the official metrics with intervals over users, and what it costs.

Users are resampled, not queries: the queries of one user hang together. Two methods see the same draws, so a difference
is paired.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from mlx_personal.errors import UserError
from mlx_personal.reporting import table
from mlx_personal.research.lamp.lamp_database import Records, Result
from mlx_personal.research.lamp.metrics import METRICS, metrics_of, statistics
from mlx_personal.research.lamp.tasks import TASKS, LampTask
from mlx_personal.storage.files import atomic_write

RESAMPLES: Final = 10_000
# What a difference is taken to: the adapter on a user's real records alone.
REFERENCE: Final = "oppu"


@dataclass(frozen=True)
class Estimate:
    """A figure and the 95 % percentile interval of its resamples."""

    value: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """-1 or 1 where the interval leaves 0 out, else 0."""
        return int(self.low > 0) - int(self.high < 0)


@dataclass(frozen=True)
class Row:
    """One method.

    Args:
        users, queries: that were answered.
        metrics: under LaMP's names.
        differences: of the metrics to the reference method's, on the users that both have; empty for itself.
        train_seconds: a user; answer_seconds: a query, those of a server with several at once; None where unknown.
        tokens_read, tokens_written: on the device, a query; None where it does not answer.
        joules: a user, training and answers; None where no counter tells.
        adapter_kb, rows: of a user's adapter, and learnt for it; None and 0 without one.
        counts: what was left out or dropped, in all.
    """

    method: str
    users: int
    queries: int
    metrics: Mapping[str, Estimate]
    differences: Mapping[str, Estimate]
    train_seconds: float
    answer_seconds: float | None
    tokens_read: float | None
    tokens_written: float | None
    joules: float | None
    adapter_kb: float | None
    rows: float
    counts: Mapping[str, int]


def rows(task: LampTask, results: Sequence[Result], reference: str = REFERENCE, seed: int = 0) -> list[Row]:
    """A row for every method among the results of one setting, in their order; differences to `reference`, or to the
    first method where there is none of that name."""
    by_method: dict[str, dict[str, Result]] = {}
    for found in results:
        by_method.setdefault(found.method, {})[found.user] = found
    if not by_method:
        return []
    known = by_method.get(reference) or next(iter(by_method.values()))
    return [_row(task, method, of, {} if of is known else known, seed) for method, of in by_method.items()]


def markdown(task: LampTask, found: Sequence[Row], reference: str = REFERENCE) -> str:
    """Two tables: quality with its intervals, and costs. The seconds are of one worker beside the others."""
    first, second = METRICS[task.kind]
    against = reference if any(row.method == reference for row in found) else found[0].method
    quality = table(
        ["method", "users", "queries", first, second, f"{first}, difference to {against}"],
        (
            [
                row.method,
                row.users,
                row.queries,
                *(_estimate(row.metrics[m], row.users) for m in (first, second)),
                _against(row, first),
            ]
            for row in found
        ),
    )
    columns = ["method", "training, s a user", "answer, s a query", "tokens read", "tokens written"]
    costs = table(
        [*columns, "joules a user", "adapter, KB", "rows learnt"],
        (
            [
                row.method,
                *(_number(value) for value in (row.train_seconds, row.answer_seconds, row.tokens_read)),
                *(_number(value) for value in (row.tokens_written, row.joules, row.adapter_kb)),
                _number(row.rows),
            ]
            for row in found
        ),
    )
    if any(row.joules is not None for row in found):
        costs += (
            "\nJoules are the whole machine's while a user's job ran: compare those of one worker (`--workers 1`).\n"
        )
    notes = [f"- {row.method}: {_counted(row.counts)}\n" for row in found if row.counts]
    left = "\nLeft out, shortened or dropped:\n\n" + "".join(notes) if notes else ""
    return f"{quality}\n{costs}{left}"


def write_report(records: Records, out: Path | None = None) -> str:
    """The tables of all settings of a run, as Markdown; also written to `out`. UserError for a run without results."""
    parts = []
    for setting, facts in records.settings().items():
        task = TASKS[facts["task"]]
        if found := rows(task, records.results(setting)):
            server = "the model itself" if facts["server"] is None else facts["server"]["model"]
            head = f"## LaMP-{task.name}, {facts['model_name']}; synthetic records by {server}\n\n"
            parts.append(head + markdown(task, found))
    if not parts:
        raise UserError("this run has no results yet", records.folder, "run `mlx-personal lamp run` again")
    text = "\n".join(parts)
    if out is not None:
        atomic_write(out, text)
    return text


def _row(task: LampTask, method: str, of: Mapping[str, Result], reference: Mapping[str, Result], seed: int) -> Row:
    sums = _sums(task, of.values())
    draws = _draws(len(of), seed)
    values, resampled = metrics_of(task, sums.sum(axis=0)), metrics_of(task, draws @ sums)
    plain = [found.result for found in of.values()]
    queries = sum(len(result["predictions"]) for result in plain)
    timed = [result for result in plain if result["seconds"]["answer"] is not None]
    device = [result for result in plain if result["tokens"]]
    joules = [result["joules"] for result in plain if result["joules"] is not None]
    sizes = [result["adapter_bytes"] / 1024 for result in plain if result["adapter_bytes"] is not None]
    counts: Counter[str] = Counter()
    for result in plain:
        counts.update(result["counts"])
    return Row(
        method=method,
        users=len(of),
        queries=queries,
        metrics={name: _estimated(values[name], resampled[name]) for name in values},
        differences=_differences(task, of, reference, seed),
        train_seconds=sum(result["seconds"]["train"] for result in plain) / len(plain),
        answer_seconds=sum(r["seconds"]["answer"] for r in timed) / sum(len(r["predictions"]) for r in timed)
        if timed
        else None,
        tokens_read=sum(r["tokens"]["read"] for r in device) / queries if device else None,
        tokens_written=sum(r["tokens"]["written"] for r in device) / queries if device else None,
        joules=sum(joules) / len(joules) if joules else None,
        adapter_kb=sum(sizes) / len(sizes) if sizes else None,
        rows=sum(result["rows"] for result in plain) / len(plain),
        counts=dict(counts),
    )


def _differences(
    task: LampTask, of: Mapping[str, Result], reference: Mapping[str, Result], seed: int
) -> dict[str, Estimate]:
    """Of each metric, paired, on the users that both have; none for fewer than two, of whom nothing can be said."""
    shared = [user for user in of if user in reference]
    if len(shared) < 2:
        return {}
    draws = _draws(len(shared), seed)
    mine, theirs = (_sums(task, [found[user] for user in shared]) for found in (of, reference))
    value, other = (metrics_of(task, sums.sum(axis=0)) for sums in (mine, theirs))
    resampled, others = (metrics_of(task, draws @ sums) for sums in (mine, theirs))
    return {name: _estimated(value[name] - other[name], resampled[name] - others[name]) for name in value}


def _sums(task: LampTask, results: Any) -> np.ndarray:
    """float64 [users, S]: the sums that a task's metrics are made of."""
    return np.stack(
        [
            statistics(
                task, [r.result["predictions"][key] for key in r.result["golds"]], list(r.result["golds"].values())
            ).sum(axis=0)
            for r in results
        ]
    )


def _draws(users: int, seed: int) -> np.ndarray:
    """int [RESAMPLES, users]: how often each user is drawn; equal for an equal number of users."""
    return np.random.default_rng([seed, users]).multinomial(users, np.full(users, 1 / users), size=RESAMPLES)


def _estimated(value: Any, resampled: np.ndarray) -> Estimate:
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Estimate(float(value), float(low), float(high))


def _estimate(found: Estimate, users: int) -> str:
    if users < 2:
        return f"{found.value:.3f}"
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _against(row: Row, metric: str) -> str | None:
    if metric not in row.differences:
        return None
    found = row.differences[metric]
    verdict = "" if found.sign else ", no difference"
    return f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]{verdict}"


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.3g}"


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
