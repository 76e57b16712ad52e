"""The published result of a benchmark: one JSON object, described by `schema.json` beside this file.

The keys of the object are those of version 0.1. Ratios are ours divided by plain mlx-lm's, so 0.33 means a third. What
was not measured is null, never 0.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from mlx_personal.benchmark import schema
from mlx_personal.benchmark.harness import Measurements
from mlx_personal.benchmark.random_weights import SHAPES, public_model_name, vocabulary_size
from mlx_personal.benchmark.training_run import MLX_LM, MLX_LM_STOCK, OURS, TrainingRun, workload_config
from mlx_personal.benchmark.workloads import Workload, make_random_samples
from mlx_personal.errors import UserError, from_os_error
from mlx_personal.finetune.data.samples import Sample, count_target_tokens
from mlx_personal.runtime.energy import Energy, Power
from mlx_personal.runtime.machine import machine_info

SCHEMA_VERSION: Final = 1

_Value = Callable[[TrainingRun], float | None]


def build_result(measurements: Measurements) -> dict[str, Any]:
    """Return the result of a benchmark, which is what commands print and files contain."""
    workload, idle = measurements.workload, measurements.idle
    samples = make_random_samples(workload, vocabulary_size(measurements.model_dir))
    ours, mlx_lm = measurements.runs[OURS], measurements.runs.get(MLX_LM)
    goal = _common_loss(measurements.runs, len(ours[0].losses) // workload.epochs)
    result: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "date": datetime.date.today().isoformat(),
        "machine": dataclasses.asdict(machine_info()),
        "workload": _workload_json(workload, samples, ours[0]),
        "energy": {
            "sources": list(idle.sources),
            "missing": idle.missing_reason,
            "idle_seconds": idle.elapsed_s,
            "idle_watts": None if idle.elapsed_s is None else _components_json(idle.power),
        },
        # The stock loss counts other tokens, so reaching the same value would mean nothing.
        "sides": {
            trainer: _trainer_json(runs, None if trainer == MLX_LM_STOCK else goal, measurements, samples)
            for trainer, runs in measurements.runs.items()
        },
        "time_ratio": None,
        "memory_ratio": None,
        "energy_ratio": None,
        "max_loss_difference": None,
    }
    if mlx_lm is not None:
        result |= {
            "time_ratio": _median_ratio(ours, mlx_lm, lambda run: seconds_to_loss(goal, run, workload.epochs)),
            "memory_ratio": _median_ratio(ours, mlx_lm, lambda run: run.peak_memory_bytes),
            "energy_ratio": _median_ratio(ours, mlx_lm, lambda run: net_energy(run, idle.power).total_joules),
            "max_loss_difference": max(
                abs(a - b)
                for our_run, their_run in zip(ours, mlx_lm, strict=True)
                for a, b in zip(our_run.losses, their_run.losses, strict=True)
            ),
        }
    schema.validate(result)  # fails only through a defect of this module
    return json.loads(json.dumps(result))


def read_result(file: Path) -> dict[str, Any]:
    """Read a result, of this version or of version 0.1.

    Raises:
        UserError: If the file cannot be read or is not a result; the message names the first problem.
    """
    try:
        data = json.loads(file.read_text("utf-8"), parse_constant=_refuse_constant)
        schema.validate(data)
        _check_spreads(data["sides"])
    except OSError as error:
        raise from_os_error(error, file) from error
    except RecursionError as error:
        raise UserError("is not a benchmark result (it is nested too deeply)", file) from error
    except ValueError as error:
        raise UserError(f"is not a benchmark result ({error})", file) from error
    return data


def epoch_means(losses: Sequence[float], epochs: int) -> list[float]:
    """Return the mean loss over the steps of each epoch."""
    size = len(losses) // epochs
    return [statistics.fmean(losses[start : start + size]) for start in range(0, size * epochs, size)]


def seconds_to_loss(goal: float, run: TrainingRun, epochs: int) -> float:
    """Return the seconds until the end of the first epoch whose mean loss is at most `goal`.

    Args:
        goal: Loss that is reached in the last epoch at the latest, for which all seconds of the run count.
        run: The training run.
        epochs: Number of epochs.
    """
    steps = len(run.losses) // epochs
    for number, mean in enumerate(epoch_means(run.losses, epochs)[:-1], 1):
        if mean <= goal:
            return run.step_ends_s[number * steps - 1]
    return run.elapsed_s


def net_energy(run: TrainingRun, idle: Power) -> Energy:
    """Return the energy of a training run minus what the idle machine takes in the same time."""
    return run.energy - idle.energy(run.elapsed_s)


def spread(values: Sequence[float | None]) -> dict[str, float] | None:
    """Return median, lowest and highest of the rounds; None if any round has no value."""
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not known:
        return None
    return {"median": statistics.median(known), "low": min(known), "high": max(known)}


def _common_loss(runs: Mapping[str, Sequence[TrainingRun]], steps_per_epoch: int) -> float:
    """Return the loss that every training run reaches: the highest mean of a last epoch with the exact loss."""
    compared = [run for trainer in (OURS, MLX_LM) for run in runs.get(trainer, [])]
    return max(statistics.fmean(run.losses[-steps_per_epoch:]) for run in compared)


def _workload_json(workload: Workload, samples: Sequence[Sample], run: TrainingRun) -> dict[str, Any]:
    config = workload_config(workload)
    return {
        "name": workload.name,
        "model": public_model_name(workload.model),
        "random_weights": workload.model in SHAPES,
        **run.model_metadata,
        "rows": workload.samples,
        "epochs": workload.epochs,
        "batch_size": workload.batch_size,
        "seed": workload.seed,
        "lora_layers": workload.num_layers,
        "steps": len(run.losses),
        "tokens": _input_tokens(samples),
        "target_tokens": count_target_tokens(samples),
        "rank": config.rank,
        "scale": config.lora_parameters["scale"],
        "learning_rate": config.learning_rate,
    }


def _trainer_json(
    runs: Sequence[TrainingRun], goal: float | None, measurements: Measurements, samples: Sequence[Sample]
) -> dict[str, Any]:
    epochs, idle, first = measurements.workload.epochs, measurements.idle.power, runs[0]
    num_trained, num_targets = len(samples) * epochs, count_target_tokens(samples) * epochs
    processed = first.processed_tokens
    net_joules = [net_energy(run, idle).total_joules for run in runs]

    def over_rounds(value: _Value) -> dict[str, float] | None:
        return spread([value(run) for run in runs])

    return {
        "way": first.forward_mode,
        "way_reason": first.fallback_reason,  # codespell:ignore way_reason
        "processed_tokens": processed,
        "padding_share": 1 - _input_tokens(samples) * epochs / processed,
        "seconds": over_rounds(lambda run: run.elapsed_s),
        "seconds_to_loss": None if goal is None else over_rounds(lambda run: seconds_to_loss(goal, run, epochs)),
        "target_tokens_per_second": over_rounds(lambda run: num_targets / run.elapsed_s),
        "processed_tokens_per_second": over_rounds(lambda run: processed / run.elapsed_s),
        "rows_per_second": over_rounds(lambda run: num_trained / run.elapsed_s),
        "peak_memory_bytes": over_rounds(lambda run: run.peak_memory_bytes),
        "joules": spread(net_joules),
        "joules_per_row": spread([None if joules is None else joules / num_trained for joules in net_joules]),
        "watts": over_rounds(
            lambda run: None if (joules := run.energy.total_joules) is None else joules / run.elapsed_s
        ),
        "losses": first.losses,
        "rounds": [_round_json(run, idle) for run in runs],
    }


def _round_json(run: TrainingRun, idle: Power) -> dict[str, Any]:
    return {
        "seconds": run.elapsed_s,
        "peak_memory_bytes": run.peak_memory_bytes,
        "joules": _components_json(run.energy),
        "joules_without_idle": _components_json(net_energy(run, idle)),
        "celsius_before": run.thermal_before.temperature_celsius,
        "celsius_highest": run.thermal_worst.temperature_celsius,
        "throttled": run.thermal_worst.throttled,
        "throttle_reasons": list(run.thermal_worst.reasons),
    }


def _median_ratio(ours: Sequence[TrainingRun], mlx_lm: Sequence[TrainingRun], value: _Value) -> float | None:
    """Return the median of the ratios within each round; within a round the machine is about equally fast."""
    pairs = [(value(our_run), value(their_run)) for our_run, their_run in zip(ours, mlx_lm, strict=True)]
    ratios = spread([a / b if a is not None and b is not None and b > 0 else None for a, b in pairs])
    return None if ratios is None else ratios["median"]


def _components_json(measured: Energy | Power) -> dict[str, float | None]:
    total = measured.total_joules if isinstance(measured, Energy) else measured.total_watts
    return {**measured.by_component(), "total": total}


def _input_tokens(samples: Sequence[Sample]) -> int:
    return sum(map(len, samples))


def _check_spreads(sides: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise ValueError where a median is not between its lowest and highest value, which a schema cannot express."""
    for trainer, values in sides.items():
        for name, value in values.items():
            if isinstance(value, dict) and not value["low"] <= value["median"] <= value["high"]:
                raise ValueError(f"sides.{trainer}.{name} has a median outside of its range")


def _refuse_constant(constant: str) -> float:
    raise ValueError(f"{constant} is not a number")
