"""Trainings with made-up measurements, and the results built from them."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlx_personal.benchmark import WORKLOADS, harness, random_weights, results
from mlx_personal.benchmark.training_run import MLX_LM, OURS, TrainingRun
from mlx_personal.benchmark.workloads import mlx_lm_order
from mlx_personal.runtime.energy import Energy, Power
from mlx_personal.runtime.machine import ThermalState

TINY = WORKLOADS["small"].with_settings(samples=8, epochs=2, num_layers=1)

Result = dict[str, Any]
# The keys and indices that lead to a value in a result.
KeyPath = tuple[str | int, ...]


def training_run(
    elapsed_s: float = 8.0, loss: float = 2.0, energy: Energy | None = None, **changes: Any
) -> TrainingRun:
    """Return a training of `TINY`: four steps, two epochs."""
    run = TrainingRun(
        elapsed_s=elapsed_s,
        losses=[loss + 2, loss + 2, loss, loss],
        step_ends_s=[elapsed_s / 4 * step for step in (1, 2, 3, 4)],
        batches=[step for epoch in mlx_lm_order(TINY) for step in epoch],
        processed_tokens=2048,
        peak_memory_bytes=100,
        energy=energy or Energy(),
        thermal_before=ThermalState(),
        thermal_worst=ThermalState(),
        forward_mode=None,
        fallback_reason=None,
        model_metadata={"layers": 5, "parameters": 10, "dtype": "float32"},
    )
    return dataclasses.replace(run, **changes)


def build(
    ours: Sequence[TrainingRun],
    mlx_lm: Sequence[TrainingRun] | None = None,
    idle: harness.IdlePower | None = None,
) -> Result:
    """Return the result of some trainings."""
    runs = {OURS: list(ours)} | ({} if mlx_lm is None else {MLX_LM: list(mlx_lm)})
    idle = idle or harness.IdlePower(Power(), None, (), "no counter")
    folder: Path = random_weights.model_folder(TINY.model)
    return results.build_result(harness.Measurements(TINY, folder, idle, runs))


def example_result() -> Result:
    """Return a result with two rounds of both trainers and energy."""
    idle = harness.IdlePower(Power(cpu_watts=1.0), 5.0, ("RAPL",), None)
    memory = {"peak_memory_bytes": 2_000_000_000}
    ours = [
        training_run(2.0, energy=Energy(cpu_joules=30.0), **memory),
        training_run(3.0, energy=Energy(cpu_joules=40.0), **memory),
    ]
    mlx_lm = [training_run(8.0, energy=Energy(cpu_joules=90.0)), training_run(9.0, energy=Energy(cpu_joules=80.0))]
    return build(ours, mlx_lm, idle)


def with_value(result: Result, path: KeyPath, value: object) -> Result:
    """Return a copy of a result with one value replaced, or removed if it is None and may not be."""
    changed: Any = copy.deepcopy(result)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    if value is None and path[-1] in inner and path != ("time_ratio",):
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    result = changed
    return result
