"""Run the missing cells of a study as independent jobs.

Results that cells share are computed first. Dialogues are embedded once per data set and model. Then every policy is
run along its stream, which needs no model. Synthetic dialogues are generated once per data set and seed, for every
dialogue that any cell selects. Finally each cell trains and evaluates its adapters. Every result is stored as soon as
it is available, so an interrupted study continues where it stopped.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from mlx_personal import jobs
from mlx_personal.dialogue import Dialogue
from mlx_personal.errors import UserError
from mlx_personal.progress import Progress, ProgressEvent, ignore_progress
from mlx_personal.research.hashing import digest
from mlx_personal.research.study import cell_jobs
from mlx_personal.research.study.cell import BASE, PROTOCOL, Cell
from mlx_personal.research.study.cell_selection import ScoredDialogue, SelectionCheckpoint, select_from_stream
from mlx_personal.research.study.checkpoint_data import checkpoint_data, synthesis_config, synthesis_key
from mlx_personal.research.study.grid import CellBlock
from mlx_personal.research.study.schemas import LabeledDialogue
from mlx_personal.research.study.stream import StreamConfig, StreamSplit, split_stream
from mlx_personal.research.study.study_database import StudyDatabase
from mlx_personal.research.study.topics import assign_topics
from mlx_personal.scoring import Lexicons

logger = logging.getLogger(__name__)

# Dialogues per job. Embedding needs enough to fill a batch. Synthesis works on one dialogue at a time, and small jobs
# limit what an interruption loses.
_EMBEDDING_JOB_SIZE: Final = 64
_SYNTHESIS_JOB_SIZE: Final = 16


@dataclass(frozen=True)
class StudyInputs:
    """The model and the data of a study.

    Attributes:
        model: Folder of the base model.
        writer: Folder of the adapter that generates synthetic dialogues; None for the base model.
        dialogues: Dialogues of each data set.
        general: Dialogues outside the data sets, to measure forgetting on.
    """

    model: str
    writer: str | None
    dialogues: Mapping[str, Sequence[LabeledDialogue]]
    general: Sequence[Dialogue] = ()


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


def run_blocks(
    database: StudyDatabase,
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
        database: Database of the study, open for writing.
        blocks: Blocks of cells, in the order in which to run them.
        inputs: The model and the data.
        workers: Worker processes on this machine; by default as in `jobs`.
        ray_address: Address of a Ray cluster to use instead of this machine.
        time_limit_s: Seconds for the whole run. Blocks are run one after the other. The first one is always run; each
            other one only if the time that the previous ones took suggests that it will finish within the limit.
        on_progress: Receives the stages `embedding`, `selection`, `synthesis` and `cells`. The first event of
            `cells` has the tuple of cells to compute as its detail, each further one the cell that has just finished.

    Raises:
        UserError: If a data set is too small, or a computation that all cells need fails.
    """
    return _BlockRunner(database, inputs, workers, ray_address, time_limit_s, on_progress).run(blocks)


