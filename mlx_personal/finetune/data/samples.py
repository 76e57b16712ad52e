"""Training samples: the tokens of a dialogue, which of them are targets, and their weight in the loss."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mlx_personal.dialogue import Dialogue
from mlx_personal.models import LanguageModel


@dataclass(frozen=True)
class Sample:
    """A training sequence of T + 1 tokens: T inputs, and the token after each.

    Attributes:
        inputs: Tokens, int32 [T].
        targets: The token after each input, int32 [T].
        is_target: Whether that token is trained on, bool [T].
        weight: Weight of each of its targets in the mean cross entropy of a step; 0 for an answer that is only
            compared with another one.
    """

    inputs: np.ndarray
    targets: np.ndarray
    is_target: np.ndarray
    weight: float = 1.0

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def prompt_length(self) -> int:
        """Number of inputs before the first target position."""
        return int(self.is_target.argmax())


@dataclass(frozen=True)
class SamplePair:
    """Two answers to the same prompt, of which the first is preferred.

    Attributes:
        chosen: The prompt with the preferred answer as its targets.
        rejected: The prompt with the other answer as its targets.
    """

    chosen: Sample
    rejected: Sample


@dataclass(frozen=True)
class SampleSet:
    """The samples of some dialogues.

    Attributes:
        samples: The samples that have a target.
        dropped: Number of samples left out because they have no target.
        truncated: Number of samples truncated from the left.
    """

    samples: list[Sample]
    dropped: int
    truncated: int


@dataclass(frozen=True)
class TrainingData:
    """The samples of a training run.

    Attributes:
        train: The user's samples to train on.
        replay: General samples to train on as well, against forgetting.
        validation: The user's samples on which the adapter of the best epoch is selected.
        general: General samples on which forgetting is measured.
        pairs: Preference pairs to train on.
        validation_pairs: Preference pairs for the same purpose as `validation`.
    """

    train: Sequence[Sample]
    replay: Sequence[Sample] = ()
    validation: Sequence[Sample] = ()
    general: Sequence[Sample] = ()
    pairs: Sequence[SamplePair] = ()
    validation_pairs: Sequence[SamplePair] = ()

    @property
    def single_count(self) -> int:
        """Number of the samples that are trained on and are no part of a pair."""
        return len(self.train) + len(self.replay)

    @property
    def trained(self) -> list[Sample]:
        """The samples that are trained on: `train`, `replay`, then the two samples of each of `pairs`."""
        return [*self.train, *self.replay, *_samples_of(self.pairs)]

    @property
    def all(self) -> list[Sample]:
        """All samples: `trained`, `validation`, the two samples of each of `validation_pairs`, then `general`."""
        return [*self.trained, *self.validation, *_samples_of(self.validation_pairs), *self.general]

    @property
    def chosen(self) -> frozenset[int]:
        """Indices in `all` of the chosen samples of all pairs; the rejected sample of each is the next one."""
        first, count = self.single_count, len(self.pairs)
        first_validation = first + 2 * count + len(self.validation)
        return frozenset(
            [
                *range(first, first + 2 * count, 2),
                *range(first_validation, first_validation + 2 * len(self.validation_pairs), 2),
            ]
        )

    @property
    def validation_indices(self) -> range:
        """Indices in `all` of `validation` and `validation_pairs`."""
        start = self.single_count + 2 * len(self.pairs)
        return range(start, start + len(self.validation) + 2 * len(self.validation_pairs))


def make_samples(
    lm: LanguageModel, dialogues: Iterable[Dialogue], max_seq_length: int, weights: Iterable[float] | None = None
) -> SampleSet:
    """Make samples of dialogues in which all assistant turns are targets, without thoughts.

    Samples longer than `max_seq_length` tokens are truncated from the left. Samples without a target are dropped,
    because their mean loss would be 0 / 0.

    Args:
        lm: The model whose tokenizer and chat template are used.
        dialogues: The dialogues.
        max_seq_length: Maximum number of tokens of a sample.
        weights: Weight of each dialogue's samples; None for 1.

    Returns:
        The samples in the order of the dialogues.

    Raises:
        ValueError: If the numbers of dialogues and weights differ, or a weight is not above 0 and finite.
    """
    samples, dropped, truncated = [], 0, 0
    dialogues = list(dialogues)
    for dialogue, weight in zip(dialogues, [1.0] * len(dialogues) if weights is None else weights, strict=True):
        if not 0 < weight < math.inf:
            raise ValueError(f"a sample's weight is {weight}; it must be above 0 and finite")
        try:
            without_thoughts = dialogue.without_thoughts()
        except ValueError:  # a turn consists of thoughts only
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


def count_target_tokens(samples: Iterable[Sample]) -> int:
    """Return the number of target tokens of samples.

    Args:
        samples: The samples.
    """
    return int(sum(sample.is_target.sum() for sample in samples))


def total_target_weight(samples: Iterable[Sample]) -> float:
    """Return the sum of the weights of all targets, by which a summed loss is divided for the weighted mean.

    Args:
        samples: The samples.
    """
    return float(sum(sample.weight * int(sample.is_target.sum()) for sample in samples))


def _samples_of(pairs: Iterable[SamplePair]) -> Iterator[Sample]:
    for pair in pairs:
        yield pair.chosen
        yield pair.rejected
