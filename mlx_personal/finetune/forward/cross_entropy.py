"""Cross entropy at the target positions alone, chunk by chunk, so that the whole batch's logits never exist.

A vocabulary of 128k and 2,000 targets are 1 GB of float32 logits, and as much again for each step of the gradient. The
projection is frozen, so each chunk's gradient is taken at once, while its logits are there: nothing is computed twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from mlx_personal.runtime.cpu_exp import softmax

# Bytes of one chunk's logits: 32 rows of a vocabulary of 128k. With fewer, reading the projection's weights, which each
# chunk does anew, would take longer than multiplying by them.
CHUNK_BYTES = 16 * 2**20


def summed_cross_entropy(
    logits: Callable[[mx.array], mx.array], hidden: mx.array, targets: mx.array, weights: mx.array
) -> mx.array:
    """Weighted sum of the cross entropies at N targets, in float32.

    Args:
        logits: from [1, n, D] to [1, n, V], each place alone; without trainable parameters.
        hidden: [1, N, D].
        targets: int [N].
        weights: float32 [N], how much each counts.
    """
    # The shape alone: nothing is computed.
    chunk = max(16, CHUNK_BYTES // (4 * logits(hidden[:, :1]).shape[-1]))

    def chunk_loss(hidden: mx.array, targets: mx.array) -> tuple[mx.array, mx.array]:
        projected = logits(hidden).squeeze(0).astype(mx.float32)
        losses, slope = _losses_and_slope(projected, targets)
        # Its gradient by `projected` is the slope; the sum itself is never computed.
        return (projected * mx.stop_gradient(slope)).sum(), losses

    @mx.custom_function
    def total(hidden: mx.array) -> tuple[mx.array, mx.array]:
        losses: list[mx.array] = []
        slopes: list[mx.array] = []
        for start in range(0, hidden.shape[1], chunk):
            part = slice(start, start + chunk)
            own = hidden[:, part]
            if slopes:
                # One chunk after the other: MLX would compute them side by side, and hold them all.
                own = mx.depends(own, [slopes[-1], losses[-1]])
            (_, of_targets), slope = mx.value_and_grad(chunk_loss)(own, targets[part])
            losses.append((of_targets * weights[part]).sum())
            # A place's gradient is as much larger as its loss: this is narrower than the logits' would be.
            slopes.append((slope * weights[part, None]).astype(slope.dtype))
        return mx.stack(losses).sum(), mx.concatenate(slopes, axis=1)

    @total.vjp
    def total_vjp(primals: object, cotangents: Any, outputs: Any) -> mx.array:
        slope: mx.array = (cotangents[0] * outputs[1]).astype(outputs[1].dtype)
        return slope

    found: Any = total(hidden)
    loss: mx.array = found[0]
    return loss


def _losses_and_slope(logits: mx.array, targets: mx.array) -> tuple[mx.array, mx.array]:
    """Cross entropies [n] of float32 logits [n, V], and their sum's gradient by them: softmax, less 1 at the target."""
    places = targets[:, None]
    shares, log_sum = softmax(logits)
    losses = log_sum - mx.take_along_axis(logits, places, axis=-1)[:, 0]
    at_target = mx.take_along_axis(shares, places, axis=-1)
    return losses, mx.put_along_axis(shares, places, at_target - 1, axis=-1)
