"""Convert a GGUF file to a model folder as mlx-lm reads it: safetensors, config.json, tokenizer.

Tensors are converted one after the other and written in shards, so the memory needed is that of one shard and the
largest tensor, not that of the model.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_personal.errors import DISK_HINT, UserError
from mlx_personal.models.gguf.architectures import architecture_of, model_config, row_order, weight_names
from mlx_personal.models.gguf.blocks import GROUP_SIZE
from mlx_personal.models.gguf.file import GGUFFile, file_hash, read_gguf
from mlx_personal.models.gguf.tokenizer import SpecialTokens, write_tokenizer
from mlx_personal.models.gguf.weights import Precision, convert_tensor, stored_bits
from mlx_personal.progress import Progress, ProgressEvent, ignore_progress
from mlx_personal.runtime.device import device_name
from mlx_personal.storage.files import atomic_folder

SOURCE_FILE = "gguf.json"
_SHARD_BYTES = 1 << 29
# Names of recommended sampling settings in a file, and in generation_config.json.
_SAMPLING = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
}


def default_precision(file: GGUFFile) -> Precision:
    """Return the precision that fits this machine.

    On a CPU models compute in float32, so they are stored without any rounding. On a GPU half precision needs half the
    memory; it rounds the scales of Q4_K and Q5_K to 11 bits, or to 8 in bfloat16.

    Args:
        file: A file that `architecture_of` accepts.
    """
    if device_name() == "cpu":
        return Precision("float32", requantize_bits=None)
    return Precision("bfloat16" if file.main_type == "BF16" else architecture_of(file).dtype, requantize_bits=8)


def convert_gguf(
    path: Path,
    folder: Path,
    *,
    precision: Precision | None = None,
    sha256: str | None = None,
    on_progress: Progress | None = None,
) -> None:
    """Convert a GGUF file to a model folder, which appears when it is complete.

    Args:
        path: The file, or any file of a model that is split into several.
        folder: The folder to create.
        precision: The numbers to store; `default_precision` if None.
        sha256: `file_hash` of the file's paths, where the caller knows it; it is stored with the model.
        on_progress: Receives an event of the stage `conversion` after each tensor.

    Raises:
        UserError: If the file cannot be converted, changes meanwhile, or the folder cannot be written.
    """
    file = read_gguf(path)
    config = model_config(file)
    names = weight_names(file, config)
    precision = precision or default_precision(file)
    stamps = _stamps(file)
    with atomic_folder(folder) as temporary:
        special = write_tokenizer(file, temporary, config["vocab_size"])
        _write_weights(file, temporary, config, names, precision, on_progress or ignore_progress)
        token_ids = _token_ids(special)
        # A missing token is null, as transformers' configs would name the one of the models they were written for.
        _write_json(temporary / "config.json", config | token_ids | _quantization(file, names, precision))
        known_ids = {name: value for name, value in token_ids.items() if value is not None}
        _write_json(temporary / "generation_config.json", known_ids | _sampling(file))
        _write_json(temporary / SOURCE_FILE, _source(file, sha256 or file_hash(file.paths), precision))
        if _stamps(file) != stamps:
            raise file.error("changed while it was read", "wait until it is complete")


def _write_weights(
    file: GGUFFile,
    folder: Path,
    config: Mapping[str, Any],
    names: Mapping[str, str],
    precision: Precision,
    on_progress: Progress,
) -> None:
    """Write all weights in shards, with an index if there are several."""
    has_shifted_norms = architecture_of(file).has_shifted_norms
    tensors = [tensor for tensor in file.tensors if tensor.name in names]
    shard: dict[str, mx.array] = {}
    shards: list[Path] = []
    shard_of: dict[str, int] = {}
    total_bytes = shard_bytes = 0
    for done, tensor in enumerate(tensors, 1):
        name = names[tensor.name]
        added = -1.0 if has_shifted_norms and name.endswith("norm.weight") else 0.0
        converted = convert_tensor(tensor, precision, row_order(tensor, config), added)
        # A bias is converted as a vector of weights.
        module, _, kind = name.rpartition(".")
        arrays = {f"{module}.{part if len(converted) > 1 else kind}": array for part, array in converted.items()}
        size = sum(array.nbytes for array in arrays.values())
        if shard and shard_bytes + size > _SHARD_BYTES:
            shards.append(_save_shard(folder, len(shards), shard))
            shard, shard_bytes = {}, 0
        shard |= arrays
        shard_of |= dict.fromkeys(arrays, len(shards))
        shard_bytes, total_bytes = shard_bytes + size, total_bytes + size
        on_progress(ProgressEvent("conversion", done, len(tensors)))
    shards.append(_save_shard(folder, len(shards), shard))
    _name_shards(folder, shards, shard_of, total_bytes)


def _save_shard(folder: Path, number: int, arrays: dict[str, mx.array]) -> Path:
    path = folder / f"model-{number}.safetensors"
    try:
        mx.save_safetensors(str(path), arrays, metadata={"format": "mlx"})
    except RuntimeError as error:
        raise UserError(f"cannot be written ({error})", path, DISK_HINT) from error
    # MLX does not report a write that a full disk cut short.
    if path.stat().st_size < sum(array.nbytes for array in arrays.values()):
        raise UserError("the disk is full", path, DISK_HINT)
    return path


def _name_shards(folder: Path, shards: list[Path], shard_of: Mapping[str, int], total_bytes: int) -> None:
    """Name shards as the hub does, now that their number is known."""
    if len(shards) == 1:
        shards[0].rename(folder / "model.safetensors")
        return
    names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    for shard, name in zip(shards, names, strict=True):
        shard.rename(folder / name)
    weight_map = {weight: names[number] for weight, number in sorted(shard_of.items())}
    index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
    _write_json(folder / "model.safetensors.index.json", index)


def _quantization(file: GGUFFile, names: Mapping[str, str], precision: Precision) -> dict[str, Any]:
    """Return the `quantization` of config.json: the most frequent bits, and each matrix that differs from them."""
    bits = {
        names[tensor.name].removesuffix(".weight"): stored_bits(tensor, precision)
        for tensor in file.tensors
        if tensor.name in names and len(tensor.shape) == 2
    }
    counts = Counter(value for value in bits.values() if value is not None)
    if not counts:
        return {}
    main = counts.most_common(1)[0][0]
    others = {
        module: False if value is None else {"group_size": GROUP_SIZE, "bits": value}
        for module, value in bits.items()
        if value != main
    }
    return {"quantization": {"group_size": GROUP_SIZE, "bits": main, "mode": "affine", **others}}


def _token_ids(special: SpecialTokens) -> dict[str, Any]:
    ends: list[int] | int | None = list(special.ends) if len(special.ends) > 1 else next(iter(special.ends), None)
    return {"bos_token_id": special.bos, "eos_token_id": ends, "pad_token_id": special.pad}


def _sampling(file: GGUFFile) -> dict[str, Any]:
    """Return the sampling settings that the file recommends, under transformers' names.

    What is not a finite number is ignored, since the model works without it.
    """
    keys = {f"general.sampling.{ours}": theirs for ours, theirs in _SAMPLING.items()}
    values = {theirs: (key, file.metadata.get(key)) for key, theirs in keys.items()}
    numbers = {
        theirs: file.number(key)
        for theirs, (key, value) in values.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }
    if "top_k" in numbers:
        numbers["top_k"] = int(numbers["top_k"])
    return {"do_sample": True, **numbers} if numbers else {}


def _source(file: GGUFFile, sha256: str, precision: Precision) -> dict[str, Any]:
    return {
        "name": file.name,
        "files": [path.name for path in file.paths],
        "sha256": sha256,
        "size_bytes": file.size_bytes,
        "architecture": file.architecture,
        "quantization": file.quantization,
        "parameter_count": file.parameter_count,
        "repositories": list(file.repositories),
        "license": file.string("general.license"),
        "precision": asdict(precision),
    }


def _stamps(file: GGUFFile) -> list[tuple[int, int]]:
    """Return what changes when a file is written to."""
    return [(status.st_size, status.st_mtime_ns) for status in (path.stat() for path in file.paths)]


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
