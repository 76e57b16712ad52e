"""Trains a LoRA adapter through mlx-lm's layers and writes it in mlx-lm's format.

The loop is this package's: mlx-lm's own trains on padding, fails on rows without targets, drops the last batch and sets
the wired memory limit. Memory is what a Mac is short of: the vocabulary projection, the largest array by far, is
computed for targets only, and off the CPU blocks are checkpointed.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten

from mlx_personal.backend import LanguageModel
from mlx_personal.backend.device import device_name
from mlx_personal.dialogue import Dialogue
from mlx_personal.errors import UserError
from mlx_personal.finetune.batches import Batch, Rows, batch_sizes, epoch, make_rows
from mlx_personal.finetune.checkpointing import checkpointed
from mlx_personal.finetune.config import LoRAConfig
from mlx_personal.store.files import atomic_folder

# Share of the steps in which the learning rate rises; AdamW knows no gradient's size at first.
_WARMUP = 0.05


@dataclass(frozen=True)
class Step:
    """One optimizer step, as it is reported: `number` counts from 1 to `steps`, `loss` is the mean over its targets."""

    number: int
    steps: int
    epoch: int
    loss: float
    learning_rate: float


@dataclass(frozen=True)
class TrainingReport:
    """What a training did. Losses are mean cross entropies a target token; `target_tokens` are those of one epoch."""

    rows: int
    dropped_rows: int
    truncated_rows: int
    target_tokens: int
    epochs: int
    steps: int
    first_loss: float
    last_loss: float
    epoch_losses: tuple[float, ...]
    seconds: float


def finetune(
    lm: LanguageModel,
    dialogues: Sequence[Dialogue],
    config: LoRAConfig,
    folder: Path,
    on_step: Callable[[Step], None] | None = None,
    metadata: Mapping[str, object] | None = None,
) -> TrainingReport:
    """Trains a fresh adapter on every assistant turn of `dialogues` and writes it to `folder`, whole or not at all.

    `folder` must not exist yet, or be empty. `metadata` goes into its `adapter_config.json` beside what mlx-lm reads.
    `lm` answers with its base model afterwards, whether this succeeds or not; its weights are never changed. The same
    arguments on the same machine give the same adapter, bit for bit.

    UserError if no dialogue has anything to learn, if the loss stops being a number, or if the disk refuses.
    """
    start = time.perf_counter()
    data = make_rows(lm, dialogues, min(config.max_tokens, lm.context_length))
    if not data.rows:
        raise UserError("nothing to train on", hint="annotate some dialogues first")
    with atomic_folder(folder) as written:
        try:
            logits_at = target_logits(lm, data.rows[0].inputs[:32].tolist())
            lm.attach_new_adapter(config.num_layers, config.lora_parameters, config.seed)
            losses, epoch_losses = _train(lm.model, logits_at, data, config, on_step)
            _write(lm.model, written, config, metadata or {})
        finally:
            lm.detach_adapter()
    return TrainingReport(
        rows=len(data.rows),
        dropped_rows=data.dropped,
        truncated_rows=data.truncated,
        target_tokens=data.target_tokens,
        epochs=config.epochs,
        steps=len(losses),
        first_loss=losses[0],
        last_loss=losses[-1],
        epoch_losses=tuple(epoch_losses),
        seconds=time.perf_counter() - start,
    )


LogitsAt = Callable[[mx.array, mx.array], mx.array]


def target_logits(lm: LanguageModel, probe: Sequence[int]) -> LogitsAt:
    """The function from inputs [B, T] and places [N] in them to logits [N, V], which projects those places alone.

    Models that do more with their hidden states than project them, as told from the tokens `probe`, project all.
    """
    body, head = lm.body_and_head(probe) or (lm.model, lambda logits: logits)

    def logits_at(inputs: mx.array, places: mx.array) -> mx.array:
        states = body(inputs)
        return head(states.reshape(-1, states.shape[-1])[places])

    return logits_at


def loss_of(logits_at: LogitsAt, inputs: mx.array, places: mx.array, targets: mx.array, weights: mx.array) -> mx.array:
    """Mean cross entropy over a `Batch`'s targets, computed in float32."""
    logits = logits_at(inputs, places).astype(mx.float32)
    return (nn.losses.cross_entropy(logits, targets) * weights).sum() / weights.sum()


