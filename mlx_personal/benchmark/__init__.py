"""Benchmark fine-tuning: compare our trainer with plain mlx-lm in time, memory, energy and loss.

- `workloads` defines what is trained, and `training_run` trains it once with one trainer; `mlx_lm_trainer` calls
  mlx-lm's.
- `harness` runs the trainers in turn, each in a `child_process`.
- `results` computes the published numbers; `schema.json` describes their form, and `schema` checks it.
- `report` makes tables and plots of many results.
"""

from __future__ import annotations

from typing import Any, Final

from mlx_personal.benchmark.harness import measure_workload
from mlx_personal.benchmark.results import build_result
from mlx_personal.benchmark.workloads import WORKLOADS, Workload
from mlx_personal.progress import Progress

__all__ = ["WORKLOADS", "Workload", "run_benchmark"]

# Idle power settles within seconds. More than one round shows how much the timings vary.
IDLE_S: Final = 5.0
ROUNDS: Final = 2
_BRIEF_IDLE_S: Final = 0.5


def run_benchmark(
    workload: Workload,
    on_progress: Progress,
    against: str | None = None,
    rounds: int | None = None,
    brief: bool = False,
) -> dict[str, Any]:
    """Run the benchmark and return its result.

    Args:
        workload: What is trained.
        on_progress: Called before each training run, with the name of the trainer as the stage.
        against: `mlx-lm` to train with mlx-lm too; None for our trainer alone.
        rounds: Training runs of each trainer; None for the default.
        brief: Run one round unless `rounds` says otherwise, measure the idle power for half a second, and leave out
            mlx-lm's stock loss.

    Returns:
        The result, in the form that `schema.json` describes.

    Raises:
        UserError: If the workload cannot be trained.
    """
    if brief:
        return build_result(measure_workload(workload, against, rounds or 1, _BRIEF_IDLE_S, on_progress, stock=False))
    return build_result(measure_workload(workload, against, rounds or ROUNDS, IDLE_S, on_progress))
