"""Compare the speed of the scoring kernels with NumPy, plain MLX operations and torch, measured in turn.

    python -m benchmarks.scoring [--quick] [--queries 1 8 64] [--memory GIB] [--out FILE.md]

Every method gets the vectors in its own form, on a CPU all in the same memory, and its result is complete when it
returns. Milliseconds are medians; ratios are medians of the ratios within each repeat. On a GPU the bandwidth and the
temporary memory are measured too.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from benchmarks import scoring_baselines
from benchmarks.arguments import positive_int, run_command
from benchmarks.bandwidth import bandwidth_section
from benchmarks.report_file import heading, print_and_write
from benchmarks.scoring_baselines import ScoringProblem, TorchBaseline
from benchmarks.timing import Effort, Timings, time_in_turn
from mlx_personal.kernels import in_domain_distance, nearest, spectral_entropy
from mlx_personal.kernels.in_domain_distance import in_domain_distance_ops
from mlx_personal.kernels.nearest import nearest_ops
from mlx_personal.kernels.spectral_entropy import spectral_entropy_ops
from mlx_personal.reporting import markdown_table
from mlx_personal.runtime import device

NUMPY, OPS, TORCH, OURS = "NumPy", "MLX ops", "torch cos_sim", "ours"
RUNNING_SUM, LOOP, ORDER2 = "running sum", "loop over bins", "order 2"
BASELINES = (NUMPY, OPS, TORCH)
# Below this time of the best baseline, a ratio only shows the overhead of a call.
MIN_SECONDS = 1e-3
MAX_RATIO = 1.1
MIN_LOOP_RATIO = 3
# Size of the bank at which the loop over bins is measured too, also with all bins in one domain.
LOOP_ROWS = 512
DOMAINS = 8
# Memory of a size, in banks: one for MLX, one for the baselines on a GPU, and three while plain operations run.
BANKS = 5

Method = Callable[[], object]
# (R, D, queries) of a distance, (B, T, D) of an entropy.
Size = tuple[int, int, int]


@dataclass(frozen=True)
class Grid:
    """The sizes that are measured.

    Attributes:
        rows: Sizes of the bank, R.
        dims: Dimensions of the vectors, D.
        states: Shapes of the token states, (B, T, D).
        effort: How long each size is measured.
    """

    rows: tuple[int, ...]
    dims: tuple[int, ...]
    states: tuple[Size, ...]
    effort: Effort


FULL = Grid(
    (32, 512, 4096, 16384, 65536),
    (384, 1024, 4096),
    ((8, 512, 384), (8, 512, 1024), (8, 512, 4096), (1, 8192, 1024)),
    Effort(),
)
QUICK = Grid((32, 512), (384,), ((2, 128, 64),), Effort(duration_s=0.1, min_repeats=3))


@dataclass(frozen=True)
class KernelCase:
    """One measured case, a row of a table.

    Attributes:
        kernel: Name of the kernel.
        size: Size of its input.
        timings: Times of all methods.
        domains: Number of domains; None where there are none.
    """

    kernel: str
    size: Size
    timings: Timings
    domains: int | None = None

    @property
    def best_baseline(self) -> str:
        """The fastest baseline."""
        return self.timings.fastest(BASELINES)

    @property
    def ratio(self) -> float:
        """Time of ours divided by that of the best baseline."""
        return self.timings.ratio(OURS, self.best_baseline)

    @property
    def is_large(self) -> bool:
        """Whether the best baseline takes long enough for a meaningful ratio."""
        return self.timings.median(self.best_baseline) > MIN_SECONDS

    @property
    def overhead_s(self) -> float:
        """Seconds that ours takes more than the best baseline."""
        return self.timings.median(OURS) - self.timings.median(self.best_baseline)

    def milliseconds(self, names: Iterable[str]) -> list[str]:
        """Return the median of each method as text; empty where it was not measured."""
        measured = self.timings.seconds
        return [f"{1e3 * self.timings.median(name):.3f}" if name in measured else "" for name in names]

    def comparison(self) -> str:
        """Return the ratio to the best baseline, or the difference where it takes little time."""
        return f"{self.ratio:.2f}x" if self.is_large else f"{1e6 * self.overhead_s:+.0f} µs"

    def __str__(self) -> str:
        domains = f" of domains {self.domains}" if self.domains else ""
        return f"{self.kernel} {format_size(self.size)}{domains}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 2 if the input is wrong."""
    return run_command("benchmarks.scoring", run, parse(arguments))


