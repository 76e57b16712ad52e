"""Fuse a base model and an adapter into a new model folder, such as the base model of many users' adapters.

That is the first stage of one adapter per user [Tan24]: what all users have in common is trained once and merged. The
merge itself is mlx-lm's. `mlx_lm.fuse` quantizes merged layers again, which rounds away much of what the adapter has
learned. Here merged layers are not quantized, so only these layers of a quantized base become larger.
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

# Other files of a model folder than weights: tokenizer, chat template, generation defaults.
_OTHER_FILES: Final = ("*.json", "*.jinja", "additional_chat_templates/*.jinja", "*.txt", "*.model", "*.tiktoken")
# Files among them that are rewritten here, or that describe the old weights.
_NOT_COPIED: Final = ("config.json", "model.safetensors.index.json", "hf_quant_config.json")


def fuse(lm: LanguageModel, adapter_folder: Path, output_folder: Path) -> Path:
    """Merge an adapter into its base model, and write the result atomically as a model folder.

    The folder is in mlx-lm's format, with the dtypes that `lm` computes with: on a CPU float32 without quantization.
    Afterwards `lm` has no adapter.

    Args:
        lm: The base model.
        adapter_folder: Folder of the adapter.
        output_folder: Folder to write; it must not exist, or be empty.

    Returns:
        `output_folder`.

    Raises:
        UserError: If the model was not loaded from a folder, the adapter does not fit, `output_folder` is not empty, or
            the disk fails.
    """
    if lm.path is None:
        raise UserError("a model that was created in memory has no folder to copy tokenizer and settings from")
    lm.attach_adapter(adapter_folder)
    try:
        with atomic_folder(output_folder) as folder:
            # Through a Python file, because MLX does not detect a full disk when it writes to a path.
            with (folder / "model.safetensors").open("wb") as file:
                mx.save_safetensors(file, _merged_weights(lm.model), {"format": "mlx"})
            save_config(_fused_config(lm.model, lm.path), folder / "config.json")
            for pattern in _OTHER_FILES:
                for path in lm.path.glob(pattern):
                    if path.name not in _NOT_COPIED:
                        copy = folder / path.relative_to(lm.path)
                        copy.parent.mkdir(exist_ok=True)
                        shutil.copyfile(path, copy)
    finally:
        lm.detach_adapter()
    logger.info("fused %s", output_folder)
    return output_folder


def _merged_weights(model: nn.Module) -> dict[str, mx.array]:
    """Return the weights by name, with adapters merged into their layers, without changing the model."""
    weights: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    for name, module in _adapted_layers(model).items():
        layer = module.linear if "linear" in module else module.embedding
        dtype = layer.scales.dtype if "scales" in layer else layer.weight.dtype
        for key in [key for key in weights if key.startswith(f"{name}.")]:
            del weights[key]
        for key, weight in tree_flatten(module.fuse(dequantize=True).parameters()):
            weights[f"{name}.{key}"] = weight.astype(dtype)  # DoRA computes them in float32
    return weights


def _adapted_layers(model: nn.Module) -> dict[str, Any]:
    return {name: module for name, module in model.named_modules() if hasattr(module, "fuse")}


def _fused_config(model: nn.Module, base: Path) -> dict[str, Any]:
    """Return the base model's config with quantization only for layers that are quantized and not merged."""
    config: dict[str, Any] = json.loads((base / "config.json").read_text(encoding="utf-8"))
    merged = tuple(f"{name}." for name in _adapted_layers(model))
    quantized = {name for name, module in model.named_modules() if hasattr(module, "bits")}
    quantized = {name for name in quantized if not name.startswith(merged)}
    for key in ("quantization", "quantization_config"):
        if not quantized:
            config.pop(key, None)
        elif key in config:
            # A layer may have its own settings, which must be removed if it was merged.
            config[key] = {k: v for k, v in config[key].items() if not isinstance(v, dict) or k in quantized}
    return config
