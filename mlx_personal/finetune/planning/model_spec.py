"""The sizes of a model's layers, read from its folder without loading it, to estimate memory.

Weights are recognized by their names in mlx-lm's model families and in GGUF files. Weights with other names are counted
by their shapes, so a new family leads to a less precise estimate and not to an error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx.utils import tree_flatten

from mlx_personal.errors import UserError
from mlx_personal.finetune.data.packing import max_packed_length
from mlx_personal.models import LanguageModel
from mlx_personal.models.gguf.architectures import model_config
from mlx_personal.models.gguf.blocks import GROUP_SIZE
from mlx_personal.models.gguf.convert import default_precision
from mlx_personal.models.gguf.file import GGUFFile
from mlx_personal.models.gguf.header import TensorInfo
from mlx_personal.models.gguf.weights import Precision, stored_bits
from mlx_personal.models.model_folder import read_json_object
from mlx_personal.models.stored_weights import stored_weights
from mlx_personal.runtime.device import device_name

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|blk)\.(\d+)\.(.+)$")
_OTHER_TOWERS = ("vision", "visual", "audio")
_QUERY = ("q_proj", "wq", "query", "q_b_proj", "c_q", "attn_q")
_KEY = ("k_proj", "wk", "key", "c_k", "attn_k")
_FUSED_QKV = ("qkv_proj", "Wqkv", "query_key_value", "c_attn", "attn_qkv")
_DOWN = ("down_proj", "fc2", "w2", "dense_4h_to_h", "fc_out", "mlp.c_proj", "ffn_down")
_GATE = ("gate_proj", "gate_up_proj", "w3", "ffn_gate")


@dataclass(frozen=True)
class TensorSpec:
    """A weight as it will be in memory.

    Attributes:
        shape: Its shape, unpacked if it is quantized.
        bytes: Its size.
    """

    shape: tuple[int, ...]
    bytes: int


@dataclass(frozen=True)
class LayerSpec:
    """One transformer layer. Widths are numbers per token.

    Attributes:
        bytes: Size of its weights.
        linear: (inputs, outputs, copies) of each linear layer; copies are the experts of a mixture.
        norms: Number of norms over the hidden size.
        query_width: Width of the queries of all heads; 0 if it is not known.
        key_width: Width of the keys of all heads; 0 if it is not known.
        has_qk_norm: Whether queries and keys are normalized.
        mlp_width: Width of the MLP's intermediate activations, over all experts that a token is routed to; 0 if it is
            not known.
        is_gated: Whether these activations are multiplied by a gate.
    """

    bytes: int
    linear: tuple[tuple[int, int, int], ...]
    norms: int
    query_width: int
    key_width: int
    has_qk_norm: bool
    mlp_width: int
    is_gated: bool


@dataclass(frozen=True)
class ModelSpec:
    """The sizes of a model.

    Attributes:
        hidden_size: Width of the hidden states between layers.
        vocab_size: Number of tokens in the vocabulary.
        heads: Number of attention heads.
        uses_gelu: Whether its MLPs use GELU, whose gradient requires more arrays than that of SiLU.
        caps_scores: Whether its attention caps the scores, which requires additional operations.
        dtype_bytes: Size of a number in the dtype that it computes with.
        layers: The layers, from the first to the last.
        other_bytes: Size of all weights outside the layers.
        is_reloadable: Whether it was loaded from a folder, so that its weights can be released and read again.
        max_packed_tokens: Maximum number of tokens of a packed sequence.
    """

    hidden_size: int
    vocab_size: int
    heads: int
    uses_gelu: bool
    caps_scores: bool
    dtype_bytes: int
    layers: tuple[LayerSpec, ...]
    other_bytes: int
    is_reloadable: bool
    max_packed_tokens: int

    @property
    def bytes(self) -> int:
        """Size of all weights."""
        return self.other_bytes + sum(layer.bytes for layer in self.layers)


def spec_from_folder(folder: Path) -> ModelSpec:
    """Read the sizes of a model as `load_language_model` would load it on this machine.

    Args:
        folder: The model's folder.

    Returns:
        The sizes.

    Raises:
        UserError: If the folder contains no readable model.
    """
    config = read_json_object(folder / "config.json")
    text_config = config.get("text_config")
    config = {**config, **(text_config if isinstance(text_config, dict) else {})}
    stored = stored_weights(folder, config)
    in_float32 = device_name() == "cpu"
    weights, dtype_bytes = {}, 4
    for name, weight in stored.items():
        if any(tower in name for tower in _OTHER_TOWERS):
            continue
        if name.startswith("lm_head") and config.get("tie_word_embeddings"):
            continue  # dropped when the model is loaded
        if weight.is_scale and in_float32:
            continue  # and the weight that it belongs to is dequantized
        if weight.bits is None and not in_float32 and weight.dtype in ("F16", "BF16"):
            dtype_bytes = 2
        weights[name] = TensorSpec(weight.shape, 4 * math.prod(weight.shape) if in_float32 else weight.bytes)
    return _model_spec(weights, config, dtype_bytes, folder)


def spec_from_gguf(file: GGUFFile) -> ModelSpec:
    """Return the sizes of a GGUF file's model as `load_language_model` would convert and load it on this machine.

    Args:
        file: The file.

    Raises:
        UserError: If it holds a model that is not supported.
    """
    config, precision = model_config(file), default_precision(file)
    in_float32 = device_name() == "cpu"
    weights = {
        tensor.name: TensorSpec(
            tensor.shape, 4 * tensor.parameter_count if in_float32 else _converted_bytes(tensor, precision)
        )
        for tensor in file.tensors
    }
    return _model_spec(weights, config, 4 if precision.dtype == "float32" else 2, file.path)


def spec_from_model(lm: LanguageModel) -> ModelSpec:
    """Return the sizes of a loaded model.

    Args:
        lm: The model, without an adapter.
    """
    weights = {}
    dtype_bytes = 4
    modules = dict(lm.model.named_modules())
    for name, weight in tree_flatten(lm.model.parameters()):
        shape = tuple(weight.shape)
        bits = getattr(modules.get(name.rpartition(".")[0]), "bits", None)
        if bits and name.endswith(".weight"):
            shape = (*shape[:-1], shape[-1] * 32 // bits)
        elif weight.dtype.size == 2:
            dtype_bytes = 2
        weights[name] = TensorSpec(shape, weight.nbytes)
    args = getattr(lm.model, "args", None)
    config: dict[str, Any] = dict(vars(args)) if args is not None else {}
    text_config = config.get("text_config")
    merged = {**config, **(text_config if isinstance(text_config, dict) else {})}
    return _model_spec(weights, merged, dtype_bytes, lm.path)


def _converted_bytes(tensor: TensorInfo, precision: Precision) -> int:
    """Return the size of a GGUF tensor after its conversion."""
    bits = stored_bits(tensor, precision)
    number_bytes = 4 if precision.dtype == "float32" else 2
    if bits is None:
        return number_bytes * tensor.parameter_count
    scales_and_biases = 2 * number_bytes * tensor.parameter_count // GROUP_SIZE
    return tensor.parameter_count * bits // 8 + scales_and_biases


def _model_spec(
    weights: Mapping[str, TensorSpec], config: Mapping[str, Any], dtype_bytes: int, folder: Path | None
) -> ModelSpec:
    by_layer: dict[int, dict[str, TensorSpec]] = {}
    others: dict[str, TensorSpec] = {}
    for name, tensor in weights.items():
        if match := _LAYER.search(name):
            by_layer.setdefault(int(match[1]), {})[match[2]] = tensor
        else:
            others[name] = tensor
    matrices = [t.shape for name, t in others.items() if len(t.shape) == 2 and name.endswith(".weight")]
    if not by_layer or not matrices:
        raise UserError("the layers of this model cannot be recognized", folder, "choose another model")
    vocab_size, width = max(matrices, key=math.prod)
    hidden_size = int(config.get("hidden_size") or config.get("n_embd") or width)
    heads = int(config.get("num_attention_heads") or config.get("n_head") or max(1, hidden_size // 64))
    activation = str(config.get("hidden_activation") or config.get("hidden_act") or config.get("model_type", ""))
    experts = int(config.get("num_experts_per_tok") or 1)
    return ModelSpec(
        hidden_size=hidden_size,
        vocab_size=vocab_size,
        heads=heads,
        uses_gelu=any(name in activation for name in ("gelu", "gemma", "gpt")) or activation == "phi",
        caps_scores=bool(config.get("attn_logit_softcapping")) or config.get("model_type") == "gemma2",
        dtype_bytes=dtype_bytes,
        layers=tuple(_layer_spec(by_layer[index], hidden_size, heads, experts, config) for index in sorted(by_layer)),
        other_bytes=sum(tensor.bytes for tensor in others.values()),
        is_reloadable=folder is not None,
        max_packed_tokens=max_packed_length(config),
    )


def _layer_spec(
    tensors: Mapping[str, TensorSpec], hidden_size: int, heads: int, experts: int, config: Mapping[str, Any]
) -> LayerSpec:
    matrices = {name.removesuffix(".weight"): t.shape for name, t in tensors.items() if len(t.shape) in (2, 3)}
    matrices = {name: s for name, s in matrices.items() if not name.endswith((".scales", ".biases", "conv1d"))}

    def named(names: tuple[str, ...]) -> list[tuple[int, ...]]:
        return [shape for name, shape in matrices.items() if f".{name}".endswith(tuple(f".{n}" for n in names))]

    query_width, key_width = (max((shape[-2] for shape in named(names)), default=0) for names in (_QUERY, _KEY))
    fused = named(_FUSED_QKV)
    if not query_width and fused:
        # One matrix for queries, keys and values, whose proportions follow from the config.
        kv_heads = int(config.get("num_key_value_heads") or heads)
        head_width = fused[0][-2] // (heads + 2 * kv_heads)
        query_width, key_width = heads * head_width, kv_heads * head_width
    return LayerSpec(
        bytes=sum(tensor.bytes for tensor in tensors.values()),
        linear=tuple(sorted((s[-1], s[-2], s[0] if len(s) == 3 else 1) for s in matrices.values())),
        norms=sum(
            1 for name, t in tensors.items() if t.shape == (hidden_size,) and re.search(r"(norm|ln_\w+)\.weight$", name)
        ),
        query_width=query_width,
        key_width=key_width,
        has_qk_norm=any("q_norm" in name or "q_layernorm" in name for name in tensors),
        mlp_width=sum(s[-1] * (experts if len(s) == 3 else 1) for s in named(_DOWN)),
        is_gated=bool(named(_GATE)),
    )
