"""Run long personal histories: a profile of each user's past, asked about it in each answer mode."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mlx_personal import jobs
from mlx_personal.evaluation import EvaluationConfig
from mlx_personal.models import LanguageModel
from mlx_personal.models.loading import cached_model
from mlx_personal.progress import Progress, ProgressEvent, ignore_progress
from mlx_personal.research.answer_metrics import answer_metrics
from mlx_personal.research.hashing import file_hash
from mlx_personal.research.study.cell import HISTORY, Cell
from mlx_personal.research.study.cell_jobs import rounded
from mlx_personal.research.study.histories import History, read_histories
from mlx_personal.research.study.profile_run import LONG_CONTEXT, MODES, Ask, profile_config, run_profile
from mlx_personal.research.study.study_folder import StudyFolder
from mlx_personal.research.study.study_scheduler import StudyResult, store_cells, with_progress

# The metric of a question with options: 1 if the right one is the likeliest.
OPTION_ACCURACY: Final = "option_accuracy"


@dataclass(frozen=True)
class HistoryJob:
    """The argument of `run_history`.

    Attributes:
        cell: Its settings.
        model: Folder of the model.
        history: The user's history.
    """

    cell: Cell
    model: str
    history: History


def run_history(job: HistoryJob) -> dict[str, Any]:
    """Compute the cell of a user.

    Returns:
        What `run_profile` returns, with the values of `answer_metrics`, or with `OPTION_ACCURACY` if there are options.
    """
    start, cell, history = time.perf_counter(), job.cell, job.history
    config = EvaluationConfig(max_tokens=cell.answer_tokens, choices=cell.choices, seed=cell.seed)

    def measure(lm: LanguageModel, ask: Ask) -> dict[str, list[float]]:
        if history.options:
            return {OPTION_ACCURACY: _option_accuracies(lm, ask, history)}
        return rounded(answer_metrics(lm, [ask(dialogue) for dialogue in history.asked], config))

    settings = profile_config(cell.training, cell.seed, len(history.learned), cell.examples, cell.answer_tokens)
    modes = (*MODES, LONG_CONTEXT)
    result = run_profile(cached_model(job.model), job.model, history.learned, settings, modes, measure)
    return {**result, "seconds": round(time.perf_counter() - start, 1)}


def history_jobs(template: Cell, model: str, files: Mapping[str, Path], max_users: int) -> list[HistoryJob]:
    """Return the jobs of all users.

    Args:
        template: All settings but data set and user.
        model: Folder of the model.
        files: File of each data set of `histories.HISTORIES`.
        max_users: Largest number of users of a data set.

    Raises:
        UserError: If a file cannot be read.
    """
    work = []
    for name, path in files.items():
        source = file_hash(path)[:16]
        for history in read_histories(name, path, max_users):
            cell = dataclasses.replace(template, data=name, source=source, policy=HISTORY, user=history.user)
            work.append(HistoryJob(cell, model, history))
    return work


def run_histories(
    folder: StudyFolder,
    work: Sequence[HistoryJob],
    *,
    workers: int | None = None,
    ray_address: str | None = None,
    on_progress: Progress = ignore_progress,
) -> StudyResult:
    """Compute the cells of users that a study lacks, and store each one when it finishes.

    Args:
        folder: The study's folder, which is locked.
        work: The jobs of all users.
        workers: Worker processes on this machine; by default as in `jobs`.
        ray_address: Address of a Ray cluster to use instead of this machine.
        on_progress: Receives the stage `cells`, as from `run_blocks`.
    """
    stored = folder.finished_keys()
    missing = {job.cell.key: job for job in work if job.cell.key not in stored}
    result = StudyResult(num_stored=len(work) - len(missing))
    cells = {key: job.cell for key, job in missing.items()}
    on_progress(ProgressEvent("cells", 0, len(cells), detail=tuple(cells.values())))
    all_jobs = [jobs.Job(key, job) for key, job in missing.items()]
    finished = jobs.run_jobs(run_history, all_jobs, workers, ray_address)
    store_cells(folder, list(cells.values()), with_progress(finished, len(cells), "cells", cells, on_progress), result)
    return result


def _option_accuracies(lm: LanguageModel, ask: Ask, history: History) -> list[float]:
    """Return for each question 1 if its right option has the highest likelihood a token, else 0."""
    accuracies = []
    for dialogue, options in zip(history.asked, history.options, strict=True):
        context, _ = ask(dialogue).exchanges()[-1]
        lengths = [len(lm.chat_template.tokenize_answer(option)) for option in options]
        likelihoods = lm.log_likelihoods([lm.tokenize_prompt(context)], options)[0] / lengths
        accuracies.append(float(likelihoods.argmax() == 0))
    return accuracies
