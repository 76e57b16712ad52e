"""Train with mlx-lm's own trainer, on the samples and through the arguments of the benchmark.

The trainer runs unchanged, except that its display, which takes time to draw, and its wired memory limit, which has
crashed Macs, are off (`mlx_lm_compat.plain_trainer`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx_lm.tuner import trainer
from mlx_lm.tuner.datasets import CacheDataset

from mlx_personal.finetune.data.samples import Sample
from mlx_personal.models.mlx_lm_compat import plain_trainer

# mlx-lm pads every batch to a multiple of this.
_PADDING_MULTIPLE: Final = 32
# Above the longest sample of the benchmark, so that none is truncated.
_MAX_SEQ_LENGTH: Final = 4096

Loss = Callable[[nn.Module, mx.array, mx.array], tuple[mx.array, mx.array]]


def exact_loss(model: nn.Module, batch: mx.array, lengths: mx.array) -> tuple[mx.array, mx.array]:
    """Compute mlx-lm's loss without the padding token that its own loss counts after each sample.

    Args:
        model: The model.
        batch: Padded tokens, int [B, T].
        lengths: Start of the targets and end of the sample, int [B, 2].

    Returns:
        The mean cross entropy over all targets, and their number.
    """
    inputs, targets = batch[:, :-1], batch[:, 1:]
    positions = mx.arange(1, targets.shape[1] + 1)
    is_target = mx.logical_and(positions >= lengths[:, 0:1], positions < lengths[:, 1:])
    losses = nn.losses.cross_entropy(model(inputs), targets) * is_target
    count = is_target.sum()
    return losses.astype(mx.float32).sum() / count, count


stock_loss: Loss = trainer.default_loss


def train_with_mlx_lm(
    model: nn.Module,
    optimizer: optim.Optimizer,
    samples: Sequence[Sample],
    *,
    batch_size: int,
    epochs: int,
    seed: int,
    loss: Loss,
    on_loss: Callable[[float], None] = lambda loss: None,
) -> list[list[int]]:
    """Train with mlx-lm's trainer, which leaves out samples that do not fill the last batch.

    Args:
        model: Model with a new adapter.
        optimizer: Optimizer with its learning rates.
        samples: Training samples.
        batch_size: Samples of a step.
        epochs: Number of epochs.
        seed: Seed of the order of the batches.
        loss: Loss of a batch.
        on_loss: Called with the loss of each step.

    Returns:
        The indices of the samples of each step, in the order in which mlx-lm took them.
    """
    steps = epochs * (len(samples) // batch_size)
    data = _RecordingDataset(_SampleDataset(samples))
    with tempfile.TemporaryDirectory() as folder, plain_trainer():
        args = trainer.TrainingArgs(
            batch_size=batch_size,
            iters=steps,
            steps_per_report=1,
            steps_per_eval=steps + 1,
            steps_per_save=steps + 1,
            max_seq_length=_MAX_SEQ_LENGTH,
            adapter_file=str(Path(folder) / "adapters.safetensors"),
        )
        np.random.seed(seed)  # mlx-lm shuffles with NumPy's global generator
        trainer.train(model, optimizer, data, args=args, loss=loss, training_callback=_LossCallback(on_loss))
    return [data.taken[i : i + batch_size] for i in range(0, len(data.taken), batch_size)]


def count_processed_tokens(samples: Sequence[Sample], batches: Sequence[Sequence[int]]) -> int:
    """Return the tokens that mlx-lm computes in these batches, padding included."""
    longest = (max(len(samples[i].inputs) + 1 for i in batch) for batch in batches)
    return sum(
        len(batch) * _PADDING_MULTIPLE * -(-length // _PADDING_MULTIPLE)
        for batch, length in zip(batches, longest, strict=True)
    )


class _SampleDataset:
    """Samples in the form of mlx-lm's data sets: `process` returns the tokens and the index of the first target."""

    def __init__(self, samples: Sequence[Sample]):
        self._samples = samples

    def __getitem__(self, index: int) -> dict[str, int]:
        # mlx-lm sorts the items by their length. Dictionaries of one entry are equally long, so the order stays.
        return {"index": index}

    def __len__(self) -> int:
        return len(self._samples)

    def process(self, item: dict[str, int]) -> tuple[list[int], int]:
        sample = self._samples[item["index"]]
        return [int(sample.inputs[0]), *sample.targets.tolist()], int(np.argmax(sample.is_target)) + 1


class _RecordingDataset(CacheDataset):
    """mlx-lm's cache of processed samples, which records the indices that were taken."""

    def __init__(self, data: _SampleDataset):
        super().__init__(data)
        self.taken: list[int] = []

    def __getitem__(self, index: int) -> Any:
        self.taken.append(index)
        return super().__getitem__(index)


class _LossCallback(trainer.TrainingCallback):
    def __init__(self, on_loss: Callable[[float], None]):
        self._on_loss = on_loss

    def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
        self._on_loss(train_info["train_loss"])
