"""A benchmark's figures as they are published: one JSON object, described by `schema.json` beside this file.

Ratios are ours divided by plain mlx-lm: 0.33 is a third. What was not measured is null, never 0.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mlx_personal.benchmark import schema
from mlx_personal.benchmark.harness import Measured
from mlx_personal.benchmark.training_run import OURS, PLAIN, STOCK, Trained, config_of
from mlx_personal.benchmark.workloads import SHAPES, Workload, make_rows, public_name, vocabulary_of
from mlx_personal.errors import UserError, from_os_error
from mlx_personal.finetune.data.samples import Sample, target_tokens
from mlx_personal.runtime.energy import Energy
from mlx_personal.runtime.machine import machine

VERSION = 1


def result_of(measured: Measured) -> dict[str, Any]:
    """The object that is printed with `--json`, kept in files, and read by `report`."""
    workload = measured.workload
    rows = make_rows(workload, vocabulary_of(measured.folder))
    ours, plain = measured.sides[OURS], measured.sides.get(PLAIN)
    goal = _goal(measured, len(ours[0].losses) // workload.epochs)
    idle = measured.idle
    result = {
        "schema_version": VERSION,
        "date": datetime.date.today().isoformat(),
        "machine": dataclasses.asdict(machine()),
        "workload": _workload(workload, rows, ours[0]),
        "energy": {
            "sources": list(idle.sources),
            "missing": idle.reason,
            "idle_seconds": idle.seconds,
            "idle_watts": None if idle.seconds is None else _parts(idle.watts),
        },
        # The stock loss is another one: reaching the same figure means nothing.
        "sides": {
            side: _side(trainings, None if side == STOCK else goal, measured, rows)
            for side, trainings in measured.sides.items()
        },
        "time_ratio": None,
        "memory_ratio": None,
        "energy_ratio": None,
        "max_loss_difference": None,
    }
    if plain is not None:
        result |= {
            "time_ratio": _median_ratio(ours, plain, lambda t: seconds_to(goal, t, workload.epochs)),
            "memory_ratio": _median_ratio(ours, plain, lambda t: t.peak_memory_bytes),
            "energy_ratio": _median_ratio(ours, plain, lambda t: net_joules(t, idle.watts).total),
            "max_loss_difference": max(
                abs(a - b) for o, p in zip(ours, plain, strict=True) for a, b in zip(o.losses, p.losses, strict=True)
            ),
        }
    schema.check(result)  # a defect of this module, should it ever fail
    return json.loads(json.dumps(result))


def read_result(file: Path) -> dict[str, Any]:
    """A result from a file; UserError, with the first thing that is wrong, for any other content."""
    try:
        data = json.loads(file.read_text("utf-8"), parse_constant=_refuse)
        schema.check(data)
        _check_spreads(data["sides"])
    except OSError as error:
        raise from_os_error(error, file) from error
    except RecursionError as error:
        raise UserError("is no benchmark result (it is nested too deeply)", file) from error
    except ValueError as error:
        raise UserError(f"is no benchmark result ({error})", file) from error
    return data


def epoch_means(losses: Sequence[float], epochs: int) -> list[float]:
    """The mean loss of each epoch's steps."""
    size = len(losses) // epochs
    return [statistics.fmean(losses[start : start + size]) for start in range(0, size * epochs, size)]


def seconds_to(goal: float, trained: Trained, epochs: int) -> float:
    """Seconds until the end of the first epoch whose mean loss is at most `goal`; of the last, all the training's."""
    size = len(trained.losses) // epochs
    for number, mean in enumerate(epoch_means(trained.losses, epochs)[:-1], 1):
        if mean <= goal:
            return trained.times[number * size - 1]
    return trained.seconds


def _goal(measured: Measured, steps_an_epoch: int) -> float:
    """The loss that every side reaches: the highest mean of a last epoch, of those sides that have the same loss."""
    compared = [t for side in (OURS, PLAIN) for t in measured.sides.get(side, [])]
    return max(statistics.fmean(trained.losses[-steps_an_epoch:]) for trained in compared)


