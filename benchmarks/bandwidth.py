"""Measure which share of a GPU's memory bandwidth the kernels reach, and how much temporary memory they use."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx

from benchmarks.scoring_baselines import ScoringProblem
from benchmarks.timing import Effort, time_in_turn
from mlx_personal.kernels import in_domain_distance, nearest, spectral_entropy
from mlx_personal.reporting import markdown_table

# Larger than the cache of any GPU, so that the bandwidth of the memory decides.
LARGE_BYTES = 256 << 20
MIN_SHARE = 0.8
MAX_TEMPORARY_BYTES = 1 << 20

Size = tuple[int, int, int]
Call = Callable[[], Sequence[mx.array]]


@dataclass(frozen=True)
class KernelCall:
    """A kernel with its input.

    Attributes:
        kernel: Name of the kernel.
        size: Size of the input, as text.
        inputs: The input.
        call: Calls the kernel.
    """

    kernel: str
    size: str
    inputs: Sequence[mx.array]
    call: Call

    @property
    def largest_input(self) -> mx.array:
        """The largest array of the input."""
        return max(self.inputs, key=lambda array: array.nbytes)


def bandwidth_section(distance_sizes: Iterable[Size], entropy_shapes: Iterable[Size], effort: Effort) -> str:
    """Return the report's section: each kernel is compared with a copy of its input, which reads and writes as much.

    Args:
        distance_sizes: Sizes (R, D, queries) of the distances.
        entropy_shapes: Shapes (B, T, D) of the entropies.
        effort: How long to measure.
    """
    lines, shares, temporaries = [], [], []
    for kernel_call in itertools.chain(distance_calls(distance_sizes), entropy_calls(entropy_shapes)):
        bytes_per_s, share = measure_bandwidth(kernel_call, effort)
        temporaries.append(temporary_bytes(kernel_call.call))
        gigabytes, percent, kib = f"{bytes_per_s / 1e9:.1f}", f"{100 * share:.0f} %", f"{temporaries[-1] / 1024:.0f}"
        lines.append([kernel_call.kernel, kernel_call.size, gigabytes, percent, kib])
        if kernel_call.largest_input.nbytes >= LARGE_BYTES and kernel_call.kernel != "spectral_entropy":
            shares.append(share)
        mx.clear_cache()
    limit_kib = MAX_TEMPORARY_BYTES // 1024
    notes = [f"The largest temporary memory is {max(temporaries) / 1024:.0f} KiB (target {limit_kib})."]
    if shares:
        notes.append(
            f"For banks of at least {LARGE_BYTES >> 20} MiB the lowest share is {100 * min(shares):.0f} % "
            f"(target {100 * MIN_SHARE:.0f} %)."
        )
    columns = ["", "sizes", "GB/s", "of a copy's", "temporary KiB"]
    return (
        f"## Bandwidth and memory\n\n{markdown_table(columns, lines)}\n{' '.join(notes)} Bytes are those of inputs and "
        "outputs, counted once; all rows are of one domain, so all are read. The copy is a negation, because MLX "
        "shares memory instead of copying. Temporary memory is the peak beyond inputs and outputs.\n"
    )


def measure_bandwidth(kernel_call: KernelCall, effort: Effort) -> tuple[float, float]:
    """Return the bytes per second of a call, and their share of those of a copy of its largest input."""
    copied = kernel_call.largest_input
    methods = {"call": lambda: mx.eval(kernel_call.call()), "copy": lambda: mx.eval(-copied)}
    timings = time_in_turn(methods, effort)
    num_bytes = sum(array.nbytes for array in (*kernel_call.inputs, *kernel_call.call()))
    bytes_per_s = num_bytes / timings.median("call")
    return bytes_per_s, bytes_per_s / (2 * copied.nbytes / timings.median("copy"))


def distance_calls(sizes: Iterable[Size]) -> Iterator[KernelCall]:
    """Yield both distances at each size."""
    for rows, dim, num_queries in sizes:
        arrays = ScoringProblem(rows, dim, num_queries, domains=1).arrays
        vectors = (arrays[0], arrays[2])
        size = f"R {rows}, D {dim}, {num_queries} queries"
        call = functools.partial(in_domain_distance, *arrays)
        yield KernelCall("in_domain_distance", size, arrays, call)
        yield KernelCall("nearest", size, vectors, functools.partial(nearest, *vectors))


def entropy_calls(shapes: Iterable[Size]) -> Iterator[KernelCall]:
    """Yield the entropy at each shape."""
    for shape in shapes:
        inputs = (mx.random.normal(shape), mx.full(shape[0], shape[1], mx.int32))
        mx.eval(inputs)
        size = f"B {shape[0]}, T {shape[1]}, D {shape[2]}"
        yield KernelCall("spectral_entropy", size, inputs, functools.partial(_call_entropy, *inputs))


def _call_entropy(states: mx.array, lengths: mx.array) -> tuple[mx.array]:
    return (spectral_entropy(states, lengths),)


def temporary_bytes(call: Call) -> int:
    """Return the peak memory of a call beyond what MLX held before and the result."""
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    results = call()
    mx.eval(results)
    return max(0, mx.get_peak_memory() - before - sum(array.nbytes for array in results))
