"""A base model and an adapter made one model folder, so that a task's adapter becomes the base of users' adapters.

That is the first stage of one adapter for each user (OPPU): what all users have in common is learnt once and merged.
Merging itself is mlx-lm's. `mlx_lm.fuse` quantizes merged layers again, which rounds away much of what an adapter
learnt; here they stay as they are, and only they: a quantized base becomes larger by them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.utils import save_config

from mlx_personal.errors import UserError
from mlx_personal.models import LanguageModel
from mlx_personal.storage.files import atomic_folder

# What a model folder has beside its weights: tokenizer, chat template, defaults of generation; and of that what is made
# anew, or tells how weights were quantized before.
_OTHER_FILES = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")
_NOT_COPIED = ("config.json", "model.safetensors.index.json", "hf_quant_config.json")


def fuse(lm: LanguageModel, adapter_folder: Path, out: Path) -> Path:
    """Writes the folder `out`, whole or not at all: `lm`'s base model with the adapter merged; returns `out`.

    It is in mlx-lm's format and in the kinds of numbers that `lm` computes with: on a CPU float32, unquantized. `lm`
    answers with its base model afterwards. UserError for a model that came from no folder, an adapter that does not
    fit, if something is at `out`, or if the disk refuses.
    """
    if lm.path is None:
        raise UserError("a model that was made in memory has no folder to write another one like it")
    lm.attach_adapter(adapter_folder)
    try:
        with atomic_folder(out) as folder:
            # Through a file of Python's: MLX's own writing by path does not notice a full disk.
            with (folder / "model.safetensors").open("wb") as file:
                mx.save_safetensors(file, _merged(lm.model), {"format": "mlx"})
            save_config(_config(lm.model, lm.path), folder / "config.json")
            for pattern in _OTHER_FILES:
                for found in lm.path.glob(pattern):
                    if found.name not in _NOT_COPIED:
                        shutil.copyfile(found, folder / found.name)
    finally:
        lm.detach_adapter()
    return out


def _merged(model: nn.Module) -> dict[str, mx.array]:
    """The weights by name, adapted layers as plain ones; the model stays as it is."""
    weights: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    for name, module in _adapted(model).items():
        layer = module.linear if "linear" in module else module.embedding
        kind = layer.scales.dtype if "scales" in layer else layer.weight.dtype
        for own in [own for own in weights if own.startswith(f"{name}.")]:
            del weights[own]
        for own, weight in tree_flatten(module.fuse(dequantize=True).parameters()):
            weights[f"{name}.{own}"] = weight.astype(kind)  # DoRA's come out in float32
    return weights


def _adapted(model: nn.Module) -> dict[str, Any]:
    """The layers that have an adapter, by name."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "fuse")}


def _config(model: nn.Module, base: Path) -> dict[str, Any]:
    """The base's config, which speaks of quantization only where a layer is quantized and was not merged."""
    config: dict[str, Any] = json.loads((base / "config.json").read_text(encoding="utf-8"))
    merged = tuple(f"{name}." for name in _adapted(model))
    quantized = {name for name, module in model.named_modules() if hasattr(module, "bits")}
    quantized = {name for name in quantized if not name.startswith(merged)}
    for key in ("quantization", "quantization_config"):
        if not quantized:
            config.pop(key, None)
        elif key in config:
            # Some layers have settings of their own there. Without them a layer is what its weights are.
            config[key] = {k: v for k, v in config[key].items() if not isinstance(v, dict) or k in quantized}
    return config
