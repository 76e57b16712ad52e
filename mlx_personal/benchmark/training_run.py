"""One side's training, once, with a clock, energy counters and thermometers beside it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_personal.benchmark import mlx_lm_trainer
from mlx_personal.benchmark.workloads import Workload, make_rows, mlx_lm_order, vocabulary_of
from mlx_personal.errors import UserError
from mlx_personal.finetune import LoRAConfig
from mlx_personal.finetune.data.samples import Sample, TrainingData
from mlx_personal.finetune.loop import train
from mlx_personal.finetune.plan import plan_training
from mlx_personal.finetune.planning.memory import plan_memory
from mlx_personal.finetune.report import TrainingStep
from mlx_personal.finetune.trainer_state import make_optimizer
from mlx_personal.models import LanguageModel, load_language_model
from mlx_personal.progress import ProgressEvent
from mlx_personal.runtime.energy import Energy, EnergyMeter
from mlx_personal.runtime.machine import ThermalState, thermal_state

OURS, PLAIN, STOCK = "ours", "mlx-lm", "mlx-lm-stock"
_LOSSES = {PLAIN: mlx_lm_trainer.exact_loss, STOCK: mlx_lm_trainer.stock_loss}

# Seconds between two looks at counters and sensors while a side trains: RAPL's run over, and a hot chip cools quickly.
_LOOK = 5.0


@dataclass(frozen=True)
class Trained:
    """What one training took, and what it did.

    Args:
        seconds: from the first call to the last weight, loading aside.
        losses: of each step.
        times: seconds from the start to the end of each step.
        order: the rows of each step.
        processed_tokens: computed in all epochs, padding included.
        peak_memory_bytes: by MLX's count, weights included.
        joules: what the machine took meanwhile, idle power included.
        before: the machine's heat at the start.
        after: at the end, with the highest temperature and any slowing down seen on the way.
        way, way_reason: how our trainer computed, and why not in a faster way; None for mlx-lm.
        model: facts of the model that was loaded.
    """

    seconds: float
    losses: list[float]
    times: list[float]
    order: list[list[int]]
    processed_tokens: int
    peak_memory_bytes: int
    joules: Energy
    before: ThermalState
    after: ThermalState
    way: str | None
    fallback_reason: str | None
    model: dict[str, Any]

    @classmethod
    def of(cls, data: dict[str, Any]) -> Trained:
        """From what `dataclasses.asdict` made of one."""
        parts = {
            "joules": Energy(**data["joules"]),
            "before": ThermalState(**data["before"]),
            "after": ThermalState(**data["after"]),
        }
        return cls(**{**data, **parts})


class _Watch:
    """Clock, energy counters and thermometers beside a training."""

    def __init__(self, meter: EnergyMeter) -> None:
        self._meter = meter
        self.losses: list[float] = []
        self.times: list[float] = []
        self.before = self._hottest = thermal_state()
        self._joules = meter.read()
        self._start = self._looked = time.perf_counter()

    def step(self, loss: float) -> None:
        now = time.perf_counter()
        self.losses.append(loss)
        self.times.append(now - self._start)
        if now - self._looked > _LOOK:
            self._meter.read()
            self._hottest = hotter(self._hottest, thermal_state())
            self._looked = time.perf_counter()

    def on_progress(self, event: ProgressEvent, /) -> None:
        if isinstance(event.detail, TrainingStep):
            self.step(event.detail.loss)

    def stop(self) -> tuple[float, Energy, ThermalState]:
        """Seconds, joules, and the worst of the heat; what it takes to look at the sensors is not in them."""
        seconds = time.perf_counter() - self._start
        joules = self._meter.read() - self._joules
        return seconds, joules, hotter(self._hottest, thermal_state())


def hotter(a: ThermalState, b: ThermalState) -> ThermalState:
    """The worse of two readings, `b` the later: the higher temperature, and any slowing down seen or counted."""
    known = [celsius for celsius in (a.temperature_celsius, b.temperature_celsius) if celsius is not None]
    seen = [state for state in (a.throttled, b.throttled) if state is not None]
    if a.throttle_count is not None and b.throttle_count is not None:
        seen.append(b.throttle_count > a.throttle_count)
    return ThermalState(
        temperature_celsius=max(known, default=None),
        throttled=any(seen) if seen else None,
        throttle_count=b.throttle_count,
        reasons=tuple(dict.fromkeys(a.reasons + b.reasons)),
    )


def config_of(workload: Workload) -> LoRAConfig:
    """The hyper-parameters of both sides: the package's own, without dropout."""
    return LoRAConfig(
        dropout=0.0,
        epochs=workload.epochs,
        batch_size=workload.batch_size,
        num_layers=workload.lora_layers,
        seed=workload.seed,
    )


def train_side(side: str, workload: Workload, folder: Path) -> Trained:
    """Loads the model and trains it once; UserError where it cannot be trained so."""
    rows = make_rows(workload, vocabulary_of(folder))
    lm = load_language_model(folder)
    blocks = len(lm.model.layers)
    if workload.lora_layers > blocks:
        raise UserError(f"lora_layers is {workload.lora_layers}, but the model has {blocks} layers")
    model, meter = _facts(lm), EnergyMeter()
    mx.clear_cache()
    mx.reset_peak_memory()
    watch = _Watch(meter)
    done = _ours(lm, workload, rows, watch) if side == OURS else _plain(lm, workload, rows, watch, _LOSSES[side])
    seconds, joules, after = watch.stop()
    if not all(math.isfinite(loss) for loss in watch.losses):
        raise UserError(f"the loss of {side} stopped being a number", hint="choose another model")
    return Trained(
        seconds=seconds,
        losses=watch.losses,
        times=watch.times,
        peak_memory_bytes=mx.get_peak_memory(),
        joules=joules,
        before=watch.before,
        after=after,
        model=model,
        **done,
    )


def _facts(lm: LanguageModel) -> dict[str, Any]:
    weights = [weight for _, weight in tree_flatten(lm.model.parameters())]
    return {
        "layers": len(lm.model.layers),
        "parameters": sum(weight.size for weight in weights),
        "dtype": str(max(weights, key=lambda weight: weight.size).dtype).removeprefix("mlx.core."),
    }


def _ours(lm: LanguageModel, workload: Workload, rows: Sequence[Sample], watch: _Watch) -> dict[str, Any]:
    order = mlx_lm_order(workload)
    data, config = TrainingData(rows), config_of(workload)
    plan = plan_training(data, config, plan_memory(lm, data, config), order.__getitem__)
    report = train(lm, plan, on_progress=watch.on_progress)
    return {
        "order": [step for epoch in order for step in epoch],
        "processed_tokens": report.processed_tokens * workload.epochs,
        "way": report.forward_mode,
        "way_reason": report.fallback_reason or None,
    }


def _plain(
    lm: LanguageModel, workload: Workload, rows: Sequence[Sample], watch: _Watch, loss: mlx_lm_trainer.Loss
) -> dict[str, Any]:
    config = config_of(workload)
    lm.attach_new_adapter(config.num_layers, config.lora_parameters, config.seed)
    steps = workload.epochs * (workload.rows // workload.batch_size)
    optimizer = make_optimizer(config.learning_rate_schedule(steps))
    taken = mlx_lm_trainer.train_plain(
        lm.model, optimizer, rows, workload.batch_size, workload.epochs, workload.seed, loss, watch.step
    )
    return {
        "order": taken,
        "processed_tokens": mlx_lm_trainer.processed_tokens(rows, taken),
        "way": None,
        "way_reason": None,
    }
