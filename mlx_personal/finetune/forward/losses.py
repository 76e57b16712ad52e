"""The loss of a batch and its gradient by the adapter's weights: the fast way, and mlx-lm's plain one beside it.

The adapter's own weights are float32 and stay so: a step of 1e-4 would vanish in bfloat16. They are used in the kind of
number the model computes with, else every product with them would lift its activations to float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map_with_path

from mlx_personal.finetune.data.batching import Batch
from mlx_personal.finetune.forward.cross_entropy import summed_cross_entropy
from mlx_personal.finetune.forward.split_model import BatchLayout, SplitModel

Weights = dict[str, Any]
"""The adapter's float32 weights, nested as in the model."""

Loss = Callable[[Weights, Batch], mx.array]


def split_loss(network: SplitModel, states_of: Callable[[Batch], mx.array] | None) -> Loss:
    """The weighted sum of the cross entropies at a batch's targets, from `states_of` the batch on.

    None instead of `states_of` computes all blocks.

    `network` must be opened, and the batch's `layout_of` be set with `network.rows` around the gradient.
    """

    def loss(weights: Weights, batch: Batch) -> mx.array:
        states = None if states_of is None else states_of(batch)
        kind = (network.frozen_activations(layout_of(batch)) if states is None else states).dtype
        network.model.update(_used_as(weights, kind))
        hidden = network.hidden_at_targets(mx.array(batch.inputs), states, batch.target_positions)
        return summed_cross_entropy(network.logits, hidden, mx.array(batch.targets), mx.array(batch.weights))

    return loss


def reference_loss(model: nn.Module) -> Loss:
    """The same of a padded batch, as mlx-lm computes it: all blocks, all logits."""

    def loss(weights: Weights, batch: Batch) -> mx.array:
        model.update(weights)
        logits = model(mx.array(batch.inputs)).astype(mx.float32)
        at_places = logits.reshape(-1, logits.shape[-1])[mx.array(batch.target_positions)]
        return (nn.losses.cross_entropy(at_places, mx.array(batch.targets)) * mx.array(batch.weights)).sum()

    return loss


def layout_of(batch: Batch) -> BatchLayout:
    """Where the rows of a batch lie."""
    return BatchLayout(mx.array(batch.inputs), batch.segments)


def _used_as(weights: Weights, dtype: mx.Dtype) -> Weights:
    """The weights as the model uses them; DoRA's magnitudes `m` are applied to float32 norms and stay."""
    used: Weights = tree_map_with_path(
        lambda path, weight: weight if path.endswith(".m") else weight.astype(dtype), weights
    )
    return used
