"""How fast the scoring kernels are, beside plain NumPy, plain MLX ops and torch, measured in turn in one run.

    python -m benchmarks.scoring [--quick] [--queries 1 8 64] [--memory GIB] [--out FILE.md]

Every method is given its vectors in its own form, on a CPU all in the same memory; what it returns is complete.
Milliseconds are medians; ratios are medians of the ratios within each repeat. On a GPU also bandwidth and temporary
memory.
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
from benchmarks.arguments import ended, positive
from benchmarks.bandwidth import bandwidth_section
from benchmarks.report_file import deliver, heading
from benchmarks.timing import Effort, Timings, in_turn
from mlx_personal.kernels import in_domain_distance, nearest, spectral_entropy
from mlx_personal.kernels.in_domain_distance import in_domain_distance_ops
from mlx_personal.kernels.nearest import nearest_ops
from mlx_personal.kernels.spectral_entropy import spectral_entropy_ops
from mlx_personal.reporting import markdown_table
from mlx_personal.runtime import device

NUMPY, OPS, TORCH, OURS = "NumPy", "MLX ops", "torch cos_sim", "ours"
SUM, LOOP, ORDER2 = "running sum", "loop over bins", "order 2"
OTHERS = (NUMPY, OPS, TORCH)
# Where the best of the others takes less, a ratio says nothing but what a call costs.
LEAST_SECONDS = 1e-3
MOST_RATIO = 1.1
LEAST_LOOP_RATIO = 3
# Where the loop over bins is measured too, also with all of its bins in one domain, as in the paper's formula.
LOOP_ROWS = 512
DOMAINS = 8
# What a size holds at most, in banks: one for MLX, one for the others on a GPU, and three while plain ops run.
BANKS = 5

Method = Callable[[], object]
# (R, D, queries) of a distance, (B, T, D) of an entropy.
Size = tuple[int, int, int]


@dataclass(frozen=True)
class Grid:
    """The sizes measured, and how long each is measured: rows R, dimensions D, and states."""

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
QUICK = Grid((32, 512), (384,), ((2, 128, 64),), Effort(seconds=0.1, least=3))


@dataclass(frozen=True)
class Cell:
    """One row of a table: what was computed, of which size, and how long each method took."""

    what: str
    size: Size
    timings: Timings
    domains: int | None = None

    @property
    def best(self) -> str:
        """The fastest of the others."""
        return self.timings.fastest(OTHERS)

    @property
    def ratio(self) -> float:
        return self.timings.ratio(OURS, self.best)

    @property
    def is_large(self) -> bool:
        """Whether the best of the others takes long enough for a ratio to say something."""
        return self.timings.median(self.best) > LEAST_SECONDS

    @property
    def overhead(self) -> float:
        """Seconds that ours takes beyond the best of the others."""
        return self.timings.median(OURS) - self.timings.median(self.best)

    def milliseconds(self, names: Iterable[str]) -> list[str]:
        known = self.timings.seconds
        return [f"{1e3 * self.timings.median(name):.3f}" if name in known else "" for name in names]

    def verdict(self) -> str:
        return f"{self.ratio:.2f}x" if self.is_large else f"{1e6 * self.overhead:+.0f} µs"

    def __str__(self) -> str:
        domains = f" of domains {self.domains}" if self.domains else ""
        return f"{self.what} {by(self.size)}{domains}"


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 2 where the input is wrong."""
    return ended("benchmarks.scoring", run, parse(arguments))


