"""Fine-tune an adapter: from examples to the files that mlx-lm loads."""

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
from mlx_personal.finetune.data.dataset import Example, prepare_data
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
    examples: Sequence[Example],
    config: LoRAConfig,
    adapter_dir: Path,
    *,
    general: Sequence[Dialogue] = (),
    metadata: Mapping[str, object] | None = None,
    checkpoint_dir: Path | None = None,
    process_group: ProcessGroup | None = None,
    on_progress: Progress | None = None,
) -> TrainingReport:
    """Train a new adapter on every assistant turn of the examples and write it to a folder, completely or not at all.

    The same arguments on the same machine give the same adapter, bit for bit, whether or not the training was
    interrupted. The weights of `lm` are never changed, and afterwards it has no adapter, even after an error.

    Args:
        lm: The base model.
        examples: The dialogues to train on, with their groups and weights.
        config: Settings of the adapter and the training.
        adapter_dir: Folder to write; it must not exist yet, or be empty.
        general: Dialogues of no owner. Every second one measures forgetting, the others are replayed.
        metadata: Entries for `adapter_config.json`, beside those that mlx-lm reads.
        checkpoint_dir: Folder for checkpoints. A checkpoint of the same training that is found there is resumed; a
            finished training leaves none.
        process_group: The processes that train together. Each calls this with the same arguments; rank 0 writes.
        on_progress: Receives the events of `train`.

    Returns:
        The report of the training.

    Raises:
        UserError: If no example has a target, the disk fails, or a checkpoint belongs to another training.
        DivergedError: If the loss is not finite; no checkpoint is left.
        InterruptedTrainingError: If a signal stopped the training.
        ValueError: If a weight is not above 0 and finite.
    """
    lm.detach_adapter()
    prepared = prepare_data(lm, examples, config, general)
    data, group = prepared.data, process_group or ProcessGroup()
    plan = plan_memory(lm, data, config)
    resumable = None if checkpoint_dir is None else CheckpointStore(checkpoint_dir, _identity(lm, data, config, group))
    with atomic_folder(adapter_dir) if group.rank == 0 else contextlib.nullcontext(None) as written:
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
        dropped_samples=prepared.dropped,
        truncated_samples=prepared.truncated,
        notes=(*prepared.notes, *report.notes),
    )


def _identity(lm: LanguageModel, data: TrainingData, config: LoRAConfig, group: ProcessGroup) -> CheckpointIdentity:
    """What decides the adapter, to the bit."""
    digest = hashlib.sha256()
    for rows in (data.train, data.replay, data.validation, data.general):
        digest.update(f"{len(rows)} rows".encode())
        for row in rows:
            digest.update(len(row).to_bytes(8, "little"))
            for part in (row.inputs, row.targets, row.is_target):
                digest.update(np.ascontiguousarray(part).tobytes())
            digest.update(np.float64(row.weight).tobytes())
    without_effect = ("save_every", "forgetting", "general")
    settings = {k: v for k, v in config.to_json().items() if k not in without_effect}
    environment = {
        **{package: version(package) for package in ("mlx-personal", "mlx", "mlx-lm")},
        "device": device_name(),
        "chip": chip_name(),
        "threads": blas.thread_count(),
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
        "fine_tune_type": "dora" if config.use_dora else "lora",
        "num_layers": config.num_layers,
        "lora_parameters": config.lora_parameters,
    }
    text = json.dumps({**metadata, **read_by_mlx_lm}, indent=2) + "\n"
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
