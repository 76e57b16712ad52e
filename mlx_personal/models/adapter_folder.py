"""Check the folder of an adapter before mlx-lm loads it, and whether an attached adapter changes anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import mlx.nn as nn

from mlx_personal.errors import UserError, quoted
from mlx_personal.models.model_folder import read_json_object

CONFIG_FILE: Final = "adapter_config.json"
WEIGHTS_FILE: Final = "adapters.safetensors"

_OTHER_FOLDER: Final = "name the folder of an mlx-lm adapter"
_PEFT_WEIGHTS: Final = ("adapter_model.safetensors", "adapter_model.bin")
# MLX takes no larger integers.
_MAX_NUMBER: Final = 1 << 31
# Relative difference of DoRA's magnitudes that recomputing them with other rounding may make.
_MAGNITUDE_TOLERANCE: Final = 1e-4


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """Read the settings of an adapter in mlx-lm's format, and check that mlx-lm can attach it to a model.

    Args:
        folder: Folder of the adapter.

    Returns:
        The content of its adapter_config.json.

    Raises:
        UserError: If it holds no such adapter.
    """
    if not folder.is_dir():
        raise UserError("there is no such folder", folder, _OTHER_FOLDER)
    has_config = (folder / CONFIG_FILE).exists()
    if not has_config and (folder / "config.json").exists():
        raise UserError("is a model, not an adapter", folder, "choose it as the base model")
    config = read_json_object(folder / CONFIG_FILE) if has_config else {}
    if "peft_type" in config or any((folder / name).exists() for name in _PEFT_WEIGHTS):
        what = f"is a PEFT adapter ({quoted(str(config.get('peft_type', 'unknown type')))}), not one of mlx-lm"
        raise UserError(what, folder, "convert it to mlx-lm's format, or merge it into a model with PEFT")
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).exists():
            raise UserError(f"is not an adapter: it has no {name}", folder, _OTHER_FOLDER)
    kind = config.get("fine_tune_type", "lora")
    if kind == "full":
        what = "holds the weights of full fine-tuning, not a LoRA or DoRA adapter"
        raise UserError(what, folder, "merge it into a model with mlx-lm's fuse")
    if kind not in ("lora", "dora"):
        raise UserError(f"has the unknown fine_tune_type {quoted(str(kind))}", folder, _OTHER_FOLDER)
    _check_parameters(config, folder / CONFIG_FILE)
    return config


def adapter_changes_nothing(model: nn.Module) -> bool:
    """Return whether a model has an adapter that leaves all outputs as they are, such as one that was not trained.

    Args:
        model: A model with an adapter, or without one.
    """
    adapted = [module for _, module in model.named_modules() if "lora_b" in module]
    return bool(adapted) and all(map(_is_unchanged, adapted))


def _check_parameters(config: dict[str, Any], file: Path) -> None:
    """Raise UserError unless mlx-lm can make LoRA layers with these settings."""
    parameters = config.get("lora_parameters")
    if not isinstance(config.get("num_layers"), int) or not isinstance(parameters, dict):
        raise UserError("has no num_layers or lora_parameters", file, _OTHER_FOLDER)
    rank, keys = parameters.get("rank"), parameters.get("keys")
    valid = {
        "rank": isinstance(rank, int) and rank > 0,
        "scale": _is_number(parameters.get("scale")),
        "dropout": _is_number(parameters.get("dropout")) and 0 <= parameters["dropout"] < 1,
        "keys": keys is None or (isinstance(keys, list) and all(isinstance(key, str) for key in keys)),
    }
    for name, is_valid in valid.items():
        if not is_valid:
            what = "is missing" if name not in parameters else f"is {quoted(str(parameters[name]))}"
            raise UserError(f"{name} in its lora_parameters {what}", file, _OTHER_FOLDER)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and -_MAX_NUMBER < value < _MAX_NUMBER


def _is_unchanged(module: Any) -> bool:
    """Return whether a LoRA or DoRA layer computes the same as the layer it adapts."""
    if module.scale != 0 and mx.any(module.lora_b != 0).item():
        return False
    if "m" not in module:
        return True
    base = module.linear if "linear" in module else module.embedding
    initial = type(module).from_base(base, r=1).m
    return bool(mx.all(mx.abs(module.m - initial) <= _MAGNITUDE_TOLERANCE * initial).item())
