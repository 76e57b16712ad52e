"""The equivalence check: compare a fast forward pass with the reference, mlx-lm's own, on this model before training.

Two samples are computed in both ways, with an adapter that already has an effect, because a new one has no gradient for
half of its weights. The relative differences of the losses and of all gradients must not exceed a tolerance. The
fastest mode that agrees is selected: packed samples, else padded samples, else the reference forward itself.

Whether a mode is exact depends on the model's architecture, its dtype and the layout of the adapter, and not on the
user's samples or the adapter's weights. So the selection is cached for each loaded model: hundreds of users of one base
model share it, with the same bits as if each were trained alone. Samples of another kind and adapters of another layout
are computed differently and checked again. If a model barely agrees or disagrees, nothing is cached.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import math
import weakref
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map_with_path
from mlx_lm.utils import dequantize_model

from mlx_personal.errors import UserError
from mlx_personal.finetune.config import LoRAConfig
from mlx_personal.finetune.data.batching import Batch, collate
from mlx_personal.finetune.data.packing import pack
from mlx_personal.finetune.data.samples import Sample
from mlx_personal.finetune.forward.losses import (
    CrossEntropies,
    Weights,
    layout_of,
    reference_cross_entropies,
    split_cross_entropies,
    weighted_sum,
)
from mlx_personal.finetune.forward.split_model import SplitModel
from mlx_personal.models import LanguageModel
from mlx_personal.runtime.memory import usable_memory_bytes

logger = logging.getLogger(__name__)

ForwardMode = Literal["packed", "padded", "plain"]
FORWARD_MODES: Sequence[ForwardMode] = ("packed", "padded", "plain")  # the fastest first

# Largest relative difference that rounding explains, by the dtype that the model computes with; a 4-bit model computes
# with one of these. Over tiny random models of 16 families the largest differences of the gradients were 1.0e-6, 3.1e-3
# and 2.6e-2 (the last two of 4-bit models), and 0.6 if samples attended to each other.
TOLERANCES = {mx.float32: 1e-4, mx.float16: 1e-2, mx.bfloat16: 6e-2}

# Standard deviation of the noise that is added to the adapter's B matrices; that of A is about 1 / sqrt(D).
_NOISE = 0.02

# A check is clear if its difference is below or above the tolerance by at least this factor, so that other samples
# would not change its result. In float32 the differences of an exact mode are a hundredth of the tolerance; those of
# 16-bit models are close to it, so these models are checked each time.
_CLEAR_FACTOR = 10.0


@dataclass(frozen=True)
class EquivalenceCheck:
    """The differences between a fast forward mode and the reference.

    Attributes:
        mode: The forward mode.
        dtype: The dtype of the computation; None if the mode failed.
        loss_error: Largest relative difference of the losses.
        gradient_error: Largest relative difference of the gradients.
        failure: Why the mode could not be computed; empty if it could.
    """

    mode: ForwardMode
    dtype: mx.Dtype | None = None
    loss_error: float = math.inf
    gradient_error: float = math.inf
    failure: str = ""

    @property
    def agrees(self) -> bool:
        """Whether the differences are within the tolerance of the dtype."""
        return self.dtype is not None and self.error <= TOLERANCES[self.dtype]

    @property
    def error(self) -> float:
        """The larger of the two differences."""
        return max(self.loss_error, self.gradient_error)

    def __str__(self) -> str:
        if self.dtype is None:
            return f"{self.mode}: {self.failure}"
        dtype = str(self.dtype).split(".")[-1]
        return (
            f"{self.mode}: in {dtype} the loss differs by {self.loss_error:.1e}, the gradient by "
            f"{self.gradient_error:.1e} (tolerance {TOLERANCES[self.dtype]:.0e})"
        )


@dataclass(frozen=True)
class ModeSelection:
    """The selected forward mode of a training run.

    Attributes:
        mode: The selected mode.
        checks: The checks on which the selection is based, in order.
    """

    mode: ForwardMode
    checks: tuple[EquivalenceCheck, ...]

    @property
    def fallback_reason(self) -> str:
        """Why a faster mode was not selected; empty for the fastest."""
        return "; ".join(str(check) for check in self.checks if not check.agrees)


# A model that is loaded again is another key; the selections of a model that is no longer referenced are dropped.
_SELECTIONS: weakref.WeakKeyDictionary[LanguageModel, dict[Hashable, ModeSelection]] = weakref.WeakKeyDictionary()


def select_mode_cached(
    lm: LanguageModel, config: LoRAConfig, samples: Sequence[Sample], probe: Sequence[int] | None = None
) -> ModeSelection:
    """Return the result of `select_mode`, from the cache if it is known for this model and this kind of samples.

    Args:
        lm: The model, with an adapter of this configuration attached.
        config: The settings of the training run.
        samples: All samples of the training run.
        probe: Indices of the samples to compute; None for those of `select_probe`.

    Returns:
        The selected mode.
    """
    adapter_layout = (config.num_layers, config.use_dora, *sorted(config.lora_parameters.items()))
    selections = _SELECTIONS.setdefault(lm, {})
    probe = select_probe(samples) if probe is None else probe
    key = (adapter_layout, _kind_of(samples, probe))
    if key in selections:
        return selections[key]
    selection = select_mode(lm, samples, probe)
    if all(map(_is_clear, selection.checks)):
        selections[key] = selection
    return selection


def select_mode(lm: LanguageModel, samples: Sequence[Sample], probe: Sequence[int] | None = None) -> ModeSelection:
    """Select the fastest forward mode that agrees with the reference forward of this model.

    Args:
        lm: The model, with an adapter attached.
        samples: All samples of the training run.
        probe: Indices of the samples to compute; None for those of `select_probe`.

    Returns:
        The selected mode.

    Raises:
        UserError: If the model's loss is not finite.
    """
    network = SplitModel(lm)
    # The targets of preference pairs have no weight in the cross entropy, but are computed.
    probed = [
        dataclasses.replace(samples[i], weight=samples[i].weight or 1.0)
        for i in (select_probe(samples) if probe is None else probe)
    ]
    checks: list[EquivalenceCheck] = []
    lm.model.eval()  # because dropout would draw different masks in each mode
    try:
        for mode in ("packed", "padded"):
            check = compare_with_reference(network, probed, mode)
            checks.append(check)
            inexact = check.dtype is not None and check.dtype != mx.float32
            if not check.agrees and inexact and _fits_in_float32(lm.model):
                with _in_float32(lm.model):
                    check = compare_with_reference(network, probed, mode)
                checks.append(check)
            if check.agrees:
                return ModeSelection(mode, tuple(checks))
            logger.info("forward mode %s is not used: %s", mode, check)
        return ModeSelection("plain", tuple(checks))
    finally:
        lm.model.train()


def compare_with_reference(
    network: SplitModel, samples: Sequence[Sample], mode: Literal["packed", "padded"]
) -> EquivalenceCheck:
    """Compare the loss and gradient of a forward mode with those of the reference forward, without dropout.

    Args:
        network: The model, not patched.
        samples: Samples to compute.
        mode: The mode to check.

    Returns:
        The differences, or why the mode failed.

    Raises:
        UserError: If the reference loss is not finite, because the model is damaged.
    """
    model, indices = network.model, range(len(samples))
    original: Weights = model.trainable_parameters()
    weights = _add_noise(original)
    try:
        loss = _summed(reference_cross_entropies(model))
        reference = mx.value_and_grad(loss)(weights, collate(samples, indices, "padded"))
        mx.eval(reference)
        if not math.isfinite(float(reference[0])):
            raise UserError("the base model's loss is not a number: its weights are damaged", hint="download it again")
        with network.patched():
            shared, separate = (collate(samples, indices, mode, share_prefixes) for share_prefixes in (True, False))
            # Samples that share a prefix are computed differently from others; training computes both.
            batches = [shared] if shared.segments == separate.segments else [shared, separate]
            results = [_compute(network, weights, batch) for batch in batches]
    except UserError:
        raise
    except Exception as error:  # a model of another structure may fail in any way
        return EquivalenceCheck(mode, failure=f"{type(error).__name__}: {error}".splitlines()[0])
    finally:
        model.update(original)
    dtype, *_ = results[0]
    if dtype not in TOLERANCES:
        return EquivalenceCheck(mode, failure=f"it computes with {dtype}")
    loss_error = max(_relative_difference(reference[0], loss) for _, loss, _ in results)
    gradient_error = max(_relative_difference(reference[1], gradient) for *_, gradient in results)
    return EquivalenceCheck(mode, dtype, loss_error, gradient_error)


def select_probe(samples: Sequence[Sample]) -> list[int]:
    """Select the samples of the check: the shortest suitable ones, because the reference forward is slow.

    Args:
        samples: All samples of the training run.

    Returns:
        Indices of two samples of different lengths. If some samples share a prefix, indices of two of these and of the
        shortest of all, because positions are set explicitly only for samples that share a prefix.
    """
    different_lengths = shortest_two_lengths([len(sample) for sample in samples])
    sorted_by_prompt = sorted(range(len(samples)), key=lambda i: samples[i].inputs[: samples[i].prompt_length].tolist())
    sharing = [
        pair
        for pair in itertools.pairwise(sorted_by_prompt)
        if len(pack([samples[i].inputs for i in pair], [samples[i].prompt_length for i in pair])) > 2
    ]
    if not sharing:
        return different_lengths
    return [*min(sharing, key=lambda pair: sum(len(samples[i]) for i in pair)), different_lengths[0]]


def shortest_two_lengths(lengths: Sequence[int]) -> list[int]:
    """Return the indices of two samples of different lengths, the shortest possible.

    Args:
        lengths: Number of tokens of each sample.

    Returns:
        The shortest sample, and the shortest of those that are longer; any two if all have the same length.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    longer = [i for i in order if lengths[i] > lengths[order[0]]]
    return [order[0], *(longer or order[1:])[:1]]


