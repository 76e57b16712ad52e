"""Random models of many families, random samples, and reference losses and gradients.

The reference uses nothing of `mlx_personal.finetune`: it runs mlx-lm's forward pass sample by sample and computes the
loss in NumPy's float64 and the gradient with MLX.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_map, tree_unflatten
from mlx_lm.utils import quantize_model

from mlx_personal import LanguageModel
from mlx_personal.finetune.data.samples import Sample

VOCABULARY = 128
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": VOCABULARY,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 512,
    "rope_theta": 1e4,
}
SLIDING = {"sliding_window": 12, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
MOE = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "moe_intermediate_size": 32,
    "norm_topk_prob": True,
    "tie_word_embeddings": False,
}
GRANITE = {
    "logits_scaling": 8.0,
    "attention_multiplier": 0.3,
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.2,
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": True,
}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "original_max_position_embeddings": 256, "factor": 2.0}
GPT2 = {"n_ctx": 256, "n_embd": 64, "n_head": 4, "n_layer": 3, "n_positions": 256, "layer_norm_epsilon": 1e-5}
MAMBA = {
    "state_size": 8,
    "conv_kernel": 4,
    "use_bias": False,
    "use_conv_bias": True,
    "time_step_rank": 4,
    "tie_word_embeddings": True,
}
DEEPSEEK = {
    "moe_intermediate_size": 32,
    "n_shared_experts": 1,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "q_lora_rank": None,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
    "moe_layer_freq": 1,
    "first_k_dense_replace": 1,
    "num_key_value_heads": 4,
    "rope_scaling": {
        "type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "mscale": 1.0,
        "mscale_all_dim": 0.7,
        "beta_fast": 32,
        "beta_slow": 1,
    },
}
DEEPSEEK3: dict[str, Any] = {
    "routed_scaling_factor": 1.0,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "norm_topk_prob": True,
    "n_group": 1,
    "topk_group": 1,
    "rope_scaling": None,
}
# Module of mlx-lm and the entries of its config that differ from SIZES, by name.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"tie_word_embeddings": True}),
    "llama-untied": ("llama", {"tie_word_embeddings": False}),
    "llama-sliding": ("llama", {"tie_word_embeddings": True, **SLIDING}),
    "qwen3": ("qwen3", {"tie_word_embeddings": True}),
    "qwen2": ("qwen2", {}),
    "gemma3": ("gemma3_text", {"sliding_window": 12, "sliding_window_pattern": 2}),
    "gemma": ("gemma", {}),
    "phi": ("phi", {"partial_rotary_factor": 0.5, "layer_norm_eps": 1e-5}),
    "phi3": ("phi3", {}),
    "mixtral": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "ministral3": (
        "ministral3",
        {"tie_word_embeddings": False, "rope_parameters": YARN | {"llama_4_scaling_beta": 0.1}},
    ),
    "qwen3-moe": ("qwen3_moe", MOE),
    "granite": ("granite", GRANITE),
    "gemma2": ("gemma2", {}),
    "gpt2": ("gpt2", GPT2),
    "mamba": ("mamba", MAMBA),
    "nanochat": ("nanochat", {}),
    "deepseek2": ("deepseek_v2", DEEPSEEK),
    "deepseek3": ("deepseek_v3", DEEPSEEK | DEEPSEEK3),
}


def random_model(family: str, dtype: str = "float32", **changes: Any) -> LanguageModel:
    """Return a random model of a family, without a tokenizer.

    Args:
        family: A key of `FAMILIES`.
        dtype: A float type, or `4-bit` for quantized weights with float16 beside them.
        changes: Entries of its config to change.
    """
    name, own_config = FAMILIES[family]
    module = importlib.import_module(f"mlx_lm.models.{name}")
    config = {"model_type": name, **SIZES, **own_config, **changes}
    mx.random.seed(0)
    model = module.Model(module.ModelArgs.from_dict(config))
    if name == "gemma3_text":
        model.sanitize({"model.embed_tokens.weight": model.model.embed_tokens.weight})  # ties its embeddings
    model.set_dtype(mx.float16 if dtype == "4-bit" else getattr(mx, dtype))
    if dtype == "4-bit":
        model, _ = quantize_model(model, dict(config), group_size=32, bits=4)
    mx.eval(model.parameters())
    return LanguageModel(model, SimpleNamespace())


def with_adapter(lm: LanguageModel, num_layers: int = 2, dropout: float = 0.0, dora: bool = False) -> dict[str, Any]:
    """Attach an adapter that changes the model's outputs, and return its weights, nested as in the model."""
    lm.attach_new_adapter(num_layers, {"rank": 4, "scale": 2.0, "dropout": dropout}, 0, dora)
    rng = np.random.default_rng(0)
    weights = []
    for name, weight in tree_flatten(lm.model.trainable_parameters()):
        noise = mx.array(rng.normal(0, 0.05, weight.shape).astype(np.float32))
        weights.append((name, weight + noise if name.endswith("lora_b") else weight))
    nested: dict[str, Any] = tree_unflatten(weights)
    lm.model.update(nested)
    return nested


