"""The architectures of GGUF files that mlx-lm can run: config.json from metadata, and names of weights.

What llama.cpp's converter changed is undone here: the rows of llama's query and key projections are in the order of
its interleaved rotary embedding, and Gemma's norm weights have 1 added.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from mlx.utils import tree_flatten

from mlx_personal.errors import quoted
from mlx_personal.models.gguf.blocks import is_supported
from mlx_personal.models.gguf.file import GGUFFile
from mlx_personal.models.gguf.header import TensorInfo
from mlx_personal.models.gguf.rotary import (
    FREQUENCY_FACTORS,
    LONG_FACTORS,
    SHORT_FACTORS,
    rope_factors,
    rope_scaling,
    scaling_by_factors,
)

_TOP_LEVEL = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_ATTENTION = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
}
_MLP = {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
_NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
_HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_GEMMA_NORMS = {
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
# Settings that change what a model computes, and that mlx-lm's classes of these architectures do not have.
_REFUSED_SETTINGS = (
    "expert_count",
    "logit_scale",
    "residual_scale",
    "embedding_scale",
    "attention.scale",
    "attention.temperature_scale",
    "attention.clamp_kqv",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "rope.scaling.yarn_log_multiplier",
)
_GEMMA3_27B_LAYERS = 62
_GEMMA3_GLOBAL_EVERY = 6
# What Ollama's own files of the Gemma 3 models with vision do not say, and the vision tensors that they contain.
_GEMMA3_ROPE_SCALING = {"rope_type": "linear", "factor": 8.0}
_GEMMA3_VISION = ("v.", "mm.")
_MAX_DIMENSION = 1 << 24
_MAX_LAYERS = 1024


@dataclass(frozen=True)
class Architecture:
    """How files of one architecture are converted.

    Attributes:
        model_type: Its name in mlx-lm.
        class_name: Its name in transformers.
        modules: Names of modules in a layer, from GGUF to mlx-lm.
        add_settings: Adds settings of its own to a config that has the common ones.
        is_permuted: Whether rows of query and key projections are in interleaved order.
        has_shifted_norms: Whether norm weights have 1 added.
        dtype: The half-precision dtype that its activations do not overflow in.
        rms_norm_eps: The value where a file has none; None if each must have one.
        rope_theta: The value where a file has none.
    """

    model_type: str
    class_name: str
    modules: Mapping[str, str]
    add_settings: Callable[[GGUFFile, dict[str, Any]], None]
    is_permuted: bool = False
    has_shifted_norms: bool = False
    dtype: str = "float16"
    rms_norm_eps: float | None = None
    rope_theta: float = 10000.0


def architecture_of(file: GGUFFile) -> Architecture:
    """Return the architecture of a file that can be converted.

    Args:
        file: The file.

    Raises:
        UserError: If it holds no model, or its architecture or one of its storage types is not supported.
    """
    content = file.string("general.type") or "model"
    if content != "model":
        raise file.error(f"holds {quoted(content)} and not a language model", "name the file of the model itself")
    name = file.architecture
    if name not in ARCHITECTURES:
        supported = ", ".join(ARCHITECTURES)
        raise file.error(f"is of the architecture {quoted(name)}, which is not supported; supported are {supported}")
    if not file.tensors:
        raise file.error("has no weights, only a vocabulary", "name the file of the model itself")
    types = sorted({tensor.type.name for tensor in file.tensors if not is_supported(tensor.type)})
    if types:
        raise file.error(
            f"has weights of the storage type {', '.join(types)}, which is not supported",
            "download the model in another quantization, such as Q4_K_M or Q8_0",
        )
    return ARCHITECTURES[name]


def model_config(file: GGUFFile) -> dict[str, Any]:
    """Return mlx-lm's config.json for a file, without quantization and token ids.

    Args:
        file: A file that `architecture_of` accepts.

    Raises:
        UserError: If metadata is missing or describes a model that mlx-lm does not have.
    """
    architecture = architecture_of(file)
    key = file.architecture
    for setting in _REFUSED_SETTINGS:
        if file.metadata.get(f"{key}.{setting}", 0) not in (0, 1):
            raise file.error(f"has {key}.{setting} in its metadata, which is not supported")
    embedding = file.tensor("token_embd.weight")
    if embedding is None:
        raise file.error("lacks the tensor token_embd.weight", "download it again")
    hidden_size, heads = _size(file, "embedding_length"), _size(file, "attention.head_count")
    config: dict[str, Any] = {
        "model_type": architecture.model_type,
        "architectures": [architecture.class_name],
        "hidden_size": hidden_size,
        "num_hidden_layers": _size(file, "block_count"),
        "intermediate_size": _size(file, "feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": _size(file, "attention.head_count_kv", heads),
        "head_dim": _size(file, "attention.key_length", hidden_size // heads),
        "rms_norm_eps": file.number(f"{key}.attention.layer_norm_rms_epsilon", architecture.rms_norm_eps),
        "max_position_embeddings": _size(file, "context_length"),
        "rope_theta": file.number(f"{key}.rope.freq_base", architecture.rope_theta),
        "vocab_size": embedding.shape[0],
        "tie_word_embeddings": file.tensor("output.weight") is None,
    }
    if config["num_hidden_layers"] > _MAX_LAYERS or heads % config["num_key_value_heads"]:
        raise file.error("is a damaged GGUF file: its numbers of layers and heads do not fit", "download it again")
    if config["rope_theta"] <= 0 or config["rms_norm_eps"] < 0:
        raise file.error("is a damaged GGUF file: its rotary base or epsilon is negative", "download it again")
    if _size(file, "attention.value_length", config["head_dim"]) != config["head_dim"]:
        raise file.error("has keys and values of different sizes, which is not supported")
    architecture.add_settings(file, config)
    return config


def weight_names(file: GGUFFile, config: Mapping[str, Any]) -> dict[str, str]:
    """Return mlx-lm's name of each tensor, after checking that they are the weights that mlx-lm's model has.

    Tensors that hold rotary factors, which are in the config, and those of a vision model have none.

    Args:
        file: The file.
        config: Its `model_config`.

    Raises:
        UserError: If a tensor is unknown, missing or of another shape.
    """
    architecture = architecture_of(file)
    names = {tensor.name: _weight_name(file, architecture, tensor.name) for tensor in file.tensors}
    weights = {new: old for old, new in names.items() if new is not None}
    shapes_in_file = {tensor.name: tensor.shape for tensor in file.tensors}
    shapes = {new: shapes_in_file[old] for new, old in weights.items()}
    expected = _expected_shapes(file, config, shapes)
    for name, shape in expected.items():
        if name not in shapes:
            raise file.error(f"lacks the tensor for {name}", "download it again")
        if shapes[name] != shape:
            raise file.error(
                f"has the tensor {quoted(weights[name])} of shape {list(shapes[name])} instead of {list(shape)}",
                "download it again",
            )
    if unknown := sorted(set(shapes) - set(expected)):
        raise file.error(f"has the tensor {quoted(weights[unknown[0]])}, which mlx-lm's model does not have")
    return {old: new for new, old in weights.items()}


def row_order(tensor: TensorInfo, config: Mapping[str, Any]) -> np.ndarray | None:
    """Return the order of a tensor's rows that undoes the interleaving for rotary embeddings, or None for none.

    In the file, row i of the first half of a head and row i of its second half are neighbors.

    Args:
        tensor: The tensor.
        config: The model's config.

    Returns:
        For each row its place in the file [rows], or None.
    """
    if not any(a.is_permuted and a.model_type == config["model_type"] for a in ARCHITECTURES.values()):
        return None
    module = tensor.name.split(".")[-2]
    if module not in ("attn_q", "attn_k"):
        return None
    heads = config["num_attention_heads" if module == "attn_q" else "num_key_value_heads"]
    return np.arange(tensor.shape[0]).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)


def _size(file: GGUFFile, setting: str, default: int | None = None) -> int:
    value = file.integer(f"{file.architecture}.{setting}", default)
    if not 1 <= value <= _MAX_DIMENSION:
        raise file.error(f"is a damaged GGUF file: its {setting} is {value}", "download it again")
    return value


def _weight_name(file: GGUFFile, architecture: Architecture, name: str) -> str | None:
    if name in (FREQUENCY_FACTORS, LONG_FACTORS, SHORT_FACTORS) or (
        architecture.model_type == "gemma3_text" and name.startswith(_GEMMA3_VISION)
    ):
        return None
    module, _, kind = name.rpartition(".")
    if kind in ("weight", "bias"):
        if module in _TOP_LEVEL:
            return f"{_TOP_LEVEL[module]}.{kind}"
        layer, _, layer_module = module.removeprefix("blk.").partition(".")
        if layer.isdecimal() and layer_module in architecture.modules:
            return f"model.layers.{int(layer)}.{architecture.modules[layer_module]}.{kind}"
    raise file.error(f"has the tensor {quoted(name)}, which mlx-lm's model does not have")


def _expected_shapes(
    file: GGUFFile, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Return the shape of each weight of mlx-lm's model; MLX does not allocate them."""
    module = importlib.import_module(f"mlx_lm.models.{config['model_type']}")
    try:
        model = module.Model(module.ModelArgs.from_dict(dict(config)))
        if hasattr(model, "sanitize"):
            model.sanitize(dict.fromkeys(shapes))
    except Exception as error:  # constructors raise anything for sizes that do not fit together
        raise file.error(f"describes a model that mlx-lm cannot build ({error})") from error
    return {name: weight.shape for name, weight in tree_flatten(model.parameters())}