def _is_clear(check: EquivalenceCheck) -> bool:
    """Return whether other samples would have the same result; a mode that fails on a model always fails."""
    if check.dtype is None:
        return True
    ratio = check.error / TOLERANCES[check.dtype]
    return ratio <= 1 / _CLEAR_FACTOR or ratio >= _CLEAR_FACTOR


def _kind_of(samples: Sequence[Sample], probe: Sequence[int]) -> Hashable:
    """Return what a check depends on: the number of its samples, and whether lengths and weights differ."""
    lengths, weights = {len(sample) for sample in samples}, {sample.weight for sample in samples}
    return len(probe), len(lengths) > 1, len(weights) > 1


def _summed(cross_entropies: CrossEntropies) -> Callable[[Weights, Batch], mx.array]:
    return lambda weights, batch: weighted_sum(cross_entropies(weights, batch), batch)


def _compute(network: SplitModel, weights: Weights, batch: Batch) -> tuple[mx.Dtype, mx.array, Weights]:
    """Return the dtype of the frozen activations, and the loss and gradient of a batch in the fast mode."""
    activations = network.frozen_activations(layout_of(batch))
    loss = _summed(split_cross_entropies(network, (lambda _: activations) if network.first_trained else None))
    with network.use_layout(layout_of(batch)):
        loss_and_gradient = mx.value_and_grad(loss)(weights, batch)
    mx.eval(loss_and_gradient)
    return activations.dtype, *loss_and_gradient


