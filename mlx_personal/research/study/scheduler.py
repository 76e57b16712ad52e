"""Runs a study's cells: first what they share, then the cells, as independent jobs through `cluster`.

Dialogues are embedded once for each data set and model; streams are then selected from, which takes a moment and needs
no model; synthetic sets are written once for each data set and seed, of every dialogue that any cell
keeps; then each cell trains and answers. What is in the records already is not done again, so a killed study goes on
where it was.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlx_personal import jobs
from mlx_personal.dialogue import Dialogue
from mlx_personal.errors import UserError
from mlx_personal.progress import Progress, ProgressEvent, ignore_progress
from mlx_personal.research.study import cell_jobs
from mlx_personal.research.study.cell import BASE, PROTOCOL, Cell, digest
from mlx_personal.research.study.cell_selection import Kept, Scored, select
from mlx_personal.research.study.datasets import Sample
from mlx_personal.research.study.grid import Block
from mlx_personal.research.study.stream import Stream, StreamConfig, split
from mlx_personal.research.study.study_database import Records
from mlx_personal.research.study.topics import topics_of
from mlx_personal.research.study.training_sets import lesson, synthesis_of, written_by
from mlx_personal.scoring import Lexicons

# Dialogues of one job. To embed: enough to keep a batch full. To write, which is done one by one: few enough that a
# kill costs little.
_EMBEDDED, _WRITTEN = 64, 16


@dataclass(frozen=True)
class Inputs:
    """What the cells of a study are run on.

    Args:
        model: the base's folder.
        writer: folder of the adapter that writes synthetic sets; None for the base alone.
        samples: of each data set.
        general: dialogues of no data set, to measure forgetting on.
    """

    model: str
    writer: str | None
    samples: Mapping[str, Sequence[Sample]]
    general: Sequence[Dialogue] = ()


@dataclass
class Outcome:
    """What a run did: cells found in the records, cells run, cells that failed with why, blocks left out."""

    found: int = 0
    ran: int = 0
    failed: list[tuple[Cell, str]] = field(default_factory=list)
    left_out: list[Block] = field(default_factory=list)


def run(
    records: Records,
    blocks: Sequence[Block],
    inputs: Inputs,
    *,
    workers: int | None = None,
    ray: str | None = None,
    budget: float | None = None,
    on_progress: Progress = ignore_progress,
) -> Outcome:
    """Runs the cells of `blocks` that `records` lacks, and keeps each as it finishes.

    Args:
        workers: processes on this machine; by default as `cluster` has it.
        ray: address of a Ray cluster to run on in their place.
        budget: seconds; blocks are run one after the other, the first in any case, and none is begun that would, by
            what those before took, not end within them.
        tell: called with the progress.

    UserError where a data set is too small or a shared step fails. A cell that fails does not stop the others.
    """
    return _Run(records, inputs, workers, ray, budget, on_progress).run(blocks)


class _Run:
    def __init__(
        self,
        records: Records,
        inputs: Inputs,
        workers: int | None,
        ray: str | None,
        budget: float | None,
        on_progress: Progress,
    ):
        self._records, self._inputs, self._on_progress = records, inputs, on_progress
        self._workers, self._ray, self._budget = workers, ray, budget
        self._topics: dict[str, list[str]] = {}
        self._streams: dict[str, Stream] = {}
        self._kept: dict[str, list[Kept]] = {}

    def run(self, blocks: Sequence[Block]) -> Outcome:
        outcome, missing = Outcome(), []
        for block in blocks:
            fresh = tuple(cell for cell in block.cells if not self._records.has(cell))
            outcome.found += len(block.cells) - len(fresh)
            if fresh:
                missing.append(Block(block.name, fresh))
        start, done = time.perf_counter(), 0.0
        # With a budget block by block, so that nothing is prepared for cells that there will be no time for.
        groups = [[block] for block in missing] if self._budget is not None or not missing else [missing]
        for group in groups:
            cells = [cell for block in group for cell in block.cells]
            work, spent = sum(map(_work, cells)), time.perf_counter() - start
            if self._budget is not None and done and spent + work * spent / done > self._budget:
                outcome.left_out += group
            else:
                self._run(cells, outcome)
                done += work
        return outcome

    def _run(self, cells: Sequence[Cell], outcome: Outcome) -> None:
        self._draw(cells)
        self._select(cells, self._embed(cells))
        self._write(cells)
        by_key = {cell.key: cell for cell in cells}
        self._on_progress(ProgressEvent("cells", 0, len(cells), detail=tuple(cells)))
        jobs_ = (jobs.Job(cell.key, self._job(cell)) for cell in cells)
        for done in self._done(cell_jobs.run, jobs_, "cells", len(cells), by_key):
            if done.error is None:
                self._records.add(by_key[done.key], done.result)
                outcome.ran += 1
            else:
                outcome.failed.append((by_key[done.key], done.error))

    def _draw(self, cells: Sequence[Cell]) -> None:
        """Draws every cell's stream and evaluation dialogues."""
        for data in {cell.data for cell in cells} - set(self._topics):
            self._topics[data] = topics_of(self._inputs.samples[data])
        drawn: dict[tuple[str, StreamConfig], Stream] = {}
        for cell in cells:
            config = StreamConfig(cell.part, cell.order, cell.strength, cell.received, cell.evaluation, cell.seed)
            if (cell.data, config) not in drawn:
                try:
                    drawn[cell.data, config] = split(self._inputs.samples[cell.data], self._topics[cell.data], config)
                except UserError as error:
                    raise UserError(error.what, cell.data, error.hint) from error
            self._streams[cell.key] = drawn[cell.data, config]

    def _embed(self, cells: Sequence[Cell]) -> dict[str, dict[int, Scored]]:
        """Embeds what any stream has, and scores it as selection sees it: by data set, by the sample's index."""
        streamed: dict[str, set[int]] = {}
        for cell in cells:
            if cell.policy != BASE:
                streamed.setdefault(cell.data, set()).update(self._streams[cell.key].received)
        maker = digest({"model": cells[0].model, "protocol": PROTOCOL})
        there = self._records.embeddings(maker)
        of = {data: {i: self._inputs.samples[data][i].dialogue for i in sorted(streamed[data])} for data in streamed}
        missing = list({d.key: d for found in of.values() for d in found.values() if d.key not in there}.values())
        chunks = {str(i): missing[i : i + _EMBEDDED] for i in range(0, len(missing), _EMBEDDED)}
        work = [jobs.Job(k, cell_jobs.Embed(self._inputs.model, [d.text for d in c])) for k, c in chunks.items()]
        for done in self._shared(cell_jobs.embed, work, "embedding"):
            self._records.add_embeddings(maker, [d.key for d in chunks[done.key]], *done.result)
        if work:
            there = self._records.embeddings(maker)
        lexicons = Lexicons.load()

        def scored(dialogue: Dialogue) -> Scored:
            domain = lexicons.domain_specific_score(dialogue.text)
            return Scored(dialogue.text, *there[dialogue.key], dss=domain.dss, domain=domain.domain)

        return {data: {i: scored(d) for i, d in dialogues.items()} for data, dialogues in of.items()}

    def _select(self, cells: Sequence[Cell], scored: Mapping[str, Mapping[int, Scored]]) -> None:
        """Runs every policy over its stream."""
        for number, cell in enumerate(cells, 1):
            if cell.policy != BASE:
                self._kept[cell.key] = select(cell, self._streams[cell.key].received, scored[cell.data])
            self._on_progress(ProgressEvent("selection", number, len(cells), None))

    def _write(self, cells: Sequence[Cell]) -> None:
        """Has synthetic sets written of every dialogue that a cell learns with them."""
        wanted: dict[str, dict[str, Dialogue]] = {}
        of: dict[str, Cell] = {}
        for cell in cells:
            if cell.synthetic == 0 or cell.policy == BASE:
                continue
            maker = written_by(cell)
            of[maker] = cell
            for index in itertools.chain.from_iterable(kept.annotated for kept in self._kept[cell.key]):
                dialogue = self._inputs.samples[cell.data][index].dialogue
                wanted.setdefault(maker, {})[dialogue.key] = dialogue
        makers: dict[str, str] = {}
        work = []
        for maker, dialogues in wanted.items():
            cell, there = of[maker], self._records.synthetic(maker)
            missing = [dialogues[key] for key in sorted(dialogues) if key not in there]
            shared = synthesis_of(cell), self._evaluation(cell)
            for start in range(0, len(missing), _WRITTEN):
                part = missing[start : start + _WRITTEN]
                key = f"{maker} {start}"
                makers[key] = maker
                work.append(jobs.Job(key, cell_jobs.Write(self._inputs.model, self._inputs.writer, part, *shared)))
        for done in self._shared(cell_jobs.write, work, "synthetic sets"):
            self._records.add_synthetic(makers[done.key], done.result)

    def _job(self, cell: Cell) -> cell_jobs.Run:
        samples = self._inputs.samples[cell.data]
        written = self._records.synthetic(written_by(cell)) if cell.synthetic else {}
        lessons = [
            lesson(kept, [samples[i].dialogue for i in kept.annotated], written, cell.synthetic)
            for kept in self._kept.get(cell.key, [])
        ]
        others = [samples[i].dialogue for i in self._streams[cell.key].others] if cell.policy == BASE else []
        return cell_jobs.Run(cell, self._inputs.model, lessons, self._evaluation(cell), self._inputs.general, others)

    def _evaluation(self, cell: Cell) -> list[Dialogue]:
        samples = self._inputs.samples[cell.data]
        return [samples[i].dialogue for i in self._streams[cell.key].evaluation]

    def _shared(self, function: Callable[[Any], Any], work: Sequence[jobs.Job], stage: str) -> Iterator[jobs.JobResult]:
        """The jobs as they finish; UserError for one that failed: no cell could do without it."""
        if work:
            self._on_progress(ProgressEvent(stage, 0, len(work), None))
        for done in self._done(function, work, stage, len(work), {}):
            if done.error is not None:
                raise UserError(f"{stage} failed: {done.error}", self._records.folder, "mend it, and run again")
            yield done

    def _done(
        self,
        function: Callable[[Any], Any],
        work: Sequence[jobs.Job] | Iterator[jobs.Job],
        stage: str,
        total: int,
        cells: Mapping[str, Cell],
    ) -> Iterator[jobs.JobResult]:
        start = time.perf_counter()
        for number, done in enumerate(jobs.run(function, work, self._workers, self._ray), 1):
            yield done
            remaining = (time.perf_counter() - start) / number * (total - number)
            self._on_progress(ProgressEvent(stage, number, total, remaining, detail=cells.get(done.key)))


def _work(cell: Cell) -> float:
    """How much there is to do, in rows learnt and dialogues answered, which take about the same time."""
    if cell.policy == BASE:
        return cell.evaluation
    rows = cell.bins * (1 + cell.synthetic) * cell.training.epochs
    return len(cell.checkpoints) * (rows + cell.evaluation)
