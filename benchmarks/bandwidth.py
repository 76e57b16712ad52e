"""On a GPU: what share of its memory bandwidth the kernels reach, and how much memory they take for themselves."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import mlx.core as mx

from benchmarks.scoring_baselines import Problem
from benchmarks.timing import Effort, in_turn
from mlx_personal.kernels import in_domain_distance, nearest, spectral_entropy
from mlx_personal.reporting import markdown_table

# Beyond any GPU's cache, where the bandwidth of its memory decides.
LARGE = 256 << 20
LEAST_SHARE = 0.8
MOST_TEMPORARY = 1 << 20

Size = tuple[int, int, int]
Call = Callable[[], Sequence[mx.array]]
# What is computed, of which size, from what, and the call.
Measured = tuple[str, str, Sequence[mx.array], Call]


def bandwidth_section(sizes: Iterable[Size], states: Iterable[Size], effort: Effort) -> str:
    """Each kernel beside a copy of its input, which reads it and writes as much; sizes as (R, D, queries)."""
    lines, shares, temporaries = [], [], []
    for what, size, inputs, call in itertools.chain(distance_calls(sizes), entropy_calls(states)):
        speed, share = measure_bandwidth(inputs, call, effort)
        temporaries.append(temporary_bytes(call))
        lines.append([what, size, f"{speed / 1e9:.1f}", f"{100 * share:.0f} %", f"{temporaries[-1] / 1024:.0f}"])
        if largest(inputs).nbytes >= LARGE and what != "spectral_entropy":
            shares.append(share)
        mx.clear_cache()
    notes = [f"The most temporary memory is {max(temporaries) / 1024:.0f} KiB (target {MOST_TEMPORARY // 1024})."]
    if shares:
        notes.append(
            f"Over banks of at least {LARGE >> 20} MiB the least share is {100 * min(shares):.0f} % "
            f"(target {100 * LEAST_SHARE:.0f} %)."
        )
    columns = ["", "sizes", "GB/s", "of a copy's", "temporary KiB"]
    return (
        f"## Bandwidth and memory\n\n{markdown_table(columns, lines)}\n{' '.join(notes)} Bytes are inputs and outputs, each "
        "counted once; all rows are of one domain, so that all are read. A copy is a negation, since MLX shares what "
        "it need not copy. Temporary memory is the peak beyond inputs and outputs.\n"
    )


def measure_bandwidth(inputs: Sequence[mx.array], call: Call, effort: Effort) -> tuple[float, float]:
    """Bytes a second of a call, and what share that is of a copy's of its largest input, measured in turn."""
    copied = largest(inputs)
    timings = in_turn({"call": lambda: mx.eval(call()), "copy": lambda: mx.eval(-copied)}, effort)
    speed = sum(a.nbytes for a in (*inputs, *call())) / timings.median("call")
    return speed, speed / (2 * copied.nbytes / timings.median("copy"))


def largest(arrays: Iterable[mx.array]) -> mx.array:
    return max(arrays, key=lambda a: a.nbytes)


def distance_calls(sizes: Iterable[Size]) -> Iterator[Measured]:
    for rows, dim, count in sizes:
        every = Problem(rows, dim, count, domains=1).arrays
        both = (every[0], every[2])
        size = f"R {rows}, D {dim}, {count} queries"
        yield "in_domain_distance", size, every, functools.partial(in_domain_distance, *every)
        yield "nearest", size, both, functools.partial(nearest, *both)


def entropy_calls(shapes: Iterable[Size]) -> Iterator[Measured]:
    for shape in shapes:
        inputs = (mx.random.normal(shape), mx.full(shape[0], shape[1], mx.int32))
        mx.eval(inputs)
        size = f"B {shape[0]}, T {shape[1]}, D {shape[2]}"
        yield "spectral_entropy", size, inputs, functools.partial(lambda *given: (spectral_entropy(*given),), *inputs)


def temporary_bytes(call: Call) -> int:
    """The most memory that MLX holds during a call, beyond what it held before and what the call returns."""
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    results = call()
    mx.eval(results)
    return max(0, mx.get_peak_memory() - before - sum(a.nbytes for a in results))
