"""What is trained in a benchmark: the shape of a model, and rows of the lengths that personal data has.

Random weights serve as well as real ones: no product takes longer for its values. They are made once and kept, so that
every side of a comparison loads the same model.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from mlx_personal.errors import UserError
from mlx_personal.finetune.data.samples import Sample
from mlx_personal.models.language_model import DEMO_MODEL, canonical_name, resolve
from mlx_personal.runtime.device import device_name
from mlx_personal.storage.files import atomic_folder

# A row's tokens are log-normal: half of the rows are shorter than the median, one in twenty than 30 tokens, and one in
# twenty is longer than 260.
MEDIAN_TOKENS = 90
SIGMA = 0.655
SHORTEST, LONGEST = 8, 1024
# The rest is the prompt.
TARGET_SHARE = 0.6

_LLAMA_3_ROPE = {
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
SHAPES: dict[str, dict[str, Any]] = {
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


@dataclass(frozen=True)
class Workload:
    """What both sides train.

    Args:
        name: of the workload.
        model: one of `SHAPES` with random weights, or the name or path of a model.
        rows: training rows.
        epochs: times every row is trained on.
        lora_layers: blocks adapted, counted from the last; -1 is all.
        batch_size: rows an optimizer step.
        seed: of the rows, their order and the adapter's first weights.
    """

    name: str
    model: str
    rows: int
    epochs: int
    lora_layers: int
    batch_size: int = 4
    seed: int = 0

    def changed(self, **settings: Any) -> Workload:
        """With the settings that are not None; UserError for what cannot be trained or compared."""
        given = {name: value for name, value in settings.items() if value is not None}
        workload = dataclasses.replace(self, **given)
        for name in ("rows", "epochs", "batch_size"):
            if getattr(workload, name) < 1:
                raise UserError(f"{name} is {getattr(workload, name)}; it must be at least 1")
        if not 0 <= workload.seed < 2**32:  # what mlx-lm's generator takes
            raise UserError(f"seed is {workload.seed}; it must lie in 0..{2**32 - 1}")
        if workload.lora_layers != -1 and workload.lora_layers < 1:
            raise UserError(f"lora_layers is {workload.lora_layers}; it must be at least 1, or -1 for all")
        if workload.rows % workload.batch_size:
            hint = "mlx-lm leaves out the last rows, and the sides would not train the same"
            raise UserError(f"{workload.rows} rows are no whole number of batches of {workload.batch_size}", hint=hint)
        return workload


# `paper` is the paper's own: a buffer of 128 bins, each with its dialogue and six rewrites (paper 1, 4.1).
WORKLOADS = {
    "paper": Workload("paper", "3b", rows=128 * 7, epochs=3, lora_layers=-1),
    "small": Workload("small", DEMO_MODEL, rows=32, epochs=4, lora_layers=2),
    "135m": Workload("135m", "135m", rows=32, epochs=8, lora_layers=8),
    "1b": Workload("1b", "1b", rows=32, epochs=8, lora_layers=8),
}


def quick(asked: str, say: Callable[[str], None], **settings: int | None) -> Workload:
    """The workload `small` whichever is `asked` for, with the settings that are not None; else it ends within a minute.

    `say` gets a line for each thing that is not as asked: another workload, more layers than the embedded model has.
    """
    if asked != "small":
        say(f"--quick trains the embedded model in place of {asked}")
    workload = WORKLOADS["small"].changed(rows=16, epochs=2).changed(**settings)
    blocks = _config(resolve(DEMO_MODEL))["num_hidden_layers"]
    if workload.lora_layers > blocks:
        say(f"--quick adapts all of the embedded model's {blocks} layers in place of {workload.lora_layers}")
        return workload.changed(lora_layers=-1)
    return workload


def public_name(model: str) -> str:
    """A model as reports name it: of a folder's path, which is of one machine, only the last name."""
    path = Path(canonical_name(model))
    return path.name if path.is_absolute() else model


def make_rows(workload: Workload, vocabulary: int) -> list[Sample]:
    """Rows of random tokens below `vocabulary`; the same ones for the same workload.

    Their lengths are the distribution's own quantiles, shuffled, so that few rows have its shape too. In each, the last
    tokens are the targets, as an answer follows its prompt.
    """
    rng = np.random.default_rng(workload.seed)
    places = (np.arange(workload.rows) + 0.5) / workload.rows
    scores = np.array([NormalDist().inv_cdf(place) for place in places])
    lengths = np.clip(np.round(MEDIAN_TOKENS * np.exp(SIGMA * scores)), SHORTEST, LONGEST).astype(int)
    rows = []
    for length in rng.permutation(lengths):
        tokens = rng.integers(0, vocabulary, length, dtype=np.int32)
        is_target = np.arange(length) >= length - round(TARGET_SHARE * length)
        rows.append(Sample(tokens[:-1], tokens[1:], is_target[1:]))
    return rows


def mlx_lm_order(workload: Workload) -> list[list[list[int]]]:
    """The rows of every step of every epoch as mlx-lm draws them: rows that are neighbours stay in one batch."""
    # Not a Generator: mlx-lm shuffles with NumPy's old global one.
    rng = np.random.RandomState(workload.seed)
    size = workload.batch_size
    batches = [list(range(start, start + size)) for start in range(0, workload.rows, size)]
    return [[batches[i] for i in rng.permutation(len(batches))] for _ in range(workload.epochs)]


def model_folder(model: str, cache: Path | None = None) -> Path:
    """The folder of a workload's model; the first time, one with random weights is written to `cache`.

    `cache` is a folder of the user's cache by default.
    """
    if model not in SHAPES:
        return resolve(model)
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
            # No row is text, but a model folder has a tokenizer.
            for name in ("tokenizer.json", "tokenizer_config.json"):
                shutil.copy(resolve(DEMO_MODEL) / name, written / name)
            _write_random_weights(config, getattr(mx, dtype), written / "model.safetensors")
    return folder


def vocabulary_of(folder: Path) -> int:
    """How many tokens the model in `folder` knows, by its config."""
    config = _config(folder)
    size = config.get("vocab_size") or config.get("text_config", {}).get("vocab_size")
    if not size:
        raise UserError("its config.json has no vocab_size", folder, "name another model")
    return int(size)


def _config(folder: Path) -> dict[str, Any]:
    """Of a model; UserError where it is none."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise UserError("its config.json is no JSON object", folder, "name another model")
    return config


def _write_random_weights(config: dict[str, Any], dtype: mx.Dtype, file: Path) -> None:
    from mlx_lm.models import llama

    mx.random.seed(0)
    model = llama.Model(llama.ModelArgs.from_dict(config))
    model.set_dtype(dtype)
    weights = dict(tree_flatten(model.parameters()))
    for weight in weights.values():
        mx.eval(weight)  # one by one: all in float32 at once would be twice the model
    with file.open("wb") as stream:
        mx.save_safetensors(stream, weights, {"format": "mlx"})