def run(options: argparse.Namespace) -> int:
    """Measure all sizes and print the report."""
    grid = QUICK if options.quick else FULL
    torch = find_torch()
    sizes, skipped = sizes_in_memory(grid, options.queries, options.memory)
    cases = [case for size in sizes for case in measure_distances(*size, grid.effort, torch)]
    entropies = [measure_entropy(shape, grid.effort) for shape in grid.states]
    sections = [
        heading("Speed of the scoring kernels", command_line(options)),
        distance_section(cases, skipped, torch),
        entropy_section(entropies),
    ]
    if device.device_name() == "cpu":
        sections.append(target_section([*cases, *entropies], [case for case in cases if LOOP in case.timings.seconds]))
    else:
        sections.append(bandwidth_section(sizes, grid.states, grid.effort))
    print_and_write("\n".join(sections), options.out)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scoring", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few small sizes, to check that it works")
    parser.add_argument("--queries", type=positive_int, nargs="+", default=[1, 8], help="queries per call; default 1 8")
    parser.add_argument("--memory", type=float, default=8, help="GiB; sizes that need more are left out; default 8")
    parser.add_argument("--out", type=Path, help="write the report to this file, as Markdown")
    return parser.parse_args(arguments)


def command_line(options: argparse.Namespace) -> str:
    """Return the command that repeats the report."""
    quick = " --quick" if options.quick else ""
    return f"python -m benchmarks.scoring{quick} --queries {' '.join(map(str, options.queries))}"


def find_torch() -> TorchBaseline | None:
    """Return the torch baseline, or None where torch is not installed."""
    try:
        return TorchBaseline()
    except ImportError:
        return None


def sizes_in_memory(grid: Grid, queries: Iterable[int], memory: float) -> tuple[list[Size], list[Size]]:
    """Return the sizes (R, D, queries) that fit into some GiB of memory, and those that do not."""
    sizes = list(itertools.product(grid.rows, grid.dims, queries))
    fitting = [size for size in sizes if BANKS * 4 * size[0] * size[1] <= memory * 2**30]
    return fitting, [size for size in sizes if size not in fitting]


def measure_distances(
    rows: int, dim: int, count: int, effort: Effort, torch: TorchBaseline | None
) -> Iterator[KernelCase]:
    """Yield both distances at one size."""
    size = (rows, dim, count)
    problem = ScoringProblem(rows, dim, count, DOMAINS)
    yield time_case("in_domain_distance", size, in_domain_methods(problem, torch), effort, DOMAINS)
    if rows == LOOP_ROWS:
        one_domain = ScoringProblem(rows, dim, count, 1)
        yield time_case("in_domain_distance", size, in_domain_methods(one_domain, torch), effort, 1)
    yield time_case("nearest", size, nearest_methods(problem, torch), effort)
    mx.clear_cache()


def time_case(
    kernel: str, size: Size, methods: Mapping[str, Method], effort: Effort, domains: int | None = None
) -> KernelCase:
    """Time all methods at one size."""
    case = KernelCase(kernel, size, time_in_turn(methods, effort), domains)
    print(case, case.comparison(), file=sys.stderr)
    return case


def in_domain_methods(problem: ScoringProblem, torch: TorchBaseline | None) -> dict[str, Method]:
    """Return the methods for the in-domain distance."""
    queries, query_domains, bank, bank_domains = problem.arrays
    no_exclusion = mx.full(len(queries), -1, mx.int32)
    methods: dict[str, Method] = {
        NUMPY: lambda: scoring_baselines.numpy_in_domain_distance(problem),
        OPS: evaluated(in_domain_distance_ops, queries, query_domains, bank, bank_domains, no_exclusion),
        OURS: evaluated(in_domain_distance, queries, query_domains, bank, bank_domains),
        RUNNING_SUM: scoring_baselines.running_sum(problem),
    }
    if torch is not None:
        methods[TORCH] = torch.in_domain_distance(problem)
    if len(bank) == LOOP_ROWS:
        methods[LOOP] = lambda: scoring_baselines.loop_over_bins(problem)
    return methods


def nearest_methods(problem: ScoringProblem, torch: TorchBaseline | None) -> dict[str, Method]:
    """Return the methods for the nearest vector."""
    queries, _, bank, _ = problem.arrays
    methods: dict[str, Method] = {
        NUMPY: lambda: scoring_baselines.numpy_nearest(problem),
        OPS: evaluated(nearest_ops, queries, bank),
        OURS: evaluated(nearest, queries, bank),
    }
    if torch is not None:
        methods[TORCH] = torch.nearest(problem)
    return methods


