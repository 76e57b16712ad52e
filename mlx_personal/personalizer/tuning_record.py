"""What the last tuning of a profile found, as its status shows it. Importable without MLX."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from mlx_personal.profile import Store
from mlx_personal.reporting import counted

_KIND: Final = "tuning"


@dataclass(frozen=True)
class TuningRecord:
    """The result of the last tuning on the current base model.

    Attributes:
        tuned_at: When it finished, UTC.
        is_better: Whether the best candidate was better than the settings before on the held-out dialogues.
        trials: Number of trials.
        n: Number of held-out dialogues.
        gain: Gain in the log-likelihood of the held-out answers over the settings before, in nats a token; None if the
            settings before were the best in the search, or it could not be computed.
        low: Lower end of the 95 % interval of the gain.
        high: Upper end of the interval.
        settings: The settings of the best candidate, by table and key.
        problem: Why its settings could not be written although they are better; empty if they were, or are not better.
    """

    tuned_at: str
    is_better: bool
    trials: int
    n: int
    gain: float | None
    low: float | None
    high: float | None
    settings: Mapping[str, Mapping[str, Any]]
    problem: str = ""

    def text(self) -> str:
        """Return the record on one line, such as `2026-01-31: likelihood +0.120 nats a token over ..., n=17`."""
        gain = ""
        if self.gain is not None and self.low is not None and self.high is not None:
            gain = f"{self.gain:+z.3f} nats a token (95 % interval {self.low:+z.3f} to {self.high:+z.3f})"
        details = f"n={self.n}, {counted(self.trials, 'trial')}"
        if self.is_better:
            problem = f"; not written: {self.problem}" if self.problem else ""
            text = f"{self.tuned_at[:10]}: likelihood {gain or 'not compared'} over the settings before, {details}"
            return text + problem
        found = f"; the best candidate: likelihood {gain}" if gain else ""
        return f"{self.tuned_at[:10]}: nothing was better than the settings before{found}, {details}"


def read_record(store: Store) -> TuningRecord | None:
    """Return the record of the last tuning on the current base model, or None if there was none.

    Args:
        store: The profile's store.
    """
    values = store.model_record(_KIND)
    return None if values is None else TuningRecord(**values)


def write_record(store: Store, record: TuningRecord) -> None:
    """Store the record of a tuning.

    Args:
        store: The profile's store.
        record: The record.
    """
    store.set_model_record(_KIND, dataclasses.asdict(record))
