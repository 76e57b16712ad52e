"""The cross entropies of a batch's targets: those of a model run in parts, and the reference of mlx-lm.

The adapter's weights are float32, because an update of 1e-4 would be lost in bfloat16. For the computation they are
cast to the model's dtype; otherwise every product with them would promote the activations to float32.

Cross entropy is computed in chunks at the target positions only, so that the logits of a whole batch never exist. With
a vocabulary of 128k and 2,000 targets they would take 1 GB in float32, and as much again for each step of the gradient.
The output head is frozen, so each chunk's gradient is computed together with its logits, and nothing is computed twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map_with_path

from mlx_personal.finetune.data.batching import Batch
from mlx_personal.finetune.forward.split_model import BatchLayout, SplitModel
from mlx_personal.runtime.cpu_exp import softmax

Weights = dict[str, Any]
"""The adapter's float32 weights, nested as in the model."""

CrossEntropies = Callable[[Weights, Batch], mx.array]
"""Returns the cross entropies at the N targets of a batch, float32 [N]."""

# Size of the logits of a chunk: 32 targets with a vocabulary of 128k. Smaller chunks would spend more time reading the
# output head's weights, which each chunk reads again, than multiplying by them.
CHUNK_BYTES = 16 * 2**20

# Number of logits that the reference loss sums at once.
REFERENCE_BLOCK = 128


def weighted_sum(losses: mx.array, batch: Batch) -> mx.array:
    """Return the weighted sum of the cross entropies of a batch's targets.

    Args:
        losses: The cross entropies, float32 [N].
        batch: The batch.
    """
    return (losses * mx.array(batch.target_weights)).sum()


def split_cross_entropies(network: SplitModel, get_activations: Callable[[Batch], mx.array] | None) -> CrossEntropies:
    """Return the cross entropies of a model run in parts.

    Call the function inside `network.patched()`, and compute gradients inside `network.use_layout(layout_of(batch))`.

    Args:
        network: The model.
        get_activations: Returns the outputs of the frozen layers for a batch, [B, T, D]; None computes these layers
            too.

    Returns:
        The function.
    """

    def losses(weights: Weights, batch: Batch) -> mx.array:
        activations = None if get_activations is None else get_activations(batch)
        dtype = (network.frozen_activations(layout_of(batch)) if activations is None else activations).dtype
        network.model.update(_cast(weights, dtype))
        hidden = network.hidden_at_targets(mx.array(batch.inputs), activations, batch.target_positions)
        return cross_entropies(network.logits, hidden, mx.array(batch.targets))

    return losses


def reference_cross_entropies(model: nn.Module) -> CrossEntropies:
    """Return the same function for padded batches, computed as in mlx-lm: all layers, all logits.

    Only the cross entropy is not mlx-lm's function, whose float32 sum over the vocabulary loses digits on a CPU: with
    49,152 tokens the gradients of a real model differed from float64 by 6e-4, and by 5e-6 with `_cross_entropies`.

    Args:
        model: The model of mlx-lm, with an adapter.

    Returns:
        The function.
    """

    def losses(weights: Weights, batch: Batch) -> mx.array:
        model.update(weights)
        logits = model(mx.array(batch.inputs)).astype(mx.float32)
        target_logits = logits.reshape(-1, logits.shape[-1])[mx.array(batch.target_positions)]
        return _cross_entropies(target_logits, mx.array(batch.targets))

    return losses


def layout_of(batch: Batch) -> BatchLayout:
    """Return the layout of a batch for `SplitModel`.

    Args:
        batch: The batch.
    """
    return BatchLayout(mx.array(batch.inputs), batch.segments)


def cross_entropies(logits: Callable[[mx.array], mx.array], hidden: mx.array, targets: mx.array) -> mx.array:
    """Compute the cross entropies at N targets, chunk by chunk.

    Args:
        logits: Maps hidden states [1, n, D] to logits [1, n, V], position by position, without trainable parameters.
        hidden: Hidden states after the final norm, [1, N, D].
        targets: Target tokens, int [N].

    Returns:
        The cross entropies in nats, float32 [N].
    """
    # Only the shape is used, so nothing is computed.
    chunk_size = max(16, CHUNK_BYTES // (4 * logits(hidden[:, :1]).shape[-1]))

    def chunk_loss(hidden: mx.array, targets: mx.array) -> tuple[mx.array, mx.array]:
        chunk_logits = logits(hidden).squeeze(0).astype(mx.float32)
        losses, gradient = _losses_and_gradient(chunk_logits, targets)
        # The gradient of this product with respect to the logits is `gradient`; its value is never computed.
        return (chunk_logits * mx.stop_gradient(gradient)).sum(), losses

    @mx.custom_function
    def at_targets(hidden: mx.array) -> tuple[mx.array, mx.array]:
        losses: list[mx.array] = []
        gradients: list[mx.array] = []
        for start in range(0, hidden.shape[1], chunk_size):
            chunk = slice(start, start + chunk_size)
            chunk_hidden = hidden[:, chunk]
            if gradients:
                # Make MLX compute one chunk after the other; in parallel, all of them would be in memory.
                chunk_hidden = mx.depends(chunk_hidden, [gradients[-1], losses[-1]])
            (_, target_losses), gradient = mx.value_and_grad(chunk_loss)(chunk_hidden, targets[chunk])
            losses.append(target_losses)
            gradients.append(gradient)
        return mx.concatenate(losses), mx.concatenate(gradients, axis=1)

    @at_targets.vjp
    def at_targets_vjp(primals: object, cotangents: Any, outputs: Any) -> mx.array:
        # Scaled here, because the hidden states are narrower than the logits.
        gradient: mx.array = (cotangents[0][:, None] * outputs[1]).astype(outputs[1].dtype)
        return gradient

    outputs: Any = at_targets(hidden)
    losses: mx.array = outputs[0]
    return losses


def _cross_entropies(logits: mx.array, targets: mx.array) -> mx.array:
    """Return the cross entropies [n] of float32 logits [n, V], summing the vocabulary in blocks; differentiable."""
    padding = -logits.shape[-1] % REFERENCE_BLOCK
    padded = mx.pad(logits, [(0, 0), (0, padding)], constant_values=-math.inf) if padding else logits
    log_sums = mx.logsumexp(mx.logsumexp(padded.reshape(len(targets), -1, REFERENCE_BLOCK), axis=-1), axis=-1)
    return log_sums - mx.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]


def _losses_and_gradient(logits: mx.array, targets: mx.array) -> tuple[mx.array, mx.array]:
    """Return the cross entropies [n] of float32 logits [n, V], and the gradient of their sum.

    The gradient with respect to the logits is the softmax, minus 1 at the target.
    """
    target_columns = targets[:, None]
    probabilities, log_sum = softmax(logits)
    losses = log_sum - mx.take_along_axis(logits, target_columns, axis=-1)[:, 0]
    at_target = mx.take_along_axis(probabilities, target_columns, axis=-1)
    return losses, mx.put_along_axis(probabilities, target_columns, at_target - 1, axis=-1)


def _cast(weights: Weights, dtype: mx.Dtype) -> Weights:
    """Cast the weights to the model's dtype, except DoRA's magnitudes `m`, which are applied to float32 norms."""
    cast: Weights = tree_map_with_path(
        lambda path, weight: weight if path.endswith(".m") else weight.astype(dtype), weights
    )
    return cast