def random_sample(
    rng: np.random.Generator, length: int, prefix: Sequence[int] = (), target_ratio: float = 0.6
) -> Sample:
    """Return a sample of `length` inputs that starts with `prefix`.

    The last `target_ratio` of the inputs, but at least one, have a target; none of the prefix has.
    """
    tokens = rng.integers(3, VOCABULARY, length + 1).astype(np.int32)
    tokens[: len(prefix)] = prefix
    is_target = np.arange(length) >= min(max(length * (1 - target_ratio), len(prefix)), length - 1)
    return Sample(tokens[:-1], tokens[1:], is_target)


def prefix_sharing_samples() -> list[Sample]:
    """Return samples that share prefixes in all possible ways, and samples that share nothing."""
    rng = np.random.default_rng(0)
    system, first, second = (rng.integers(3, VOCABULARY, n).tolist() for n in (11, 14, 9))
    samples = [random_sample(rng, length) for length in (5, 37, 1)]
    samples += [random_sample(rng, length, system) for length in (23, 30)]
    samples += [random_sample(rng, length, system + first) for length in (33, 41, 28)]
    samples += [random_sample(rng, length, system + first + second) for length in (39, 36)]
    long = samples[-1]
    # A sample that is a prefix of another one, an equal sample, and the same inputs with other targets.
    samples.append(Sample(long.inputs[:35], long.targets[:35], np.arange(35) >= 30))
    samples.append(long)
    samples.append(Sample(long.inputs, long.targets[::-1].copy(), np.arange(36) % 2 == 0))
    order = rng.permutation(len(samples))
    return [samples[i] for i in order]


def reference_loss(lm: LanguageModel, samples: Sequence[Sample]) -> float:
    """Return the summed cross entropy, sample by sample, in float64 from the model's logits on."""
    total = 0.0
    for sample in samples:
        logits = np.array(lm.model(mx.array(sample.inputs[None]))[0].astype(mx.float32), np.float64)[sample.is_target]
        peak = logits.max(axis=1)
        log_sums = peak + np.log(np.exp(logits - peak[:, None]).sum(axis=1))
        total += float((log_sums - logits[np.arange(len(logits)), sample.targets[sample.is_target]]).sum())
    return total


def reference_gradient(lm: LanguageModel, weights: dict[str, Any], samples: Sequence[Sample]) -> dict[str, Any]:
    """Return the gradient of the summed cross entropy by the adapter's weights, sample by sample."""

    def loss(weights: dict[str, Any], sample: Sample) -> mx.array:
        lm.model.update(weights)
        logits = lm.model(mx.array(sample.inputs[None]))[0].astype(mx.float32)
        losses = nn.losses.cross_entropy(logits, mx.array(sample.targets))
        return (losses * mx.array(sample.is_target)).sum()

    total: dict[str, Any] = tree_map(mx.zeros_like, weights)
    for sample in samples:
        gradient = mx.grad(loss)(weights, sample)
        total = tree_map(lambda a, b: a + b.astype(mx.float32), total, gradient)
        mx.eval(total)
    lm.model.update(weights)
    return total


def flat(tree: Any) -> np.ndarray:
    """Return all numbers of a tree of arrays, float64."""
    return np.concatenate([np.array(a.astype(mx.float32), np.float64).ravel() for _, a in sorted(tree_flatten(tree))])


def distance(actual: Any, expected: Any) -> float:
    """Return the norm of the difference of two trees of arrays, relative to the norm of the expected one."""
    assert [(name, a.shape) for name, a in sorted(tree_flatten(actual))] == [
        (name, a.shape) for name, a in sorted(tree_flatten(expected))
    ]
    a, b = flat(actual), flat(expected)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def bits(tree: Any) -> dict[str, bytes]:
    """Return every array's bytes, by name."""
    return {name: np.array(a.reshape(-1).view(mx.uint8)).tobytes() for name, a in tree_flatten(tree)}


def load_weights(path: Path) -> dict[str, mx.array]:
    """Return the arrays of a safetensors file."""
    weights = mx.load(str(path))
    assert isinstance(weights, dict)
    return weights
