"""Split a data set into a stream and evaluation dialogues, and order the stream.

[Qin24 §1] assumes that a user's dialogues are correlated in time: the user talks about one topic for a while. The order
is therefore a setting, from the order of the file to bursts of one topic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from mlx_personal.dialogue.similarity import flag_near_duplicates
from mlx_personal.errors import UserError
from mlx_personal.research.study.schemas import LabeledDialogue

PARTS: Final = ("all", "first", "second")
ORDERS: Final = ("in-order", "shuffled", "correlated")

# Maximum number of answers from which the constant answer is chosen, and of their dialogues: n answers take n²
# comparisons.
MAX_REFERENCE_ANSWERS: Final = 200
# All draws use the same seed but different generators.
_EVALUATION, _SHUFFLE, _BURSTS = 0, 1, 2


@dataclass(frozen=True)
class StreamConfig:
    """The settings of `split_stream`.

    Attributes:
        part: Part of the data: `all`, or its `first` or `second` half in the order of the file.
        order: `in-order` as in the file, `shuffled`, or `correlated`: in bursts of one topic.
        strength: Strength of the correlation, from 0 (none) to 1 (one topic after the other); only for `correlated`.
        received: Largest number of dialogues to stream.
        evaluation: Dialogues to evaluate on; none of them is streamed.
        seed: Random seed of the evaluation dialogues and of the order.

    Raises:
        ValueError: If a setting is out of its range.
    """

    part: str
    order: str
    strength: float
    received: int
    evaluation: int
    seed: int

    def __post_init__(self) -> None:
        if self.part not in PARTS:
            raise ValueError(f"the part is {self.part!r}; it must be one of {', '.join(PARTS)}")
        if self.order not in ORDERS:
            raise ValueError(f"the order is {self.order!r}; it must be one of {', '.join(ORDERS)}")
        if not 0 <= self.strength <= 1:
            raise ValueError(f"the strength is {self.strength}; it must lie in 0..1")
        if self.received < 1 or self.evaluation < 1:
            raise ValueError("received and evaluation must be at least 1")
        if self.seed < 0:
            raise ValueError(f"the seed is {self.seed}; it must not be negative")


@dataclass(frozen=True)
class StreamSplit:
    """A data set split into a stream and evaluation dialogues. Dialogues are given by their index in the data set.

    Attributes:
        streamed: Dialogues of the stream, in its order.
        evaluation: Evaluation dialogues.
        reference: At most `MAX_REFERENCE_ANSWERS` dialogues outside the evaluation, from which the constant answer is
            chosen. Like the evaluation dialogues they do not depend on the order or the length of the stream. They may
            be streamed.
        num_near_duplicates: Dialogues left out because they are near-duplicates of an evaluation dialogue.
    """

    streamed: list[int]
    evaluation: list[int]
    reference: list[int]
    num_near_duplicates: int


def split_stream(dialogues: Sequence[LabeledDialogue], topics: Sequence[str], config: StreamConfig) -> StreamSplit:
    """Split a data set into a stream and evaluation dialogues.

    The evaluation dialogues are drawn first and depend on `dialogues`, `config.part` and `config.seed` only; a smaller
    number of them is a prefix of a larger one. Their near-duplicates are left out of the stream. A shuffled stream is
    drawn from the rest. A correlated stream holds the same dialogues, ordered by `order_in_bursts`.

    If fewer dialogues than `config.received` are left, all of them are streamed, even if a buffer has more bins.

    Args:
        dialogues: Dialogues of the data set.
        topics: Topic of each dialogue, see `topics.assign_topics`.
        config: Settings.

    Raises:
        UserError: If no dialogue is left for the stream.
    """
    if len(topics) != len(dialogues):
        raise ValueError(f"{len(topics)} topics for {len(dialogues)} dialogues")
    half = len(dialogues) // 2
    start, end = {"all": (0, len(dialogues)), "first": (0, half), "second": (half, len(dialogues))}[config.part]
    drawn = start + np.random.default_rng([config.seed, _EVALUATION]).permutation(end - start)
    evaluation = [int(index) for index in drawn[: config.evaluation]]
    remaining = sorted(set(range(start, end)) - set(evaluation))
    flags = flag_near_duplicates(
        (dialogues[i].dialogue for i in remaining), [dialogues[i].dialogue for i in evaluation]
    )
    available = [index for index, is_duplicate in zip(remaining, flags, strict=True) if not is_duplicate]
    num_near_duplicates = len(remaining) - len(available)
    if not available:
        raise _too_few(config, end - start, num_near_duplicates)
    available_set = set(available)
    reference = [int(index) for index in drawn if index in available_set][:MAX_REFERENCE_ANSWERS]
    streamed = available[: config.received]
    if config.order != "in-order":
        shuffled = np.random.default_rng([config.seed, _SHUFFLE]).permutation(available)[: config.received]
        streamed = [int(index) for index in shuffled]
    if config.order == "correlated":
        streamed = order_in_bursts(streamed, [topics[index] for index in streamed], config.strength, config.seed)
    return StreamSplit(streamed, evaluation, reference, num_near_duplicates)


def order_in_bursts(shuffled: Sequence[int], topics: Sequence[str], strength: float, seed: int) -> list[int]:
    """Order dialogues in bursts of one topic.

    After each dialogue the next one has the same topic with probability `strength`, while there are any; otherwise it
    is drawn from all that remain. While a topic has a share q of the remaining dialogues, its bursts have a mean length
    of 1 / ((1 - strength) (1 - q)); they are shorter where the topic runs out. A strength of 0 gives a shuffle, whose
    bursts of 1 / (1 - q) are chance; 1 gives one topic after the other; 0.9 gives bursts of 11 where there are ten
    large topics of equal size.

    Args:
        shuffled: Dialogues in random order.
        topics: Topic of each of them.
        strength: Strength of the correlation, 0 to 1.
        seed: Random seed.

    Returns:
        The same dialogues; those of one topic keep their order.
    """
    rng = np.random.default_rng([seed, _BURSTS])
    names = list(dict.fromkeys(topics))
    queues = [[index for index, topic in zip(shuffled, topics, strict=True) if topic == name] for name in names]
    remaining = np.array([len(queue) for queue in queues])
    ordered: list[int] = []
    current = -1
    while len(ordered) < len(shuffled):
        if current < 0 or remaining[current] == 0 or rng.random() >= strength:
            current = int(np.searchsorted(np.cumsum(remaining), rng.integers(remaining.sum()), side="right"))
        ordered.append(queues[current][len(queues[current]) - int(remaining[current])])
        remaining[current] -= 1
    return ordered


def _too_few(config: StreamConfig, total: int, num_near_duplicates: int) -> UserError:
    part = "" if config.part == "all" else f" in the {config.part} half"
    duplicates = f", of which {num_near_duplicates} repeat an evaluation question," if num_near_duplicates else ""
    what = f"{total} dialogues{part}{duplicates} are too few to evaluate on {config.evaluation} and stream any"
    return UserError(what, hint="evaluate on fewer, or name more data")
