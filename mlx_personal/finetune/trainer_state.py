"""The state of a training run, which changes with every step and is saved in checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_unflatten

from mlx_personal.finetune.checkpoint import Checkpoint
from mlx_personal.finetune.schedule import EarlyStopping, LearningRateSchedule


@dataclass
class TrainerState:
    """The state after a number of optimizer steps.

    Attributes:
        weights: The adapter's weights in one float32 array [P].
        optimizer: AdamW with its moments.
        early_stopping: The best validation loss so far.
        best_weights: The weights with that loss; None without validation data.
        losses: Loss of each completed step.
        target_tokens: Number of target tokens of each completed step.
        validation_losses: (step, loss) on the validation samples.
        general_losses: (step, loss) on the general samples that measure forgetting.
        pair_statistics: Means over the preference pairs of each completed step of the statistics of
            `forward.preferences`; empty for a step without pairs. The list is empty without pairs in the training run.
        validation_statistics: (step, means) of the same on the validation pairs.
        reference: Log-probabilities of the samples of all pairs under the base model, by their indices; None if the
            objective needs none.
    """

    weights: mx.array
    optimizer: optim.Optimizer
    early_stopping: EarlyStopping
    best_weights: mx.array | None = None
    losses: list[float] = field(default_factory=list)
    target_tokens: list[int] = field(default_factory=list)
    validation_losses: list[tuple[int, float]] = field(default_factory=list)
    general_losses: list[tuple[int, float]] = field(default_factory=list)
    pair_statistics: list[list[float]] = field(default_factory=list)
    validation_statistics: list[tuple[int, list[float]]] = field(default_factory=list)
    reference: dict[int, float] | None = None

    @property
    def step(self) -> int:
        """Number of completed steps."""
        return len(self.losses)

    @property
    def stopped_early(self) -> bool:
        """Whether early stopping has ended the training."""
        return self.early_stopping.stopped

    def is_finished(self, steps: int) -> bool:
        """Return whether the training has ended.

        Args:
            steps: Number of steps of the training run.
        """
        return self.step == steps or self.stopped_early

    @property
    def best_step(self) -> int:
        """Step whose weights are kept: the one with the best validation loss, else the last one."""
        if self.best_weights is None or self.early_stopping.best_step is None:
            return self.step
        return self.early_stopping.best_step

    def to_checkpoint(self, metadata: Mapping[str, Any]) -> Checkpoint:
        """Return a checkpoint of this state, with the key names of version 0.1.

        Args:
            metadata: Additional entries of its metadata.
        """
        trees = {"weights": self.weights, "optimizer": self.optimizer.state}
        trees |= {} if self.best_weights is None else {"best": self.best_weights}
        state = {
            "step": self.step,
            "losses": self.losses,
            "targets": self.target_tokens,
            "validation_losses": self.validation_losses,
            "general_losses": self.general_losses,
            "patience": self.early_stopping.state_dict(),
        }
        if self.pair_statistics:
            # Python's floats of float32 values, which JSON keeps exactly.
            state["pairs"] = {
                "statistics": self.pair_statistics,
                "validation_statistics": self.validation_statistics,
                "reference": None if self.reference is None else sorted(self.reference.items()),
            }
        return Checkpoint(dict(tree_flatten(trees)), {**state, **metadata})

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore the state of a checkpoint.

        Args:
            checkpoint: Result of `to_checkpoint`.
        """
        trees = tree_unflatten(list(checkpoint.arrays.items()))
        self.weights, self.optimizer.state = trees["weights"], trees["optimizer"]
        self.best_weights = trees.get("best")
        metadata = checkpoint.metadata
        self.losses, self.target_tokens = list(metadata["losses"]), list(metadata["targets"])
        self.validation_losses = [(step, loss) for step, loss in metadata["validation_losses"]]
        self.general_losses = [(step, loss) for step, loss in metadata["general_losses"]]
        self.early_stopping.load_state_dict(metadata["patience"])
        if pairs := metadata.get("pairs"):
            self.pair_statistics = [list(means) for means in pairs["statistics"]]
            self.validation_statistics = [(step, means) for step, means in pairs["validation_statistics"]]
            self.reference = None if pairs["reference"] is None else {i: value for i, value in pairs["reference"]}


def initial_state(weights: mx.array, learning_rates: LearningRateSchedule, patience: int | None) -> TrainerState:
    """Return the state before the first step.

    Args:
        weights: The adapter's weights in one float32 array [P].
        learning_rates: Learning rate of each step.
        patience: Number of epochs without a better validation loss after which training stops; None never stops early.
    """
    optimizer = make_optimizer(learning_rates)
    optimizer.init({"weights": weights})
    return TrainerState(weights, optimizer, EarlyStopping(patience))


def make_optimizer(learning_rates: LearningRateSchedule) -> optim.Optimizer:
    """Return the AdamW optimizer of a training run [Loshchilov19].

    Args:
        learning_rates: Learning rate of each step.
    """
    # With bias correction, which is off by default in MLX: without it the first updates are three times as large as the
    # learning rate.
    return optim.AdamW(learning_rate=learning_rates, bias_correction=True)
