"""Estimate the memory of a training run before the model is loaded, and plan the fastest use of it that fits.

The estimate predicts `mx.get_peak_memory` at the end of the run, including weights: the largest memory of any phase.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mlx_personal.errors import UserError
from mlx_personal.finetune.config import LoRAConfig
from mlx_personal.finetune.data.batching import (
    BatchFormat,
    bucketed_steps,
    formatted_micro_batches,
    interleaved_steps,
    micro_batches,
    shuffled_steps,
)
from mlx_personal.finetune.data.packing import max_packed_length
from mlx_personal.finetune.data.samples import Sample, TrainingData
from mlx_personal.finetune.forward.activation_cache import CACHE_BATCH_TOKENS
from mlx_personal.finetune.forward.equivalence import ForwardMode, select_probe, shortest_two_lengths
from mlx_personal.finetune.planning.layer_memory import (
    MicroBatchSize,
    adapter_parameters,
    forward_bytes,
    gradient_bytes,
    head_bytes,
    reference_head_bytes,
)
from mlx_personal.finetune.planning.model_spec import LayerSpec, ModelSpec, spec_from_folder, spec_from_model
from mlx_personal.models import LanguageModel
from mlx_personal.runtime.device import device_name
from mlx_personal.runtime.memory import usable_memory_bytes

# Number of float32 arrays of the adapter's size: weights, two moments and the accumulated gradient (counted); during
# the update, when MLX runs ahead through all of AdamW (measured on 5 models); in the equivalence check (measured on
# 59).
_ADAPTER_COPIES, _ADAPTER_COPIES_IN_UPDATE = 4, 15
_ADAPTER_COPIES_IN_CHECK = 4

# Micro-batches of fewer tokens use the device inefficiently.
_MIN_TOKENS = 256

# Maximum number of epochs whose steps are estimated; those of later epochs are similar.
_MAX_EPOCHS = 8


@dataclass(frozen=True)
class MemoryPlan:
    """The use of memory of a training run.

    Attributes:
        micro_batch_tokens: Maximum number of tokens computed at once.
        gradient_checkpointing: Whether layers save only their inputs and are recomputed in the backward pass.
        cache_bytes: Maximum memory of the cached outputs of the frozen layers.
        estimated_peak_bytes: Expected peak memory; None if it was not estimated.
    """

    micro_batch_tokens: int = 2048
    gradient_checkpointing: bool = False
    cache_bytes: int = 2**30
    estimated_peak_bytes: int | None = None


@dataclass(frozen=True)
class MemoryEstimate:
    """The expected peak memory of each phase of a training run.

    Attributes:
        loading_bytes: Loading the model.
        equivalence_check_bytes: Checking the forward mode against the reference.
        caching_bytes: Computing the outputs of the frozen layers.
        training_bytes: Training steps and validation.
        reloading_bytes: Reading the frozen layers' weights again at the end.
        cache_bytes: The cached outputs of the frozen layers in memory, included in the others.
    """

    loading_bytes: int
    equivalence_check_bytes: int
    caching_bytes: int
    training_bytes: int
    reloading_bytes: int
    cache_bytes: int

    @property
    def peak_bytes(self) -> int:
        """The largest memory of all phases."""
        return max(
            self.loading_bytes,
            self.equivalence_check_bytes,
            self.caching_bytes,
            self.training_bytes,
            self.reloading_bytes,
        )


@dataclass(frozen=True)
class SampleSizes:
    """The sizes of the samples of a training run, from which memory is estimated.

    Attributes:
        lengths: Number of tokens of each sample.
        targets: Number of target tokens of each sample.
        trained: Number of samples that are trained on, which come first; None for all. The others are only evaluated.
        probe: Indices of the samples of the equivalence check; None for two samples of different lengths, as the check
            uses if no samples share a prefix.
        chosen: Indices of the chosen samples of preference pairs, each followed by its rejected one; those that are
            trained on are the last ones of these.
    """

    lengths: Sequence[int]
    targets: Sequence[int]
    trained: int | None = None
    probe: Sequence[int] | None = None
    chosen: frozenset[int] = frozenset()

    @classmethod
    def from_data(cls, data: TrainingData, probe: Sequence[int] | None = None) -> SampleSizes:
        """Return the sizes of the samples of a training run.

        Args:
            data: The samples.
            probe: Indices of the samples of the equivalence check; None for those of `select_probe`.
        """
        samples: list[Sample] = data.all
        lengths, targets = [len(s) for s in samples], [int(s.is_target.sum()) for s in samples]
        probe = select_probe(samples) if probe is None else probe
        return cls(lengths, targets, len(data.trained), probe, data.chosen)

    @property
    def trained_count(self) -> int:
        """Number of samples that are trained on."""
        return len(self.lengths) if self.trained is None else self.trained

    def packed(self, indices: Sequence[int]) -> MicroBatchSize:
        """Return the size of a packed micro-batch.

        Args:
            indices: Indices of its samples.
        """
        return MicroBatchSize.packed(*self._select(indices))

    def padded(self, indices: Sequence[int]) -> MicroBatchSize:
        """Return the size of a padded micro-batch.

        Args:
            indices: Indices of its samples.
        """
        return MicroBatchSize.padded(*self._select(indices))

    def in_format(self, batch_format: BatchFormat, indices: Sequence[int]) -> MicroBatchSize:
        """Return the size of a micro-batch in a format.

        Args:
            batch_format: The format.
            indices: Indices of its samples.
        """
        return self.packed(indices) if batch_format == "packed" else self.padded(indices)

    def _select(self, indices: Sequence[int]) -> tuple[list[int], list[int]]:
        return [self.lengths[i] for i in indices], [self.targets[i] for i in indices]


def model_spec(lm: LanguageModel) -> ModelSpec:
    """Return the sizes of a model without reading the weights of one that was loaded from a folder.

    Args:
        lm: The model, without an adapter.
    """
    spec = spec_from_model(lm) if lm.path is None else spec_from_folder(lm.path)
    # Of the settings with mlx-lm's defaults, which the file of a folder may not have.
    return dataclasses.replace(spec, max_packed_tokens=max_packed_length(getattr(lm.model, "args", None)))


def plan_memory(lm: LanguageModel, data: TrainingData, config: LoRAConfig) -> MemoryPlan:
    """Plan the memory of a training run in the fastest forward mode on this machine.

    Args:
        lm: The base model, without an adapter.
        data: The samples.
        config: The settings.

    Returns:
        The fastest plan that fits.

    Raises:
        UserError: If no plan fits.
    """
    return fastest_plan(model_spec(lm), SampleSizes.from_data(data), config, usable_memory_bytes())


def fastest_plan(
    spec: ModelSpec,
    samples: SampleSizes,
    config: LoRAConfig,
    limit_bytes: int | None,
    mode: ForwardMode = "packed",
) -> MemoryPlan:
    """Return the fastest plan within a memory limit.

    Smaller micro-batches take almost no additional time, gradient checkpointing a third more, and reading activations
    from a file something in between. So whole steps are tried first, then smaller micro-batches, then checkpointing.

    Args:
        spec: The model.
        samples: The samples.
        config: The settings; `micro_batch_tokens` is used unless it is 0.
        limit_bytes: The limit; None for no limit.
        mode: The forward mode.

    Returns:
        The plan.

    Raises:
        UserError: If no plan fits.
    """
    smallest_peak = math.inf
    for checkpointing in (False, True):
        for tokens in _micro_batch_sizes(samples, config, mode):
            plan = MemoryPlan(tokens, checkpointing)
            for cache_limit in (None, 0):
                estimate = estimate_memory(spec, samples, config, plan, cache_limit, mode)
                smallest_peak = min(smallest_peak, estimate.peak_bytes)
                if limit_bytes is None or estimate.peak_bytes <= limit_bytes:
                    return dataclasses.replace(
                        plan, cache_bytes=estimate.cache_bytes, estimated_peak_bytes=estimate.peak_bytes
                    )
    needed, available = smallest_peak / 1e9, (limit_bytes or 0) / 1e9
    alternative = "" if device_name() == "cpu" else " or a quantized"
    raise UserError(
        f"this training run needs at least {needed:.1f} GB of memory, and {available:.1f} GB are available",
        hint=f"lower num_layers or max_seq_length, or use a smaller{alternative} model",
    )


def estimate_memory(
    spec: ModelSpec,
    samples: SampleSizes,
    config: LoRAConfig,
    plan: MemoryPlan,
    cache_limit_bytes: int | None,
    mode: ForwardMode = "packed",
) -> MemoryEstimate:
    """Estimate the memory of a training run with a plan.

    Args:
        spec: The model.
        samples: The samples.
        config: The settings.
        plan: The plan; its `cache_bytes` are not used.
        cache_limit_bytes: Maximum memory of the cached outputs of the frozen layers; None for no limit.
        mode: The forward mode.

    Returns:
        The memory of each phase.
    """
    lengths = samples.lengths
    first = 0 if config.num_layers == -1 else max(0, len(spec.layers) - config.num_layers)
    trained = spec.layers[first:]
    adapter = 4 * sum(adapter_parameters(layer, config) for layer in trained)
    # The plain mode computes the frozen layers in every step, so nothing is cached and no weights are released.
    skips_frozen = first > 0 and mode != "plain"
    activations = sum(lengths) * spec.hidden_size * spec.dtype_bytes if skips_frozen else 0
    cached = activations if cache_limit_bytes is None or activations <= cache_limit_bytes else 0
    releases_frozen = spec.is_reloadable and skips_frozen
    weights = spec.other_bytes + sum(layer.bytes for layer in trained) if releases_frozen else spec.bytes

    step = _training_step_bytes(spec, trained, samples, config, plan, adapter, mode)
    caching = spec.bytes + adapter
    if skips_frozen:
        groups = micro_batches(range(len(lengths)), lengths, min(CACHE_BATCH_TOKENS, spec.max_packed_tokens), "packed")
        caching += cached + max(forward_bytes(spec, spec.layers[-1], samples.packed(group)) for group in groups)
    return MemoryEstimate(
        loading_bytes=spec.bytes,
        equivalence_check_bytes=spec.bytes + _equivalence_check_bytes(spec, trained, samples, config, adapter),
        caching_bytes=caching,
        training_bytes=weights + cached + step,
        reloading_bytes=spec.bytes + cached + _ADAPTER_COPIES * adapter,
        cache_bytes=cached,
    )


def _equivalence_check_bytes(
    spec: ModelSpec, trained: Sequence[LayerSpec], samples: SampleSizes, config: LoRAConfig, adapter: int
) -> int:
    """Return the memory of the equivalence check without the model's weights."""
    probe = shortest_two_lengths(samples.lengths) if samples.probe is None else samples.probe
    without_dropout = dataclasses.replace(config, dropout=0.0)
    reference = gradient_bytes(spec, trained, samples.padded(probe), without_dropout, False, reference=True)
    fast = gradient_bytes(spec, trained, samples.packed(probe), without_dropout, checkpointing=False)
    return _ADAPTER_COPIES_IN_CHECK * adapter + max(reference, fast)


