"""Run kernels that are made by `mx.fast.metal_kernel` on the host machine, inside `on_host()`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import mlx.core as mx

from . import compiler, machine
from .launch import array_of, captured


@contextlib.contextmanager
def on_host(
    *, orders: int = 2, seed: int = 1, time_limit: float = 20.0, flush_denormals: bool = True
) -> Iterator[None]:
    """Replace `mx.fast.metal_kernel` inside the `with` block; its kernels are executed at once on concrete arrays.

    Args:
        orders: Number of orders of the threads in which every launch runs, the natural one first; all of them must give
            the same bits.
        seed: Random seed of the other orders.
        time_limit: Seconds of processor time that a launch may take.
        flush_denormals: Treat denormal float32 numbers as zeros, as Metal allows a GPU to do.

    Yields:
        Nothing.
    """
    reason = compiler.why_not()
    if reason is not None:
        raise RuntimeError(reason)
    make_kernel: Any = mx.fast.metal_kernel
    seeds = [0, *range(seed, seed + orders - 1)]

    def metal_kernel(*args: Any, **kwargs: Any) -> Callable[..., list[mx.array]]:
        kernel = make_kernel(*args, **kwargs)

        def call(*, inputs: list[Any], verbose: bool = False, stream: Any = None, **arguments: Any) -> list[mx.array]:
            arrays = [x if isinstance(x, mx.array) else mx.array(x) for x in inputs]
            launch = captured(kernel, arrays, arguments)
            if verbose:
                print(launch.text)
            contents = machine.run(launch, seeds, time_limit, flush_denormals)
            results = zip(contents, launch.output_shapes, launch.output_dtypes, strict=True)
            return [array_of(*result) for result in results]

        return call

    with mock.patch.object(mx.fast, "metal_kernel", metal_kernel):
        yield
