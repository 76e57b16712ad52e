"""Check the folder of a model before anything of it is loaded.

Each check says in one line why a folder cannot be loaded, where mlx-lm and transformers would raise an error of their
own or run Python code from the folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from mlx_personal.errors import UserError, from_os_error, quoted
from mlx_personal.models.mlx_lm_compat import is_known_tokenizer, known_model_types

# The names of weight files that mlx-lm reads.
WEIGHT_FILES: Final = "model*.safetensors"
TOKENIZER_FILES: Final = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "tekken.json")

_OTHER_MODEL = "name another model"
_MAX_JSON_BYTES = 64 * 2**20
# A damaged number of layers could fill the memory: a model is built before its weights are read.
_LAYER_COUNTS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer")
_MAX_LAYERS = 10_000
# Values of `quantization_config.quant_method` for which mlx-lm has a loader.
_QUANTIZATION_METHODS = frozenset(("awq", "bitnet", "compressed-tensors", "fp8", "gptq", "modelopt", "mxfp4", "mxfp8"))
# Classes of models that do not predict the next token.
_OTHER_HEADS = re.compile(r"For(\w*Classification|MaskedLM|QuestionAnswering)$")
# transformers looks `tokenizer_class` up among all its names; with an Auto class it would ask whether to run code.
_TOKENIZER_CLASS = re.compile(r"(?!Auto)\w*(Tokenizer|TokenizerFast|Backend)")


def read_json_object(file: Path) -> dict[str, Any]:
    """Read a JSON file that contains an object.

    Args:
        file: The file.

    Returns:
        The object.

    Raises:
        UserError: If the file cannot be read, or contains something else.
    """
    try:
        # Reading a pipe or a device may never end.
        is_readable = file.is_file() and file.stat().st_size <= _MAX_JSON_BYTES
        content = json.loads(file.read_bytes()) if is_readable or not file.exists() else None
    except OSError as error:
        raise from_os_error(error, file) from error
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise UserError("is not a JSON object", file, "download it again")
    return content


def check_model_folder(folder: Path) -> dict[str, Any]:
    """Check that mlx-lm can load a folder and that no code in it would have to run. Weights are not read.

    Args:
        folder: The folder.

    Returns:
        The content of its config.json.

    Raises:
        UserError: If it cannot be loaded.
    """
    _check_files(folder)
    config = read_json_object(folder / "config.json")
    _check_shards(folder)
    _check_layer_count(config, folder)
    _check_model_class(config, folder)
    _check_quantization(config, folder)
    _check_tokenizer(config, folder)
    return config


def _check_files(folder: Path) -> None:
    """Raise UserError if the folder holds no weights that mlx-lm reads, or something else than a model."""
    paths = sorted(folder.iterdir())
    for path in paths:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise UserError("is a pipe or a device, not a file of a model", path, _OTHER_MODEL)
    names = [path.name for path in paths]
    has_config, has_weights = "config.json" in names, any(folder.glob(WEIGHT_FILES))
    if has_config and has_weights:
        return
    if "adapter_config.json" in names:
        raise UserError("is a LoRA adapter, not a model", folder, "name its base model")
    gguf_files = [name for name in names if name.lower().endswith(".gguf")]
    if gguf_files:
        raise UserError("is a folder of GGUF files", folder, f"name one of them: {', '.join(gguf_files[:3])}")
    if has_config and any(name.endswith((".bin", ".pth", ".pt")) for name in names):
        what = "its weights are PyTorch files, which can contain code and are not read"
        raise UserError(what, folder, "use a version of this model with .safetensors files")
    if has_config and any(name.endswith(".safetensors") for name in names):
        raise UserError("none of its weight files is called model*.safetensors", folder, _OTHER_MODEL)
    raise UserError("no config.json or .safetensors weights in this folder", folder, "name another model folder")


def _check_shards(folder: Path) -> None:
    """Raise UserError if a file that the index of the weights names is missing."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return
    names = read_json_object(index).get("weight_map")
    names = sorted({str(name) for name in names.values()}) if isinstance(names, dict) else []
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(f"the weight file {quoted(missing[0])}{more} is missing", folder, "download the model again")


def _check_layer_count(config: Mapping[str, Any], folder: Path) -> None:
    """Raise UserError if the model has more layers than any model."""
    text_config = config.get("text_config")
    for sizes in (config, text_config if isinstance(text_config, dict) else {}):
        for count in (sizes.get(name) for name in _LAYER_COUNTS):
            if isinstance(count, int | float) and not count <= _MAX_LAYERS:
                raise UserError("its config.json has an impossible number of layers", folder, "download it again")


def _check_model_class(config: Mapping[str, Any], folder: Path) -> None:
    """Raise UserError if mlx-lm has no model of this type, or would need code from the folder."""
    if config.get("model_file") is not None:
        raise UserError("needs Python code of its own, which is never run", folder, _OTHER_MODEL)
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in known_model_types():
        raise UserError(f"mlx-lm has no models of type {quoted(str(model_type))}", folder, _OTHER_MODEL)
    architectures = config.get("architectures")
    names = [str(name) for name in architectures] if isinstance(architectures, list) else []
    if names and all(_OTHER_HEADS.search(name) for name in names):
        raise UserError(f"is not a model that writes text ({quoted(names[0])})", folder, _OTHER_MODEL)
    if (folder / "modules.json").exists():
        raise UserError("is an embedding model, which does not write text", folder, _OTHER_MODEL)


def _check_quantization(config: Mapping[str, Any], folder: Path) -> None:
    """Raise UserError if the weights are quantized in a way that mlx-lm cannot load."""
    quantization = config.get("quantization_config")
    if quantization is None and isinstance(config.get("text_config"), dict):
        quantization = config["text_config"].get("quantization_config")
    if not isinstance(quantization, dict) or config.get("quantization") is not None:
        return
    method = str(quantization.get("quant_method"))
    if method not in _QUANTIZATION_METHODS:
        what = f"its weights are quantized with {quoted(method)}, which mlx-lm cannot load"
        raise UserError(what, folder, "use its original, or an MLX version")


def _check_tokenizer(config: Mapping[str, Any], folder: Path) -> None:
    """Raise UserError if there is no tokenizer, or it would need code from the folder."""
    if not any((folder / name).exists() for name in TOKENIZER_FILES):
        raise UserError(
            "this model folder has no tokenizer", folder, "add its tokenizer.json and tokenizer_config.json"
        )
    file = folder / "tokenizer_config.json"
    tokenizer_config = read_json_object(file) if file.exists() else {}
    for class_name in (tokenizer_config.get("tokenizer_class"), config.get("tokenizer_class")):
        if class_name is not None and not (isinstance(class_name, str) and _TOKENIZER_CLASS.fullmatch(class_name)):
            raise UserError(f"its tokenizer_class {quoted(str(class_name))} is not a tokenizer", folder, _OTHER_MODEL)
    auto_map = tokenizer_config.get("auto_map")
    needs_code = isinstance(auto_map, list) or (
        isinstance(auto_map, dict) and auto_map.get("AutoTokenizer") is not None
    )
    if needs_code and not is_known_tokenizer(tokenizer_config.get("tokenizer_class"), config.get("model_type")):
        raise UserError("its tokenizer needs Python code of its own, which is never run", folder, _OTHER_MODEL)