def _training_step_bytes(
    spec: ModelSpec,
    trained: Sequence[LayerSpec],
    samples: SampleSizes,
    config: LoRAConfig,
    plan: MemoryPlan,
    adapter: int,
    mode: ForwardMode,
) -> int:
    """Return the memory of the largest step or validation without the model's weights."""
    count, is_plain = samples.trained_count, mode == "plain"

    def sizes(indices: Sequence[int]) -> Iterator[MicroBatchSize]:
        for micro_batch, batch_format in formatted_micro_batches(
            indices,
            samples.lengths,
            plan.micro_batch_tokens,
            spec.max_packed_tokens,
            "packed" if mode == "packed" else "padded",
            samples.chosen,
        ):
            yield samples.in_format(batch_format, micro_batch)

    peaks = [_ADAPTER_COPIES_IN_UPDATE * adapter]
    for step in _steps(samples, config, mode):
        for size in sizes(step):
            checkpointing = plan.gradient_checkpointing
            gradient = gradient_bytes(spec, trained, size, config, checkpointing, reference=is_plain)
            peaks.append(_ADAPTER_COPIES * adapter + gradient)
    for size in sizes(range(count, len(samples.lengths))):
        head = reference_head_bytes(spec, size) if is_plain else head_bytes(spec, size)
        peaks.append(_ADAPTER_COPIES * adapter + max(forward_bytes(spec, spec.layers[-1], size), head))
    return max(peaks)


