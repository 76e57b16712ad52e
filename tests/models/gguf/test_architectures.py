from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import gguf
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType

from mlx_personal import load_language_model
from mlx_personal.errors import UserError
from mlx_personal.models.gguf import Precision, architecture_of, convert_gguf, read_gguf
from mlx_personal.models.gguf.architectures import model_config
from tests.support.cases import quick_cases
from tests.support.gguf_files import (
    COMMON,
    HEAD_DIM,
    HIDDEN,
    VOCABULARY,
    converted_weights,
    random_blocks,
    random_model,
    write_gguf,
)

TOKEN_IDS = np.random.default_rng(1).integers(0, VOCABULARY, (1, 40))
Q8_0, Q5_1, Q4_0 = GGMLQuantizationType.Q8_0, GGMLQuantizationType.Q5_1, GGMLQuantizationType.Q4_0


def logits(model: nn.Module) -> np.ndarray:
    return np.array(model(mx.array(TOKEN_IDS)).astype(mx.float32))


def converted_logits(path: Path, folder: Path) -> np.ndarray:
    convert_gguf(path, folder, precision=Precision("float32"))
    return logits(load_language_model(folder).model)


def llama3_factors(base: float, head_dim: int, factor: float) -> np.ndarray:
    """Return rope_freqs.weight as llama.cpp's converter computes it, frequency by frequency."""
    factors = []
    for i in range(0, head_dim, 2):
        wavelength = 2 * math.pi * base ** (i / head_dim)
        if wavelength < 8192 / 4.0:
            factors.append(1.0)
        elif wavelength > 8192 / 1.0:
            factors.append(factor)
        else:
            smooth = (8192 / wavelength - 1.0) / (4.0 - 1.0)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, np.float32)


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 128,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
}
FACTORS = np.linspace(1.0, 3.0, HEAD_DIM // 2, dtype=np.float32)
LONGROPE = {
    "rope_type": "longrope",
    "original_max_position_embeddings": 512,
    "short_factor": FACTORS.tolist(),
    "long_factor": FACTORS.tolist(),
}
PHI3_FACTORS = {
    "rope_factors_long.weight": np.linspace(1.0, 2.0, 6, dtype=np.float32),
    "rope_factors_short.weight": np.linspace(1.0, 1.1, 6, dtype=np.float32),
}
PHI3_LONGROPE = {
    "type": "longrope",
    "long_factor": PHI3_FACTORS["rope_factors_long.weight"].tolist(),
    "short_factor": PHI3_FACTORS["rope_factors_short.weight"].tolist(),
}
GEMMA = {
    "sliding_window": 16,
    "sliding_window_pattern": 6,
    "rope_local_base_freq": 1e4,
    "query_pre_attn_scalar": HEAD_DIM,
    "tie_word_embeddings": True,
}

# Name, architecture, mlx-lm's model type, the model's config, metadata of the file, and tensors beside the weights.
CASES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any], dict[str, np.ndarray]]] = {
    "llama": ("llama", "llama", {}, {}, {}),
    "llama-tied": ("llama", "llama", {"tie_word_embeddings": True}, {}, {}),
    "llama-with-biases": ("llama", "llama", {"attention_bias": True, "mlp_bias": True}, {}, {}),
    "llama3-scaling": (
        "llama",
        "llama",
        {"rope_scaling": LLAMA3},
        {},
        {"rope_freqs.weight": llama3_factors(5e5, HEAD_DIM, 32.0)},
    ),
    "llama-with-other-factors": ("llama", "llama", {"rope_scaling": LONGROPE}, {}, {"rope_freqs.weight": FACTORS}),
    "llama-linear": (
        "llama",
        "llama",
        {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
        {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0},
        {},
    ),
    "qwen2": ("qwen2", "qwen2", {}, {}, {}),
    "qwen2-yarn": (
        "qwen2",
        "qwen2",
        {"rope_scaling": YARN},
        {
            "qwen2.rope.scaling.type": "yarn",
            "qwen2.rope.scaling.factor": 4.0,
            "qwen2.rope.scaling.original_context_length": 128,
        },
        {},
    ),
    "qwen3": ("qwen3", "qwen3", {}, {}, {}),
    "gemma3": (
        "gemma3",
        "gemma3_text",
        GEMMA | {"num_hidden_layers": 6},
        {"gemma3.attention.sliding_window": 16, "gemma3.block_count": 6},
        {},
    ),
    "gemma3-with-vision": (
        "gemma3",
        "gemma3_text",
        GEMMA
        | {
            "num_hidden_layers": 6,
            "sliding_window_pattern": 3,
            "rope_local_base_freq": 2e4,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
        {
            "gemma3.attention.sliding_window": 16,
            "gemma3.attention.sliding_window_pattern": [True, True, False] * 2,
            "gemma3.block_count": 6,
            "gemma3.rope.local.freq_base": 2e4,
        },
        {"v.blk.0.attn_q.weight": np.ones((4, 4), np.float32), "mm.input_projection.weight": np.ones(4, np.float32)},
    ),
    "gemma3-linear": (
        "gemma3",
        "gemma3_text",
        GEMMA | {"rope_scaling": {"rope_type": "linear", "factor": 8.0}, "sliding_window_pattern": 2},
        {
            "gemma3.attention.sliding_window": 16,
            "gemma3.attention.sliding_window_pattern": 2,
            "gemma3.rope.scaling.type": "linear",
            "gemma3.rope.scaling.factor": 8.0,
        },
        {},
    ),
    "phi3": ("phi3", "phi3", {}, {}, {}),
    "phi3-longrope": (
        "phi3",
        "phi3",
        {
            "rope_scaling": PHI3_LONGROPE,
            "partial_rotary_factor": 0.75,
            "original_max_position_embeddings": 128,
            "tie_word_embeddings": True,
        },
        {"phi3.rope.dimension_count": 12, "phi3.rope.scaling.original_context_length": 128},
        PHI3_FACTORS,
    ),
}


@pytest.mark.parametrize("case", quick_cases(CASES, *list(CASES)[::3]))
def test_a_converted_model_computes_the_logits_of_the_original(tmp_path: Path, case: str) -> None:
    architecture, model_type, config, settings, tensors = CASES[case]
    model = random_model(model_type, COMMON | config)
    path = write_gguf(
        tmp_path / "model.gguf",
        architecture,
        converted_weights(model, architecture) | tensors,
        settings=settings,
        pre="qwen2" if architecture == "qwen2" else "gpt-2",
    )
    found = converted_logits(path, tmp_path / "out")
    expected = logits(model)
    assert np.abs(expected).max() > 1
    if case == "llama3-scaling":  # mlx-lm computes the factors again, in float32
        np.testing.assert_allclose(found, expected, atol=1e-4)
    else:
        np.testing.assert_array_equal(found, expected)
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    for name, value in (COMMON | config).items():
        assert written.get(name) == value, name


def test_a_quantized_llama_computes_the_logits_of_its_dequantized_weights(tmp_path: Path) -> None:
    model = random_model("llama", COMMON)
    weights = converted_weights(model, "llama")
    types = {
        name: (Q8_0, Q5_1, Q4_0, GGMLQuantizationType.F16)[i % 4]
        for i, (name, weight) in enumerate(weights.items())
        if weight.ndim == 2
    }
    path = write_gguf(tmp_path / "model.gguf", "llama", weights, types=types)
    found = converted_logits(path, tmp_path / "out")
    dequantized = {
        name: gguf.quants.dequantize(gguf.quants.quantize(weight, types[name]), types[name]).reshape(weight.shape)
        if name in types
        else weight
        for name, weight in weights.items()
    }
    reference = write_gguf(tmp_path / "reference.gguf", "llama", dequantized)
    expected = converted_logits(reference, tmp_path / "reference")
    np.testing.assert_array_equal(found, expected)
    assert not np.allclose(found, logits(model), atol=1e-2)  # they were quantized
    quantization = json.loads((tmp_path / "out" / "config.json").read_text())["quantization"]
    assert {quantization["bits"], *(v["bits"] for v in quantization.values() if isinstance(v, dict))} == {4, 5, 8}
    assert False in quantization.values()


def test_the_largest_gemma_scales_queries_by_its_hidden_size(tmp_path: Path) -> None:
    weights: dict[str, np.ndarray] = {"token_embd.weight": np.zeros((VOCABULARY, HIDDEN), np.float32)}
    weights |= {f"blk.{i}.attn_norm.weight": np.ones(HIDDEN, np.float32) for i in range(62)}
    settings = {"gemma3.attention.sliding_window": 16, "gemma3.block_count": 62, "gemma3.attention.head_count": 2}
    path = write_gguf(tmp_path / "model.gguf", "gemma3", weights, settings=settings)
    assert model_config(read_gguf(path))["query_pre_attn_scalar"] == 32


@pytest.mark.parametrize("pattern", [[True, False, True, True], [True, False], [True, True, False, False]])
def test_an_irregular_order_of_local_layers_is_refused(tmp_path: Path, pattern: list[bool]) -> None:
    weights = {"token_embd.weight": np.zeros((VOCABULARY, HIDDEN), np.float32)}
    settings = {
        "gemma3.attention.sliding_window": 16,
        "gemma3.attention.sliding_window_pattern": pattern,
        "gemma3.block_count": 4,
    }
    path = write_gguf(tmp_path / "model.gguf", "gemma3", weights, settings=settings)
    with pytest.raises(UserError, match="an irregular order of layers with local attention"):
        model_config(read_gguf(path))


def test_gemma3s_settings_are_known_where_a_file_has_none(tmp_path: Path) -> None:
    weights = {"token_embd.weight": np.zeros((VOCABULARY, HIDDEN), np.float32)}
    settings = {"gemma3.attention.sliding_window": 16}
    without = ("gemma3.rope.freq_base", "gemma3.attention.layer_norm_rms_epsilon")
    path = write_gguf(tmp_path / "model.gguf", "gemma3", weights, settings=settings, without=without)
    config = model_config(read_gguf(path))
    assert (config["rope_theta"], config["rms_norm_eps"]) == (1e6, 1e-6)
    assert (config["rope_local_base_freq"], config["sliding_window_pattern"]) == (1e4, 6)
    assert config["rope_scaling"] is None


def llama_file(tmp_path: Path, **changes: Any) -> Path:
    weights = converted_weights(random_model("llama", COMMON), "llama")
    weights |= changes.pop("weights", {})
    for name in changes.pop("without", []):
        del weights[name]
    return write_gguf(tmp_path / "model.gguf", changes.pop("architecture", "llama"), weights, **changes)


def refusal(path: Path, tmp_path: Path) -> str:
    with pytest.raises(UserError) as caught:
        convert_gguf(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    line = str(caught.value)
    assert "\n" not in line and str(path) in line
    return line


@pytest.mark.parametrize("architecture", ["mamba", "qwen3moe", "smollm3", "clip"])
def test_another_architecture_is_refused_by_name(tmp_path: Path, architecture: str) -> None:
    line = refusal(llama_file(tmp_path, architecture=architecture), tmp_path)
    assert f"of the architecture '{architecture}', which is not supported" in line and "llama, qwen2" in line


def test_another_storage_type_is_refused_by_name(tmp_path: Path) -> None:
    blocks = np.zeros((VOCABULARY, HIDDEN // 32 * 17), np.uint8)
    path = llama_file(tmp_path, weights={"output.weight": blocks}, types={"output.weight": GGMLQuantizationType.MXFP4})
    assert "storage type MXFP4, which is not supported" in refusal(path, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"general.type": "adapter"}}, "holds 'adapter' and not a language model"),
        ({"settings": {"llama.expert_count": 8}}, "llama.expert_count"),
        ({"settings": {"llama.rope.dimension_count": 8}}, "rotates 8 of 16 dimensions"),
        ({"settings": {"llama.rope.scaling.type": "x", "llama.rope.scaling.factor": 2.0}}, "of the kind 'x'"),
        ({"without": ["blk.1.ffn_up.weight"]}, "lacks the tensor for model.layers.1.mlp.up_proj.weight"),
        ({"without": ["token_embd.weight"]}, "lacks the tensor token_embd.weight"),
        ({"weights": {"blk.0.extra.weight": np.zeros(4, np.float32)}}, "has the tensor 'blk.0.extra.weight'"),
        ({"weights": {"blk.7.attn_q.weight": np.zeros((4, 4), np.float32)}}, "has the tensor 'blk.7.attn_q.weight'"),
        ({"weights": {"output_norm.weight": np.zeros(4, np.float32)}}, r"of shape [4] instead of [64]"),
        ({"weights": {"rope_freqs.weight": np.ones(3, np.float32)}}, "not one rotary factor for each frequency"),
        ({"weights": {"rope_freqs.weight": np.zeros(8, np.float32)}}, "factors in rope_freqs.weight"),
        ({"weights": {"rope_freqs.weight": np.ones(1 << 17, np.float32)}}, "131072 factors in rope_freqs.weight"),
        ({"settings": {"llama.rope.freq_base": -1.0}}, "its rotary base or epsilon is negative"),
        ({"head_dim": 1 << 25}, "its attention.key_length is"),
        ({"head_dim": 12}, "of shape [64, 64] instead of [48, 64]"),
    ],
)
def test_a_model_that_mlx_lm_does_not_have_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    assert message in refusal(llama_file(tmp_path, **changes), tmp_path)


def test_a_file_without_weights_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "vocabulary.gguf", "llama", {})
    with pytest.raises(UserError, match="no weights, only a vocabulary"):
        architecture_of(read_gguf(path))


@pytest.mark.parametrize("key", ["block_count", "attention.head_count", "context_length"])
@pytest.mark.parametrize("value", [0, 2**31 - 1, "text", 1.5, True])
def test_absurd_settings_are_one_line(tmp_path: Path, key: str, value: object) -> None:
    weights = converted_weights(random_model("llama", COMMON), "llama")
    path = write_gguf(tmp_path / "model.gguf", "llama", weights, settings={f"llama.{key}": value})
    if key == "context_length" and value is True:  # a context of one token is a model
        return
    refusal(path, tmp_path)


def test_random_blocks_reach_every_type() -> None:
    rng = np.random.default_rng(0)
    for name in ("Q4_K", "Q6_K"):
        assert random_blocks(GGMLQuantizationType[name], 2, 256, rng).shape[0] == 2
