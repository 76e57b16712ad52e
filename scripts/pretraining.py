"""Trains a small Llama from nothing on rows of messages, loss on the assistant's words only, on any device.

The same arguments give the same batches and the same first weights. An interrupted run goes on from its last
checkpoint. This is no general trainer: the models are a few million parameters and everything fits in memory.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mlx_personal  # noqa: F401 - before mlx.core, so that its tuned BLAS comes first

# isort: split
import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models.llama import Model, ModelArgs
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

Row = dict[str, list[dict[str, str]]]

SPECIAL_TOKENS = ("<|pad|>", "<|bos|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>")
PAD, BOS, END = 0, 1, 5
CHAT_TEMPLATE = (
    "<|bos|>{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
LAST_RATE, WARM_UP = 1e-4, 100
CHECKPOINT_EVERY = 200
# Rows that the tokenizer is made from.
TOKENIZED = 30_000


@dataclass(frozen=True)
class Shape:
    """A Llama's sizes, with heads of `width / heads` and half as many for keys and values; rows of at most `longest`
    tokens, longer ones are left out; steps of about `batch_tokens`, up to the learning rate `rate`."""

    width: int = 192
    layers: int = 5
    mlp: int = 448
    heads: int = 4
    vocabulary: int = 2048
    context: int = 1024
    longest: int = 320
    batch_tokens: int = 2560
    rate: float = 3e-3

    def config(self) -> dict[str, Any]:
        """`config.json`, as mlx-lm reads it."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.width,
            "num_hidden_layers": self.layers,
            "intermediate_size": self.mlp,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads // 2,
            "head_dim": self.width // self.heads,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "max_position_embeddings": self.context,
            "tie_word_embeddings": True,
            "vocab_size": self.vocabulary,
            "pad_token_id": PAD,
            "bos_token_id": BOS,
            "eos_token_id": END,
            "torch_dtype": "float16",
        }

    def tokenizer_config(self) -> dict[str, Any]:
        """`tokenizer_config.json`, with the chat template."""
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "pad_token": "<|pad|>",
            "bos_token": "<|bos|>",
            "eos_token": "<|end|>",
            "additional_special_tokens": ["<|user|>", "<|assistant|>", "<|system|>"],
            "clean_up_tokenization_spaces": False,
            "model_max_length": self.context,
            "chat_template": CHAT_TEMPLATE,
        }


@dataclass(frozen=True)
class Example:
    """A tokenised row; `targets` are the positions whose next token the assistant wrote."""

    tokens: list[int]
    targets: list[int]


def pretrain(rows: Sequence[Row], shape: Shape, seed: int, out: Path) -> dict[str, Any]:
    """Trains a model on every row once and writes the folder that `mlx_lm.load` reads; gives facts about it."""
    begun = time.perf_counter()
    tokenizer = train_tokenizer((m["content"] for row in rows[:TOKENIZED] for m in row["messages"]), shape.vocabulary)
    encoded = (encode(row, tokenizer, is_rewrite(row)) for row in rows)
    examples = [e for e in encoded if len(e.tokens) <= shape.longest]
    mx.random.seed(seed)
    model = Model(ModelArgs.from_dict(shape.config()))
    mx.eval(model.parameters())
    plan = batches(examples, shape.batch_tokens, seed)
    tokens = sum(len(e.tokens) for e in examples)
    parameters = sum(value.size for _, value in tree_flatten(model.parameters()))
    print(
        f"{parameters / 1e6:.2f} M parameters, {len(examples)} rows, {tokens / 1e6:.1f} M tokens, "
        f"{tokens / len(examples):.0f} a row, {len(plan)} steps, ready after "
        f"{time.perf_counter() - begun:.0f} s",
        flush=True,
    )
    checkpoint = out / "checkpoint.safetensors"
    train(model, plan, shape.rate, checkpoint)
    save(model, tokenizer, shape, out)
    checkpoint.unlink()
    return {
        "parameters": parameters,
        "rows": len(examples),
        "tokens": tokens,
        "steps": len(plan),
        "seed": seed,
        "minutes": math.ceil((time.perf_counter() - begun) / 60),
        "device": device(),
    }


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """A byte-level BPE tokenizer of this many entries."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode(row: Row, tokenizer: Tokenizer, last_only: bool) -> Example:
    """The row's tokens as the chat template lays them out; `last_only` trains only the last answer."""
    tokens: list[int] = [BOS]
    targets: list[int] = []
    for index, message in enumerate(row["messages"]):
        body = tokenizer.encode(message["content"], add_special_tokens=False).ids
        tokens.append(SPECIAL_TOKENS.index(f"<|{message['role']}|>"))
        if message["role"] == "assistant" and (not last_only or index == len(row["messages"]) - 1):
            targets += range(len(tokens) - 1, len(tokens) + len(body))
        tokens += [*body, END]
    return Example(tokens, targets)


def is_rewrite(row: Row) -> bool:
    """Whether the row's last question is one of the two rewrite tasks, whose context is not to be trained again."""
    return row["messages"][-2]["content"].startswith("Rewrite this ")


