"""Exponential, softmax and SwiGLU for CPUs, ten times as fast as MLX's own functions.

MLX's CPU wheel computes exp one number at a time, in about 15 ns each, which takes longer than the matrix products of a
small model. Here exp is a polynomial of vectorized operations, with the range reduction of Cody and Waite: for x = k ln
2 + r, exp x = 2^k exp r. The largest relative error is 8e-8, a tenth of MLX's. These functions are for float32 on a CPU
only, since a GPU's own functions are fast.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_personal.runtime.device import device_name

# Adding this rounds a float32 to an integer, which is then stored in its lowest bits.
_ROUNDING_SHIFT = 1.5 * 2.0**23
# ln 2 in two parts: the first has so few digits that its products with integers are exact.
_LN2_HIGH, _LN2_LOW = 0.693359375, math.log(2) - 0.693359375
# Minimax polynomial for (exp r - 1 - r) / r^2 on [-ln 2 / 2, ln 2 / 2], the highest power first.
_POLYNOMIAL = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
# Beyond these limits exp is not a normal float32.
_LOWEST, _HIGHEST = -87.0, 88.0


def _exp(x: mx.array) -> mx.array:
    x = mx.minimum(mx.maximum(x, _LOWEST), _HIGHEST)
    shifted = x * (1 / math.log(2)) + _ROUNDING_SHIFT
    k = shifted - _ROUNDING_SHIFT
    r = x - k * _LN2_HIGH - k * _LN2_LOW
    value: Any = _POLYNOMIAL[0]
    for coefficient in _POLYNOMIAL[1:]:
        value = value * r + coefficient
    value = value * (r * r) + r + 1.0
    exponent = mx.left_shift(mx.view(shifted, mx.int32), 23)
    return mx.view(mx.view(value, mx.int32) + exponent, mx.float32)


exp = mx.compile(_exp)
"""Return exp of float32 numbers clamped to [-87, 88]; NaN stays NaN. Not differentiable."""

# Longer rows are summed in two steps, first in blocks. If one number is much larger than all others, as the most likely
# token's is, each small number that is added to it loses its last digits: the gradients of a model with 49,152 tokens
# had a relative error of 5e-5, and of 4e-6 with blocks.
_LONGEST_SIMPLE_SUM = 4096
_BLOCK = 128

# Logits this far below the largest have the probability 0, which changes no float32 sum. Otherwise their probabilities,
# such as those of all masked tokens, would be denormal numbers, whose products take fifty times as long.
_LOWEST_DIFFERENCE = -80.0


@mx.compile
def _exp_of_difference(x: mx.array, largest: mx.array) -> mx.array:
    difference = x - largest
    return mx.where(difference < _LOWEST_DIFFERENCE, 0.0, _exp(difference))


def softmax(x: mx.array) -> tuple[mx.array, mx.array]:
    """Compute softmax and log-sum-exp over the last axis. Not differentiable.

    Args:
        x: Array of shape [..., n].

    Returns:
        The probabilities [..., n] and the logarithms of the sums of exponentials [...].
    """
    if x.dtype != mx.float32 or device_name() != "cpu":
        return mx.softmax(x, axis=-1), mx.logsumexp(x, axis=-1)
    largest = x.max(axis=-1, keepdims=True)
    exponentials: Any = _exp_of_difference(x, largest)
    sums = _row_sums(exponentials)
    return exponentials / sums, (largest + mx.log(sums))[..., 0]


def _row_sums(x: mx.array) -> mx.array:
    """Sum [..., n] to [..., 1] by products, since MLX's own float32 sums on a CPU lose two digits over a vocabulary."""
    if x.shape[-1] > _LONGEST_SIMPLE_SUM:
        padding = -x.shape[-1] % _BLOCK
        padded = mx.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, padding)]) if padding else x
        x = (padded.reshape(-1, _BLOCK) @ mx.ones((_BLOCK, 1))).reshape(*x.shape[:-1], -1)
    return x @ mx.ones((x.shape[-1], 1))


# Each compiled function has one result, because the compiler does not vectorize if two outputs might overlap.
@mx.compile
def _sigmoid(x: mx.array) -> mx.array:
    return 1.0 / (1.0 + _exp(-x))


@mx.compile
def _product(gate: mx.array, x: mx.array, sigmoid: mx.array) -> mx.array:
    return gate * x * sigmoid


@mx.compile
def _gate_gradient(gate: mx.array, x: mx.array, sigmoid: mx.array, cotangent: mx.array) -> mx.array:
    return cotangent * x * sigmoid * (1.0 + gate * (1.0 - sigmoid))


@mx.custom_function
def _swiglu(gate: mx.array, x: mx.array) -> tuple[mx.array, mx.array]:
    sigmoid: Any = _sigmoid(gate)
    return _product(gate, x, sigmoid), sigmoid


@_swiglu.vjp
def _swiglu_vjp(primals: Any, cotangents: Any, outputs: Any) -> tuple[mx.array, mx.array]:
    (gate, x), cotangent, sigmoid = primals, cotangents[0], outputs[1]
    return _gate_gradient(gate, x, sigmoid, cotangent), _product(gate, cotangent, sigmoid)


def swiglu(gate: mx.array, x: mx.array) -> mx.array:
    """Return `silu(gate) * x`, as mlx-lm's function of this name.

    Args:
        gate: Gate projection, any shape.
        x: Up projection, of the same shape.
    """
    if gate.dtype == x.dtype == mx.float32:
        outputs: Any = _swiglu(gate, x)
        product: mx.array = outputs[0]
        return product
    return nn.silu(gate) * x


@contextlib.contextmanager
def fast_activations(model: nn.Module) -> Iterator[None]:
    """Replace mlx-lm's `swiglu` by this module's inside the `with` block; on a CPU only.

    Args:
        model: A model of mlx-lm.
    """
    module: Any = sys.modules[type(model).__module__]
    original = getattr(module, "swiglu", None)
    if original is None or device_name() != "cpu":
        yield
        return
    module.swiglu = swiglu
    try:
        yield
    finally:
        module.swiglu = original
