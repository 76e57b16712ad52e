"""Training samples: the tokens of a dialogue, which of them are targets, and how much each counts in the loss."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mlx_personal.dialogue import Dialogue
from mlx_personal.models import LanguageModel


@dataclass(frozen=True)
class Sample:
    """One training sequence of T + 1 tokens, as T inputs and the token that follows each.

    Attributes:
        inputs: Tokens, int32 [T].
        targets: The token after each input, int32 [T].
        is_target: Whether that token counts in the loss, bool [T].
        weight: Weight of each of its targets in the mean loss of a step, above 0.

    Raises:
        ValueError: If the weight is not above 0 and finite.
    """

    inputs: np.ndarray
    targets: np.ndarray
    is_target: np.ndarray
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise ValueError(f"a sample's weight is {self.weight}; it must be above 0 and finite")

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def prompt_length(self) -> int:
        """Number of inputs before the first one whose next token is a target."""
        return int(self.is_target.argmax())


@dataclass(frozen=True)
class SampleSet:
    """The samples made of some dialogues.

    Attributes:
        samples: Samples that have a target.
        dropped: Number of samples left out because they have none.
        truncated: Number of samples that lost their beginning.
    """

    samples: list[Sample]
    dropped: int
    truncated: int


@dataclass(frozen=True)
class TrainingData:
    """The samples of a training.

    Attributes:
        train: Samples to train on.
        replay: General samples to train on beside them, against forgetting.
        validation: Held-out samples of the owner; the adapter of the epoch with the lowest loss on them is kept.
        general: Held-out general samples, to measure forgetting.
    """

    train: Sequence[Sample]
    replay: Sequence[Sample] = ()
    validation: Sequence[Sample] = ()
    general: Sequence[Sample] = ()

    @property
    def trained(self) -> list[Sample]:
        """The samples whose gradients are computed: `train`, then `replay`."""
        return [*self.train, *self.replay]

    @property
    def all(self) -> list[Sample]:
        """All samples: `train`, `replay`, `validation`, then `general`."""
        return [*self.trained, *self.validation, *self.general]


def make_samples(
    lm: LanguageModel, dialogues: Iterable[Dialogue], max_seq_length: int, weights: Iterable[float] | None = None
) -> SampleSet:
    """Make samples of dialogues in which every assistant turn is a target, without the thoughts.

    A sample longer than `max_seq_length` tokens keeps the last ones. Samples without a target are dropped: their mean
    loss would be 0 / 0.

    Args:
        lm: The model whose tokenizer and chat template are used.
        dialogues: The dialogues.
        max_seq_length: Tokens of the longest sample.
        weights: Weight of each dialogue's samples; 1 by default.

    Returns:
        The samples in the order of the dialogues.

    Raises:
        ValueError: If there is not one weight for each dialogue.
    """
    samples, dropped, truncated = [], 0, 0
    dialogues = list(dialogues)
    for dialogue, weight in zip(dialogues, [1.0] * len(dialogues) if weights is None else weights, strict=True):
        try:
            without_thoughts = dialogue.without_thoughts()
        except ValueError:  # nothing but thoughts in a turn
            dropped += 1
            continue
        for tokens, is_target in lm.tokenize_dialogue(without_thoughts):
            truncated += len(tokens) > max_seq_length
            last = np.array(tokens[-max_seq_length:], np.int32)
            sample = Sample(last[:-1], last[1:], np.array(is_target[-max_seq_length:], bool)[1:], weight)
            if sample.is_target.any():
                samples.append(sample)
            else:
                dropped += 1
    return SampleSet(samples, dropped, truncated)


def target_tokens(samples: Iterable[Sample]) -> int:
    """Return the number of targets of the samples."""
    return int(sum(sample.is_target.sum() for sample in samples))


def target_weight(samples: Iterable[Sample]) -> float:
    """Return the sum of the weights of all targets, by which a summed loss is divided for the weighted mean."""
    return float(sum(sample.weight * int(sample.is_target.sum()) for sample in samples))