def _steps(samples: SampleSizes, config: LoRAConfig, mode: ForwardMode) -> list[list[int]]:
    """Return the samples of the steps of the first epochs."""
    epochs, batch_size = range(min(config.epochs, _MAX_EPOCHS)), config.effective_batch_size
    pairs = sum(index < samples.trained_count for index in samples.chosen)
    if pairs:
        singles = samples.trained_count - 2 * pairs
        return [step for epoch in epochs for step in interleaved_steps(singles, pairs, batch_size, config.seed, epoch)]
    if mode == "packed":
        count = samples.trained_count
        return [step for epoch in epochs for step in shuffled_steps(count, batch_size, config.seed, epoch)]
    lengths = samples.lengths[: samples.trained_count]
    return [step for epoch in epochs for step in bucketed_steps(lengths, batch_size, config.seed, epoch)]


def _micro_batch_sizes(samples: SampleSizes, config: LoRAConfig, mode: ForwardMode) -> Iterator[int]:
    """Yield the sizes in tokens to try: the configured one, or that of a whole step, repeatedly halved."""
    if config.micro_batch_tokens:
        yield config.micro_batch_tokens
        return
    batch_format: BatchFormat = "packed" if mode == "packed" else "padded"
    steps = _steps(samples, config, mode)
    tokens = max(_MIN_TOKENS, max(samples.in_format(batch_format, step).tokens for step in steps))
    while tokens >= _MIN_TOKENS:
        yield tokens
        tokens //= 2
