"""Estimate the memory of the forward and backward pass of a micro-batch, layer by layer.

The formulas count the arrays that MLX saves for the backward pass, which the comments on the coefficients list. Each
coefficient is a number of values per token and unit of width, unless its comment says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlx_personal.finetune.config import LoRAConfig
from mlx_personal.finetune.forward.losses import CHUNK_BYTES, REFERENCE_BLOCK
from mlx_personal.finetune.forward.packed_attention import length_buckets
from mlx_personal.finetune.planning.model_spec import LayerSpec, ModelSpec
from mlx_personal.runtime.device import device_name

# Values per token and layer that are saved for the backward pass. They were counted in the code, and checked by
# evaluating the loss alone and reading `mx.get_active_memory`: 1 to 6 % too few over 68 tiny Llamas with and without
# dropout and DoRA, because of the adapter's own small arrays.
# Each of the first two norms saves its input and its output, each further one only one of them.
_NORM, _FURTHER_NORM = 2, 1
# The MLP: the gate, its sigmoid, their product, the other factor, and the product of both; more for the polynomial and
# the tanh of GELU; without a gate the input, the activation and the output.
_GATED_SILU, _GATED_GELU, _GELU, _UNGATED = 5, 7, 5, 3
# Scaled queries; keys and values; the output of attention.
_QUERIES, _KEYS, _ATTENTION_OUTPUT = 1, 2, 1
# On a CPU this package's functions also save the output of attention, and do not save the product of gate and sigmoid.
_CPU_QUERIES, _CPU_GATED_SILU = 2, 4
# Per head and pair of tokens: the softmax; if scores are capped (Gemma 2), also each step before it.
_SCORES, _CAPPED_SCORES = 1, 8
# Number of linear layers whose input is the layer's normalized input: those of queries, keys and values.
_FROM_INPUT = 3
# For a layer of an unknown family, as a multiple of the inputs and outputs of its linear layers. Measured on a small
# Mamba.
_UNKNOWN_LAYER = 6

# In addition, memory contains what MLX computes ahead: ten operations on a CPU. This was measured on a CPU with tiny
# Llamas of different sizes, as multiples of arrays of the MLP's width, the hidden size, the attention scores and the
# queries.
# In the backward pass of one layer, at its peak in the MLP, or in attention after the arrays saved for the MLP have
# been freed: over 90 measurements, all within 21 %.
_BACKWARD_MLP, _BACKWARD_HIDDEN = 4.4, 12.5
_BACKWARD_SCORES, _BACKWARD_QUERIES = 7.8, 3
# mlx-lm's own attention in the equivalence check, over 125 measurements; together with the logits below, one in 20 is
# off by more than 15 %.
_REFERENCE_BACKWARD_SCORES = 5.5
# In addition where a checkpointed layer is recomputed; over 36 measurements, most within 20 %.
_RECOMPUTED_SCORES = 1.2
# In a forward pass without a gradient; over 61 measurements, most within 20 %.
_FORWARD_MLP, _FORWARD_SCORES, _FORWARD_QUERIES = 6.4, 5.9, 5.1

# Number of arrays of the size of a chunk's logits, of this chunk and of the next: on a CPU, where the exponential takes
# many operations, over 13 sizes, within 12 %; and with a fused exponential, as on a GPU.
_HEAD_LOGITS, _HEAD_NEXT_LOGITS = 11, 4
_HEAD_LOGITS_FUSED, _HEAD_NEXT_LOGITS_FUSED = 5, 8
# Number of arrays of the hidden size per target: input and output of the final norm, and the gradient. Counted.
_HEAD_HIDDEN = 3
# Number of arrays of full logits in the reference loss: per token, per target, and per target if the vocabulary has to
# be padded to whole blocks; over 24 measurements, all within 10 %.
_REFERENCE_LOGITS, _REFERENCE_TARGET_LOGITS, _PADDED_TARGET_LOGITS = 2.0, 3.2, 1.0


@dataclass(frozen=True)
class MicroBatchSize:
    """The size of samples that are computed at once.

    Attributes:
        tokens: Number of tokens of all samples, without padding if they are packed.
        attention_tokens: Number of tokens of the attention's length buckets, including padding.
        scores: Number of attention scores per head: pairs of tokens in the buckets.
        largest_scores: Number of attention scores per head of the largest bucket.
        targets: Number of target tokens.
    """

    tokens: int
    attention_tokens: int
    scores: int
    largest_scores: int
    targets: int

    @classmethod
    def packed(cls, lengths: Sequence[int], targets: Sequence[int]) -> MicroBatchSize:
        """Return the size of packed samples.

        Args:
            lengths: Number of tokens of each sample.
            targets: Number of target tokens of each sample.
        """
        buckets = [(len(bucket), lengths[bucket[0]]) for bucket in length_buckets(lengths)]
        attention_tokens = sum(count * longest for count, longest in buckets)
        scores = [count * longest**2 for count, longest in buckets]
        return cls(sum(lengths), attention_tokens, sum(scores), max(scores), sum(targets))

    @classmethod
    def padded(cls, lengths: Sequence[int], targets: Sequence[int]) -> MicroBatchSize:
        """Return the size of padded samples.

        Args:
            lengths: Number of tokens of each sample.
            targets: Number of target tokens of each sample.
        """
        tokens = len(lengths) * max(lengths)
        scores = tokens * max(lengths)
        return cls(tokens, tokens, scores, scores, sum(targets))


def gradient_bytes(
    spec: ModelSpec,
    trained: Sequence[LayerSpec],
    size: MicroBatchSize,
    config: LoRAConfig,
    checkpointing: bool,
    *,
    reference: bool = False,
) -> int:
    """Return the memory of a micro-batch's loss and gradient, without weights.

    Args:
        spec: The model.
        trained: Its trained layers.
        size: The micro-batch.
        config: The settings.
        checkpointing: Whether layers are recomputed in the backward pass.
        reference: Whether they are computed by mlx-lm's own forward pass with all logits, as in the equivalence check
            and in plain mode.
    """
    head = reference_head_bytes(spec, size) if reference else head_bytes(spec, size)
    saved = [_saved_bytes(spec, layer, size, config, reference=reference) for layer in trained]
    hidden = spec.dtype_bytes * spec.hidden_size * size.tokens
    if not checkpointing:
        # There is no gradient below the first layer, so neither its input nor the masked inputs of its first linear
        # layers are saved.
        not_saved = hidden * (1 + (_FROM_INPUT if config.dropout else 0))
        backward = (_backward_bytes(spec, layer, size, reference=reference) for layer in trained)
        return sum(saved) - not_saved + max(head, *backward)
    # On a CPU the dropout masks of all layers are drawn when the graph is built, for both passes.
    masks = [0] * len(trained)
    if config.dropout and device_name() == "cpu":
        masks = [spec.dtype_bytes * _linear_inputs(layer) * size.tokens for layer in trained]
    recomputed = max(
        layer_saved - layer_masks + _backward_bytes(spec, layer, size, reference=reference, recomputed=True)
        for layer_saved, layer_masks, layer in zip(saved, masks, trained, strict=True)
    )
    forward = sum(masks) + forward_bytes(spec, trained[-1], size)
    return len(trained) * hidden + sum(masks) + max(forward, head, recomputed)


def forward_bytes(spec: ModelSpec, layer: LayerSpec, size: MicroBatchSize) -> int:
    """Return the memory of a layer's forward pass without a gradient.

    Args:
        spec: The model.
        layer: The layer.
        size: The micro-batch.
    """
    mlp_width, scores = layer.mlp_width or 4 * spec.hidden_size, spec.heads * size.largest_scores
    attention = _FORWARD_QUERIES * layer.query_width * size.attention_tokens + _FORWARD_SCORES * scores
    return int(spec.dtype_bytes * (_FORWARD_MLP * mlp_width * size.tokens + attention))


def head_bytes(spec: ModelSpec, size: MicroBatchSize) -> int:
    """Return the memory of the final norm, the logits of a chunk, and the gradient of the hidden states.

    Args:
        spec: The model.
        size: The micro-batch.
    """
    chunk = max(16, CHUNK_BYTES // (4 * spec.vocab_size))
    on_cpu = device_name() == "cpu"
    current, following = (_HEAD_LOGITS, _HEAD_NEXT_LOGITS) if on_cpu else (_HEAD_LOGITS_FUSED, _HEAD_NEXT_LOGITS_FUSED)
    next_chunk = min(max(size.targets - chunk, 0), chunk)
    logits = 4 * spec.vocab_size * (current * min(size.targets, chunk) + following * next_chunk)
    return logits + 4 * _HEAD_HIDDEN * spec.hidden_size * size.targets


def reference_head_bytes(spec: ModelSpec, size: MicroBatchSize) -> int:
    """Return the memory of the reference loss's logits, of all tokens and of the targets, and of their gradients.

    Args:
        spec: The model.
        size: The padded micro-batch.
    """
    of_targets = _REFERENCE_TARGET_LOGITS + (_PADDED_TARGET_LOGITS if spec.vocab_size % REFERENCE_BLOCK else 0)
    return int(4 * spec.vocab_size * (_REFERENCE_LOGITS * size.tokens + of_targets * size.targets))


def adapter_parameters(layer: LayerSpec, config: LoRAConfig) -> int:
    """Return the number of adapter parameters of a layer.

    Args:
        layer: The layer.
        config: The settings.
    """
    magnitudes = sum(outputs for _, outputs, _ in layer.linear) if config.use_dora else 0
    return sum(config.rank * (inputs + outputs) * copies for inputs, outputs, copies in layer.linear) + magnitudes


def _saved_bytes(
    spec: ModelSpec, layer: LayerSpec, size: MicroBatchSize, config: LoRAConfig, *, reference: bool
) -> int:
    """Return the memory that a trained layer's forward pass saves for the backward pass.

    `reference` means mlx-lm's own forward pass instead of this package's.
    """
    cpu_ops = not reference and device_name() == "cpu"
    inputs, outputs = _linear_inputs(layer), sum(outputs for _, outputs, _ in layer.linear)
    attention = 0
    per_token = config.rank * len(layer.linear)
    if layer.query_width:
        scores = _CAPPED_SCORES if spec.caps_scores else _SCORES
        queries = (_CPU_QUERIES if cpu_ops else _QUERIES) + layer.has_qk_norm
        per_attention_token = queries * layer.query_width + (_KEYS + layer.has_qk_norm) * layer.key_width
        attention = per_attention_token * size.attention_tokens + scores * spec.heads * size.scores
        per_token += _ATTENTION_OUTPUT * layer.query_width
    else:
        per_token += _UNKNOWN_LAYER * (inputs + outputs)
    per_token += spec.hidden_size * (_NORM * min(layer.norms, 2) + _FURTHER_NORM * max(layer.norms - 2, 0))
    if layer.is_gated:
        per_token += layer.mlp_width * (_GATED_GELU if spec.uses_gelu else _CPU_GATED_SILU if cpu_ops else _GATED_SILU)
    else:
        per_token += layer.mlp_width * (_GELU if spec.uses_gelu else _UNGATED)
    if config.dropout:
        # Each linear layer saves its own masked input and the mask; the common inputs are not saved.
        per_token += 2 * inputs - (2 * spec.hidden_size + layer.mlp_width + layer.query_width)
    if config.use_dora:
        per_token += outputs  # before they are scaled to the learned magnitudes
    return spec.dtype_bytes * (per_token * size.tokens + attention)


def _backward_bytes(
    spec: ModelSpec, layer: LayerSpec, size: MicroBatchSize, *, reference: bool, recomputed: bool = False
) -> int:
    """Return the additional memory of the backward pass of a layer: the peak in its MLP or in its attention."""
    hidden_size, mlp_width = spec.hidden_size, layer.mlp_width or 4 * spec.hidden_size
    mlp = (_BACKWARD_MLP * mlp_width + _BACKWARD_HIDDEN * hidden_size) * size.tokens
    freed = (_GATED_SILU if reference else _CPU_GATED_SILU) * mlp_width + _NORM * hidden_size
    scores = (_REFERENCE_BACKWARD_SCORES if reference else _BACKWARD_SCORES) * spec.heads * size.largest_scores
    attention = _BACKWARD_QUERIES * layer.query_width * size.attention_tokens + scores - freed * size.tokens
    additional = _RECOMPUTED_SCORES * spec.heads * size.largest_scores if recomputed else 0
    return int(spec.dtype_bytes * (max(mlp, attention) + additional))


def _linear_inputs(layer: LayerSpec) -> int:
    return sum(inputs for inputs, _, _ in layer.linear)
