"""Pretrain a small Llama on dialogues, with a loss on the assistant's turns only.

The same arguments give the same batches and the same initial weights. An interrupted run resumes from its last
checkpoint. This is no general trainer: models have a few million parameters and everything fits in memory.
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

import mlx_personal  # noqa: F401 - loads its BLAS, which has to precede mlx.core

# isort: split
import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models.llama import Model, ModelArgs
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

Sample = dict[str, list[dict[str, str]]]

SPECIAL_TOKENS = ("<|pad|>", "<|bos|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>")
PAD, BOS, END = 0, 1, 5
CHAT_TEMPLATE = (
    "<|bos|>{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# The learning rate rises linearly over the warm-up steps and falls along a cosine to the final one.
FINAL_LEARNING_RATE, WARMUP_STEPS = 1e-4, 100
CHECKPOINT_STEPS = 200
# Number of samples that the tokenizer is trained on.
TOKENIZER_SAMPLES = 30_000
# Batches are formed in pools of this many samples, sorted by length.
POOL_SIZE = 4096


@dataclass(frozen=True)
class PretrainingConfig:
    """Architecture of a small Llama, and how it is trained.

    Attributes:
        hidden_size: Hidden size.
        num_layers: Number of layers.
        intermediate_size: Hidden size of the MLPs.
        num_heads: Number of attention heads; half as many for keys and values.
        vocab_size: Number of entries of the tokenizer.
        max_position_embeddings: Context length in tokens.
        max_seq_length: Maximum tokens of a sample; longer ones are left out.
        batch_tokens: Approximate number of tokens per step.
        learning_rate: Peak learning rate.
    """

    hidden_size: int = 192
    num_layers: int = 5
    intermediate_size: int = 448
    num_heads: int = 4
    vocab_size: int = 2048
    max_position_embeddings: int = 1024
    max_seq_length: int = 320
    batch_tokens: int = 2560
    learning_rate: float = 3e-3

    def model_config(self) -> dict[str, Any]:
        """Return the contents of `config.json`, as mlx-lm reads it."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_layers,
            "intermediate_size": self.intermediate_size,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_heads // 2,
            "head_dim": self.hidden_size // self.num_heads,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "max_position_embeddings": self.max_position_embeddings,
            "tie_word_embeddings": True,
            "vocab_size": self.vocab_size,
            "pad_token_id": PAD,
            "bos_token_id": BOS,
            "eos_token_id": END,
            "torch_dtype": "float16",
        }

    def tokenizer_config(self) -> dict[str, Any]:
        """Return the contents of `tokenizer_config.json`, with the chat template."""
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "pad_token": "<|pad|>",
            "bos_token": "<|bos|>",
            "eos_token": "<|end|>",
            "additional_special_tokens": ["<|user|>", "<|assistant|>", "<|system|>"],
            "clean_up_tokenization_spaces": False,
            "model_max_length": self.max_position_embeddings,
            "chat_template": CHAT_TEMPLATE,
        }


@dataclass(frozen=True)
class TokenizedSample:
    """A tokenized sample.

    Attributes:
        tokens: The tokens.
        target_positions: Positions whose next token is the assistant's.
    """

    tokens: list[int]
    target_positions: list[int]


