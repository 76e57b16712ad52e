"""GGUF files of tiny models, written with the `gguf` library by the conventions of llama.cpp's converter.

Nothing of `mlx_personal.models.gguf` is used: names, the permutation of rotary rows and the shifted norms are written
here as the converter does them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import mlx.core as mx
import mlx.nn as nn
import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from mlx.utils import tree_flatten, tree_map

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, LAYERS, MLP = 64, 4, 2, 16, 2, 96
COMMON: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "intermediate_size": MLP,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 512,
    "rope_theta": 5e5,
    "tie_word_embeddings": False,
}
FINITE_SCALE_COLUMNS = {
    GGMLQuantizationType.Q4_0: [0],
    GGMLQuantizationType.Q4_1: [0, 2],
    GGMLQuantizationType.Q5_0: [0],
    GGMLQuantizationType.Q5_1: [0, 2],
    GGMLQuantizationType.Q8_0: [0],
    GGMLQuantizationType.Q4_K: [0, 2],
    GGMLQuantizationType.Q5_K: [0, 2],
    GGMLQuantizationType.Q6_K: [208],
}
# A vocabulary for models whose tokenizer does not matter: control tokens, the 256 characters that stand for bytes in
# GPT-2's tokenizer, and two merged tokens.
BYTE_TOKENS = [chr(code) for code in [*range(33, 127), *range(161, 173), *range(174, 324)]]
TOKENS = ["<|end|>", "<|start|>", *BYTE_TOKENS, "th", "the"]
VOCABULARY = len(TOKENS)

_TOP_LEVEL = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_GEMMA_LAYER = _LAYER | {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def random_model(model_type: str, config: Mapping[str, Any], seed: int = 0) -> nn.Module:
    """Return a model of mlx-lm's with random values in all of its weights, norms and biases too."""
    module = importlib.import_module(f"mlx_lm.models.{model_type}")
    model: nn.Module = module.Model(
        module.ModelArgs.from_dict({"model_type": model_type, "vocab_size": VOCABULARY, **config})
    )
    if config["tie_word_embeddings"] and "lm_head" in model:
        model.sanitize({})
    mx.random.seed(seed)
    model.update(tree_map(lambda weight: mx.random.normal(weight.shape) * 0.2 + 0.1, model.parameters()))
    mx.eval(model.parameters())
    return model


def gguf_name(name: str, architecture: str) -> str:
    """Return llama.cpp's name of one of mlx-lm's weights."""
    module, _, kind = name.rpartition(".")
    if module in _TOP_LEVEL:
        return f"{_TOP_LEVEL[module]}.{kind}"
    _, _, layer, layer_module = module.split(".", 3)
    names = _GEMMA_LAYER if architecture == "gemma3" else _LAYER
    return f"blk.{layer}.{names[layer_module]}.{kind}"


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """Interleave the two halves of each head's rows, as llama.cpp's converter does for llama."""
    return (
        weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)
    )


def converted_weights(model: nn.Module, architecture: str) -> dict[str, np.ndarray]:
    """Return a model's weights under llama.cpp's names, with what its converter changes."""
    weights = {}
    for name, array in tree_flatten(model.parameters()):
        weight = np.array(array)
        if architecture == "llama" and ("q_proj" in name or "k_proj" in name):
            weight = permuted(weight, HEADS if "q_proj" in name else KV_HEADS)
        if architecture == "gemma3" and name.endswith("norm.weight"):
            weight = weight + 1
        weights[gguf_name(name, architecture)] = weight
    return weights


def write_gguf(
    path: Path,
    architecture: str,
    weights: Mapping[str, np.ndarray],
    *,
    types: Mapping[str, GGMLQuantizationType] | None = None,
    settings: Mapping[str, Any] | None = None,
    tokenizer: Callable[[gguf.GGUFWriter], None] | None = None,
    head_dim: int | None = HEAD_DIM,
    rope_theta: float = 5e5,
    pre: str = "gpt-2",
    without: Sequence[str] = (),
) -> Path:
    """Write a file with the metadata of `COMMON`; `settings` are more keys, `without` are keys that it lacks."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("Tiny Model")
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(rope_theta)
    if head_dim is not None:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    for key in without:
        del writer.kv_data[0][key]
    for key, value in (settings or {}).items():
        add = {
            list: writer.add_array,
            str: writer.add_string,
            bool: writer.add_bool,
            int: writer.add_uint32,
            float: writer.add_float32,
        }
        add[type(value)](key, value)
    if tokenizer is not None:
        tokenizer(writer)
    else:
        add_tokenizer(writer, TOKENS, [3, 3] + [1] * (VOCABULARY - 2), merges=["t h", "th e"], pre=pre, eos=0, bos=1)
    for name, weight in weights.items():
        tensor_type = (types or {}).get(name, GGMLQuantizationType.F32)
        if weight.dtype == np.uint8:  # blocks
            writer.add_tensor(name, weight, raw_dtype=tensor_type)
        else:
            writer.add_tensor(name, gguf.quants.quantize(weight, tensor_type), raw_dtype=tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_tokenizer(
    writer: gguf.GGUFWriter,
    tokens: Sequence[str],
    types: Sequence[int],
    *,
    merges: Sequence[str] | None = None,
    scores: Sequence[float] | None = None,
    pre: str = "gpt-2",
    **special: int,
) -> None:
    """Add a tokenizer: byte-level BPE if it has merges, SentencePiece's if it has scores; `special` are token ids."""
    writer.add_tokenizer_model("gpt2" if scores is None else "llama")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(list(tokens))
    writer.add_token_types(list(types))
    if merges is not None:
        writer.add_token_merges(list(merges))
    if scores is not None:
        writer.add_token_scores(list(scores))
    for name, token_id in special.items():
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", token_id)


def random_blocks(
    tensor_type: GGMLQuantizationType, rows: int, columns: int, rng: np.random.Generator, max_exponent: int = 15
) -> np.ndarray:
    """Return random blocks [rows, bytes], with every finite float16 as a scale: zero, subnormal, negative, large.

    Scales with a biased exponent above `max_exponent` (15 is 1.0 to 2.0, 30 the largest) do not occur.
    """
    block_length, block_bytes = GGML_QUANT_SIZES[tensor_type]
    blocks = rng.integers(0, 256, (rows * columns // block_length, block_bytes), dtype=np.uint8)
    for column in FINITE_SCALE_COLUMNS[tensor_type]:
        exponents = rng.integers(0, max_exponent + 1, len(blocks))
        bits = (rng.integers(0, 2, len(blocks)) << 15) | (exponents << 10) | rng.integers(0, 1024, len(blocks))
        bits[:2] = [0x0000, 0x8000]
        blocks[:, column : column + 2] = bits.astype("<u2")[:, None].view(np.uint8)
    return blocks.reshape(rows, -1)
