"""Run a study from its specification: load the data sets and the model, and compute the missing cells."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlx_personal.errors import UserError, from_os_error
from mlx_personal.finetune import LoRAConfig
from mlx_personal.models.loading import canonical_name, fingerprint, resolve_model
from mlx_personal.progress import Progress, ignore_progress
from mlx_personal.research.hashing import digest
from mlx_personal.research.study.cell import BASE, Cell
from mlx_personal.research.study.datasets import load_dataset
from mlx_personal.research.study.grid import EXPERIMENTS, experiment_blocks
from mlx_personal.research.study.history_run import history_jobs, run_histories
from mlx_personal.research.study.study_folder import StudyFolder
from mlx_personal.research.study.study_scheduler import StudyInputs, StudyResult, run_blocks

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StudySpec:
    """The specification of a study.

    Attributes:
        model: The base model: a folder, or a repository of the Hugging Face hub.
        data: For each data set of `datasets.DATASETS` to use, a local file; None for the hub.
        histories: For each data set of `histories.HISTORIES` to use, its file.
        max_users: Largest number of users of such a data set.
        experiments: Names in `grid.EXPERIMENTS`.
        policies: The policies of the experiments to run; None for all of them.
        num_seeds: Number of seeds; they are 0, 1, ...
        synthetic: Synthetic dialogues per dialogue that is trained on, for the experiment `synthesis`.
        cell_settings: Fields of `Cell` that differ from their defaults.
        training_settings: Fields of `LoRAConfig` that differ from their defaults.
    """

    model: str
    data: Mapping[str, Path | None]
    histories: Mapping[str, Path] = field(default_factory=dict)
    max_users: int = 30
    experiments: Sequence[str] = ("main",)
    policies: Sequence[str] | None = None
    num_seeds: int = 3
    synthetic: int = 2
    cell_settings: Mapping[str, Any] = field(default_factory=dict)
    training_settings: Mapping[str, Any] = field(default_factory=dict)


def run_study(
    folder: Path,
    spec: StudySpec,
    workers: int | None = None,
    ray_address: str | None = None,
    time_limit_s: float | None = None,
    on_progress: Progress = ignore_progress,
) -> StudyResult:
    """Compute the cells of a specification that the study in `folder` lacks.

    Args:
        folder: Folder of the study; created if it is missing.
        spec: What to compute.
        workers: Worker processes on this machine; by default as in `jobs`.
        ray_address: Address of a Ray cluster to use instead of this machine.
        time_limit_s: Seconds for the experiments, see `study_scheduler.run_blocks`; histories have no limit.
        on_progress: Receives the progress, see `study_scheduler.run_blocks`.

    Raises:
        UserError: If a setting is invalid, or a data set or the model cannot be loaded.
    """
    unknown = [name for name in spec.experiments if name not in EXPERIMENTS]
    if unknown:
        raise UserError(f"there is no experiment {unknown[0]!r}", hint=f"choose from {', '.join(EXPERIMENTS)}")
    known = {policy for name in spec.experiments for policy in EXPERIMENTS[name].policies}
    if wrong := [policy for policy in spec.policies or () if policy not in known]:
        what = f"these experiments have no policy {wrong[0]!r}"
        raise UserError(what, hint=f"choose from {', '.join(sorted(known))}")
    study = StudyFolder(folder)
    with study.lock():
        model_folder = resolve_model(spec.model)
        template = _template(spec, model_folder)
        datasets = {name: load_dataset(name, file) for name, file in spec.data.items()}
        for name, dataset in datasets.items():
            logger.debug("%s: %d dialogues, %d invalid lines", name, len(dataset.dialogues), len(dataset.invalid_lines))
        sources = {name: dataset.source for name, dataset in datasets.items()}
        histories = history_jobs(template, str(model_folder), spec.histories, spec.max_users)
        result = run_blocks(
            study,
            experiment_blocks(template, sources, spec.num_seeds, spec.synthetic, spec.experiments, spec.policies),
            StudyInputs(str(model_folder), {name: dataset.dialogues for name, dataset in datasets.items()}),
            workers=workers,
            ray_address=ray_address,
            time_limit_s=time_limit_s,
            on_progress=on_progress,
        )
        if not histories:
            return result
        return result + run_histories(
            study, histories, workers=workers, ray_address=ray_address, on_progress=on_progress
        )


def _template(spec: StudySpec, model_folder: Path) -> Cell:
    """Return the settings that all cells share."""
    name = canonical_name(spec.model)
    try:
        return Cell(
            data="",
            source="",
            model_name=Path(name).name if Path(name).exists() else name,
            model=digest([fingerprint(model_folder), *_file_hashes(model_folder, "tokenizer*", "chat_template*")])[:16],
            seed=0,
            policy=BASE,
            training=LoRAConfig(**spec.training_settings),
            **spec.cell_settings,
        )
    except ValueError as error:
        raise UserError(str(error), hint="change that setting") from error


def _file_hashes(folder: Path, *patterns: str) -> list[list[str]]:
    """Return the name and the hash of each matching file; raise a UserError if there is none."""
    try:
        files = sorted(file for pattern in patterns for file in folder.glob(pattern) if file.is_file())
        hashes = [[file.name, hashlib.sha256(file.read_bytes()).hexdigest()] for file in files]
    except OSError as error:
        raise from_os_error(error, folder) from error
    if not hashes:
        raise UserError(f"there is no {patterns[0]} in this folder", folder, "check the name")
    return hashes
