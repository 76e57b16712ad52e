"""The identity of a training run, which decides whether it may resume from a checkpoint."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from mlx_personal.errors import Action, UserError
from mlx_personal.finetune.config import STORED_NAMES, LoRAConfig
from mlx_personal.finetune.data.samples import TrainingData
from mlx_personal.finetune.distributed import ProcessGroup
from mlx_personal.models import LanguageModel
from mlx_personal.models.loading import fingerprint
from mlx_personal.runtime import blas
from mlx_personal.runtime.device import chip_name, device_name

# Settings that do not affect the adapter, by their stored names.
_WITHOUT_EFFECT: Final = ("save_every", "forgetting", "general")
_IDENTITY_KEYS: Final = {"samples": "rows"}
_PRESENT_NAMES: Final = {stored: name for name, stored in STORED_NAMES.items()}


@dataclass(frozen=True)
class TrainingIdentity:
    """What a resumed training run must have in common with the interrupted one.

    Attributes:
        base: Fingerprint of the base model.
        samples: Hash of all samples and their weights, in order.
        settings: Settings that affect the result, by their stored names.
        environment: Versions, device, number of threads and of machines, which affect only the last bits.
    """

    base: str
    samples: str
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the identity as checkpoints store it, under the key names of version 0.1."""
        return {_IDENTITY_KEYS.get(name, name): value for name, value in dataclasses.asdict(self).items()}


def training_identity(
    lm: LanguageModel, data: TrainingData, config: LoRAConfig, process_group: ProcessGroup
) -> TrainingIdentity:
    """Return the identity of a training run.

    Args:
        lm: The base model, without an adapter.
        data: The samples.
        config: The settings.
        process_group: The processes that train together.

    Returns:
        Everything that the bits of the adapter depend on.
    """
    digest = hashlib.sha256()
    sample_sets = [data.train, data.replay, data.validation, data.general]
    if data.chosen:  # so that a training run without pairs has the same hash as before there were any
        for pairs in (data.pairs, data.validation_pairs):
            sample_sets += [[pair.chosen for pair in pairs], [pair.rejected for pair in pairs]]
    for samples in sample_sets:
        # `rows` is the word of version 0.1, whose checkpoints have the same hash.
        digest.update(f"{len(samples)} rows".encode())
        for sample in samples:
            digest.update(len(sample).to_bytes(8, "little"))
            for array in (sample.inputs, sample.targets, sample.is_target):
                digest.update(np.ascontiguousarray(array).tobytes())
            digest.update(np.float64(sample.weight).tobytes())
    settings = {name: value for name, value in config.to_json().items() if name not in _WITHOUT_EFFECT}
    if (date := lm.chat_template.training_date) is not None:
        settings["template_date"] = date  # absent otherwise, as in checkpoints of version 0.1
    environment = {
        **{package: version(package) for package in ("mlx-personal", "mlx", "mlx-lm")},
        "device": device_name(),
        "chip": chip_name(),
        "threads": blas.thread_count(),
        "machines": process_group.size,
    }
    base = _hash_of_weights(lm.model) if lm.path is None else fingerprint(lm.path)
    return TrainingIdentity(base, digest.hexdigest(), settings, environment)


def check_identity(saved: Mapping[str, Any], present: TrainingIdentity) -> str | None:
    """Check that a checkpoint belongs to the present training run.

    Args:
        saved: Result of `TrainingIdentity.to_json`, read from a checkpoint.
        present: The identity of the present training run.

    Returns:
        None, or a note if the rest of the run will not be bit-identical.

    Raises:
        UserError: If it belongs to another training run; the message names what differs.
    """
    if saved["base"] != present.base:
        what = "cannot resume: the base model is not the one that this training run started with"
        raise UserError(what, remedy=Action.RESTART_TRAINING)
    if different := _differences(saved["settings"], present.settings, _PRESENT_NAMES):
        raise UserError(f"cannot resume: changed settings: {different}", remedy=Action.RESTART_TRAINING)
    if saved["rows"] != present.samples:
        what = "cannot resume: the training samples have changed since this training run started"
        raise UserError(what, remedy=Action.RESTART_TRAINING)
    if different := _differences(saved["environment"], present.environment, {}):
        return f"resumed under other conditions ({different}): the result will not be bit-identical"
    return None


def _differences(saved: Mapping[str, Any], present: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """Return the differences as text, such as `name was 1, is 2`; empty if there are none."""
    now = json.loads(json.dumps(dict(present)))
    keys = sorted(key for key in saved.keys() | now.keys() if saved.get(key) != now.get(key))
    return ", ".join(f"{names.get(key, key)} was {saved.get(key)}, is {now.get(key)}" for key in keys)


def _hash_of_weights(model: nn.Module) -> str:
    """Return the hash of a sample of the weights of a model without an adapter."""
    digest = hashlib.sha256()
    for name, weight in sorted(tree_flatten(model.parameters())):
        flat = weight.reshape(-1)
        sample = flat[:: max(1, flat.size // 256)].view(mx.uint8)
        digest.update(f"{name} {weight.dtype} {weight.shape}".encode() + np.array(sample).tobytes())
    return digest.hexdigest()[:16]