def batches(examples: list[Example], batch_tokens: int, seed: int) -> list[list[Example]]:
    """One pass in random order, in batches of like length and about this many tokens."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(examples))
    made: list[list[Example]] = []
    for start in range(0, len(order), 4096):
        pool = sorted((examples[i] for i in order[start : start + 4096]), key=lambda e: len(e.tokens))
        while pool:
            width = _round_up(len(pool[-1].tokens), 16)
            rows = max(1, batch_tokens // width)
            made.append(pool[-rows:])
            del pool[-rows:]
    return [made[i] for i in rng.permutation(len(made))]


def arrays(batch: list[Example]) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    """inputs [B, T], flat target positions [M], next tokens [M], weights [M] (0 where M is padded)."""
    width = _round_up(max(len(e.tokens) for e in batch), 16)
    inputs = np.full((len(batch), width), PAD, dtype=np.int32)
    where: list[int] = []
    following: list[int] = []
    for row, example in enumerate(batch):
        inputs[row, : len(example.tokens)] = example.tokens
        where += [row * width + position for position in example.targets]
        following += [example.tokens[position + 1] for position in example.targets]
    # Few distinct shapes, so that few graphs are compiled.
    spare = _round_up(len(where), 128) - len(where)
    weights = [1.0] * len(where) + [0.0] * spare
    return mx.array(inputs), mx.array(where + [0] * spare), mx.array(following + [0] * spare), mx.array(weights)


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def loss(model: Model, inputs: mx.array, where: mx.array, following: mx.array, weights: mx.array) -> mx.array:
    """Mean cross-entropy over the targets; the head is applied to target positions only."""
    hidden = model.model(inputs)
    logits = model.model.embed_tokens.as_linear(hidden.reshape(-1, hidden.shape[-1])[where])
    return (nn.losses.cross_entropy(logits, following) * weights).sum() / weights.sum()


def train(model: Model, plan: list[list[Example]], rate: float, checkpoint: Path) -> None:
    """Trains in place, one step a batch of `plan`; resumes from `checkpoint` where it exists."""
    warm = optim.linear_schedule(0.0, rate, WARM_UP)
    cool = optim.cosine_decay(rate, max(1, len(plan) - WARM_UP), LAST_RATE)
    optimizer = optim.AdamW(optim.join_schedules([warm, cool], [WARM_UP]), betas=[0.9, 0.98], weight_decay=0.05)
    optimizer.init(model.trainable_parameters())
    first = _resume(model, optimizer, checkpoint)
    state = [model.state, optimizer.state]

    @partial(mx.compile, inputs=state, outputs=state)
    def step(*batch: mx.array) -> mx.array:
        value, gradients = nn.value_and_grad(model, loss)(model, *batch)
        gradients, _ = optim.clip_grad_norm(gradients, 1.0)
        optimizer.update(model, gradients)
        return value

    begun, seen, recent = time.perf_counter(), 0, []
    for number, batch in enumerate(plan[first:], first + 1):
        value = step(*arrays(batch))
        mx.eval(value, state)
        recent.append(value.item())
        seen += sum(len(e.tokens) for e in batch)
        if number % 50 == 0 or number == len(plan):
            spent = time.perf_counter() - begun
            left = spent / (number - first) * (len(plan) - number)
            print(
                f"step {number}/{len(plan)}  loss {np.mean(recent):.3f}  {seen / spent:.0f} tokens/s  "
                f"{spent / 60:.1f} min, {left / 60:.1f} min left",
                flush=True,
            )
            recent = []
        if number % CHECKPOINT_EVERY == 0 or number == len(plan):
            _save_checkpoint(model, optimizer, number, checkpoint)


def _save_checkpoint(model: Model, optimizer: optim.Optimizer, step: int, path: Path) -> None:
    weights = {f"model.{key}": value for key, value in tree_flatten(model.parameters())}
    moments = {f"optimizer.{key}": value for key, value in tree_flatten(optimizer.state)}
    _write_weights(path, weights | moments, {"step": str(step)})


def _resume(model: Model, optimizer: optim.Optimizer, path: Path) -> int:
    if not path.exists():
        return 0
    stored: Any
    metadata: Any
    stored, metadata = mx.load(str(path), return_metadata=True)
    mx.eval(stored)  # the file will be written again, so nothing may stay unread

    def part(prefix: str) -> Any:
        return tree_unflatten([(k.removeprefix(prefix), v) for k, v in stored.items() if k.startswith(prefix)])

    model.update(part("model."))
    optimizer.state = part("optimizer.")
    print(f"going on from step {metadata['step']} of {path}", flush=True)
    return int(metadata["step"])


def _write_weights(path: Path, weights: dict[str, mx.array], metadata: dict[str, str]) -> None:
    temporary = path.with_name(f"writing-{path.name}")
    mx.save_safetensors(str(temporary), weights, metadata)
    temporary.replace(path)


def save(model: Model, tokenizer: Tokenizer, shape: Shape, folder: Path) -> None:
    """The folder that `mlx_lm.load` reads, weights in float16."""
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(shape.tokenizer_config(), indent=2) + "\n")
    (folder / "config.json").write_text(json.dumps(shape.config(), indent=2) + "\n")
    weights = {key: value.astype(mx.float16) for key, value in tree_flatten(model.parameters())}
    _write_weights(folder / "model.safetensors", weights, {"format": "mlx"})


def device() -> str:
    """What trained the model, in words for the card."""
    if mx.default_device() == mx.gpu:
        return f"a GPU ({mx.device_info()['device_name']})"
    return f"{os.cpu_count()} CPU cores, {os.environ.get('OPENBLAS_NUM_THREADS', 'all')} of them for matrix products"