def _check_full_rotation(file: GGUFFile, config: Mapping[str, Any]) -> None:
    rotated = _size(file, "rope.dimension_count", config["head_dim"])
    if rotated != config["head_dim"]:
        raise file.error(f"rotates {rotated} of {config['head_dim']} dimensions of a head, which is not supported")


def _llama_settings(file: GGUFFile, config: dict[str, Any]) -> None:
    _check_full_rotation(file, config)
    config["rope_scaling"] = rope_scaling(file)
    config["attention_bias"] = file.tensor("blk.0.attn_q.bias") is not None
    config["mlp_bias"] = file.tensor("blk.0.ffn_up.bias") is not None
    if file.tensor(FREQUENCY_FACTORS) is not None:
        config["rope_scaling"] = scaling_by_factors(file, config)


def _qwen2_settings(file: GGUFFile, config: dict[str, Any]) -> None:
    _check_full_rotation(file, config)
    if config["head_dim"] * config["num_attention_heads"] != config["hidden_size"]:
        raise file.error("has heads that do not add up to its hidden size, which mlx-lm's qwen2 does not support")
    config["rope_scaling"] = rope_scaling(file)


def _qwen3_settings(file: GGUFFile, config: dict[str, Any]) -> None:
    _check_full_rotation(file, config)
    config["rope_scaling"] = rope_scaling(file)


