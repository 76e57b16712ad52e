"""Prepare the samples of a training run: the validation split, the general samples, and notes for the user."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from mlx_personal.dialogue import Dialogue
from mlx_personal.errors import UserError
from mlx_personal.finetune.config import LoRAConfig
from mlx_personal.finetune.data.samples import TrainingData, make_samples
from mlx_personal.models import LanguageModel


@dataclass(frozen=True)
class Example:
    """A dialogue to train on.

    Attributes:
        dialogue: The dialogue, whose assistant turns are the targets.
        group: Examples of the same group are on the same side of the validation split; None for a group of its own.
        weight: Weight of its targets in the mean loss of a step, above 0, so that synthetic data can count less than
            real data (this project's own design). Validation samples have a weight of 1.
    """

    dialogue: Dialogue
    group: Hashable | None = None
    weight: float = 1.0


@dataclass(frozen=True)
class PreparedData:
    """The samples of a training run, with notes on their preparation.

    Attributes:
        data: The samples.
        dropped: Number of the examples' samples left out because they have no target.
        truncated: Number of the examples' samples truncated from the left.
        notes: Notes on settings that had no effect or could not be satisfied, one line each.
    """

    data: TrainingData
    dropped: int
    truncated: int
    notes: tuple[str, ...]


def prepare_data(
    lm: LanguageModel, examples: Sequence[Example], config: LoRAConfig, general: Sequence[Dialogue] = ()
) -> PreparedData:
    """Prepare the samples of a training run.

    Args:
        lm: The model whose tokenizer and chat template are used.
        examples: The dialogues to train on.
        config: Settings of the training run.
        general: General dialogues. Every second one measures forgetting; the others may be replayed.

    Returns:
        The samples, with notes on their preparation.

    Raises:
        UserError: If there is nothing to train on.
    """
    max_seq_length = min(config.max_seq_length, lm.context_length)
    groups = [index if example.group is None else ("group", example.group) for index, example in enumerate(examples)]
    validation_groups = _validation_groups(groups, config)
    training = [example for example, group in zip(examples, groups, strict=True) if group not in validation_groups]
    validating = [example for example, group in zip(examples, groups, strict=True) if group in validation_groups]
    train = make_samples(lm, [e.dialogue for e in training], max_seq_length, [e.weight for e in training])
    validation = make_samples(lm, [e.dialogue for e in validating], max_seq_length)
    if not train.samples:
        raise UserError(
            f"nothing to train on: {train.dropped} samples have no target, or none that fits into {max_seq_length} "
            "tokens",
            hint="annotate some dialogues first, or raise max_seq_length",
        )
    measured = make_samples(lm, general[::2], max_seq_length).samples
    replayable = make_samples(lm, general[1::2], max_seq_length).samples
    replay_count = round(config.replay_ratio / (1 - config.replay_ratio) * len(train.samples))
    # The same samples in each epoch.
    order = np.random.default_rng([config.seed, 1]).permutation(len(replayable))[:replay_count]
    data = TrainingData(train.samples, [replayable[i] for i in order], validation.samples, measured)
    notes = []
    if config.validation_split and not validation.samples:
        reason = "the validation examples have no target" if validation_groups else "all examples are of one group"
        notes.append(f"validation_split has no effect, since {reason}: the adapter of the last epoch is used")
    if len(replayable) < replay_count:
        notes.append(
            f"replay_ratio requires {replay_count} general samples, but half of those in general_data are only "
            f"{len(replayable)}"
        )
    if general and not measured:
        notes.append("the general dialogues have no target: forgetting cannot be measured")
    return PreparedData(data, train.dropped + validation.dropped, train.truncated + validation.truncated, tuple(notes))


def _validation_groups(groups: Sequence[Hashable], config: LoRAConfig) -> set[Hashable]:
    """Draw the configured fraction of the groups, at least one but never all."""
    distinct = list(dict.fromkeys(groups))
    if not config.validation_split or len(distinct) < 2:
        return set()
    count = min(max(1, round(config.validation_split * len(distinct))), len(distinct) - 1)
    order = np.random.default_rng([config.seed, 2]).permutation(len(distinct))
    return {distinct[i] for i in order[:count]}