def pretrain(samples: Sequence[Sample], config: PretrainingConfig, seed: int, out: Path) -> dict[str, Any]:
    """Train a model for one epoch and write a folder that `mlx_lm.load` reads.

    Args:
        samples: The training samples.
        config: Architecture and training settings.
        seed: Random seed of the weights and the batches.
        out: Existing folder to write.

    Returns:
        What the training did, for training.json.
    """
    start = time.perf_counter()
    texts = (message["content"] for sample in samples[:TOKENIZER_SAMPLES] for message in sample["messages"])
    tokenizer = train_tokenizer(texts, config.vocab_size)
    tokenized = (tokenize_sample(sample, tokenizer, is_rewrite(sample)) for sample in samples)
    short_enough = [sample for sample in tokenized if len(sample.tokens) <= config.max_seq_length]
    mx.random.seed(seed)
    model = Model(ModelArgs.from_dict(config.model_config()))
    mx.eval(model.parameters())
    batches = make_batches(short_enough, config.batch_tokens, seed)
    num_tokens = sum(len(sample.tokens) for sample in short_enough)
    num_parameters = sum(value.size for _, value in tree_flatten(model.parameters()))
    print(
        f"{num_parameters / 1e6:.2f} M parameters, {len(short_enough)} samples, {num_tokens / 1e6:.1f} M tokens, "
        f"{num_tokens / len(short_enough):.0f} per sample, {len(batches)} steps, ready after "
        f"{time.perf_counter() - start:.0f} s",
        flush=True,
    )
    checkpoint = out / "checkpoint.safetensors"
    train(model, batches, config.learning_rate, checkpoint)
    save_model(model, tokenizer, config, out)
    checkpoint.unlink()
    return {
        "parameters": num_parameters,
        "rows": len(short_enough),
        "tokens": num_tokens,
        "steps": len(batches),
        "seed": seed,
        "minutes": math.ceil((time.perf_counter() - start) / 60),
        "device": describe_device(),
    }


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def tokenize_sample(sample: Sample, tokenizer: Tokenizer, last_answer_only: bool) -> TokenizedSample:
    """Tokenize a sample with the chat template; with `last_answer_only` only the last answer has targets."""
    tokens: list[int] = [BOS]
    target_positions: list[int] = []
    messages = sample["messages"]
    for index, message in enumerate(messages):
        content = tokenizer.encode(message["content"], add_special_tokens=False).ids
        tokens.append(SPECIAL_TOKENS.index(f"<|{message['role']}|>"))
        if message["role"] == "assistant" and (not last_answer_only or index == len(messages) - 1):
            target_positions += range(len(tokens) - 1, len(tokens) + len(content))
        tokens += [*content, END]
    return TokenizedSample(tokens, target_positions)


def is_rewrite(sample: Sample) -> bool:
    """Whether the last question is one of the rewrite tasks, of which only the answer is to be trained."""
    return sample["messages"][-2]["content"].startswith("Rewrite this ")


