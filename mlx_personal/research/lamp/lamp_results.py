"""The result of one method for one user, without the texts of the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final


class Count:
    """Names under which a result counts what was left out."""

    NO_ITEMS: Final = "queries of users without items"
    NO_SUMMARY: Final = "queries without a summary of the user"
    ITEMS_LEFT_OUT: Final = "queries whose items did not fit"
    ITEMS_SHORTENED: Final = "items shortened"
    NO_RECORD: Final = "items without a training record"
    NO_TRAINING: Final = "users without training data"
    TRUNCATED_SAMPLES: Final = "truncated training samples"
    DROPPED_SAMPLES: Final = "training samples dropped as too long"
    NO_GOLD: Final = "queries without a gold answer"
    EMPTY_ANSWERS: Final = "empty answers"
    # Followed by the outcome of a synthetic record. Unanswered are requests without a server's response, for example
    # because the budget was used up.
    SYNTHETIC: Final = "synthetic: "
    UNANSWERED: Final = "synthetic: unanswered"


@dataclass(frozen=True)
class MethodResult:
    """The scores, costs and counts of one method for one user.

    Attributes:
        sums: S sums of `metrics.pair_statistics` over the queries with a gold answer.
        num_queries: Queries that were answered.
        train_s: Seconds of training; 0 without an adapter.
        answer_s: Seconds of answering all queries; None for cached answers of a server.
        tokens_read: Tokens of the prompts on the device; None where no model of the device answered.
        tokens_written: Tokens of the answers on the device; None where no model of the device answered.
        energy_joules: Energy of training and answering; None where no counter measures it or the server answered.
        adapter_bytes: Size of the adapter; None without one.
        training_samples: Samples that the adapter was trained on; 0 without one.
        counts: What was left out or dropped, by `Count`.
    """

    sums: Sequence[float]
    num_queries: int
    train_s: float = 0.0
    answer_s: float | None = None
    tokens_read: int | None = None
    tokens_written: int | None = None
    energy_joules: float | None = None
    adapter_bytes: int | None = None
    training_samples: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def num_scored(self) -> int:
        """Queries with a gold answer."""
        return int(self.sums[0])


@dataclass(frozen=True)
class MethodAnswers:
    """The answers of one method to the queries of one user.

    Attributes:
        predictions: Answer to each query, by the query's identifier.
        result: Their scores, and what they cost.
    """

    predictions: dict[str, str]
    result: MethodResult
