"""Runs the sides of a benchmark in turn, each in a fresh process, and brings home what they measured."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlx_personal.benchmark.training_run import OURS, PLAIN, STOCK, Trained
from mlx_personal.benchmark.workloads import Workload, mlx_lm_order, model_folder
from mlx_personal.errors import UserError
from mlx_personal.progress import Progress, ProgressEvent
from mlx_personal.runtime.energy import Energy, EnergyMeter

# done, total, what is running now


@dataclass(frozen=True)
class Idle:
    """What the machine takes when nothing of ours runs.

    Args:
        watts: by part.
        seconds: how long that was measured; None where no counter tells.
        sources: the counters' names.
        reason: why a counter is missing.
    """

    watts: Energy
    seconds: float | None
    sources: tuple[str, ...]
    reason: str | None


@dataclass(frozen=True)
class Measured:
    """Every training of a benchmark: by side, one a round; the same place is the same round."""

    workload: Workload
    folder: Path
    idle: Idle
    sides: dict[str, list[Trained]]


def measure(
    workload: Workload, against: str | None, rounds: int, idle_seconds: float, on_progress: Progress, stock: bool = True
) -> Measured:
    """Trains ours, and `against` if given, `rounds` times in turn; then, with `stock`, mlx-lm's own loss once.

    UserError where the workload cannot be trained.
    """
    folder = model_folder(workload.model)
    plan = _plan(against, rounds, stock)
    on_progress(ProgressEvent("measuring idle power", 0, len(plan)))
    idle = measure_idle(idle_seconds)
    sides: dict[str, list[Trained]] = {side: [] for side in dict.fromkeys(plan)}
    # MLX and the system keep what they compile: without this, whoever came first would pay for it.
    first_step = dataclasses.replace(workload, rows=workload.batch_size, epochs=1)
    for side in sides:
        on_progress(ProgressEvent(f"{side}, warm-up step", 0, len(plan)))
        run_child(side, first_step, folder)
    for number, side in enumerate(plan):
        on_progress(ProgressEvent(side, number, len(plan)))
        sides[side].append(run_child(side, workload, folder))
    on_progress(ProgressEvent("done", len(plan), len(plan)))
    wanted = [step for epoch in mlx_lm_order(workload) for step in epoch]
    for side, trainings in sides.items():
        if any(trained.order != wanted for trained in trainings):
            raise UserError(f"{side} took other rows than planned, nothing can be compared", hint="update mlx-lm")
    return Measured(workload, folder, idle, {side: sides[side] for side in (OURS, PLAIN, STOCK) if side in sides})


def measure_idle(seconds: float) -> Idle:
    """The power before anything runs. Waits only where there is a counter."""
    meter = EnergyMeter()
    if not meter.sources:
        return Idle(Energy(), None, (), meter.reason)
    before, start = meter.read(), time.perf_counter()
    time.sleep(seconds)
    used, took = meter.read() - before, time.perf_counter() - start
    return Idle(used.times(1 / took), took, meter.sources, meter.reason)


def run_child(side: str, workload: Workload, folder: Path) -> Trained:
    """One training in a process of its own; UserError if it fails for a reason that the user can mend."""
    with tempfile.TemporaryDirectory() as scratch:
        spec, result = Path(scratch, "spec.json"), Path(scratch, "result.json")
        wanted = {"side": side, "workload": dataclasses.asdict(workload), "folder": str(folder)}
        spec.write_text(json.dumps(wanted))
        command = [sys.executable, "-m", "mlx_personal.benchmark.child", str(spec), str(result)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
        if done.returncode or not result.exists():
            raise _failed(side, done)
        answer = json.loads(result.read_text())
    if "error" in answer:
        raise UserError(**answer["error"])
    return Trained.of(answer)


def _plan(against: str | None, rounds: int, stock: bool) -> list[str]:
    """Which side runs when. Who begins changes from round to round: what warms the machine slows the second one."""
    if against is None:
        return [OURS] * rounds
    pairs = [(OURS, PLAIN) if number % 2 == 0 else (PLAIN, OURS) for number in range(rounds)]
    return [side for pair in pairs for side in pair] + [STOCK] * stock


def _failed(side: str, done: subprocess.CompletedProcess[str]) -> Exception:
    if done.returncode == -signal.SIGKILL:
        return UserError(f"the system ended {side}, most likely for want of memory", hint="choose a smaller workload")
    complaint: Sequence[str] = done.stderr.strip().splitlines() or ["no message"]
    if "memory" in complaint[-1].lower() or "malloc" in complaint[-1].lower():
        return UserError(f"{side} ran out of memory ({complaint[-1]})", hint="choose a smaller workload")
    return RuntimeError(f"{side} failed with status {done.returncode}:\n" + "\n".join(complaint[-20:]))
