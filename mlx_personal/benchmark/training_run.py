"""Train a workload once with one trainer, and measure time, memory, energy and temperature."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_personal.benchmark import mlx_lm_trainer
from mlx_personal.benchmark.random_weights import vocabulary_size
from mlx_personal.benchmark.workloads import Workload, make_random_samples, mlx_lm_order
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

# The trainers that are compared, by their names in results: ours, mlx-lm's with a loss over the targets only, and
# mlx-lm's with its own loss.
OURS: Final = "ours"
MLX_LM: Final = "mlx-lm"
MLX_LM_STOCK: Final = "mlx-lm-stock"
_MLX_LM_LOSSES: Final = {MLX_LM: mlx_lm_trainer.exact_loss, MLX_LM_STOCK: mlx_lm_trainer.stock_loss}

# Seconds between two readings of counters and sensors while training: RAPL counters overflow, and chips cool quickly.
_READ_INTERVAL_S = 5.0


@dataclass(frozen=True)
class TrainingRun:
    """One training run with its measurements.

    Attributes:
        elapsed_s: Seconds from the first call to the last weight, without loading the model.
        losses: Loss of each step.
        step_ends_s: Seconds from the start to the end of each step.
        batches: Indices of the samples of each step.
        processed_tokens: Tokens computed in all epochs, padding included.
        peak_memory_bytes: Peak memory by MLX's count, weights included.
        energy: Energy of the machine during the run, idle power included.
        thermal_before: Thermal state at the start.
        thermal_worst: Thermal state with the highest temperature and any throttling during the run.
        forward_mode: How our trainer computed the forward pass; None for mlx-lm.
        fallback_reason: Why it used no faster mode; None for the fastest one and for mlx-lm.
        model_metadata: Layers, parameters and dtype of the model.
    """

    elapsed_s: float
    losses: list[float]
    step_ends_s: list[float]
    batches: list[list[int]]
    processed_tokens: int
    peak_memory_bytes: int
    energy: Energy
    thermal_before: ThermalState
    thermal_worst: ThermalState
    forward_mode: str | None
    fallback_reason: str | None
    model_metadata: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the run as JSON, for the parent process."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TrainingRun:
        """Return the run that `to_json` wrote."""
        return cls(
            **{
                **data,
                "energy": Energy(**data["energy"]),
                "thermal_before": _thermal_state_from_json(data["thermal_before"]),
                "thermal_worst": _thermal_state_from_json(data["thermal_worst"]),
            }
        )


def train_once(trainer: str, workload: Workload, model_dir: Path) -> TrainingRun:
    """Load the model of a workload and train it with one trainer.

    Args:
        trainer: `OURS`, `MLX_LM` or `MLX_LM_STOCK`.
        workload: What to train.
        model_dir: Folder of the model.

    Raises:
        UserError: If the workload does not fit the model, or the loss is not finite.
    """
    samples = make_random_samples(workload, vocabulary_size(model_dir))
    lm = load_language_model(model_dir)
    num_layers = len(lm.model.layers)
    if workload.num_layers > num_layers:
        raise UserError(f"num_layers is {workload.num_layers}, but the model has {num_layers} layers")
    metadata, meter = _model_metadata(lm), EnergyMeter()
    mx.clear_cache()
    mx.reset_peak_memory()
    monitor = _Monitor(meter)
    if trainer == OURS:
        trained = _train_with_ours(lm, workload, samples, monitor)
    else:
        trained = _train_with_mlx_lm(lm, workload, samples, monitor, _MLX_LM_LOSSES[trainer])
    elapsed_s, energy, thermal_worst = monitor.stop()
    if not all(math.isfinite(loss) for loss in monitor.losses):
        raise UserError(f"the loss of {trainer} is not finite", hint="choose another model")
    return TrainingRun(
        elapsed_s=elapsed_s,
        losses=monitor.losses,
        step_ends_s=monitor.step_ends_s,
        batches=trained.batches,
        processed_tokens=trained.processed_tokens,
        peak_memory_bytes=mx.get_peak_memory(),
        energy=energy,
        thermal_before=monitor.thermal_before,
        thermal_worst=thermal_worst,
        forward_mode=trained.forward_mode,
        fallback_reason=trained.fallback_reason,
        model_metadata=metadata,
    )


def workload_config(workload: Workload) -> LoRAConfig:
    """Return the hyperparameters of all trainers: the defaults of this package, without dropout."""
    return LoRAConfig(
        dropout=0.0,
        epochs=workload.epochs,
        batch_size=workload.batch_size,
        num_layers=workload.num_layers,
        seed=workload.seed,
    )


def worse_thermal_state(earlier: ThermalState, later: ThermalState) -> ThermalState:
    """Combine two readings: the higher temperature, and any throttling that was seen or counted."""
    known = [celsius for celsius in (earlier.temperature_celsius, later.temperature_celsius) if celsius is not None]
    throttled = [state for state in (earlier.throttled, later.throttled) if state is not None]
    if earlier.throttle_count is not None and later.throttle_count is not None:
        throttled.append(later.throttle_count > earlier.throttle_count)
    return ThermalState(
        temperature_celsius=max(known, default=None),
        throttled=any(throttled) if throttled else None,
        throttle_count=later.throttle_count,
        reasons=tuple(dict.fromkeys(earlier.reasons + later.reasons)),
    )


class _Monitor:
    """Reads clock, energy counters and temperature sensors during a training run."""

    def __init__(self, meter: EnergyMeter) -> None:
        self._meter = meter
        self.losses: list[float] = []
        self.step_ends_s: list[float] = []
        self.thermal_before = self._thermal_worst = thermal_state()
        self._energy_before = meter.read()
        self._start = self._last_reading = time.perf_counter()

    def end_step(self, loss: float) -> None:
        """Record the loss and the time of a step, and read counters and sensors from time to time."""
        now = time.perf_counter()
        self.losses.append(loss)
        self.step_ends_s.append(now - self._start)
        if now - self._last_reading > _READ_INTERVAL_S:
            self._meter.read()
            self._thermal_worst = worse_thermal_state(self._thermal_worst, thermal_state())
            self._last_reading = time.perf_counter()

    def on_progress(self, event: ProgressEvent, /) -> None:
        """Record a step of our trainer."""
        if isinstance(event.detail, TrainingStep):
            self.end_step(event.detail.loss)

    def stop(self) -> tuple[float, Energy, ThermalState]:
        """Return the seconds, the energy and the worst thermal state, without the time of the last readings."""
        elapsed_s = time.perf_counter() - self._start
        energy = self._meter.read() - self._energy_before
        return elapsed_s, energy, worse_thermal_state(self._thermal_worst, thermal_state())


@dataclass(frozen=True)
class _TrainerResult:
    """What a trainer computed; see `TrainingRun`."""

    batches: list[list[int]]
    processed_tokens: int
    forward_mode: str | None = None
    fallback_reason: str | None = None


def _train_with_ours(
    lm: LanguageModel, workload: Workload, samples: Sequence[Sample], monitor: _Monitor
) -> _TrainerResult:
    order = mlx_lm_order(workload)
    data, config = TrainingData(samples), workload_config(workload)
    plan = plan_training(data, config, plan_memory(lm, data, config), order.__getitem__)
    report = train(lm, plan, on_progress=monitor.on_progress)
    return _TrainerResult(
        batches=[step for epoch in order for step in epoch],
        processed_tokens=report.processed_tokens * workload.epochs,
        forward_mode=report.forward_mode,
        fallback_reason=report.fallback_reason or None,
    )


def _train_with_mlx_lm(
    lm: LanguageModel,
    workload: Workload,
    samples: Sequence[Sample],
    monitor: _Monitor,
    loss: mlx_lm_trainer.Loss,
) -> _TrainerResult:
    config = workload_config(workload)
    lm.attach_new_adapter(config.num_layers, config.lora_parameters, config.seed)
    steps = workload.epochs * (workload.samples // workload.batch_size)
    batches = mlx_lm_trainer.train_with_mlx_lm(
        lm.model,
        make_optimizer(config.learning_rate_schedule(steps)),
        samples,
        batch_size=workload.batch_size,
        epochs=workload.epochs,
        seed=workload.seed,
        loss=loss,
        on_loss=monitor.end_step,
    )
    return _TrainerResult(batches, mlx_lm_trainer.count_processed_tokens(samples, batches))


def _model_metadata(lm: LanguageModel) -> dict[str, Any]:
    weights = [weight for _, weight in tree_flatten(lm.model.parameters())]
    return {
        "layers": len(lm.model.layers),
        "parameters": sum(weight.size for weight in weights),
        "dtype": str(max(weights, key=lambda weight: weight.size).dtype).removeprefix("mlx.core."),
    }


def _thermal_state_from_json(data: Mapping[str, Any]) -> ThermalState:
    return ThermalState(**{**data, "reasons": tuple(data["reasons"])})