def _train(
    model: nn.Module, logits_at: LogitsAt, data: Rows, config: LoRAConfig, on_step: Callable[[Step], None] | None
) -> tuple[list[float], list[float]]:
    """The loss of every step and the mean loss a target of every epoch."""
    # On a CPU, compiling runs a C++ compiler for seconds and gains nothing, so shapes may be many and padding less.
    compiled = device_name() != "cpu"
    length_step = 32 if compiled else 8
    sizes = batch_sizes(data.rows, config.batch_size, config.batch_tokens, length_step)
    steps = config.epochs * len(sizes)
    schedule = _schedule(config.learning_rate, steps)
    # Bias correction, which MLX leaves off: without it the first steps are three times the learning rate long.
    optimizer = optim.AdamW(learning_rate=schedule, bias_correction=True)
    optimizer.init(model.trainable_parameters())
    state = [model.state, optimizer.state, mx.random.state]
    value_and_grad = nn.value_and_grad(model, lambda *batch: loss_of(logits_at, *batch))

    def step(*batch: mx.array) -> mx.array:
        loss, gradient = value_and_grad(*batch)
        optimizer.update(model, gradient)
        return loss

    if compiled:
        step = mx.compile(step, inputs=state, outputs=state)
    rng = np.random.default_rng(config.seed)
    losses: list[float] = []
    epoch_losses: list[float] = []
    with checkpointed(model.layers) if compiled else contextlib.nullcontext():
        for number in range(1, config.epochs + 1):
            total = 0.0
            for batch in epoch(data.rows, sizes, length_step, rng):
                rate = float(schedule(mx.array(len(losses))))
                loss = step(*arrays_of(batch))
                mx.eval(loss, state)
                losses.append(float(loss))
                total += losses[-1] * float(batch.weights.sum())
                if not math.isfinite(losses[-1]):
                    raise _diverged(f"the loss became {losses[-1]} at step {len(losses)} of {steps}")
                if on_step is not None:
                    on_step(Step(len(losses), steps, number, losses[-1], rate))
            epoch_losses.append(total / data.target_tokens)
    return losses, epoch_losses


def arrays_of(batch: Batch) -> tuple[mx.array, ...]:
    """What `loss_of` takes, in its order."""
    return tuple(mx.array(part) for part in (batch.inputs, batch.places, batch.targets, batch.weights))


def _schedule(peak: float, steps: int) -> Callable[[mx.array], mx.array]:
    """A short linear rise, then a cosine down to 0, so that the rows of the last batches do not outweigh the rest."""
    warmup = math.ceil(_WARMUP * steps)
    rise = optim.linear_schedule(peak / (warmup + 1), peak, warmup)
    return optim.join_schedules([rise, optim.cosine_decay(peak, max(steps - warmup, 1))], [warmup])


def _write(model: nn.Module, folder: Path, config: LoRAConfig, metadata: Mapping[str, object]) -> None:
    weights = dict(tree_flatten(model.trainable_parameters()))
    if not all(mx.isfinite(weight).all().item() for weight in weights.values()):
        raise _diverged("the adapter's weights became infinite")
    # Through a file of Python's: MLX's own writing by path does not notice a full disk.
    with (folder / "adapters.safetensors").open("wb") as file:
        mx.save_safetensors(file, weights, {"format": "mlx"})
    read_by_mlx_lm = {
        "fine_tune_type": "lora",
        "num_layers": config.num_layers,
        "lora_parameters": config.lora_parameters,
    }
    text = json.dumps({**metadata, **read_by_mlx_lm}, indent=2) + "\n"
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")


def _diverged(what: str) -> UserError:
    return UserError(f"training failed, {what}; nothing was saved", hint="lower the learning rate and train again")
