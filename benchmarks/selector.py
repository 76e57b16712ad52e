"""Does the selector stay as fast and as small, however long the stream has been? Time a dialogue and memory along it.

    python -m benchmarks.selector [--quick] [--dialogues N] [--out FILE.md]

Drives the observer of a profile as `Personalizer.observe` does, with a store on disk, random word vectors in place of a
model, and the time of embedding left out. At each measured place a young profile takes dialogues in turn with the one
that grows, so that a ratio says what age costs and not how busy the machine was. The curve goes to an SVG beside the
report.
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

from benchmarks.arguments import ended, fill, positive
from benchmarks.generated_stream import WordVectors, dialogues
from benchmarks.line_chart import Curve, draw
from benchmarks.report_file import deliver, heading
from benchmarks.timing import Effort, in_turn
from mlx_personal.config import Config
from mlx_personal.dialogue import Dialogue
from mlx_personal.embedding import Embedder
from mlx_personal.personalizer.observer import Observer
from mlx_personal.profile import Store
from mlx_personal.reporting import markdown_table
from mlx_personal.selection import Bin, Buffer, QualityPolicy, SelectionCandidate
from mlx_personal.storage.files import atomic_write

DIM = 384
# Dialogues that come at once, as from an import; others come one by one, as from a chat.
BATCH = 64
# Measured stretches while dialogues become ten times as many.
POINTS = 4
MOST_DRIFT = 0.1
ACTIONS = ("stored", "replaced", "kept-out", "duplicate")


@dataclass(frozen=True)
class Plan:
    """After how many dialogues the first measured stretch ends, its batches, and how many dialogues then come alone."""

    first: int
    batches: int
    alone: int


FULL = Plan(1024, 8, 24)
QUICK = Plan(256, 2, 4)


@dataclass(frozen=True)
class Receipt:
    """What taking in some dialogues cost, in seconds by room, without embedding; and what was decided."""

    rooms: dict[str, float]
    decisions: dict[str, int]

    @property
    def seconds(self) -> float:
        return sum(self.rooms.values())


@dataclass(frozen=True)
class Point:
    """A measured stretch of the stream, which ends after `received` dialogues.

    `batches` and `alone` hold what each arrival cost this profile and the young one; `resident` is in bytes.
    """

    received: int
    batches: list[tuple[Receipt, Receipt]]
    alone: list[tuple[Receipt, Receipt]]
    resident: int

    def microseconds(self, room: str) -> float:
        """A dialogue's share of the median batch."""
        return 1e6 * statistics.median(old.rooms[room] for old, _ in self.batches) / BATCH

    def decided(self, action: str) -> int:
        return sum(old.decisions.get(action, 0) for old, _ in self.batches)


def microseconds(pairs: Sequence[tuple[Receipt, Receipt]], count: int) -> float:
    return 1e6 * statistics.median(old.seconds for old, _ in pairs) / count


def to_young(pairs: Sequence[tuple[Receipt, Receipt]]) -> float:
    """How many times as long an arrival takes as in the young profile: median over the pairs."""
    return statistics.median(old.seconds / young.seconds for old, young in pairs)


class Rooms:
    """Seconds spent in each room of the observer."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def timed(self, room: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[room] = self.seconds.get(room, 0.0) + time.perf_counter() - start


class Stream:
    """A profile without a model, and the dialogues it receives: others for each seed."""

    def __init__(self, folder: Path, embedder: Embedder, seed: int):
        self._store = Store(folder)
        self._rooms = Rooms()
        self._observer = Observer(self._store, Config(), self._rooms.timed)
        self._embedder = embedder
        self._waiting = dialogues(self._observer.lexicons(), self._kept, seed)
        self.received = self._store.dialogue_count()

    def close(self) -> None:
        self._store.close()

    def receive(self, count: int) -> Receipt:
        """Takes in the next dialogues at once."""
        arrived: list[Dialogue] = list(itertools.islice(self._waiting, count))
        self._rooms.seconds.clear()
        start = time.perf_counter()
        self._store.add_dialogues(arrived, "benchmark")
        decisions = self._observer.score(self._embedder) if self._store.unscored_count() else {}
        rooms = dict(self._rooms.seconds)
        rooms["store"] = time.perf_counter() - start - sum(rooms.values())
        del rooms["embedding"]
        self.received += count
        return Receipt(rooms, decisions)

    def receive_until(self, received: int) -> None:
        while self.received < received:
            self.receive(min(BATCH, received - self.received))

    def _kept(self) -> list[str]:
        return [b.text for b in self._observer.selector().buffer.bins]


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 2 where the input is wrong."""
    return ended("benchmarks.selector", run, parse(arguments))


def run(options: argparse.Namespace) -> int:
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
        picture = options.out.with_suffix(".svg")
        atomic_write(picture, draw_points(points))
        sections.insert(1, f"![Time a dialogue and memory along the stream]({picture.name})\n")
    deliver("\n".join(sections), options.out)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.selector", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few hundred, to see that it works")
    parser.add_argument("--dialogues", type=positive, help="length of the stream; default 100,000")
    parser.add_argument("--out", type=Path, help="keep the report in this file, as Markdown, and the curve beside it")
    options = parser.parse_args(arguments)
    least = 2 * (QUICK if options.quick else FULL).first
    if fill(options, {"dialogues": (least, 100_000)}).dialogues < least:
        parser.error(f"--dialogues must be at least {least}")
    return options


