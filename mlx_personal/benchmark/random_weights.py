"""Models with random weights in the shapes of well-known ones.

Random weights are as good as real ones here, because the time of an operation does not depend on the values. A model is
written once and cached, so that all trainers load the same one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_personal.errors import UserError
from mlx_personal.models.loading import DEMO_MODEL, canonical_name, resolve_model
from mlx_personal.runtime.device import device_name
from mlx_personal.storage.files import atomic_folder

_LLAMA_3_ROPE: Final[dict[str, Any]] = {
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}
# SmolLM-135M, and Llama 3.2 in its two small sizes.
SHAPES: Final[dict[str, dict[str, Any]]] = {
    "135m": {
        "hidden_size": 576,
        "num_hidden_layers": 30,
        "intermediate_size": 1536,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
        "rope_theta": 10000.0,
    },
    "1b": {
        "hidden_size": 2048,
        "num_hidden_layers": 16,
        "intermediate_size": 8192,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        **_LLAMA_3_ROPE,
    },
    "3b": {
        "hidden_size": 3072,
        "num_hidden_layers": 28,
        "intermediate_size": 8192,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        **_LLAMA_3_ROPE,
    },
}


def model_folder(model: str, cache: Path | None = None) -> Path:
    """Return the folder of a workload's model; a model with random weights is written the first time.

    Args:
        model: One of `SHAPES`, or the name or path of a model.
        cache: Folder for models with random weights; by default one in the user's cache.
    """
    if model not in SHAPES:
        return resolve_model(model)
    config = {
        "model_type": "llama",
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "max_position_embeddings": 2048,
        **SHAPES[model],
    }
    dtype = "float32" if device_name() == "cpu" else "bfloat16"
    text = json.dumps({**config, "torch_dtype": dtype}, sort_keys=True)
    cache = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlx-personal" / "benchmark"
    folder = cache / f"{model}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    if not folder.exists():
        with atomic_folder(folder) as written:
            (written / "config.json").write_text(text)
            # The samples are not text, but a model folder needs a tokenizer.
            for name in ("tokenizer.json", "tokenizer_config.json"):
                shutil.copy(resolve_model(DEMO_MODEL) / name, written / name)
            _write_random_weights(config, getattr(mx, dtype), written / "model.safetensors")
    return folder


def model_config(folder: Path) -> dict[str, Any]:
    """Return the content of a model's `config.json`.

    Raises:
        UserError: If it is not a JSON object.
    """
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise UserError("its config.json is not a JSON object", folder, "name another model")
    return config


def vocabulary_size(folder: Path) -> int:
    """Return the number of tokens in the vocabulary of the model in a folder, by its `config.json`.

    Raises:
        UserError: If the file does not state it.
    """
    config = model_config(folder)
    size = config.get("vocab_size") or config.get("text_config", {}).get("vocab_size")
    if not size:
        raise UserError("its config.json has no vocab_size", folder, "name another model")
    return int(size)


def public_model_name(model: str) -> str:
    """Return the name of a model in reports: of a local folder, only the last part of its path."""
    path = Path(canonical_name(model))
    return path.name if path.is_absolute() else model


def _write_random_weights(config: dict[str, Any], dtype: mx.Dtype, file: Path) -> None:
    from mlx_lm.models import llama

    mx.random.seed(0)
    model = llama.Model(llama.ModelArgs.from_dict(config))
    model.set_dtype(dtype)
    weights = dict(tree_flatten(model.parameters()))
    for weight in weights.values():
        mx.eval(weight)  # one by one: all at once in float32 would take twice the memory of the model
    with file.open("wb") as stream:
        mx.save_safetensors(stream, weights, {"format": "mlx"})
