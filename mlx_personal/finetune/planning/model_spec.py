"""The sizes of a model's parts, read from its folder without loading it: what an estimate of memory counts with.

Parts are told by the names that mlx-lm's families give to their weights. What none of the names fits is counted from
its weights' shapes, so a new family gives a rougher count and never an error.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx.utils import tree_flatten

from mlx_personal.errors import UserError, from_os_error
from mlx_personal.models import LanguageModel
from mlx_personal.runtime.device import device_name

_BLOCK = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.(.+)$")
_OTHER_TOWERS = ("vision", "visual", "audio")
_BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "I64": 8, "I32": 4, "U32": 4, "U16": 2, "U8": 1, "I8": 1, "BOOL": 1}
_QUERY = ("q_proj", "wq", "query", "q_b_proj", "c_q")
_KEY = ("k_proj", "wk", "key", "c_k")
_DOWN = ("down_proj", "fc2", "w2", "dense_4h_to_h", "fc_out", "mlp.c_proj")
_GATED = ("gate_proj", "gate_up_proj", "w3")


@dataclass(frozen=True)
class Tensor:
    """A weight as it will lie in memory: its shape, unpacked where it is quantized, and the bytes it takes."""

    shape: tuple[int, ...]
    bytes: int


@dataclass(frozen=True)
class Block:
    """One block: widths are numbers a token has there.

    Args:
        bytes: of its weights.
        linear: (inputs, outputs, copies) of each linear layer; the copies are a mixture's experts.
        norms: layers that normalize the whole width.
        queries, keys: width of all heads' queries, and of their keys; 0 where no such layer is known.
        normed_heads: queries and keys are normalized, too.
        hidden: width of the perceptron's middle, of all the experts a token goes through; 0 where it is not known.
        gated: that middle is a product of two.
    """

    bytes: int
    linear: tuple[tuple[int, int, int], ...]
    norms: int
    queries: int
    keys: int
    normed_heads: bool
    hidden: int
    gated: bool


@dataclass(frozen=True)
class ModelSpec:
    """A model's parts.

    Args:
        width: of the states between blocks.
        vocabulary: tokens it knows.
        heads: of its attention.
        gelu: its perceptrons bend with a GELU, whose gradient takes more arrays than a SiLU's.
        capped: its attention's scores are capped, by steps of their own.
        number: bytes of one number it computes with.
        blocks: from the first to the last.
        rest: bytes of all weights outside of the blocks.
        readable: from a folder: weights can be let go and read again.
    """

    width: int
    vocabulary: int
    heads: int
    gelu: bool
    capped: bool
    number: int
    blocks: tuple[Block, ...]
    rest: int
    readable: bool

    @property
    def bytes(self) -> int:
        return self.rest + sum(block.bytes for block in self.blocks)


def spec_from_folder(folder: Path) -> ModelSpec:
    """Of the model in a folder as `load_language_model` would hold it on this machine; UserError if it is no model."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        files = sorted(folder.glob("model*.safetensors"))  # what mlx-lm reads
        stored = {name: entry for file in files for name, entry in _header(file).items()}
    except OSError as error:
        raise from_os_error(error, folder) from error
    except (ValueError, AttributeError) as error:
        raise UserError("this model's files are damaged", folder, "download it again") from error
    config = {**config, **(config.get("text_config") or {})}
    in_float32 = device_name() == "cpu"
    quantization = config.get("quantization") or config.get("quantization_config") or {}
    weights, number = {}, 4
    for name, entry in stored.items():
        kind, shape = entry["dtype"], tuple(entry["shape"])
        if any(tower in name for tower in _OTHER_TOWERS):
            continue
        if name.startswith("lm_head") and config.get("tie_word_embeddings"):
            continue  # thrown away when it is loaded
        layer, _, part = name.rpartition(".")
        packed = f"{layer}.scales" in stored
        size = math.prod(shape) * _BYTES.get(kind, 4)
        if packed and part == "weight" and kind == "U32":
            own = quantization.get(layer)
            bits = (own if isinstance(own, dict) else quantization).get("bits", 4)
            shape = (*shape[:-1], shape[-1] * 32 // bits)
        elif packed and in_float32 and part in ("scales", "biases"):
            continue
        elif not in_float32 and kind in ("F16", "BF16"):
            number = 2
        weights[name] = Tensor(shape, 4 * math.prod(shape) if in_float32 else size)
    return _anatomy(weights, config, number, folder)


def spec_from_model(lm: LanguageModel) -> ModelSpec:
    """The same of a model that is loaded, without an adapter."""
    weights = {}
    number = 4
    modules = dict(lm.model.named_modules())
    for name, weight in tree_flatten(lm.model.parameters()):
        shape = tuple(weight.shape)
        bits = getattr(modules.get(name.rpartition(".")[0]), "bits", None)
        if bits and name.endswith(".weight"):
            shape = (*shape[:-1], shape[-1] * 32 // bits)
        elif weight.dtype.size == 2:
            number = 2
        weights[name] = Tensor(shape, weight.nbytes)
    args = getattr(lm.model, "args", None)
    config: dict[str, Any] = dict(vars(args)) if args is not None else {}
    inner = config.get("text_config")
    return _anatomy(weights, {**config, **(inner if isinstance(inner, dict) else {})}, number, lm.path)


def _header(file: Path) -> dict[str, Any]:
    """What a safetensors file says of its tensors: 8 bytes of length, then JSON."""
    with file.open("rb") as data:
        length = int.from_bytes(data.read(8), "little")
        if length > file.stat().st_size:
            raise ValueError("cut off")
        entries: dict[str, Any] = json.loads(data.read(length))
    return {name: entry for name, entry in entries.items() if name != "__metadata__"}


def _anatomy(weights: Mapping[str, Tensor], config: Mapping[str, Any], number: int, where: Path | None) -> ModelSpec:
    parts: dict[int, dict[str, Tensor]] = {}
    rest: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if found := _BLOCK.search(name):
            parts.setdefault(int(found[1]), {})[found[2]] = tensor
        else:
            rest[name] = tensor
    tables = [t.shape for name, t in rest.items() if len(t.shape) == 2 and name.endswith(".weight")]
    if not parts or not tables:
        raise UserError("this model's weights cannot be told apart", where, "name another model")
    vocabulary, width = max(tables, key=math.prod)
    width = int(config.get("hidden_size") or config.get("n_embd") or width)
    heads = int(config.get("num_attention_heads") or config.get("n_head") or max(1, width // 64))
    bend = str(config.get("hidden_activation") or config.get("hidden_act") or config.get("model_type", ""))
    experts = int(config.get("num_experts_per_tok") or 1)
    return ModelSpec(
        width=width,
        vocabulary=vocabulary,
        heads=heads,
        gelu=any(name in bend for name in ("gelu", "gemma", "gpt")) or bend == "phi",
        capped=bool(config.get("attn_logit_softcapping")) or config.get("model_type") == "gemma2",
        number=number,
        blocks=tuple(_block(parts[index], width, heads, experts, config) for index in sorted(parts)),
        rest=sum(tensor.bytes for tensor in rest.values()),
        readable=where is not None,
    )


def _block(tensors: Mapping[str, Tensor], width: int, heads: int, experts: int, config: Mapping[str, Any]) -> Block:
    matrices = {name.removesuffix(".weight"): t.shape for name, t in tensors.items() if len(t.shape) in (2, 3)}
    matrices = {name: s for name, s in matrices.items() if not name.endswith((".scales", ".biases", "conv1d"))}

    def named(names: tuple[str, ...]) -> list[tuple[int, ...]]:
        return [shape for name, shape in matrices.items() if f".{name}".endswith(tuple(f".{n}" for n in names))]

    downs = named(_DOWN)
    queries, keys = (max((shape[-2] for shape in named(names)), default=0) for names in (_QUERY, _KEY))
    fused = named(("qkv_proj", "Wqkv", "query_key_value", "c_attn"))
    if not queries and fused:
        # One matrix for queries, keys and values: the config tells the shares.
        groups = int(config.get("num_key_value_heads") or heads)
        one = fused[0][-2] // (heads + 2 * groups)
        queries, keys = heads * one, groups * one
    return Block(
        bytes=sum(tensor.bytes for tensor in tensors.values()),
        linear=tuple(sorted((s[-1], s[-2], s[0] if len(s) == 3 else 1) for s in matrices.values())),
        norms=sum(
            1 for name, t in tensors.items() if t.shape == (width,) and re.search(r"(norm|ln_\w+)\.weight$", name)
        ),
        queries=queries,
        keys=keys,
        normed_heads=any("q_norm" in name or "q_layernorm" in name for name in tensors),
        hidden=sum(s[-1] * (experts if len(s) == 3 else 1) for s in downs),
        gated=bool(named(_GATED)),
    )
