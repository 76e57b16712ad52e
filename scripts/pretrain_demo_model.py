"""Trains the small Llama that the package ships, on the demo world, from nothing, on whatever device MLX has.

    python scripts/pretrain_demo_model.py --out mlx_personal/demo/model
    python scripts/pretrain_demo_model.py --out mlx_personal/demo/model --evaluate-only

One pass over a corpus drawn from the grammar in demo_world/, loss on the assistant's words only, then the measurements
that go into the model card. The same arguments give the same corpus, the same batches and the same first weights. An
interrupted run goes on from its last checkpoint. This is no general trainer: the model is a few million parameters and
everything fits in memory.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Iterator
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
from demo_world.card import write_card
from demo_world.measure import measure
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models.llama import Model, ModelArgs
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from write_demo_corpus import corpus

SPECIAL_TOKENS = ("<|pad|>", "<|bos|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>")
PAD, BOS, END = 0, 1, 5
CHAT_TEMPLATE = (
    "<|bos|>{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "pad_token": "<|pad|>",
    "bos_token": "<|bos|>",
    "eos_token": "<|end|>",
    "additional_special_tokens": ["<|user|>", "<|assistant|>", "<|system|>"],
    "clean_up_tokenization_spaces": False,
    "model_max_length": 1024,
    "chat_template": CHAT_TEMPLATE,
}
VOCABULARY = 2048
LONGEST = 320  # tokens a row; longer rows, about one in a thousand, are left out
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 192,
    "num_hidden_layers": 5,
    "intermediate_size": 448,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 48,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
    "vocab_size": VOCABULARY,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": END,
    "torch_dtype": "float16",
}
PEAK_RATE, LAST_RATE, WARM_UP = 3e-3, 1e-4, 100
BATCH_TOKENS = 2560
CHECKPOINT_EVERY = 200


@dataclass(frozen=True)
class Example:
    """A tokenised row; `targets` are the positions whose next token the assistant wrote."""

    tokens: list[int]
    targets: list[int]


def train_tokenizer(texts: Iterator[str]) -> Tokenizer:
    """A byte-level BPE tokenizer of `VOCABULARY` entries."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode(row: dict[str, Any], tokenizer: Tokenizer, last_only: bool) -> Example:
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


def batches(examples: list[Example], seed: int) -> list[list[Example]]:
    """One pass in random order, in batches of like length and about `BATCH_TOKENS` tokens."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(examples))
    made: list[list[Example]] = []
    for start in range(0, len(order), 4096):
        pool = sorted((examples[i] for i in order[start : start + 4096]), key=lambda e: len(e.tokens))
        while pool:
            width = _round_up(len(pool[-1].tokens), 16)
            rows = max(1, BATCH_TOKENS // width)
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


def train(model: Model, plan: list[list[Example]], checkpoint: Path) -> None:
    """Trains in place, one step a batch of `plan`; resumes from `checkpoint` where it exists."""
    warm = optim.linear_schedule(0.0, PEAK_RATE, WARM_UP)
    cool = optim.cosine_decay(PEAK_RATE, max(1, len(plan) - WARM_UP), LAST_RATE)
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


def save(model: Model, tokenizer: Tokenizer, folder: Path) -> None:
    """The folder that `mlx_lm.load` reads, weights in float16."""
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG, indent=2) + "\n")
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    weights = {key: value.astype(mx.float16) for key, value in tree_flatten(model.parameters())}
    _write_weights(folder / "model.safetensors", weights, {"format": "mlx"})


def is_rewrite(row: dict[str, Any]) -> bool:
    """Whether the row's last question is one of the two rewrite tasks, whose context is not to be trained again."""
    return bool(row["messages"][-2]["content"].startswith("Rewrite this "))


def prepare(rows: int, seed: int) -> tuple[Tokenizer, list[Example]]:
    """The tokenizer and the tokenised training side of the corpus."""
    drawn = list(corpus(rows, seed))
    tokenizer = train_tokenizer(m["content"] for row in drawn[:30_000] for m in row["messages"])
    examples = [encode(row, tokenizer, is_rewrite(row)) for row in drawn]
    return tokenizer, [e for e in examples if len(e.tokens) <= LONGEST]


def device() -> str:
    """What trained the model, in words for the card."""
    if mx.default_device() == mx.gpu:
        return f"a GPU ({mx.device_info()['device_name']})"
    return f"{os.cpu_count()} CPU cores, {os.environ.get('OPENBLAS_NUM_THREADS', 'all')} of them for matrix products"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=70_000, help="rows of the corpus, each seen once")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--evaluate-only", action="store_true", help="measure the model in --out and rewrite its card")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    facts_file = args.out / "training.json"
    if not args.evaluate_only:
        begun = time.perf_counter()
        tokenizer, examples = prepare(args.rows, args.seed)
        mx.random.seed(args.seed)
        model = Model(ModelArgs.from_dict(CONFIG))
        mx.eval(model.parameters())
        plan = batches(examples, args.seed)
        tokens = sum(len(e.tokens) for e in examples)
        parameters = sum(value.size for _, value in tree_flatten(model.parameters()))
        print(
            f"{parameters / 1e6:.2f} M parameters, {len(examples)} rows, {tokens / 1e6:.1f} M tokens, "
            f"{tokens / len(examples):.0f} a row, {len(plan)} steps, ready after "
            f"{time.perf_counter() - begun:.0f} s",
            flush=True,
        )
        checkpoint = args.out / "checkpoint.safetensors"
        train(model, plan, checkpoint)
        save(model, tokenizer, args.out)
        checkpoint.unlink()
        facts = {
            "parameters": parameters,
            "rows": len(examples),
            "rows_argument": args.rows,
            "tokens": tokens,
            "steps": len(plan),
            "seed": args.seed,
            "minutes": math.ceil((time.perf_counter() - begun) / 60),
            "device": device(),
        }
        facts_file.write_text(json.dumps(facts, indent=2) + "\n")
    figures = measure(args.out)
    print(json.dumps(figures, indent=2))
    write_card(args.out, json.loads(facts_file.read_text()), CONFIG, figures)


if __name__ == "__main__":
    main()
