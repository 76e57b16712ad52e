"""What somebody asks a study to do, and how it becomes cells: data sets are loaded, the model is found."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlx_personal.errors import UserError, from_os_error
from mlx_personal.finetune import LoRAConfig
from mlx_personal.models.language_model import canonical_name, fingerprint, resolve
from mlx_personal.personalizer.training_set import general_dialogues
from mlx_personal.progress import Progress, ignore_progress
from mlx_personal.research.study import datasets
from mlx_personal.research.study.cell import BASE, Cell, digest
from mlx_personal.research.study.grid import EXPERIMENTS, plan
from mlx_personal.research.study.scheduler import Inputs, Outcome, run
from mlx_personal.research.study.study_database import Records
from mlx_personal.synthesis import SynthesisConfig


@dataclass(frozen=True)
class Request:
    """A study's settings.

    Args:
        model: the base: a folder, or a repository of the Hugging Face hub.
        data: a file, or None for the hub, for each data set named; see `datasets.DATASETS`.
        experiments: names in `grid.EXPERIMENTS`.
        seeds: how many; 0, 1, ... are taken.
        synthetic: synthetic sets for each kept one, in the setting that has some.
        writer: folder of an adapter that writes synthetic sets; None: the base writes them.
        general: JSON Lines of general dialogues, to measure forgetting on; None: it is not measured.
        sizes: fields of `Cell` that differ from their defaults, which are the paper's.
        training, synthesis: the same of `LoRAConfig` and of `SynthesisConfig`.
    """

    model: str
    data: Mapping[str, Path | None]
    experiments: Sequence[str] = ("main", "ablation")
    seeds: int = 3
    synthetic: int = 3
    writer: Path | None = None
    general: Path | None = None
    sizes: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    synthesis: Mapping[str, Any] = field(default_factory=dict)


def run_study(
    folder: Path,
    request: Request,
    workers: int | None = None,
    ray: str | None = None,
    budget: float | None = None,
    on_progress: Progress = ignore_progress,
) -> Outcome:
    """Runs what the study in `folder` lacks of what is asked; see `run.run` for the other arguments.

    UserError for settings that make no sense, data that cannot be had, or a model that cannot be loaded.
    """
    unknown = [name for name in request.experiments if name not in EXPERIMENTS]
    if unknown:
        raise UserError(f"there is no experiment {unknown[0]!r}", hint=f"take some of {', '.join(EXPERIMENTS)}")
    with Records(folder, write=True) as records:
        path = resolve(request.model)
        general = general_dialogues("" if request.general is None else str(request.general))
        template = _template(request, path, digest([d.key for d in general]) if general else "")
        loaded = {name: datasets.load(name, file) for name, file in request.data.items()}
        sources = {name: found.source for name, found in loaded.items()}
        blocks = plan(template, sources, request.seeds, request.synthetic, request.experiments)
        samples = {name: found.samples for name, found in loaded.items()}
        writer = None if request.writer is None else str(request.writer.resolve())
        inputs = Inputs(str(path), writer, samples, general)
        return run(records, blocks, inputs, workers=workers, ray=ray, budget=budget, on_progress=on_progress)


def _template(request: Request, path: Path, general: str) -> Cell:
    name = canonical_name(request.model)
    try:
        return Cell(
            data="",
            source="",
            model_name=Path(name).name if Path(name).exists() else name,
            model=digest([fingerprint(path), *_hashes(path, "tokenizer*", "chat_template*")])[:16],
            seed=0,
            policy=BASE,
            writer="" if request.writer is None else digest(_hashes(request.writer, "adapter*"))[:16],
            general=general,
            training=LoRAConfig(**request.training),
            synthesis=SynthesisConfig(**request.synthesis),
            **request.sizes,
        )
    except ValueError as error:
        raise UserError(str(error), hint="change that setting") from error


def _hashes(folder: Path, *patterns: str) -> list[list[str]]:
    """Name and hash of each file of these names; UserError if there is none, or one cannot be read."""
    try:
        files = sorted(file for pattern in patterns for file in folder.glob(pattern) if file.is_file())
        hashes = [[file.name, hashlib.sha256(file.read_bytes()).hexdigest()] for file in files]
    except OSError as error:
        raise from_os_error(error, folder) from error
    if not hashes:
        raise UserError(f"there is no {patterns[0]} in this folder", folder, "check the name")
    return hashes