def _add_noise(weights: Weights) -> Weights:
    """Return the weights with noise added to the B matrices, which is the same at every call."""
    keys = iter(mx.random.split(mx.random.key(0), len(tree_flatten(weights))))

    def add_noise(path: str, weight: mx.array) -> mx.array:
        key = next(keys)
        return weight + _NOISE * mx.random.normal(weight.shape, key=key) if path.endswith("lora_b") else weight

    noisy: Weights = tree_map_with_path(add_noise, weights)
    return noisy


def _relative_difference(expected: Any, actual: Any) -> float:
    """Return the norm of the difference over all arrays, relative to that of `expected`; inf instead of NaN."""
    pairs = zip((a for _, a in tree_flatten(expected)), (a for _, a in tree_flatten(actual)), strict=True)
    difference = size = 0.0
    for a, b in pairs:
        difference += float(mx.square(a.astype(mx.float32) - b.astype(mx.float32)).sum())
        size += float(mx.square(a.astype(mx.float32)).sum())
    relative = math.sqrt(difference / size) if size > 0 else math.inf
    return math.inf if math.isnan(relative) else relative


def _fits_in_float32(model: nn.Module) -> bool:
    """Return whether a float32 copy of all weights fits into memory in addition to the present ones."""
    packed = {id(m.weight): 32 // m.bits for m in model.modules() if hasattr(m, "bits") and "weight" in m}
    count = sum(weight.size * packed.get(id(weight), 1) for _, weight in tree_flatten(model.parameters()))
    limit = usable_memory_bytes()
    return limit is None or mx.get_active_memory() + 4 * count <= limit


@contextlib.contextmanager
def _in_float32(model: nn.Module) -> Iterator[None]:
    """Convert the model to float32 without quantization inside the `with` block, which removes most rounding errors."""
    layers, weights = model.leaf_modules(), model.parameters()
    try:
        dequantize_model(model)
        # Dequantized layers are trainable until they are frozen.
        for layer in tree_flatten(model.leaf_modules(), is_leaf=nn.Module.is_module):
            layer[1].freeze()
        model.set_dtype(mx.float32)
        yield
    finally:
        model.update_modules(layers)
        model.update(weights)