def run(options: argparse.Namespace) -> int:
    grid = QUICK if options.quick else FULL
    torch = find_torch()
    sizes, skipped = sizes_in_memory(grid, options.queries, options.memory)
    cells = [cell for size in sizes for cell in measure_distances(*size, grid.effort, torch)]
    entropies = [measure_entropy(shape, grid.effort) for shape in grid.states]
    sections = [
        heading("Speed of the scoring kernels", command(options)),
        distance_section(cells, skipped, torch),
        entropy_section(entropies),
    ]
    if device.device_name() == "cpu":
        sections.append(verdict_section([*cells, *entropies], [c for c in cells if LOOP in c.timings.seconds]))
    else:
        sections.append(bandwidth_section(sizes, grid.states, grid.effort))
    deliver("\n".join(sections), options.out)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scoring", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few small sizes, to see that it works")
    parser.add_argument("--queries", type=positive, nargs="+", default=[1, 8], help="how many at once; default 1 8")
    parser.add_argument("--memory", type=float, default=8, help="GiB; sizes that need more are left out; default 8")
    parser.add_argument("--out", type=Path, help="keep the report in this file, as Markdown")
    return parser.parse_args(arguments)


def command(options: argparse.Namespace) -> str:
    quick = " --quick" if options.quick else ""
    return f"python -m benchmarks.scoring{quick} --queries {' '.join(map(str, options.queries))}"


def find_torch() -> scoring_baselines.Torch | None:
    try:
        return scoring_baselines.Torch()
    except ImportError:
        return None


def sizes_in_memory(grid: Grid, queries: Iterable[int], memory: float) -> tuple[list[Size], list[Size]]:
    """Which sizes (R, D, queries) fit so many GiB, and which do not."""
    sizes = list(itertools.product(grid.rows, grid.dims, queries))
    fitting = [size for size in sizes if BANKS * 4 * size[0] * size[1] <= memory * 2**30]
    return fitting, [size for size in sizes if size not in fitting]


def measure_distances(
    rows: int, dim: int, count: int, effort: Effort, torch: scoring_baselines.Torch | None
) -> Iterator[Cell]:
    """Both distances at one size."""
    size = (rows, dim, count)
    problem = scoring_baselines.Problem(rows, dim, count, DOMAINS)
    yield time_cell("in_domain_distance", size, in_domain_methods(problem, torch), effort, DOMAINS)
    if rows == LOOP_ROWS:
        one_domain = scoring_baselines.Problem(rows, dim, count, 1)
        yield time_cell("in_domain_distance", size, in_domain_methods(one_domain, torch), effort, 1)
    yield time_cell("nearest", size, nearest_methods(problem, torch), effort)
    mx.clear_cache()


def time_cell(what: str, size: Size, methods: Mapping[str, Method], effort: Effort, domains: int | None = None) -> Cell:
    cell = Cell(what, size, in_turn(methods, effort), domains)
    print(cell, cell.verdict(), file=sys.stderr)
    return cell


def in_domain_methods(problem: scoring_baselines.Problem, torch: scoring_baselines.Torch | None) -> dict[str, Method]:
    queries, query_domains, bank, bank_domains = problem.arrays
    none = mx.full(len(queries), -1, mx.int32)
    methods: dict[str, Method] = {
        NUMPY: lambda: scoring_baselines.numpy_in_domain_distance(problem),
        OPS: evaluated(in_domain_distance_ops, queries, query_domains, bank, bank_domains, none),
        OURS: evaluated(in_domain_distance, queries, query_domains, bank, bank_domains),
        SUM: scoring_baselines.running_sum(problem),
    }
    if torch is not None:
        methods[TORCH] = torch.in_domain_distance(problem)
    if len(bank) == LOOP_ROWS:
        methods[LOOP] = lambda: scoring_baselines.loop_over_bins(problem)
    return methods


def nearest_methods(problem: scoring_baselines.Problem, torch: scoring_baselines.Torch | None) -> dict[str, Method]:
    queries, _, bank, _ = problem.arrays
    methods: dict[str, Method] = {
        NUMPY: lambda: scoring_baselines.numpy_nearest(problem),
        OPS: evaluated(nearest_ops, queries, bank),
        OURS: evaluated(nearest, queries, bank),
    }
    if torch is not None:
        methods[TORCH] = torch.nearest(problem)
    return methods


