"""Fine-tune an adapter: from examples to the adapter files that mlx-lm loads."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from mlx_personal.dialogue import Dialogue
from mlx_personal.finetune.config import LoRAConfig
from mlx_personal.finetune.data.dataset import prepare_data
from mlx_personal.finetune.data.examples import Example, PreferencePair
from mlx_personal.finetune.distributed import ProcessGroup
from mlx_personal.finetune.identity import training_identity
from mlx_personal.finetune.loop import DivergedError, train
from mlx_personal.finetune.plan import plan_for_model
from mlx_personal.finetune.report import TrainingReport
from mlx_personal.finetune.resume import CheckpointStore
from mlx_personal.models import LanguageModel
from mlx_personal.models.adapter_effect import AdapterProbe
from mlx_personal.progress import Progress
from mlx_personal.storage.files import atomic_folder

_NO_EFFECT: Final = "the adapter changes nothing: raise the learning rate or the number of epochs"


def finetune(
    lm: LanguageModel,
    examples: Sequence[Example],
    config: LoRAConfig,
    adapter_folder: Path,
    *,
    general: Sequence[Dialogue] = (),
    pairs: Sequence[PreferencePair] = (),
    metadata: Mapping[str, object] | None = None,
    checkpoint_folder: Path | None = None,
    keep_checkpoints: bool = False,
    process_group: ProcessGroup | None = None,
    on_progress: Progress | None = None,
) -> TrainingReport:
    """Train a new adapter on every assistant turn of the examples, and write it atomically to a folder.

    With another objective than `sft` it is trained on preference pairs, or on both.

    The same arguments on the same machine produce the same adapter, bit for bit, even if the run was interrupted; the
    report notes what else may change its last bits, such as another number of BLAS threads on a Linux CPU. The weights
    of `lm` are never changed, and afterwards it has no adapter, even after an error.

    Args:
        lm: The base model.
        examples: The dialogues to train on, with their groups and weights.
        config: Settings of the adapter and of its training.
        adapter_folder: Folder to write; it must not exist, or be empty.
        general: General dialogues. Every second one measures forgetting; the others may be replayed.
        pairs: Preference pairs, which only an objective with pairs uses.
        metadata: Entries of `adapter_config.json` in addition to those that mlx-lm reads.
        checkpoint_folder: Folder for checkpoints. An existing checkpoint of the same training run is resumed; a
            finished run leaves none. None saves and resumes nothing.
        keep_checkpoints: Whether a finished run leaves its last checkpoint, from which the same call writes the same
            adapter again without training. A caller that records the adapter elsewhere discards it afterwards with
            `checkpoint.discard`.
        process_group: The processes that train together. Each calls this with the same arguments; rank 0 writes.
        on_progress: Receives the events of `train`.

    Returns:
        The report of the training run.

    Raises:
        UserError: If there is nothing to train on, the disk fails, or a checkpoint belongs to another training run.
        DivergedError: If the loss is not finite; no checkpoint is left.
        InterruptedTrainingError: If a signal stopped the training.
        ValueError: If a weight is not above 0 and finite.
    """
    process_group = process_group or ProcessGroup()
    lm.detach_adapter()
    prepared = prepare_data(lm, examples, config, general, pairs)
    plan = plan_for_model(lm, prepared.data, config)
    checkpoints = None
    if checkpoint_folder is not None:
        identity = training_identity(lm, prepared.data, config, process_group)
        checkpoints = CheckpointStore(checkpoint_folder, identity)
    with _folder_of_rank_0(adapter_folder, process_group) as folder:
        try:
            report = train(lm, plan, checkpoints=checkpoints, process_group=process_group, on_progress=on_progress)
        except DivergedError:
            # A run resumed from these checkpoints would diverge again.
            if checkpoints is not None:
                checkpoints.discard(process_group)
            raise
        try:
            if folder is not None:
                write_adapter(lm.model, folder, config, metadata or {})
            probe = AdapterProbe(lm, plan.data.all[plan.probe[0]].inputs.tolist())
        finally:
            lm.detach_adapter()
    if checkpoints is not None and not keep_checkpoints:
        checkpoints.discard(process_group)
    has_effect = probe.has_effect(lm)
    return dataclasses.replace(
        report,
        has_effect=has_effect,
        dropped_samples=prepared.dropped,
        truncated_samples=prepared.truncated,
        notes=(*prepared.notes, *report.notes, *([] if has_effect else [_NO_EFFECT])),
    )


def _folder_of_rank_0(path: Path, process_group: ProcessGroup) -> contextlib.AbstractContextManager[Path | None]:
    """Return a context manager of a temporary folder that becomes `path`; of None in the other processes."""
    return atomic_folder(path) if process_group.rank == 0 else contextlib.nullcontext(None)


def write_adapter(model: nn.Module, folder: Path, config: LoRAConfig, metadata: Mapping[str, object]) -> None:
    """Write an adapter's weights and its `adapter_config.json` in mlx-lm's format.

    Args:
        model: The model with the adapter.
        folder: Folder to write to.
        config: Settings of the adapter.
        metadata: Additional entries of `adapter_config.json`.
    """
    weights = dict(tree_flatten(model.trainable_parameters()))
    # Through a Python file, because MLX does not detect a full disk when it writes to a path.
    with (folder / "adapters.safetensors").open("wb") as file:
        mx.save_safetensors(file, weights, {"format": "mlx"})
    mlx_lm_entries = {
        "fine_tune_type": "dora" if config.use_dora else "lora",
        "num_layers": config.num_layers,
        "lora_parameters": config.lora_parameters,
    }
    text = json.dumps({**metadata, **mlx_lm_entries}, indent=2) + "\n"
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
