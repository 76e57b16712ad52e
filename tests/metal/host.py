"""`on_host()`: inside it, kernels made by `mx.fast.metal_kernel` run on the strict machine."""

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
    """Replaces `mx.fast.metal_kernel`, so that what is made with it inside runs here, now, on concrete arrays.

    Every launch runs in `orders` orders of its threads, the natural one first and the others drawn from `seed`, and
    must give the same bits in all of them. One that takes more than `time_limit` seconds of processor time has hung.
    With `flush_denormals`, float32 numbers too small to be normal are zeros, as Metal lets a GPU have them.
    """
    reason = compiler.why_not()
    if reason is not None:
        raise RuntimeError(reason)
    make_kernel = mx.fast.metal_kernel
    seeds = [0, *range(seed, seed + orders - 1)]

    def metal_kernel(*args: Any, **keywords: Any) -> Callable[..., list[mx.array]]:
        kernel = make_kernel(*args, **keywords)

        def call(*, inputs: list, verbose: bool = False, stream: Any = None, **arguments: Any) -> list[mx.array]:
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
