"""Measure the selector's time per dialogue and memory along a stream, which must not grow with its length.

    python -m benchmarks.selector [--quick] [--dialogues N] [--out FILE.md]

Drives the observer of a profile as `Personalizer.observe` does, with a store on disk, random word vectors in place of a
model, and without the time of embedding. At each measured point a new, small profile receives dialogues in turn with
the growing one, so that the ratio shows the effect of the stream's length and not the load of the machine. The curve is
written to an SVG beside the report.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.arguments import positive_int, run_command, set_defaults
from benchmarks.generated_stream import WordVectors, generate_dialogues
from benchmarks.line_chart import Curve, draw_chart
from benchmarks.report_file import heading, print_and_write
from benchmarks.timing import Effort, time_in_turn
from mlx_personal.config import Config
from mlx_personal.dialogue import Dialogue
from mlx_personal.embedding import Embedder
from mlx_personal.personalizer.observer import Observer
from mlx_personal.profile import Store
from mlx_personal.reporting import markdown_table
from mlx_personal.selection import Bin, Buffer, QualityPolicy, SelectionCandidate
from mlx_personal.storage.files import atomic_write

DIM = 384
# Dialogues that are received at once, as in an import; others come one by one, as in a chat.
BATCH_SIZE = 64
POINTS_PER_DECADE = 4
MAX_DRIFT = 0.1
ACTIONS = ("stored", "replaced", "kept-out", "duplicate")


@dataclass(frozen=True)
class MeasurementPlan:
    """How much is measured.

    Attributes:
        first: Dialogues received by the end of the first point's batches.
        batches: Batches of each point.
        singles: Dialogues of each point that are then received one by one.
    """

    first: int
    batches: int
    singles: int


FULL = MeasurementPlan(1024, 8, 24)
QUICK = MeasurementPlan(256, 2, 4)


@dataclass(frozen=True)
class Arrival:
    """The cost of receiving some dialogues.

    Attributes:
        stage_seconds: Seconds of each stage, without embedding.
        decisions: Number of dialogues by what was decided about them.
    """

    stage_seconds: dict[str, float]
    decisions: dict[str, int]

    @property
    def total_s(self) -> float:
        """Seconds of all stages."""
        return sum(self.stage_seconds.values())


# An arrival in the growing profile, and the next one in the young profile.
ArrivalPair = tuple[Arrival, Arrival]


@dataclass(frozen=True)
class Point:
    """A measured point of the stream.

    Attributes:
        received: Dialogues received by the end of the batches.
        batches: Arrivals of batches.
        singles: Arrivals of single dialogues.
        memory_bytes: Resident memory of the process.
    """

    received: int
    batches: list[ArrivalPair]
    singles: list[ArrivalPair]
    memory_bytes: int

    def stage_microseconds(self, stage: str) -> float:
        """Return the microseconds per dialogue of a stage, in the median batch."""
        return 1e6 * statistics.median(old.stage_seconds[stage] for old, _ in self.batches) / BATCH_SIZE

    def num_decided(self, action: str) -> int:
        """Return the number of dialogues in the batches with a decision."""
        return sum(old.decisions.get(action, 0) for old, _ in self.batches)


def microseconds_each(pairs: Sequence[ArrivalPair], count: int) -> float:
    """Return the microseconds per dialogue of the median arrival of `count` dialogues."""
    return 1e6 * statistics.median(old.total_s for old, _ in pairs) / count


def ratio_to_young(pairs: Sequence[ArrivalPair]) -> float:
    """Return the time of an arrival divided by that in the young profile: the median over the pairs."""
    return statistics.median(old.total_s / young.total_s for old, young in pairs)


class StageTimer:
    """Sums the seconds of each stage of the observer."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the seconds of a block to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