def _workload(workload: Workload, rows: Sequence[Sample], trained: Trained) -> dict[str, Any]:
    config = config_of(workload)
    return {
        **dataclasses.asdict(workload),
        "model": public_name(workload.model),
        "random_weights": workload.model in SHAPES,
        **trained.model,
        "steps": len(trained.losses),
        "tokens": _inputs(rows),
        "target_tokens": target_tokens(rows),
        "rank": config.rank,
        "scale": config.alpha / config.rank,
        "learning_rate": config.learning_rate,
    }


def _side(
    trainings: Sequence[Trained], goal: float | None, measured: Measured, rows: Sequence[Sample]
) -> dict[str, Any]:
    epochs, first = measured.workload.epochs, trainings[0]
    presented = len(rows) * epochs
    processed = first.processed_tokens
    net = [net_joules(trained, measured.idle.watts).total for trained in trainings]

    def spread(figure: Callable[[Trained], float | None]) -> dict[str, float] | None:
        return spread_of([figure(trained) for trained in trainings])

    return {
        "way": first.way,
        "way_reason": first.fallback_reason,
        "processed_tokens": processed,
        "padding_share": 1 - _inputs(rows) * epochs / processed,
        "seconds": spread(lambda t: t.seconds),
        "seconds_to_loss": None if goal is None else spread(lambda t: seconds_to(goal, t, epochs)),
        "target_tokens_per_second": spread(lambda t: target_tokens(rows) * epochs / t.seconds),
        "processed_tokens_per_second": spread(lambda t: processed / t.seconds),
        "rows_per_second": spread(lambda t: presented / t.seconds),
        "peak_memory_bytes": spread(lambda t: t.peak_memory_bytes),
        "joules": spread_of(net),
        "joules_per_row": spread_of([None if joules is None else joules / presented for joules in net]),
        "watts": spread(lambda t: None if t.joules.total is None else t.joules.total / t.seconds),
        "losses": first.losses,
        "rounds": [_round(trained, measured.idle.watts) for trained in trainings],
    }


def _round(trained: Trained, idle: Energy) -> dict[str, Any]:
    return {
        "seconds": trained.seconds,
        "peak_memory_bytes": trained.peak_memory_bytes,
        "joules": _parts(trained.joules),
        "joules_without_idle": _parts(net_joules(trained, idle)),
        "celsius_before": trained.before.celsius,
        "celsius_highest": trained.after.celsius,
        "throttled": trained.after.throttled,
        "throttle_reasons": list(trained.after.reasons),
    }


def net_joules(trained: Trained, idle: Energy) -> Energy:
    """What the training took beyond what the machine would have taken in the same time."""
    return trained.joules - idle.times(trained.seconds)


def spread_of(figures: Sequence[float | None]) -> dict[str, float] | None:
    """Median, lowest and highest; None if any round has no figure, for the others would stand for it."""
    known = [figure for figure in figures if figure is not None]
    if len(known) < len(figures) or not known:
        return None
    return {"median": statistics.median(known), "low": min(known), "high": max(known)}


def _median_ratio(
    ours: Sequence[Trained], plain: Sequence[Trained], figure: Callable[[Trained], float | None]
) -> float | None:
    """Median of the ratios within each round: what slowed the machine then slowed both. None as in `spread_of`."""
    pairs = [(figure(o), figure(p)) for o, p in zip(ours, plain, strict=True)]
    ratios = spread_of([o / p if o is not None and p is not None and p > 0 else None for o, p in pairs])
    return None if ratios is None else ratios["median"]


def _parts(energy: Energy) -> dict[str, float | None]:
    return {**dataclasses.asdict(energy), "total": energy.total}


def _inputs(rows: Sequence[Sample]) -> int:
    return sum(map(len, rows))


def _check_spreads(sides: dict[str, Any]) -> None:
    """What a schema cannot say: ValueError where a median is not between its lowest and its highest."""
    for side, figures in sides.items():
        for name, figure in figures.items():
            if isinstance(figure, dict) and not figure["low"] <= figure["median"] <= figure["high"]:
                raise ValueError(f"sides.{side}.{name} has a median outside of its range")


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no figure")
