"""From dialogues to an adapter on disk: makes the rows, plans the memory, trains, and writes what mlx-lm loads."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from mlx_personal.dialogue import Dialogue
from mlx_personal.finetune.checkpoint import CheckpointIdentity, discard
from mlx_personal.finetune.config import LoRAConfig
from mlx_personal.finetune.data.dataset import prepare_data
from mlx_personal.finetune.data.samples import TrainingData
from mlx_personal.finetune.distributed import ProcessGroup
from mlx_personal.finetune.loop import CheckpointStore, DivergedError, train
from mlx_personal.finetune.planning.memory import plan_memory
from mlx_personal.finetune.report import TrainingReport
from mlx_personal.models import LanguageModel
from mlx_personal.models.language_model import fingerprint
from mlx_personal.progress import Progress
from mlx_personal.runtime import blas
from mlx_personal.runtime.device import chip_name, device_name
from mlx_personal.storage.files import atomic_folder


def finetune(
    lm: LanguageModel,
    dialogues: Sequence[Dialogue],
    config: LoRAConfig,
    folder: Path,
    metadata: Mapping[str, object] | None = None,
    *,
    sources: Sequence[object] | None = None,
    weights: Sequence[float] | None = None,
    general: Sequence[Dialogue] = (),
    states: Path | None = None,
    group: ProcessGroup | None = None,
    on_progress: Progress | None = None,
) -> TrainingReport:
    """Trains a fresh adapter on every assistant turn of `dialogues` and writes it to `folder`, whole or not at all.

    Args:
        folder: must not exist yet, or be empty.
        metadata: goes into its `adapter_config.json` beside what mlx-lm reads.
        sources: what each dialogue comes from: one set aside for validation takes those of its source with it.
        weights: how much each dialogue's targets count in the loss, above 0, by default 1: a step's loss is their
            weighted mean, so that written data can count less than real (this project's design). Dialogues that are
            set aside for validation weigh 1, and so do general ones.
        general: dialogues of no owner, half of them to measure forgetting by, the others to replay.
        states: folder in which the state of the training is kept as it goes. If one of the same training is there, it
            goes on from it; a finished training leaves none.
        group: the processes that train together; each calls this with the same arguments, and rank 0 alone writes.
        on_progress: As for `train`.

    `lm` answers with its base model afterwards, whether this succeeds or not; its weights are never changed. The same
    arguments on the same machine give the same adapter, bit for bit, interrupted or not.

    UserError if no dialogue has anything to learn, if the disk refuses, or if a state belongs to another training;
    DivergedError, and no state is left, if the loss stops being a number; InterruptedTrainingError when asked to stop.
    ValueError where weights make no sense, or there is not one for each dialogue.
    """
    lm.detach_adapter()
    prepared = prepare_data(lm, dialogues, config, sources, general, weights)
    data, group = prepared.data, group or ProcessGroup()
    plan = plan_memory(lm, data, config)
    resumable = None if states is None else CheckpointStore(states, _identity(lm, data, config, group))
    with atomic_folder(folder) if group.rank == 0 else contextlib.nullcontext(None) as written:
        try:
            report = train(lm, data, config, plan=plan, resumable=resumable, group=group, on_progress=on_progress)
        except DivergedError:
            # From them it would only diverge again.
            if resumable is not None and group.rank == 0:
                discard(resumable.folder)
            raise
        try:
            if written is not None:
                _write(lm.model, written, config, metadata or {})
        finally:
            lm.detach_adapter()
    if resumable is not None and group.rank == 0:
        discard(resumable.folder)
    return dataclasses.replace(
        report,
        dropped_rows=prepared.dropped,
        truncated_rows=prepared.truncated,
        notes=(*prepared.notes, *report.notes),
    )


def _identity(lm: LanguageModel, data: TrainingData, config: LoRAConfig, group: ProcessGroup) -> CheckpointIdentity:
    """What decides the adapter, to the bit."""
    digest = hashlib.sha256()
    for rows in (data.rows, data.replay, data.validation, data.general):
        digest.update(f"{len(rows)} rows".encode())
        for row in rows:
            digest.update(len(row).to_bytes(8, "little"))
            for part in (row.inputs, row.targets, row.is_target):
                digest.update(np.ascontiguousarray(part).tobytes())
            digest.update(np.float64(row.weight).tobytes())
    without_effect = ("save_every", "forgetting", "general")
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in without_effect}
    environment = {
        **{package: version(package) for package in ("mlx-personal", "mlx", "mlx-lm")},
        "device": device_name(),
        "chip": chip_name(),
        "threads": blas.threads(),
        "machines": group.size,
    }
    base = _sampled(lm.model) if lm.path is None else fingerprint(lm.path)
    return CheckpointIdentity(base, digest.hexdigest(), settings, environment)


def _sampled(model: nn.Module) -> str:
    """Hash of a sample of a model's weights; call it while the model has no adapter."""
    digest = hashlib.sha256()
    for name, weight in sorted(tree_flatten(model.parameters())):
        flat = weight.reshape(-1)
        sample = flat[:: max(1, flat.size // 256)].view(mx.uint8)
        digest.update(f"{name} {weight.dtype} {weight.shape}".encode() + np.array(sample).tobytes())
    return digest.hexdigest()[:16]


def _write(model: nn.Module, folder: Path, config: LoRAConfig, metadata: Mapping[str, object]) -> None:
    weights = dict(tree_flatten(model.trainable_parameters()))
    # Through a file of Python's: MLX's own writing by path does not notice a full disk.
    with (folder / "adapters.safetensors").open("wb") as file:
        mx.save_safetensors(file, weights, {"format": "mlx"})
    read_by_mlx_lm = {
        "fine_tune_type": "dora" if config.dora else "lora",
        "num_layers": config.num_layers,
        "lora_parameters": config.lora_parameters,
    }
    text = json.dumps({**metadata, **read_by_mlx_lm}, indent=2) + "\n"
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
