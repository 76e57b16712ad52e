"""The fine-tuning benchmark: our trainer beside plain mlx-lm, in time, memory, energy and loss."""

from __future__ import annotations

from typing import Any

from mlx_personal.benchmark.harness import measure
from mlx_personal.benchmark.results import result_of
from mlx_personal.benchmark.workloads import WORKLOADS, Workload
from mlx_personal.progress import Progress

__all__ = ["WORKLOADS", "Workload", "benchmark"]

# Idle power settles within seconds; rounds show how much the machine's mood decides.
IDLE_SECONDS, ROUNDS = 5.0, 2


def benchmark(
    workload: Workload,
    on_progress: Progress,
    against: str | None = None,
    rounds: int | None = None,
    brief: bool = False,
) -> dict[str, Any]:
    """Runs it and gives the result, as `schema.json` describes it.

    Args:
        workload: what is trained.
        say: gets (done, total, what runs now) before each training.
        against: `mlx-lm`, or None for ours alone.
        rounds: trainings of each side.
        brief: with one round where none are given, idle power measured in half a second, and without the stock loss.

    UserError where it cannot be trained.
    """
    if brief:
        return result_of(measure(workload, against, rounds or 1, 0.5, on_progress, stock=False))
    return result_of(measure(workload, against, rounds or ROUNDS, IDLE_SECONDS, on_progress))
