"""The other side of the comparison: mlx-lm's own trainer, as it is, on the same rows.

It is called as its authors meant it to be, through its arguments, and only what would make the comparison unfair or
dangerous is set aside: its screen, which takes time to draw, and its wired memory limit, which has crashed Macs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx_lm.tuner import trainer
from mlx_lm.tuner.datasets import CacheDataset

from mlx_personal.finetune.data.samples import Sample
from mlx_personal.models.mlx_lm_compat import plain_trainer

# mlx-lm pads every batch to a multiple of this.
_PAD_TO = 32
# Above every row of the benchmark: nothing is cut.
_MAX_TOKENS = 4096

Loss = Callable[[nn.Module, mx.array, mx.array], tuple[mx.array, mx.array]]


def exact_loss(model: nn.Module, batch: mx.array, lengths: mx.array) -> tuple[mx.array, mx.array]:
    """mlx-lm's loss without the token too many: its own trains the padding that follows each row.

    Args:
        batch: tokens [B, T], padded.
        lengths: [B, 2], where each row's targets begin and where the row ends.

    Returns:
        The mean cross entropy over all targets, and their number.
    """
    inputs, targets = batch[:, :-1], batch[:, 1:]
    places = mx.arange(1, targets.shape[1] + 1)
    is_target = mx.logical_and(places >= lengths[:, 0:1], places < lengths[:, 1:])
    losses = nn.losses.cross_entropy(model(inputs), targets) * is_target
    count = is_target.sum()
    return losses.astype(mx.float32).sum() / count, count


stock_loss: Loss = trainer.default_loss


def train_plain(
    model: nn.Module,
    optimizer: optim.Optimizer,
    rows: Sequence[Sample],
    batch_size: int,
    epochs: int,
    seed: int,
    loss: Loss,
    on_step: Callable[[float], None],
) -> list[list[int]]:
    """mlx-lm's trainer over all epochs, with a fresh adapter on `model`; `on_step` gets the loss of each step.

    Returns the rows of each step, in the order in which mlx-lm took them.
    """
    steps = epochs * (len(rows) // batch_size)
    data = _Recorded(_Raw(rows))
    with tempfile.TemporaryDirectory() as folder, plain_trainer():
        args = trainer.TrainingArgs(
            batch_size=batch_size,
            iters=steps,
            steps_per_report=1,
            steps_per_eval=steps + 1,
            steps_per_save=steps + 1,
            max_seq_length=_MAX_TOKENS,
            adapter_file=str(Path(folder) / "adapters.safetensors"),
        )
        np.random.seed(seed)  # mlx-lm shuffles with this generator and no other
        trainer.train(model, optimizer, data, args=args, loss=loss, training_callback=_Reported(on_step))
    return [data.taken[i : i + batch_size] for i in range(0, len(data.taken), batch_size)]


def processed_tokens(rows: Sequence[Sample], order: Sequence[Sequence[int]]) -> int:
    """Tokens that mlx-lm computes in these steps, padding included."""
    longest = (max(len(rows[i].inputs) + 1 for i in step) for step in order)
    return sum(len(step) * _PAD_TO * -(-length // _PAD_TO) for step, length in zip(order, longest, strict=True))


class _Raw:
    """The rows in the form of mlx-lm's own data sets: `process` makes (tokens, place of the first target)."""

    def __init__(self, rows: Sequence[Sample]):
        self._rows = rows

    def __getitem__(self, index: int) -> dict[str, int]:
        # A dictionary, as mlx-lm's are: it sorts rows by its length, one for all, so that their order stays.
        return {"row": index}

    def __len__(self) -> int:
        return len(self._rows)

    def process(self, item: dict[str, int]) -> tuple[list[int], int]:
        row = self._rows[item["row"]]
        return [int(row.inputs[0]), *row.targets.tolist()], int(np.argmax(row.is_target)) + 1


class _Recorded(CacheDataset):
    """mlx-lm's own cache of processed rows, which notes the rows that were taken."""

    def __init__(self, data: _Raw):
        super().__init__(data)
        self.taken: list[int] = []

    def __getitem__(self, index: int) -> Any:
        self.taken.append(index)
        return super().__getitem__(index)


class _Reported(trainer.TrainingCallback):
    def __init__(self, on_step: Callable[[float], None]):
        self._on_step = on_step

    def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
        self._on_step(train_info["train_loss"])
