"""Fuse a base model and an adapter into one model folder, so that a task's adapter becomes the base of users' adapters.

That is the first stage of one adapter per user [Tan24]: what all users have in common is trained once and merged. The
merge itself is mlx-lm's. `mlx_lm.fuse` quantizes merged layers again, which rounds away much of what an adapter has
learned; here merged layers stay unquantized, which makes a quantized base larger by them alone.
"""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.utils import save_config

from mlx_personal.errors import UserError
from mlx_personal.models import LanguageModel
from mlx_personal.storage.files import atomic_folder

logger = logging.getLogger(__name__)

# What a model folder has beside its weights: tokenizer, chat template, generation defaults.
_OTHER_FILES: Final = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")
# Files among them that are written here, or that describe the old weights.
_NOT_COPIED: Final = ("config.json", "model.safetensors.index.json", "hf_quant_config.json")


def fuse(lm: LanguageModel, adapter_dir: Path, out: Path) -> Path:
    """Write a base model with an adapter merged into it as a model folder, completely or not at all.

    The folder is in mlx-lm's format and in the data types that `lm` computes with: on a CPU float32, unquantized.
    Afterwards `lm` has no adapter.

    Args:
        lm: The base model.
        adapter_dir: The adapter.
        out: Folder to write; it must not exist yet.

    Returns:
        `out`.

    Raises:
        UserError: If the model was not loaded from a folder, the adapter does not fit, `out` exists, or the disk
            fails.
    """
    if lm.path is None:
        raise UserError("a model that was made in memory has no folder to copy tokenizer and settings from")
    lm.attach_adapter(adapter_dir)
    try:
        with atomic_folder(out) as folder:
            # Through a Python file, since MLX's own writing by path does not notice a full disk.
            with (folder / "model.safetensors").open("wb") as file:
                mx.save_safetensors(file, _merged_weights(lm.model), {"format": "mlx"})
            save_config(_fused_config(lm.model, lm.path), folder / "config.json")
            for pattern in _OTHER_FILES:
                for path in lm.path.glob(pattern):
                    if path.name not in _NOT_COPIED:
                        shutil.copyfile(path, folder / path.name)
    finally:
        lm.detach_adapter()
    logger.info("fused %s", out)
    return out


def _merged_weights(model: nn.Module) -> dict[str, mx.array]:
    """Return the weights by name, adapted layers as plain ones, without changing the model."""
    weights: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    for name, module in _adapted_layers(model).items():
        layer = module.linear if "linear" in module else module.embedding
        dtype = layer.scales.dtype if "scales" in layer else layer.weight.dtype
        for key in [key for key in weights if key.startswith(f"{name}.")]:
            del weights[key]
        for key, weight in tree_flatten(module.fuse(dequantize=True).parameters()):
            weights[f"{name}.{key}"] = weight.astype(dtype)  # DoRA's are in float32
    return weights


def _adapted_layers(model: nn.Module) -> dict[str, Any]:
    return {name: module for name, module in model.named_modules() if hasattr(module, "fuse")}


def _fused_config(model: nn.Module, base: Path) -> dict[str, Any]:
    """Return the base's config, which mentions quantization only where a layer is quantized and was not merged."""
    config: dict[str, Any] = json.loads((base / "config.json").read_text(encoding="utf-8"))
    merged = tuple(f"{name}." for name in _adapted_layers(model))
    quantized = {name for name, module in model.named_modules() if hasattr(module, "bits")}
    quantized = {name for name in quantized if not name.startswith(merged)}
    for key in ("quantization", "quantization_config"):
        if not quantized:
            config.pop(key, None)
        elif key in config:
            # A layer may have settings of its own, which a merged one must lose.
            config[key] = {k: v for k, v in config[key].items() if not isinstance(v, dict) or k in quantized}
    return config