def measure(folder: Path, most: int, plan: Plan) -> Iterator[Point]:
    """Stretches of one stream of so many dialogues, each beside the first such stretch of another profile."""
    stretch, embedder = plan.batches * BATCH, WordVectors(DIM)
    count = 1 + max(1, round(POINTS * math.log10(most / plan.first)))
    with contextlib.closing(Stream(folder / "young", embedder, seed=1)) as young:
        young.receive_until(plan.first - stretch)
    with contextlib.closing(Stream(folder / "old", embedder, seed=0)) as old:
        for end in np.geomspace(plan.first, most, count).round().astype(int).tolist():
            old.receive_until(end - stretch)
            copy = shutil.copytree(folder / "young", folder / f"young-{end}")
            with contextlib.closing(Stream(copy, embedder, seed=end)) as young:
                point = measure_beside(old, young, plan)
            print(f"{end}: {to_young(point.batches):.2f}x, alone {to_young(point.alone):.2f}x", file=sys.stderr)
            yield point


def measure_beside(old: Stream, young: Stream, plan: Plan) -> Point:
    """Both streams take in a stretch, batch by batch in turn, then some dialogues one by one."""
    batches = [(old.receive(BATCH), young.receive(BATCH)) for _ in range(plan.batches)]
    received = old.received
    alone = [(old.receive(1), young.receive(1)) for _ in range(plan.alone)]
    return Point(received, batches, alone, resident_bytes())


def resident_bytes() -> int:
    """What the process holds in memory now."""
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    listed = subprocess.run(["ps", "-o", "rss=", "-p", str(os.getpid())], capture_output=True, text=True, check=True)
    return int(listed.stdout) * 1024


def stream_section(points: Sequence[Point]) -> str:
    rooms = list(points[0].batches[0][0].rooms)
    columns = ["received", *(f"{room}, µs" for room in rooms), "together, µs", "to young", "alone, µs", "to young"]
    lines = markdown_table(
        [*columns, "memory, MiB", *ACTIONS],
        (
            [
                f"{p.received:,}",
                *(f"{p.microseconds(room):.0f}" for room in rooms),
                f"{microseconds(p.batches, BATCH):.0f}",
                f"{to_young(p.batches):.2f}x",
                f"{microseconds(p.alone, 1):.0f}",
                f"{to_young(p.alone):.2f}x",
                f"{p.resident / 2**20:.1f}",
                *(p.decided(action) for action in ACTIONS),
            ]
            for p in points
        ),
    )
    first, last = points[0], points[-1]
    drifts = {
        "time in a batch": to_young(last.batches) - 1,
        "time alone": to_young(last.alone) - 1,
        "memory": last.resident / first.resident - 1,
    }
    return (
        f"{lines}\nMicroseconds a dialogue, without embedding: medians over {len(first.batches)} batches of {BATCH}, "
        f"then over {len(first.alone)} dialogues that come alone. `to young` is the median ratio to a profile of some "
        f"{first.received:,} dialogues, measured in turn. {Config().selection.bins} bins, vectors of {DIM}; memory is "
        "what is resident; decisions are those of the batches.\n\n"
        f"From {first.received:,} to {last.received:,} dialogues: "
        f"{', '.join(f'{what} {drift:+.1%}' for what, drift in drifts.items())} (target within {MOST_DRIFT:.0%}).\n"
    )


def draw_points(points: Sequence[Point]) -> str:
    return draw(
        "dialogues received",
        [p.received for p in points],
        [
            Curve(
                "time a dialogue in batches, as a multiple of a young profile's", [to_young(p.batches) for p in points]
            ),
            Curve("time a dialogue alone, as a multiple of a young profile's", [to_young(p.alone) for p in points]),
            Curve("memory, MiB", [p.resident / 2**20 for p in points]),
        ],
    )


def comparison_section(sizes: Sequence[int]) -> str:
    """How long it takes to compare a dialogue with every bin."""
    lines = markdown_table(
        ["bins", "µs a dialogue"], ((size, f"{1e6 * comparison_seconds(size):.0f}") for size in sizes)
    )
    return (
        f"## Which bins a dialogue dominates\n\n{lines}\n"
        "The policy's whole choice, with what explains it, on the CPU, where the scores are. A kernel for it would not "
        "pay: one crossing between GPU and CPU costs about 180 µs (mlx issue 4438).\n"
    )


def comparison_seconds(size: int) -> float:
    """Of a full buffer and dialogues that are better than some bins; the median over many."""
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
    timings = in_turn({"choose": lambda: policy.choose(candidate, buffer, rng)}, Effort(seconds=0.2))
    return timings.median("choose")


if __name__ == "__main__":
    sys.exit(main())
