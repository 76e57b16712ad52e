"""The exponential function on a CPU, and the activation of most language models: ten times as fast as MLX's own there.

MLX's CPU wheel computes exp number by number, at some 15 ns each, which in a small model takes longer than the matrix
products. Here it is a polynomial in operations that a processor does many at a time, after Cody and Waite: for
x = k ln 2 + r, exp x = 2^k exp r. The largest relative error is 8e-8, a tenth of MLX's. float32 on a CPU only: a GPU's
own functions are fast.
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

# Adding this rounds a float32 to a whole number, which then stands in its lowest bits.
_MAGIC = 1.5 * 2.0**23
# ln 2 in two parts: the first has so few digits that its products with whole numbers are exact.
_LN2_HIGH, _LN2_LOW = 0.693359375, math.log(2) - 0.693359375
# Of a minimax polynomial for (exp r - 1 - r) / r^2 on [-ln 2 / 2, ln 2 / 2], the highest power first.
_POLYNOMIAL = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
# Beyond these, exp is no normal float32 any more.
_LOWEST, _HIGHEST = -87.0, 88.0


def _exp(x: mx.array) -> mx.array:
    x = mx.minimum(mx.maximum(x, _LOWEST), _HIGHEST)
    rounded = x * (1 / math.log(2)) + _MAGIC
    whole = rounded - _MAGIC
    rest = x - whole * _LN2_HIGH - whole * _LN2_LOW
    value: Any = _POLYNOMIAL[0]
    for coefficient in _POLYNOMIAL[1:]:
        value = value * rest + coefficient
    value = value * (rest * rest) + rest + 1.0
    exponent = mx.left_shift(mx.view(rounded, mx.int32), 23)
    return mx.view(mx.view(value, mx.int32) + exponent, mx.float32)


exp = mx.compile(_exp)
"""exp of float32 numbers, which are taken as at least -87 and at most 88; NaN stays NaN. Not differentiable."""

# A power this far below the largest is taken as 0. No float32 sum tells, but divided by that sum it may become so small
# a number that each product with it takes a processor fifty times as long, as with all that an attention mask hides.
_LEAST_SHARE = -80.0


@mx.compile
def _exp_of_difference(x: mx.array, most: mx.array) -> mx.array:
    difference = x - most
    return mx.where(difference < _LEAST_SHARE, 0.0, _exp(difference))


def softmax(x: mx.array) -> tuple[mx.array, mx.array]:
    """Softmax of x [..., n] over its last axis, and the logarithm of the sum of its exponentials [...].

    Not to be differentiated.
    """
    if x.dtype != mx.float32 or device_name() != "cpu":
        return mx.softmax(x, axis=-1), mx.logsumexp(x, axis=-1)
    most = x.max(axis=-1, keepdims=True)
    powers: Any = _exp_of_difference(x, most)
    # A product, since MLX's own float32 sums on a CPU lose two digits over a vocabulary.
    sums = powers @ mx.ones((x.shape[-1], 1))
    return powers / sums, (most + mx.log(sums))[..., 0]


# One result each: a compiler does not make use of wide registers where it has to expect that two overlap.
@mx.compile
def _sigmoid(x: mx.array) -> mx.array:
    return 1.0 / (1.0 + _exp(-x))


@mx.compile
def _product(gate: mx.array, x: mx.array, share: mx.array) -> mx.array:
    return gate * x * share


@mx.compile
def _gate_slope(gate: mx.array, x: mx.array, share: mx.array, slope: mx.array) -> mx.array:
    return slope * x * share * (1.0 + gate * (1.0 - share))


@mx.custom_function
def _swiglu(gate: mx.array, x: mx.array) -> tuple[mx.array, mx.array]:
    share: Any = _sigmoid(gate)
    return _product(gate, x, share), share


@_swiglu.vjp
def _swiglu_vjp(primals: Any, slopes: Any, outputs: Any) -> tuple[mx.array, mx.array]:
    (gate, x), slope, share = primals, slopes[0], outputs[1]
    return _gate_slope(gate, x, share, slope), _product(gate, slope, share)


def swiglu(gate: mx.array, x: mx.array) -> mx.array:
    """`silu(gate) * x`, as mlx-lm's function of this name."""
    if gate.dtype == x.dtype == mx.float32:
        found: Any = _swiglu(gate, x)
        product: mx.array = found[0]
        return product
    return nn.silu(gate) * x


@contextlib.contextmanager
def fast_activations(model: nn.Module) -> Iterator[None]:
    """Inside, the model's own file uses the function above where it uses mlx-lm's; on a GPU nothing changes."""
    file: Any = sys.modules[type(model).__module__]
    original = getattr(file, "swiglu", None)
    if original is None or device_name() != "cpu":
        yield
        return
    file.swiglu = swiglu
    try:
        yield
    finally:
        file.swiglu = original