class _BlockRunner:
    def __init__(
        self,
        database: StudyDatabase,
        inputs: StudyInputs,
        workers: int | None,
        ray_address: str | None,
        time_limit_s: float | None,
        on_progress: Progress,
    ):
        self._database, self._inputs, self._on_progress = database, inputs, on_progress
        self._workers, self._ray_address, self._time_limit_s = workers, ray_address, time_limit_s
        self._topics: dict[str, list[str]] = {}
        self._splits: dict[str, StreamSplit] = {}
        self._selections: dict[str, list[SelectionCheckpoint]] = {}

    def run(self, blocks: Sequence[CellBlock]) -> StudyResult:
        """Run the missing cells of all blocks within the time limit."""
        result, missing = StudyResult(), []
        for block in blocks:
            missing_cells = tuple(cell for cell in block.cells if not self._database.has_cell(cell))
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
        self._split_streams(cells)
        self._select(cells, self._score(cells))
        self._synthesize(cells)
        by_key = {cell.key: cell for cell in cells}
        self._on_progress(ProgressEvent("cells", 0, len(cells), detail=tuple(cells)))
        work = (jobs.Job(cell.key, self._cell_job(cell)) for cell in cells)
        for finished in self._run_jobs(cell_jobs.run_cell, work, "cells", len(cells), by_key):
            cell = by_key[finished.key]
            if finished.error is None:
                self._database.add_cell(cell, finished.result)
                result.num_computed += 1
            else:
                result.failed.append((cell, finished.error))

    def _split_streams(self, cells: Sequence[Cell]) -> None:
        """Draw the stream and the evaluation dialogues of every cell."""
        for data in {cell.data for cell in cells} - set(self._topics):
            self._topics[data] = assign_topics(self._inputs.dialogues[data])
        splits: dict[tuple[str, StreamConfig], StreamSplit] = {}
        for cell in cells:
            config = StreamConfig(cell.part, cell.order, cell.strength, cell.received, cell.evaluation, cell.seed)
            if (cell.data, config) not in splits:
                dialogues = self._inputs.dialogues[cell.data]
                try:
                    splits[cell.data, config] = split_stream(dialogues, self._topics[cell.data], config)
                except UserError as error:
                    raise UserError(error.what, cell.data, error.hint) from error
            self._splits[cell.key] = splits[cell.data, config]

    def _score(self, cells: Sequence[Cell]) -> dict[str, dict[int, ScoredDialogue]]:
        """Embed and score the dialogues of all streams; return them by data set and index."""
        streamed: dict[str, set[int]] = {}
        for cell in cells:
            if cell.policy != BASE:
                streamed.setdefault(cell.data, set()).update(self._splits[cell.key].streamed)
        dialogues = {
            data: {i: self._inputs.dialogues[data][i].dialogue for i in sorted(indices)}
            for data, indices in streamed.items()
        }
        embeddings = self._embed(cells[0].model, [d for by_index in dialogues.values() for d in by_index.values()])
        lexicons = Lexicons.load()

        def scored(dialogue: Dialogue) -> ScoredDialogue:
            domain = lexicons.domain_specific_score(dialogue.text)
            return ScoredDialogue(dialogue.text, *embeddings[dialogue.key], dss=domain.dss, domain=domain.domain)

        return {data: {i: scored(d) for i, d in by_index.items()} for data, by_index in dialogues.items()}

    def _embed(self, model: str, dialogues: Sequence[Dialogue]) -> dict[str, tuple[Any, dict[str, float]]]:
        """Return the embeddings of dialogues by their key; compute those that are not stored."""
        made_by = embedding_key(model)
        stored = self._database.embeddings(made_by)
        missing = list({d.key: d for d in dialogues if d.key not in stored}.values())
        chunks = {str(i): missing[i : i + _EMBEDDING_JOB_SIZE] for i in range(0, len(missing), _EMBEDDING_JOB_SIZE)}
        work = [
            jobs.Job(key, cell_jobs.EmbeddingJob(self._inputs.model, [d.text for d in chunk]))
            for key, chunk in chunks.items()
        ]
        for finished in self._run_shared_jobs(cell_jobs.embed_texts, work, "embedding"):
            self._database.add_embeddings(made_by, [d.key for d in chunks[finished.key]], *finished.result)
        return self._database.embeddings(made_by) if work else stored

    def _select(self, cells: Sequence[Cell], scored: Mapping[str, Mapping[int, ScoredDialogue]]) -> None:
        """Run every cell's policy along its stream."""
        for number, cell in enumerate(cells, 1):
            if cell.policy != BASE:
                streamed = self._splits[cell.key].streamed
                self._selections[cell.key] = select_from_stream(cell, streamed, scored[cell.data])
            self._on_progress(ProgressEvent("selection", number, len(cells), None))

    def _synthesize(self, cells: Sequence[Cell]) -> None:
        """Generate the missing synthetic dialogues of all originals that any cell trains on."""
        originals: dict[str, dict[str, Dialogue]] = {}
        cell_of: dict[str, Cell] = {}
        for cell in cells:
            if cell.synthetic == 0 or cell.policy == BASE:
                continue
            made_by = synthesis_key(cell)
            cell_of[made_by] = cell
            for index in itertools.chain.from_iterable(c.annotated for c in self._selections[cell.key]):
                dialogue = self._inputs.dialogues[cell.data][index].dialogue
                originals.setdefault(made_by, {})[dialogue.key] = dialogue
        made_by_of: dict[str, str] = {}
        work = []
        for made_by, dialogues in originals.items():
            cell, stored = cell_of[made_by], self._database.synthetic_dialogues(made_by)
            missing = [dialogues[key] for key in sorted(dialogues) if key not in stored]
            config, forbidden = synthesis_config(cell), self._evaluation_dialogues(cell)
            for start in range(0, len(missing), _SYNTHESIS_JOB_SIZE):
                chunk = missing[start : start + _SYNTHESIS_JOB_SIZE]
                key = f"{made_by} {start}"
                made_by_of[key] = made_by
                job = cell_jobs.SynthesisJob(self._inputs.model, self._inputs.writer, chunk, config, forbidden)
                work.append(jobs.Job(key, job))
        for finished in self._run_shared_jobs(cell_jobs.synthesize_dialogues, work, "synthesis"):
            self._database.add_synthetic_dialogues(made_by_of[finished.key], finished.result)

    def _cell_job(self, cell: Cell) -> cell_jobs.CellJob:
        dialogues = self._inputs.dialogues[cell.data]
        synthetic_dialogues = self._database.synthetic_dialogues(synthesis_key(cell)) if cell.synthetic else {}
        checkpoints = [
            checkpoint_data(c, [dialogues[i].dialogue for i in c.annotated], synthetic_dialogues, cell.synthetic)
            for c in self._selections.get(cell.key, [])
        ]
        reference = [dialogues[i].dialogue for i in self._splits[cell.key].reference] if cell.policy == BASE else []
        return cell_jobs.CellJob(
            cell,
            self._inputs.model,
            checkpoints,
            self._evaluation_dialogues(cell),
            self._inputs.general,
            reference,
        )

    def _evaluation_dialogues(self, cell: Cell) -> list[Dialogue]:
        dialogues = self._inputs.dialogues[cell.data]
        return [dialogues[i].dialogue for i in self._splits[cell.key].evaluation]

    def _run_shared_jobs(
        self, function: Callable[[Any], Any], work: Sequence[jobs.Job], stage: str
    ) -> Iterator[jobs.JobResult]:
        """Yield results that all cells need as they finish; raise a UserError if a job fails."""
        if work:
            self._on_progress(ProgressEvent(stage, 0, len(work), None))
        for finished in self._run_jobs(function, work, stage, len(work), {}):
            if finished.error is not None:
                raise UserError(
                    f"{stage} failed: {finished.error}", self._database.folder, "fix the cause, and run again"
                )
            yield finished

    def _run_jobs(
        self,
        function: Callable[[Any], Any],
        work: Sequence[jobs.Job] | Iterator[jobs.Job],
        stage: str,
        total: int,
        cells: Mapping[str, Cell],
    ) -> Iterator[jobs.JobResult]:
        """Yield results as they finish, and report the progress after the caller has stored each of them."""
        start = time.perf_counter()
        for number, finished in enumerate(jobs.run_jobs(function, work, self._workers, self._ray_address), 1):
            yield finished
            remaining_s = (time.perf_counter() - start) / number * (total - number)
            self._on_progress(ProgressEvent(stage, number, total, remaining_s, detail=cells.get(finished.key)))


def embedding_key(model: str) -> str:
    """Return the key under which the embeddings of a model, given by its fingerprint, are stored."""
    return digest({"model": model, "protocol": PROTOCOL})


def _estimate_work(cell: Cell) -> float:
    """Return the work of a cell: samples trained on and dialogues answered, which take about the same time."""
    if cell.policy == BASE:
        return cell.evaluation
    samples = cell.bins * (1 + cell.synthetic) * cell.training.epochs
    return len(cell.checkpoints) * (samples + cell.evaluation)