def measure_entropy(shape: Size, effort: Effort) -> Cell:
    array = mx.array(np.random.default_rng(shape).standard_normal(shape, np.float32))
    states, lengths = scoring_baselines.as_numpy(array), mx.full(shape[0], shape[1], mx.int32)
    methods: dict[str, Method] = {
        NUMPY: lambda: scoring_baselines.numpy_entropies(states),
        OPS: evaluated(spectral_entropy_ops, array, lengths),
        OURS: evaluated(spectral_entropy, array, lengths),
        ORDER2: evaluated(scoring_baselines.order2_entropies, array),
    }
    return time_cell("spectral_entropy", shape, methods, effort)


def evaluated(function: Callable[..., object], *arrays: mx.array) -> Method:
    """A call that returns when MLX has computed all results."""

    def measured() -> object:
        results = function(*arrays)
        mx.eval(results)
        return results

    mx.eval(arrays)
    return measured


def distance_section(cells: Sequence[Cell], skipped: Sequence[Size], torch: scoring_baselines.Torch | None) -> str:
    methods = [NUMPY, OPS, *([TORCH] if torch else []), OURS, SUM, LOOP]
    lines = markdown_table(
        ["", "R", "D", "queries", "domains", *(f"{name}, ms" for name in methods), "ours to the best of the others"],
        ([c.what, *c.size, c.domains or "", *c.milliseconds(methods), c.verdict()] for c in cells),
    )
    notes = [
        "The others are NumPy, MLX ops and torch. A ratio stands where the best of them takes over 1 ms, a difference "
        f"elsewhere. `{SUM}` is the path of a stream of dialogues, over sums that are kept up to date; `{LOOP}` is the "
        "paper's formula in Python. Everything in float32.",
        f"torch computes on {torch.device}."
        if torch
        else "No column of torch: it needs torch and sentence-transformers.",
    ]
    if skipped:
        notes.append(f"Left out for want of memory (R x D x queries): {', '.join(map(by, skipped))}.")
    return f"## Distances\n\n{lines}\n" + "\n\n".join(notes) + "\n"


def entropy_section(cells: Sequence[Cell]) -> str:
    methods = [NUMPY, OPS, OURS, ORDER2]
    lines = markdown_table(
        ["B", "T", "D", *(f"{name}, ms" for name in methods), "ours to the best of the others", "ours to order 2"],
        ([*c.size, *c.milliseconds(methods), c.verdict(), f"{c.timings.ratio(OURS, ORDER2):.1f}x"] for c in cells),
    )
    return (
        f"## Spectral entropy\n\n{lines}\n"
        f"NumPy is float64. `{ORDER2}` is -log of the sum of squared shares, in MLX ops: it needs no eigenvalues, so "
        "the last column says what they cost.\n"
    )


def by(size: Size) -> str:
    return " x ".join(map(str, size))


def verdict_section(cells: Sequence[Cell], looped: Sequence[Cell]) -> str:
    """How ours does against the targets on a CPU."""
    large = sorted((c for c in cells if c.is_large), key=lambda c: -c.ratio)
    overheads = [1e6 * c.overhead for c in cells if not c.is_large]
    lines = []
    if large:
        over = [c for c in large if c.ratio > MOST_RATIO]
        lines.append(
            f"Where the best of the others takes over 1 ms, ours takes at most {large[0].ratio:.2f} times as long "
            f"({large[0]}; target {MOST_RATIO}); above the target in {len(over)} of {len(large)} cells"
            + "".join(f"\n  - {c}: {c.ratio:.2f}x of {c.best}" for c in over)
        )
    if overheads:
        lines.append(
            f"Elsewhere ours takes {statistics.median(overheads):+.0f} µs beyond the best of the others in the median "
            f"({min(overheads):+.0f} to {max(overheads):+.0f}): what a call costs"
        )
    for domains in sorted({c.domains for c in looped if c.domains}):
        ratios = [c.timings.ratio(LOOP, OURS) for c in looped if c.domains == domains]
        lines.append(
            f"At R = {LOOP_ROWS}, domains {domains}, the loop over bins takes {min(ratios):.1f} to {max(ratios):.1f} "
            f"times as long as ours (target at least {LEAST_LOOP_RATIO})"
        )
    return "## Against the targets\n\n" + "".join(f"- {line}\n" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