def make_batches(samples: list[TokenizedSample], batch_tokens: int, seed: int) -> list[list[TokenizedSample]]:
    """Return the batches of an epoch: samples of similar length, in random order.

    Args:
        samples: The tokenized samples.
        batch_tokens: Maximum number of tokens of a batch, padding included.
        seed: Random seed.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(samples))
    batches: list[list[TokenizedSample]] = []
    for start in range(0, len(order), POOL_SIZE):
        pool = sorted((samples[i] for i in order[start : start + POOL_SIZE]), key=lambda sample: len(sample.tokens))
        while pool:
            padded_length = _round_up(len(pool[-1].tokens), 16)
            batch_size = max(1, batch_tokens // padded_length)
            batches.append(pool[-batch_size:])
            del pool[-batch_size:]
    return [batches[i] for i in rng.permutation(len(batches))]


def collate(batch: list[TokenizedSample]) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    """Return the arrays of a batch.

    Returns:
        Inputs [B, T], positions of the targets in the flattened inputs [M], target tokens [M], and weights [M], which
        are 0 where M is padded.
    """
    length = _round_up(max(len(sample.tokens) for sample in batch), 16)
    inputs = np.full((len(batch), length), PAD, dtype=np.int32)
    positions: list[int] = []
    targets: list[int] = []
    for row, sample in enumerate(batch):
        inputs[row, : len(sample.tokens)] = sample.tokens
        positions += [row * length + position for position in sample.target_positions]
        targets += [sample.tokens[position + 1] for position in sample.target_positions]
    # Padding gives few distinct shapes, so few graphs are compiled.
    padding = _round_up(len(positions), 128) - len(positions)
    weights = [1.0] * len(positions) + [0.0] * padding
    return (
        mx.array(inputs),
        mx.array(positions + [0] * padding),
        mx.array(targets + [0] * padding),
        mx.array(weights),
    )


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def compute_loss(model: Model, inputs: mx.array, positions: mx.array, targets: mx.array, weights: mx.array) -> mx.array:
    """Return the mean cross-entropy over the targets; the head is applied to their positions only."""
    hidden = model.model(inputs)
    logits = model.model.embed_tokens.as_linear(hidden.reshape(-1, hidden.shape[-1])[positions])
    return (nn.losses.cross_entropy(logits, targets) * weights).sum() / weights.sum()


def train(model: Model, batches: list[list[TokenizedSample]], learning_rate: float, checkpoint: Path) -> None:
    """Train a model in place, one step per batch.

    Args:
        model: The model.
        batches: The batches of all steps.
        learning_rate: Peak learning rate.
        checkpoint: File of the checkpoint; the training resumes from it if it exists.
    """
    warmup = optim.linear_schedule(0.0, learning_rate, WARMUP_STEPS)
    decay = optim.cosine_decay(learning_rate, max(1, len(batches) - WARMUP_STEPS), FINAL_LEARNING_RATE)
    schedule = optim.join_schedules([warmup, decay], [WARMUP_STEPS])
    optimizer = optim.AdamW(schedule, betas=[0.9, 0.98], weight_decay=0.05)
    optimizer.init(model.trainable_parameters())
    first = _load_checkpoint(model, optimizer, checkpoint)
    state = [model.state, optimizer.state]

    @partial(mx.compile, inputs=state, outputs=state)
    def step(*batch: mx.array) -> mx.array:
        loss, gradients = nn.value_and_grad(model, compute_loss)(model, *batch)
        gradients, _ = optim.clip_grad_norm(gradients, 1.0)
        optimizer.update(model, gradients)
        return loss

    start, num_tokens, recent_losses = time.perf_counter(), 0, []
    for number, batch in enumerate(batches[first:], first + 1):
        loss = step(*collate(batch))
        mx.eval(loss, state)
        recent_losses.append(loss.item())
        num_tokens += sum(len(sample.tokens) for sample in batch)
        if number % 50 == 0 or number == len(batches):
            elapsed_s = time.perf_counter() - start
            remaining_s = elapsed_s / (number - first) * (len(batches) - number)
            print(
                f"step {number}/{len(batches)}  loss {np.mean(recent_losses):.3f}  "
                f"{num_tokens / elapsed_s:.0f} tokens/s  {elapsed_s / 60:.1f} min, {remaining_s / 60:.1f} min left",
                flush=True,
            )
            recent_losses = []
        if number % CHECKPOINT_STEPS == 0 or number == len(batches):
            _save_checkpoint(model, optimizer, number, checkpoint)


def _save_checkpoint(model: Model, optimizer: optim.Optimizer, step: int, path: Path) -> None:
    weights = {f"model.{key}": value for key, value in tree_flatten(model.parameters())}
    moments = {f"optimizer.{key}": value for key, value in tree_flatten(optimizer.state)}
    _write_weights(path, weights | moments, {"step": str(step)})


def _load_checkpoint(model: Model, optimizer: optim.Optimizer, path: Path) -> int:
    """Restore model and optimizer if there is a checkpoint, and return the number of steps it has done."""
    if not path.exists():
        return 0
    stored: Any
    metadata: Any
    stored, metadata = mx.load(str(path), return_metadata=True)
    mx.eval(stored)  # Arrays are loaded lazily, and the file will be overwritten.

    def subtree(prefix: str) -> Any:
        return tree_unflatten([(k.removeprefix(prefix), v) for k, v in stored.items() if k.startswith(prefix)])

    model.update(subtree("model."))
    optimizer.state = subtree("optimizer.")
    print(f"resuming from step {metadata['step']} of {path}", flush=True)
    return int(metadata["step"])


def _write_weights(path: Path, weights: dict[str, mx.array], metadata: dict[str, str]) -> None:
    """Write a safetensors file in one step, so that an interruption leaves the old one."""
    temporary = path.with_name(f"writing-{path.name}")
    mx.save_safetensors(str(temporary), weights, metadata)
    temporary.replace(path)


def save_model(model: Model, tokenizer: Tokenizer, config: PretrainingConfig, folder: Path) -> None:
    """Write a folder that `mlx_lm.load` reads, with weights in float16."""
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config.tokenizer_config(), indent=2) + "\n")
    (folder / "config.json").write_text(json.dumps(config.model_config(), indent=2) + "\n")
    weights = {key: value.astype(mx.float16) for key, value in tree_flatten(model.parameters())}
    _write_weights(folder / "model.safetensors", weights, {"format": "mlx"})


def describe_device() -> str:
    """Return what trains the model, for the model card."""
    if mx.default_device() == mx.gpu:
        return f"a GPU ({mx.device_info()['device_name']})"
    return f"{os.cpu_count()} CPU cores, {os.environ.get('OPENBLAS_NUM_THREADS', 'all')} of them for matrix products"
