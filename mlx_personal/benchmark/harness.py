"""Run the trainers of a benchmark in turn, each run in a process of its own, and collect the measurements."""

from __future__ import annotations

import dataclasses
import json
import logging
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlx_personal.benchmark.child_process import error_from_json
from mlx_personal.benchmark.random_weights import model_folder
from mlx_personal.benchmark.training_run import MLX_LM, MLX_LM_STOCK, OURS, TrainingRun
from mlx_personal.benchmark.workloads import Workload, mlx_lm_order
from mlx_personal.errors import UserError
from mlx_personal.progress import Progress, ProgressEvent
from mlx_personal.runtime.energy import EnergyMeter, Power

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class IdlePower:
    """The power of the machine before the benchmark runs.

    Attributes:
        power: Mean power by component.
        elapsed_s: Seconds of the measurement; None where there is no counter.
        sources: Names of the counters.
        missing_reason: Why a counter is missing; None where none is.
    """

    power: Power
    elapsed_s: float | None
    sources: tuple[str, ...]
    missing_reason: str | None


@dataclass(frozen=True)
class Measurements:
    """All training runs of a benchmark.

    Attributes:
        workload: What was trained.
        model_dir: Folder of its model.
        idle: Power of the idle machine, measured first.
        runs: Training run of each round, by the name of the trainer.
    """

    workload: Workload
    model_dir: Path
    idle: IdlePower
    runs: dict[str, list[TrainingRun]]


def measure_workload(
    workload: Workload, against: str | None, rounds: int, idle_s: float, on_progress: Progress, stock: bool = True
) -> Measurements:
    """Train a workload with our trainer and mlx-lm's in turn.

    Args:
        workload: What to train.
        against: `mlx-lm` to train with mlx-lm too; None for our trainer alone.
        rounds: Training runs of each trainer.
        idle_s: Seconds for which the idle power is measured.
        on_progress: Called before each training run.
        stock: Train once with mlx-lm's own loss as well, if there is a comparison with mlx-lm.

    Raises:
        UserError: If the workload cannot be trained, or mlx-lm trained other batches than planned.
    """
    model_dir = model_folder(workload.model)
    order = _trainer_order(against, rounds, stock)
    on_progress(ProgressEvent("measuring idle power", 0, len(order)))
    idle = measure_idle(idle_s)
    runs: dict[str, list[TrainingRun]] = {trainer: [] for trainer in dict.fromkeys(order)}
    # MLX and the system cache what they compile; without a warm-up the first trainer would pay for all others.
    warm_up = dataclasses.replace(workload, samples=workload.batch_size, epochs=1)
    for trainer in runs:
        on_progress(ProgressEvent(f"{trainer}, warm-up step", 0, len(order)))
        train_in_child_process(trainer, warm_up, model_dir)
    for number, trainer in enumerate(order):
        on_progress(ProgressEvent(trainer, number, len(order)))
        logger.info("training run %d of %d, with %s", number + 1, len(order), trainer)
        runs[trainer].append(train_in_child_process(trainer, workload, model_dir))
    on_progress(ProgressEvent("done", len(order), len(order)))
    planned = [step for epoch in mlx_lm_order(workload) for step in epoch]
    for trainer, trainer_runs in runs.items():
        if any(run.batches != planned for run in trainer_runs):
            what = f"{trainer} trained other batches than planned, so nothing can be compared"
            raise UserError(what, hint="update mlx-lm")
    names: tuple[str, ...] = (OURS, MLX_LM, MLX_LM_STOCK)
    ordered = {trainer: runs[trainer] for trainer in names if trainer in runs}
    return Measurements(workload, model_dir, idle, ordered)


def measure_idle(idle_s: float) -> IdlePower:
    """Measure the power of the machine for some seconds; return at once where there is no counter."""
    meter = EnergyMeter()
    if not meter.sources:
        return IdlePower(Power(), None, (), meter.reason)
    before, start = meter.read(), time.perf_counter()
    time.sleep(idle_s)
    energy, elapsed_s = meter.read() - before, time.perf_counter() - start
    return IdlePower(energy.average_power(elapsed_s), elapsed_s, meter.sources, meter.reason)


def train_in_child_process(trainer: str, workload: Workload, model_dir: Path) -> TrainingRun:
    """Train once in a new process.

    Args:
        trainer: Name of the trainer.
        workload: What to train.
        model_dir: Folder of its model.

    Raises:
        UserError: If the training run fails for a reason that the user can change.
        RuntimeError: If it fails for another reason.
    """
    with tempfile.TemporaryDirectory() as scratch:
        spec_file, result_file = Path(scratch, "spec.json"), Path(scratch, "result.json")
        spec = {"trainer": trainer, "workload": dataclasses.asdict(workload), "model_dir": str(model_dir)}
        spec_file.write_text(json.dumps(spec))
        command = [sys.executable, "-m", "mlx_personal.benchmark.child_process", str(spec_file), str(result_file)]
        finished = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
        if finished.returncode or not result_file.exists():
            raise _child_error(trainer, finished)
        data = json.loads(result_file.read_text())
    if "error" in data:
        raise error_from_json(data["error"])
    return TrainingRun.from_json(data)


def _trainer_order(against: str | None, rounds: int, stock: bool) -> list[str]:
    """Return the order of the training runs; the trainers alternate, since a warm machine is slower."""
    if against is None:
        return [OURS] * rounds
    pairs = [(OURS, MLX_LM) if number % 2 == 0 else (MLX_LM, OURS) for number in range(rounds)]
    return [trainer for pair in pairs for trainer in pair] + [MLX_LM_STOCK] * stock


def _child_error(trainer: str, finished: subprocess.CompletedProcess[str]) -> Exception:
    hint = "choose a smaller workload"
    if finished.returncode == -signal.SIGKILL:
        return UserError(f"the system killed {trainer}, most likely because memory ran out", hint=hint)
    lines: Sequence[str] = finished.stderr.strip().splitlines() or ["no message"]
    if "memory" in lines[-1].lower() or "malloc" in lines[-1].lower():
        return UserError(f"{trainer} ran out of memory ({lines[-1]})", hint=hint)
    return RuntimeError(f"{trainer} failed with status {finished.returncode}:\n" + "\n".join(lines[-20:]))
