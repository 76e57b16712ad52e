"""Which dialogues of a data set are streamed, in which order, and which evaluate.

The order is a dial because the paper's motive is that a user's dialogues come correlated in time (paper 1, 1): one
talks about one thing for a while. A shuffled stream would give that away, and with it what selection is for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from mlx_personal.dialogue import Dialogue, are_near_duplicates, words
from mlx_personal.dialogue.similarity import NEAR_DUPLICATE_THRESHOLD
from mlx_personal.errors import UserError
from mlx_personal.research.study.schemas import Sample

PARTS: Final = ("all", "first", "second")
ORDERS: Final = ("in-order", "shuffled", "correlated")

# The draw of the evaluation dialogues must be the same for every cell of a data set: it has a seed of its own.
_EVALUATION_SEED = 231112275
# Answers that the one for all is taken from, and as many dialogues at most: n of them cost n² scores.
OTHERS: Final = 200
# One seed, but no generator in common with what else is drawn by it.
_SHUFFLE, _BURSTS = 1, 2
# So that no pair is missed for the rounding of a float.
_TOLERANCE = 1e-9

# The n-th time that a word stands in a text.
_Token = tuple[str, int]


@dataclass(frozen=True)
class StreamConfig:
    """What `split` draws; ValueError for a setting that makes no sense.

    Args:
        part: `all` of the data, or its `first` or `second` half as the file has it.
        order: `in-order` as the file has them, `shuffled`, or `correlated`: in bursts of one topic.
        strength: of the correlation, 0 (none) to 1 (one topic after the other); of `correlated` only.
        received: dialogues that are streamed.
        evaluation: dialogues that evaluate; none of them is streamed.
        seed: of the order. It does not move the evaluation dialogues.
    """

    part: str
    order: str
    strength: float
    received: int
    evaluation: int
    seed: int

    def __post_init__(self) -> None:
        if self.part not in PARTS:
            raise ValueError(f"the part is {self.part!r}; it is one of {', '.join(PARTS)}")
        if self.order not in ORDERS:
            raise ValueError(f"the order is {self.order!r}; it is one of {', '.join(ORDERS)}")
        if not 0 <= self.strength <= 1:
            raise ValueError(f"the strength is {self.strength}; it must lie in 0..1")
        if self.received < 1 or self.evaluation < 1:
            raise ValueError("received and evaluation must be at least 1")
        if self.seed < 0:
            raise ValueError(f"the seed is {self.seed}; it must not be negative")


@dataclass(frozen=True)
class Stream:
    """Places in the samples: of the streamed ones, in their order, and of those that evaluate.

    `others`: up to `OTHERS` that do not evaluate; like those that do they are the same for every order, seed and length
    of stream; they may be streamed. `like_evaluation` counts those left out because they ask what an evaluation
    dialogue asks.
    """

    received: list[int]
    evaluation: list[int]
    others: list[int]
    like_evaluation: int


def split(samples: Sequence[Sample], topics: Sequence[str], config: StreamConfig) -> Stream:
    """The stream and the evaluation dialogues of a data set; `topics` is one for each sample, see `topics.topics_of`.

    The evaluation dialogues are drawn first, from `samples` and `config.part` alone: they are the same for every
    order, seed and length of stream, and fewer of them are the first of more. What asks the same as one of them in
    nearly the same words is left out of the stream (`are_near_duplicates`). A shuffled stream is a draw from the rest, by
    the seed; a correlated one is the same dialogues, put into bursts (`bursts`).

    UserError where there are too few: every stream has the length that is asked for.
    """
    if len(topics) != len(samples):
        raise ValueError(f"{len(topics)} topics for {len(samples)} samples")
    half = len(samples) // 2
    first, last = {"all": (0, len(samples)), "first": (0, half), "second": (half, len(samples))}[config.part]
    drawn = first + np.random.default_rng(_EVALUATION_SEED).permutation(last - first)
    evaluation = [int(place) for place in drawn[: config.evaluation]]
    left = sorted(set(range(first, last)) - set(evaluation))
    like = like_any((samples[i].dialogue for i in left), [samples[i].dialogue for i in evaluation])
    rest = [place for place, is_like in zip(left, like, strict=True) if not is_like]
    if len(rest) < config.received:
        raise _too_few(config, last - first, len(left) - len(rest), len(rest))
    free = set(rest)
    others = [int(place) for place in drawn if place in free][:OTHERS]
    received = rest[: config.received]
    if config.order != "in-order":
        shuffled = np.random.default_rng([config.seed, _SHUFFLE]).permutation(rest)[: config.received]
        received = [int(place) for place in shuffled]
    if config.order == "correlated":
        received = bursts(received, [topics[place] for place in received], config.strength, config.seed)
    return Stream(received, evaluation, others, len(left) - len(rest))


def bursts(shuffled: Sequence[int], topics: Sequence[str], strength: float, seed: int) -> list[int]:
    """`shuffled` in bursts of one topic each; `topics` is one for each of them.

    After each set the next is of the same topic with the probability `strength`, as long as there are any, and is
    else drawn from all that is left. While a topic has a share q of what is left, its bursts are 1 / ((1 - strength)
    (1 - q)) sets long on average, shorter where the topic runs out. So 0 gives a shuffle, whose bursts of 1 / (1 - q)
    are chance, 1 gives one topic after the other, and 0.9 bursts of 11 where there are ten large topics of one size.
    """
    rng = np.random.default_rng([seed, _BURSTS])
    names = list(dict.fromkeys(topics))
    # Of one topic, the next is the first that is left in the shuffled order, which is as good as any.
    queues = [[place for place, topic in zip(shuffled, topics, strict=True) if topic == name] for name in names]
    left = np.array([len(queue) for queue in queues])
    ordered: list[int] = []
    current = -1
    while len(ordered) < len(shuffled):
        if current < 0 or left[current] == 0 or rng.random() >= strength:
            current = int(np.searchsorted(np.cumsum(left), rng.integers(left.sum()), side="right"))
        ordered.append(queues[current][len(queues[current]) - int(left[current])])
        left[current] -= 1
    return ordered


def like_any(dialogues: Iterable[Dialogue], held: Sequence[Dialogue]) -> list[bool]:
    """For each dialogue, whether it is a near-duplicate of one that is held.

    What `are_near_duplicates` says of all pairs, asked only of those of which two bags of words are as alike as that.
    """
    bags = [(number, bag) for number, dialogue in enumerate(held) for bag in _bags(dialogue)]
    owners, sizes = np.array([number for number, _ in bags], int), np.array([len(bag) for _, bag in bags], int)
    rows: dict[_Token, int] = {}
    for _, bag in bags:
        for token in bag:
            rows.setdefault(token, len(rows))
    holds = np.zeros((len(rows), len(bags)), np.uint8)  # [words, bags]
    for column, (_, bag) in enumerate(bags):
        holds[[rows[token] for token in bag], column] = 1
    # Without words in either, only the very same questions are alike.
    asked = {dialogue.user_turns for dialogue in held}
    found = []
    for dialogue in dialogues:
        candidates: set[int] = set()
        for bag in _bags(dialogue):
            shared = holds[[rows[token] for token in bag if token in rows]].sum(axis=0, dtype=np.int32)
            candidates.update(
                owners[2 * shared >= (NEAR_DUPLICATE_THRESHOLD - _TOLERANCE) * (sizes + len(bag))].tolist()
            )
        alike = any(are_near_duplicates(dialogue, held[number]) for number in sorted(candidates))
        found.append(alike or dialogue.user_turns in asked)
    return found


def _bags(dialogue: Dialogue) -> list[list[_Token]]:
    """The words of all user turns together, and of each where there are several; see `likeness`."""
    turns = [words(turn) for turn in dialogue.user_turns]
    together = [word for turn in turns for word in turn]
    return [_numbered(bag) for bag in ([together] if len(turns) == 1 else [together, *turns]) if bag]


def _numbered(bag: Sequence[str]) -> list[_Token]:
    seen: Counter[str] = Counter()
    tokens = []
    for word in bag:
        seen[word] += 1
        tokens.append((word, seen[word]))
    return tokens


def _too_few(config: StreamConfig, there: int, like: int, left: int) -> UserError:
    part = "" if config.part == "all" else f" in the {config.part} half"
    those = f", of which {like} ask what an evaluation dialogue asks," if like else ""
    what = f"{there} dialogues{part}{those} are too few to stream {config.received} and evaluate on {config.evaluation}"
    # An experiment on half of the data streams half of what is asked for: see `grid`.
    asked = "--received" if config.part == "all" else "half of --received"
    more = "evaluate on fewer (--evaluation), or name more data"
    return UserError(what, hint=f"stream at most {left} ({asked}), {more}" if left else more)