def _gemma3_settings(file: GGUFFile, config: dict[str, Any]) -> None:
    _check_full_rotation(file, config)
    has_vision = any(tensor.name.startswith(_GEMMA3_VISION) for tensor in file.tensors)
    config["rope_scaling"] = rope_scaling(file) or (_GEMMA3_ROPE_SCALING if has_vision else None)
    config["sliding_window"] = _size(file, "attention.sliding_window")
    config["sliding_window_pattern"] = _gemma3_pattern(file, config["num_hidden_layers"])
    local_base = file.number("gemma3.rope.local.freq_base", 10000.0)
    config["rope_local_base_freq"] = file.number("gemma3.rope.freq_base_swa", local_base)
    # Files do not have it; only the 27B model differs.
    is_27b = config["num_hidden_layers"] == _GEMMA3_27B_LAYERS
    config["query_pre_attn_scalar"] = (
        config["hidden_size"] // config["num_attention_heads"] if is_27b else config["head_dim"]
    )


def _gemma3_pattern(file: GGUFFile, layer_count: int) -> int:
    """Return how many layers there are for each one with global attention."""
    is_local = file.numbers("gemma3.attention.sliding_window_pattern")  # one truth value for each layer
    if is_local is None:
        return _size(file, "attention.sliding_window_pattern", _GEMMA3_GLOBAL_EVERY)
    every = int(np.argmin(is_local)) + 1 if len(is_local) == layer_count else 0
    if every == 0 or any(bool(is_local[layer]) == ((layer + 1) % every == 0) for layer in range(layer_count)):
        raise file.error("has an irregular order of layers with local attention, which is not supported")
    return every


def _phi3_settings(file: GGUFFile, config: dict[str, Any]) -> None:
    head_dim = config["head_dim"]
    if head_dim * config["num_attention_heads"] != config["hidden_size"]:
        raise file.error("has heads that do not add up to its hidden size, which mlx-lm's phi3 does not support")
    rotated = _size(file, "rope.dimension_count", head_dim)
    share = rotated / head_dim
    # mlx-lm truncates the product to an integer.
    config["partial_rotary_factor"] = share if int(head_dim * share) == rotated else math.nextafter(share, 1.0)
    long_factors, short_factors = rope_factors(file, LONG_FACTORS), rope_factors(file, SHORT_FACTORS)
    if long_factors is None or short_factors is None:
        if rope_scaling(file) is not None:
            raise file.error("has rotary scaling without factors, which mlx-lm's phi3 does not support")
        return
    if len(long_factors) != rotated // 2:
        raise file.error("is a damaged GGUF file: not one rotary factor for each frequency", "download it again")
    original_length = _size(file, "rope.scaling.original_context_length", config["max_position_embeddings"])
    config["original_max_position_embeddings"] = original_length
    config["rope_scaling"] = {
        "type": "longrope",
        "long_factor": long_factors.tolist(),
        "short_factor": short_factors.tolist(),
    }


ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture("llama", "LlamaForCausalLM", _ATTENTION | _MLP | _NORMS, _llama_settings, is_permuted=True),
    "qwen2": Architecture("qwen2", "Qwen2ForCausalLM", _ATTENTION | _MLP | _NORMS, _qwen2_settings),
    "qwen3": Architecture("qwen3", "Qwen3ForCausalLM", _ATTENTION | _MLP | _NORMS | _HEAD_NORMS, _qwen3_settings),
    "gemma3": Architecture(
        "gemma3_text",
        "Gemma3ForCausalLM",
        _ATTENTION | _MLP | _GEMMA_NORMS | _HEAD_NORMS,
        _gemma3_settings,
        has_shifted_norms=True,
        dtype="bfloat16",
        rms_norm_eps=1e-6,
        rope_theta=1000000.0,
    ),
    "phi3": Architecture(
        "phi3",
        "Phi3ForCausalLM",
        _NORMS
        | {
            "attn_qkv": "self_attn.qkv_proj",
            "attn_output": "self_attn.o_proj",
            "ffn_up": "mlp.gate_up_proj",
            "ffn_down": "mlp.down_proj",
        },
        _phi3_settings,
    ),
}
