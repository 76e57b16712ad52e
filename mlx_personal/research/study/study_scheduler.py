"""Run the missing cells of a study as independent jobs.

Dialogues are embedded once per data set and model. Then every policy is run along its stream, which needs no model.
Finally each cell trains and measures its profile. Every result is stored as soon as it is available, so an interrupted
study continues where it stopped.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from mlx_personal import jobs
from mlx_personal.dialogue import Dialogue
from mlx_personal.errors import UserError
from mlx_personal.progress import Progress, ProgressEvent, ignore_progress
from mlx_personal.research.study import cell_jobs
from mlx_personal.research.study.cell import BASE, Cell
from mlx_personal.research.study.cell_selection import ScoredDialogue, select_from_stream
from mlx_personal.research.study.grid import CellBlock
from mlx_personal.research.study.profile_run import MODES
from mlx_personal.research.study.schemas import LabeledDialogue
from mlx_personal.research.study.stream import StreamConfig, StreamSplit, split_stream
from mlx_personal.research.study.study_folder import Embedded, StudyFolder
from mlx_personal.research.study.topics import assign_topics
from mlx_personal.scoring import Lexicons

logger = logging.getLogger(__name__)

# Dialogues per job of embedding: enough to fill a batch.
_EMBEDDING_JOB_SIZE: Final = 64


@dataclass(frozen=True)
class StudyInputs:
    """The model and the data of a study.

    Attributes:
        model: Folder of the base model.
        dialogues: Dialogues of each data set.
    """

    model: str
    dialogues: Mapping[str, Sequence[LabeledDialogue]]


@dataclass
class StudyResult:
    """What a run did.

    Attributes:
        num_stored: Cells that had finished before.
        num_computed: Cells that were computed.
        failed: Cells that failed, with their error.
        skipped: Blocks that the time limit left out.
    """

    num_stored: int = 0
    num_computed: int = 0
    failed: list[tuple[Cell, str]] = field(default_factory=list)
    skipped: list[CellBlock] = field(default_factory=list)

    def __add__(self, other: StudyResult) -> StudyResult:
        """Return what two runs did."""
        return StudyResult(
            self.num_stored + other.num_stored,
            self.num_computed + other.num_computed,
            [*self.failed, *other.failed],
            [*self.skipped, *other.skipped],
        )


def run_blocks(
    folder: StudyFolder,
    blocks: Sequence[CellBlock],
    inputs: StudyInputs,
    *,
    workers: int | None = None,
    ray_address: str | None = None,
    time_limit_s: float | None = None,
    on_progress: Progress = ignore_progress,
) -> StudyResult:
    """Compute the cells that a study lacks, and store each one when it finishes.

    A cell that fails does not stop the others.

    Args:
        folder: The study's folder, which is locked.
        blocks: Blocks of cells, in the order in which to run them.
        inputs: The model and the data.
        workers: Worker processes on this machine; by default as in `jobs`.
        ray_address: Address of a Ray cluster to use instead of this machine.
        time_limit_s: Seconds for the whole run. Blocks are run one after the other. The first one is always run; each
            other one only if the time that the previous ones took suggests that it will finish within the limit.
        on_progress: Receives the stages `embedding` and `cells`. The first event of `cells` has the tuple
            of cells to compute as its detail, each further one the cell that has just finished.

    Raises:
        UserError: If a data set is too small, or a computation that all cells need fails.
    """
    return _BlockRunner(folder, inputs, workers, ray_address, time_limit_s, on_progress).run(blocks)


class _BlockRunner:
    def __init__(
        self,
        folder: StudyFolder,
        inputs: StudyInputs,
        workers: int | None,
        ray_address: str | None,
        time_limit_s: float | None,
        on_progress: Progress,
    ):
        self._folder, self._inputs, self._on_progress = folder, inputs, on_progress
        self._workers, self._ray_address, self._time_limit_s = workers, ray_address, time_limit_s
        self._lexicons = Lexicons.load()
        self._topics: dict[str, list[str]] = {}
        self._splits: dict[tuple[str, StreamConfig], StreamSplit] = {}

    def run(self, blocks: Sequence[CellBlock]) -> StudyResult:
        """Run the missing cells of all blocks within the time limit."""
        result, missing, stored = StudyResult(), [], self._folder.finished_keys()
        for block in blocks:
            missing_cells = tuple(cell for cell in block.cells if cell.key not in stored)
            result.num_stored += len(block.cells) - len(missing_cells)
            if missing_cells:
                missing.append(CellBlock(block.name, missing_cells))
        logger.info("%d cells are stored, %d blocks have missing cells", result.num_stored, len(missing))
        start, work_done = time.perf_counter(), 0.0
        # With a time limit the blocks run one by one, so that nothing is prepared for cells that are left out.
        groups = [[block] for block in missing] if self._time_limit_s is not None or not missing else [missing]
        for group in groups:
            cells = [cell for block in group for cell in block.cells]
            work, elapsed_s = sum(map(_estimate_work, cells)), time.perf_counter() - start
            if (
                self._time_limit_s is not None
                and work_done
                and elapsed_s + work * elapsed_s / work_done > self._time_limit_s
            ):
                result.skipped += group
            else:
                self._run_cells(cells, result)
                work_done += work
        return result

    def _run_cells(self, cells: Sequence[Cell], result: StudyResult) -> None:
        """Prepare and compute cells, and add them to `result`."""
        embedded = self._embed(cells)
        self._on_progress(ProgressEvent("cells", 0, len(cells), detail=tuple(cells)))
        work = [jobs.Job(cell.key, self._cell_job(cell, embedded)) for cell in cells]
        finished = self._run_jobs(cell_jobs.run_cell, work, "cells", {cell.key: cell for cell in cells})
        store_cells(self._folder, cells, finished, result)

    def _split(self, cell: Cell) -> StreamSplit:
        """Return the stream and the evaluation dialogues of a cell."""
        dialogues = self._inputs.dialogues[cell.data]
        if cell.data not in self._topics:
            self._topics[cell.data] = assign_topics(dialogues)
        config = StreamConfig(cell.part, cell.order, cell.strength, cell.received, cell.evaluation, cell.seed)
        if (cell.data, config) not in self._splits:
            try:
                self._splits[cell.data, config] = split_stream(dialogues, self._topics[cell.data], config)
            except UserError as error:
                raise UserError(error.what, cell.data, error.hint) from error
        return self._splits[cell.data, config]

    def _embed(self, cells: Sequence[Cell]) -> dict[str, Embedded]:
        """Return the embeddings of all streams by the keys of the dialogues; compute those that are not stored."""
        model = cells[0].model
        stored = self._folder.embeddings(model)
        missing: dict[str, Dialogue] = {}
        for cell in cells:
            if cell.policy != BASE:
                missing |= {d.key: d for d in self._dialogues(cell, self._split(cell).streamed) if d.key not in stored}
        keys = list(missing)
        chunks = {str(i): keys[i : i + _EMBEDDING_JOB_SIZE] for i in range(0, len(keys), _EMBEDDING_JOB_SIZE)}
        work = [
            jobs.Job(name, cell_jobs.EmbeddingJob(self._inputs.model, [missing[key].text for key in chunk]))
            for name, chunk in chunks.items()
        ]
        if work:
            self._on_progress(ProgressEvent("embedding", 0, len(work), None))
        for finished in self._run_jobs(cell_jobs.embed_texts, work, "embedding", {}):
            if finished.error is not None:
                what = f"embedding failed: {finished.error}"
                raise UserError(what, self._folder.path, "fix the cause, and run again")
            self._folder.add_embeddings(model, chunks[finished.key], *finished.result)
        return self._folder.embeddings(model) if work else stored

    def _cell_job(self, cell: Cell, embedded: Mapping[str, Embedded]) -> cell_jobs.CellJob:
        split = self._split(cell)
        evaluation = self._dialogues(cell, split.evaluation)
        if cell.policy == BASE:
            reference = self._dialogues(cell, split.reference)
            return cell_jobs.CellJob(cell, self._inputs.model, [], evaluation, reference)
        streamed = self._dialogues(cell, split.streamed)
        kept = select_from_stream(cell, [self._scored(dialogue, embedded[dialogue.key]) for dialogue in streamed])
        return cell_jobs.CellJob(cell, self._inputs.model, [streamed[position] for position in kept], evaluation)

    def _scored(self, dialogue: Dialogue, embedded: Embedded) -> ScoredDialogue:
        domain = self._lexicons.domain_specific_score(dialogue.text)
        return ScoredDialogue(dialogue.text, *embedded, dss=domain.dss, domain=domain.domain)

    def _dialogues(self, cell: Cell, indices: Sequence[int]) -> list[Dialogue]:
        return [self._inputs.dialogues[cell.data][index].dialogue for index in indices]

    def _run_jobs(
        self, function: Callable[[Any], Any], work: Sequence[jobs.Job], stage: str, cells: Mapping[str, Cell]
    ) -> Iterator[jobs.JobResult]:
        """Yield results as they finish, and report the progress after the caller has stored each of them."""
        finished = jobs.run_jobs(function, work, self._workers, self._ray_address)
        yield from with_progress(finished, len(work), stage, cells, self._on_progress)


def store_cells(
    folder: StudyFolder, cells: Sequence[Cell], finished: Iterable[jobs.JobResult], result: StudyResult
) -> None:
    """Store cells as they finish, and add them or their errors to a result.

    Args:
        folder: The study's folder, which is locked.
        cells: The cells.
        finished: The results of their jobs, whose keys are those of the cells.
        result: What the run did so far.
    """
    by_key = {cell.key: cell for cell in cells}
    for job in finished:
        cell = by_key[job.key]
        if job.error is None:
            folder.add_cell(cell, job.result)
            result.num_computed += 1
        else:
            result.failed.append((cell, job.error))


def with_progress(
    finished: Iterable[jobs.JobResult], total: int, stage: str, cells: Mapping[str, Cell], on_progress: Progress
) -> Iterator[jobs.JobResult]:
    """Yield results as they finish, and report the progress after the caller has stored each of them.

    Args:
        finished: The results.
        total: Number of jobs.
        stage: Name of the stage.
        cells: The cell of a job by its key, the detail of its event.
        on_progress: Receives an event for each job.
    """
    start = time.perf_counter()
    for number, job in enumerate(finished, 1):
        yield job
        remaining_s = (time.perf_counter() - start) / number * (total - number)
        on_progress(ProgressEvent(stage, number, total, remaining_s, detail=cells.get(job.key)))


def _estimate_work(cell: Cell) -> float:
    """Return the work of a cell in dialogues that are answered; training on one takes about as long for an epoch."""
    if cell.policy == BASE:
        return cell.evaluation
    trained = cell.bins * (1 + cell.synthetic) * cell.training.epochs
    return trained + (len(MODES) - 1) * cell.evaluation
