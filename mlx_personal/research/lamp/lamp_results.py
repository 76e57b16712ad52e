"""The result of one method for one user, and its form in the database of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final


class Count:
    """Names under which a result counts what was left out.

    They are stored, so version 0.1's names stay; `DISPLAY_NAMES` has the text for reports where it differs.
    """

    NO_ITEMS: Final = "no items"
    """Queries of a user without items, for a method that adds items."""
    NO_SUMMARY: Final = "no sentence"
    """Queries answered without the summary that the method adds."""
    ITEMS_LEFT_OUT: Final = "items left out"
    """Queries whose items did not fit."""
    ITEMS_SHORTENED: Final = "items shortened"
    """Items that were cut."""
    NO_RECORD: Final = "items without a lesson"  # codespell:ignore lesson
    """Items that give no training record."""
    NO_TRAINING: Final = "nothing to learn"
    """Adapters that were not trained because there is no training record."""
    TRUNCATED_SAMPLES: Final = "rows that lost their beginning"
    """Training samples whose beginning was cut off."""
    DROPPED_SAMPLES: Final = "rows that do not fit"
    """Training samples that were dropped because they are too long."""
    NO_GOLD: Final = "queries without a gold answer"
    """Queries that were answered and cannot be scored."""
    EMPTY_ANSWERS: Final = "empty answers"
    """Answers without text."""
    SYNTHETIC: Final = "synthetic: "
    """Prefix of the counts of synthetic records by outcome."""
    UNANSWERED: Final = "synthetic: unanswered"
    """Requests for synthetic records without a response, for example because the budget was used up."""


DISPLAY_NAMES: Final[Mapping[str, str]] = {
    Count.NO_SUMMARY: "queries without a summary of the user",
    Count.NO_RECORD: "items without a training record",
    Count.NO_TRAINING: "users without training data",
    Count.TRUNCATED_SAMPLES: "truncated training samples",
    Count.DROPPED_SAMPLES: "training samples dropped as too long",
}


@dataclass(frozen=True)
class MethodResult:
    """The result of one method for one user.

    Attributes:
        predictions: Answer to each query, by the query's identifier.
        golds: Gold answer of each query that has one, by the query's identifier.
        train_s: Seconds of training; 0 without an adapter.
        answer_s: Seconds of answering all queries; None for cached answers of a server.
        tokens_read: Tokens of the prompts on the device; None where the server answered.
        tokens_written: Tokens of the answers on the device; None where the server answered.
        energy_joules: Energy of training and answering; None where no counter measures it or the server answered.
        adapter_bytes: Size of the adapter; None without one.
        training_samples: Samples that the adapter was trained on; 0 without one.
        counts: What was left out or dropped, by `Count`.
    """

    predictions: Mapping[str, str]
    golds: Mapping[str, str]
    train_s: float = 0.0
    answer_s: float | None = None
    tokens_read: int | None = None
    tokens_written: int | None = None
    energy_joules: float | None = None
    adapter_bytes: int | None = None
    training_samples: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the result under the keys that version 0.1 stored."""
        on_server = self.tokens_read is None
        return {
            "predictions": dict(self.predictions),
            "golds": dict(self.golds),
            "seconds": {"train": self.train_s, "answer": self.answer_s},
            "tokens": {} if on_server else {"read": self.tokens_read, "written": self.tokens_written},
            "joules": self.energy_joules,
            "adapter_bytes": self.adapter_bytes,
            "rows": self.training_samples,
            "counts": dict(self.counts),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> MethodResult:
        """Return the result that `to_json`, or version 0.1, has written."""
        return cls(
            predictions=data["predictions"],
            golds=data["golds"],
            train_s=data["seconds"]["train"],
            answer_s=data["seconds"]["answer"],
            tokens_read=data["tokens"].get("read"),
            tokens_written=data["tokens"].get("written"),
            energy_joules=data["joules"],
            adapter_bytes=data["adapter_bytes"],
            training_samples=data["rows"],
            counts=data["counts"],
        )


@dataclass(frozen=True)
class StoredResult:
    """A result with the task, setting, method and user it belongs to.

    Attributes:
        task: Name of the task.
        setting: Hash of what all users of a table have in common.
        method: Name of the method.
        user: Identifier of the user.
        result: The result.
    """

    task: str
    setting: str
    method: str
    user: str
    result: MethodResult
