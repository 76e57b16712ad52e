"""Settings of the memory, importable without MLX."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

RETRIEVALS: Final = ("hidden-states", "bm25", "both")
USES: Final = ("auto", "always", "never")
ORDERS: Final = ("nearest-last", "nearest-first", "received")


@dataclass(frozen=True)
class MemoryConfig:
    """Settings of the dialogues that are put before a question as examples.

    Attributes:
        use: Whether the memory is used: `always`, `never`, or `auto`, if it was found to be better on the held-out
            dialogues when the adapter in use was evaluated; until then `auto` does not use it.
        examples: Maximum number of examples; 0 turns the memory off.
        max_tokens: Maximum number of tokens of all examples together. Examples and question together also take at most
            half of the model's context, which leaves the other half for the answer.
        min_similarity: Smallest cosine, -1 to 1, of the whitened vectors of an example's question and of the question
            that is asked, for `hidden-states` and `both`.
        min_bm25: Smallest BM25 score of an example, 0 to 1, divided by the score that the question would have as an
            entry itself, for `bm25` and `both`. With `both` an example reaches one of the two at least.
        order: Order of the examples in the prompt: `nearest-last`, next to the question, `nearest-first`, or
            `received`, the order of the stream, in which questions with the same examples share a prefix.
        retrieval: How near dialogues are found: `hidden-states`, `bm25`, or `both` by reciprocal rank fusion.

    Raises:
        ValueError: If a setting is out of its range.
    """

    use: str = "auto"
    examples: int = 2
    max_tokens: int = 1024
    min_similarity: float = 0.1
    min_bm25: float = 0.1
    order: str = "nearest-last"
    retrieval: str = "both"

    def __post_init__(self) -> None:
        for name, (low, high) in {"examples": (0, 64), "max_tokens": (1, 1_000_000)}.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in {low}..{high:,}")
        if not -1 <= self.min_similarity <= 1:
            raise ValueError(f"min_similarity is {self.min_similarity}; it must lie in -1..1")
        if not 0 <= self.min_bm25 <= 1:
            raise ValueError(f"min_bm25 is {self.min_bm25}; it must lie in 0..1")
        _check_one_of("use", self.use, USES)
        _check_one_of("order", self.order, ORDERS)
        _check_one_of("retrieval", self.retrieval, RETRIEVALS)

    def is_used(self, decided: bool) -> bool:
        """Return whether examples are put before questions.

        Args:
            decided: What was decided on held-out dialogues, which counts for `auto`; False without a decision.
        """
        return self.examples > 0 and (decided if self.use == "auto" else self.use == "always")


def _check_one_of(name: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} is {value!r}; it must be {', '.join(known[:-1])} or {known[-1]}")