def measure_entropy(shape: Size, effort: Effort) -> KernelCase:
    """Time the spectral entropy at one shape."""
    array = mx.array(np.random.default_rng(shape).standard_normal(shape, np.float32))
    states, lengths = scoring_baselines.as_numpy(array), mx.full(shape[0], shape[1], mx.int32)
    methods: dict[str, Method] = {
        NUMPY: lambda: scoring_baselines.numpy_entropies(states),
        OPS: evaluated(spectral_entropy_ops, array, lengths),
        OURS: evaluated(spectral_entropy, array, lengths),
        ORDER2: evaluated(scoring_baselines.order2_entropies, array),
    }
    return time_case("spectral_entropy", shape, methods, effort)


def evaluated(function: Callable[..., object], *arrays: mx.array) -> Method:
    """Return a function that returns when MLX has computed all results."""

    def call() -> object:
        results = function(*arrays)
        mx.eval(results)
        return results

    mx.eval(arrays)
    return call


def distance_section(cases: Sequence[KernelCase], skipped: Sequence[Size], torch: TorchBaseline | None) -> str:
    """Return the section about the distances."""
    methods = [NUMPY, OPS, *([TORCH] if torch else []), OURS, RUNNING_SUM, LOOP]
    lines = markdown_table(
        ["", "R", "D", "queries", "domains", *(f"{name}, ms" for name in methods), "ours to the best baseline"],
        (
            [case.kernel, *case.size, case.domains or "", *case.milliseconds(methods), case.comparison()]
            for case in cases
        ),
    )
    notes = [
        "The baselines are NumPy, MLX operations and torch. The last column is a ratio where the best of them takes "
        f"more than 1 ms, else a difference. `{RUNNING_SUM}` is what the selector computes, with updated sums; "
        f"`{LOOP}` is the formula of [Qin24 §3.2] in Python. Everything is in float32.",
        f"torch computes on {torch.device}."
        if torch
        else "There is no column for torch, which needs torch and sentence-transformers.",
    ]
    if skipped:
        notes.append(f"Left out for lack of memory (R x D x queries): {', '.join(map(format_size, skipped))}.")
    return f"## Distances\n\n{lines}\n" + "\n\n".join(notes) + "\n"


def entropy_section(cases: Sequence[KernelCase]) -> str:
    """Return the section about the entropy."""
    methods = [NUMPY, OPS, OURS, ORDER2]
    lines = markdown_table(
        ["B", "T", "D", *(f"{name}, ms" for name in methods), "ours to the best baseline", "ours to order 2"],
        (
            [*case.size, *case.milliseconds(methods), case.comparison(), f"{case.timings.ratio(OURS, ORDER2):.1f}x"]
            for case in cases
        ),
    )
    return (
        f"## Spectral entropy\n\n{lines}\n"
        f"NumPy computes in float64. `{ORDER2}` is -log of the sum of squared shares, in MLX operations. It needs no "
        "eigenvalues, so the last column shows their cost.\n"
    )


def format_size(size: Size) -> str:
    """Return a size as text."""
    return " x ".join(map(str, size))


def target_section(cases: Sequence[KernelCase], loop_cases: Sequence[KernelCase]) -> str:
    """Return the section that compares ours with the targets on a CPU."""
    large = sorted((case for case in cases if case.is_large), key=lambda case: -case.ratio)
    overheads = [1e6 * case.overhead_s for case in cases if not case.is_large]
    lines = []
    if large:
        over = [case for case in large if case.ratio > MAX_RATIO]
        lines.append(
            f"Where the best baseline takes more than 1 ms, ours takes at most {large[0].ratio:.2f} times as long "
            f"({large[0]}; target {MAX_RATIO}); above the target in {len(over)} of {len(large)} cases"
            + "".join(f"\n  - {case}: {case.ratio:.2f}x of {case.best_baseline}" for case in over)
        )
    if overheads:
        lines.append(
            f"Elsewhere ours takes {statistics.median(overheads):+.0f} µs more than the best baseline in the median "
            f"({min(overheads):+.0f} to {max(overheads):+.0f}), the overhead of a call"
        )
    for domains in sorted({case.domains for case in loop_cases if case.domains}):
        ratios = [case.timings.ratio(LOOP, OURS) for case in loop_cases if case.domains == domains]
        lines.append(
            f"At R = {LOOP_ROWS}, domains {domains}, the loop over bins takes {min(ratios):.1f} to {max(ratios):.1f} "
            f"times as long as ours (target at least {MIN_LOOP_RATIO})"
        )
    return "## Comparison with the targets\n\n" + "".join(f"- {line}\n" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
