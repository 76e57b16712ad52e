"""What the last tuning of a profile found, as its status shows it. Importable without MLX."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mlx_personal.evaluation.promotion_rule import METRIC_NAMES
from mlx_personal.personalizer.held_out_choices import times_text
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
        gain: Gain in the metric of the rule on the held-out dialogues over the settings before; None if the settings
            before were the best in the search, or it could not be computed.
        low: Lower end of the 95 % interval of the gain.
        high: Upper end of the interval.
        settings: The settings of the best candidate, by table and key.
        problem: Why its settings could not be written although they are better; empty if they were, or are not better.
        rule: The rule that was applied, `evaluation.promotion`.
        earlier_choices: The smallest and the largest number of earlier choices that a held-out dialogue decided.
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
    rule: str = "likelihood"
    earlier_choices: Sequence[int] = (0, 0)

    def text(self) -> str:
        """Return the record on one line, such as `2026-01-31: likelihood +0.120 nats a token over ..., n=17`."""
        gain, (metric, unit) = "", METRIC_NAMES[self.rule]
        if self.gain is not None and self.low is not None and self.high is not None:
            value = f"{self.gain:+z.3f} {unit}".rstrip()
            gain = f"{value} (95 % interval {self.low:+z.3f} to {self.high:+z.3f})"
        times = times_text(self.earlier_choices)
        details = f"n={self.n}{f' (decided {times} before)' if times else ''}, {counted(self.trials, 'trial')}"
        if self.is_better:
            problem = f"; not written: {self.problem}" if self.problem else ""
            text = f"{self.tuned_at[:10]}: {metric} {gain or 'not compared'} over the settings before, {details}"
            return text + problem
        found = f"; the best candidate: {metric} {gain}" if gain else ""
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