class ProfileStream:
    """A profile without a model, and the dialogues it receives, which depend on the seed."""

    def __init__(self, folder: Path, embedder: Embedder, seed: int):
        self._store = Store(folder)
        self._timer = StageTimer()
        self._observer = Observer(self._store, Config(), self._timer.measure)
        self._embedder = embedder
        self._dialogues = generate_dialogues(self._observer.lexicons(), self._buffer_texts, seed)
        self.received = self._store.dialogue_count()

    def close(self) -> None:
        """Close the profile."""
        self._store.close()

    def receive(self, count: int) -> Arrival:
        """Receive the next dialogues at once."""
        dialogues: list[Dialogue] = list(itertools.islice(self._dialogues, count))
        self._timer.seconds.clear()
        start = time.perf_counter()
        self._store.add_dialogues(dialogues, "benchmark")
        decisions = self._observer.score(self._embedder) if self._store.unscored_count() else {}
        stage_seconds = dict(self._timer.seconds)
        stage_seconds["store"] = time.perf_counter() - start - sum(stage_seconds.values())
        del stage_seconds["embedding"]
        self.received += count
        return Arrival(stage_seconds, decisions)

    def receive_until(self, received: int) -> None:
        """Receive dialogues in batches until there are this many."""
        while self.received < received:
            self.receive(min(BATCH_SIZE, received - self.received))

    def _buffer_texts(self) -> list[str]:
        return [bin_.text for bin_ in self._observer.selector().buffer.bins]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 2 if the input is wrong."""
    return run_command("benchmarks.selector", run, parse(arguments))


def run(options: argparse.Namespace) -> int:
    """Measure all points and print the report."""
    plan = QUICK if options.quick else FULL
    with tempfile.TemporaryDirectory() as folder:
        points = list(measure(Path(folder), options.dialogues, plan))
    quick = " --quick" if options.quick else ""
    sections = [
        heading("The selector along a stream", f"python -m benchmarks.selector{quick} --dialogues {options.dialogues}"),
        stream_section(points),
        comparison_section((128, 512)),
    ]
    if options.out is not None:
        chart = options.out.with_suffix(".svg")
        atomic_write(chart, draw_points(points))
        sections.insert(1, f"![Time per dialogue and memory along the stream]({chart.name})\n")
    print_and_write("\n".join(sections), options.out)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.selector", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few hundred dialogues, to check that it works")
    parser.add_argument("--dialogues", type=positive_int, help="length of the stream; default 100,000")
    parser.add_argument("--out", type=Path, help="write the report to this file, as Markdown, and the curve beside it")
    options = parser.parse_args(arguments)
    minimum = 2 * (QUICK if options.quick else FULL).first
    if set_defaults(options, {"dialogues": (minimum, 100_000)}).dialogues < minimum:
        parser.error(f"--dialogues must be at least {minimum}")
    return options


def measure(folder: Path, num_dialogues: int, plan: MeasurementPlan) -> Iterator[Point]:
    """Yield the points of a growing profile, each compared with the first point of a young one.

    Args:
        folder: Folder for the profiles.
        num_dialogues: Length of the stream.
        plan: How much is measured.
    """
    point_size, embedder = plan.batches * BATCH_SIZE, WordVectors(DIM)
    count = 1 + max(1, round(POINTS_PER_DECADE * math.log10(num_dialogues / plan.first)))
    with contextlib.closing(ProfileStream(folder / "young", embedder, seed=1)) as young:
        young.receive_until(plan.first - point_size)
    with contextlib.closing(ProfileStream(folder / "old", embedder, seed=0)) as old:
        for end in np.geomspace(plan.first, num_dialogues, count).round().astype(int).tolist():
            old.receive_until(end - point_size)
            copy = shutil.copytree(folder / "young", folder / f"young-{end}")
            with contextlib.closing(ProfileStream(copy, embedder, seed=end)) as young:
                point = measure_beside(old, young, plan)
            print(
                f"{end}: {ratio_to_young(point.batches):.2f}x, singles {ratio_to_young(point.singles):.2f}x",
                file=sys.stderr,
            )
            yield point


def measure_beside(old: ProfileStream, young: ProfileStream, plan: MeasurementPlan) -> Point:
    """Measure one point: both profiles receive batches in turn, then single dialogues in turn."""
    batches = [(old.receive(BATCH_SIZE), young.receive(BATCH_SIZE)) for _ in range(plan.batches)]
    received = old.received
    singles = [(old.receive(1), young.receive(1)) for _ in range(plan.singles)]
    return Point(received, batches, singles, resident_bytes())


def resident_bytes() -> int:
    """Return the resident memory of the process."""
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    output = subprocess.run(["ps", "-o", "rss=", "-p", str(os.getpid())], capture_output=True, text=True, check=True)
    return int(output.stdout) * 1024


def stream_section(points: Sequence[Point]) -> str:
    """Return the table of all points, and how much the last one differs from the first."""
    stages = list(points[0].batches[0][0].stage_seconds)
    columns = ["received", *(f"{stage}, µs" for stage in stages), "total, µs", "to young", "single, µs", "to young"]
    lines = markdown_table(
        [*columns, "memory, MiB", *ACTIONS],
        (
            [
                f"{point.received:,}",
                *(f"{point.stage_microseconds(stage):.0f}" for stage in stages),
                f"{microseconds_each(point.batches, BATCH_SIZE):.0f}",
                f"{ratio_to_young(point.batches):.2f}x",
                f"{microseconds_each(point.singles, 1):.0f}",
                f"{ratio_to_young(point.singles):.2f}x",
                f"{point.memory_bytes / 2**20:.1f}",
                *(point.num_decided(action) for action in ACTIONS),
            ]
            for point in points
        ),
    )
    first, last = points[0], points[-1]
    drifts = {
        "time in a batch": ratio_to_young(last.batches) - 1,
        "time of a single dialogue": ratio_to_young(last.singles) - 1,
        "memory": last.memory_bytes / first.memory_bytes - 1,
    }
    return (
        f"{lines}\nMicroseconds per dialogue, without embedding: medians over {len(first.batches)} batches of "
        f"{BATCH_SIZE}, then over {len(first.singles)} single dialogues. `to young` is the median ratio to a profile "
        f"of about {first.received:,} dialogues, measured in turn. {Config().selection.bins} bins, vectors of {DIM}; "
        "memory is resident memory; decisions are those of the batches.\n\n"
        f"From {first.received:,} to {last.received:,} dialogues: "
        f"{', '.join(f'{name} {drift:+.1%}' for name, drift in drifts.items())} (target within {MAX_DRIFT:.0%}).\n"
    )


def draw_points(points: Sequence[Point]) -> str:
    """Return the chart of the ratios and the memory."""
    return draw_chart(
        "dialogues received",
        [point.received for point in points],
        [
            Curve(
                "time per dialogue in batches, as a multiple of a young profile's",
                [ratio_to_young(point.batches) for point in points],
            ),
            Curve(
                "time of a single dialogue, as a multiple of a young profile's",
                [ratio_to_young(point.singles) for point in points],
            ),
            Curve("memory, MiB", [point.memory_bytes / 2**20 for point in points]),
        ],
    )


def comparison_section(sizes: Sequence[int]) -> str:
    """Return the section about the time of comparing a dialogue with every bin."""
    lines = markdown_table(
        ["bins", "µs per dialogue"], ((size, f"{1e6 * comparison_seconds(size):.0f}") for size in sizes)
    )
    return (
        f"## Comparison of a dialogue with every bin\n\n{lines}\n"
        "The complete decision of the policy, with its explanation, on the CPU, where the scores are. A kernel would "
        "not be faster: one transfer between GPU and CPU takes about 180 µs (mlx issue 4438).\n"
    )


def comparison_seconds(size: int) -> float:
    """Return the median seconds for a full buffer and a dialogue that is better than some of its bins."""
    rng = np.random.default_rng(size)
    vectors = rng.standard_normal((size + 1, DIM), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = rng.random((size, 2)).tolist()
    bins = [
        Bin(slot, slot, f"domain {slot % 8}", "", vectors[slot], eoe, dss, idd_on_arrival=1.0)
        for slot, (eoe, dss) in enumerate(scores)
    ]
    buffer, policy = Buffer(size, bins), QualityPolicy()
    candidate = SelectionCandidate(size, size, "", vectors[size], 0.5, 0.5, "domain 0")
    timings = time_in_turn({"choose": lambda: policy.choose(candidate, buffer, rng)}, Effort(duration_s=0.2))
    return timings.median("choose")


if __name__ == "__main__":
    sys.exit(main())
