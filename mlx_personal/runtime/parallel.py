"""Compute independent batches on all idle processors of a CPU, one batch on each.

On a CPU, MLX computes all operations but matrix products on one processor, and the threads of OpenBLAS wait for each
other at every product. Batches that do not depend on each other are better computed side by side, with one BLAS thread
each: nothing waits, and the bits of the results do not depend on the number of processors. MLX gives every Python
thread a stream of its own, which computes without Python's global lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from mlx_personal.runtime import blas_threads
from mlx_personal.runtime.device import device_name

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_on_idle_processors(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Yield the function's result for each item, in order.

    On a GPU, or with one item or processor, the items are computed one by one in this thread.

    Args:
        function: Called in several threads at once. It must evaluate what it returns, read only arrays that have been
            evaluated, and change no module.
        items: The items.
    """
    workers = min(blas_threads.idle_processors(), len(items)) if device_name() == "cpu" else 1
    if workers <= 1:
        yield from map(function, items)
        return
    with blas_threads.one_thread(), ThreadPoolExecutor(workers, "mlx-personal") as pool:
        yield from pool.map(function, items)
