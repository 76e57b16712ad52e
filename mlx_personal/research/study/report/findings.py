"""The results of an analysis as data: comparisons, curves, sweeps and other metrics, computed by `analysis`.

`json_format` stores these classes in `report.json`; a renamed field needs an entry there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mlx_personal.research.study.report.statistics import (
    NO_DIFFERENCE,
    TOO_FEW_SEEDS,
    IntervalEstimate,
    PairedDifference,
)


class Shortfall(NamedTuple):
    """A checkpoint with too few synthetic dialogues.

    Attributes:
        received: Dialogues received at the checkpoint.
        available: Synthetic dialogues trained on.
        requested: Synthetic dialogues requested.
    """

    received: int
    available: int
    requested: int


@dataclass(frozen=True)
class SyntheticCounts:
    """How many synthetic dialogues a group of cells requested and trained on.

    Attributes:
        per_selected: Requested number per selected dialogue.
        requested: Requested number at the last checkpoint, mean over seeds.
        available: Number trained on at the last checkpoint, mean over seeds.
        shortfalls: By seed the worst checkpoint, for seeds that had clearly too few at any checkpoint.
        none_available: Whether there was not a single one at any checkpoint.
    """

    per_selected: int
    requested: float
    available: float
    shortfalls: Mapping[int, Shortfall]
    none_available: bool

    @property
    def available_per_selected(self) -> float:
        """Number trained on per selected dialogue."""
        return self.per_selected * self.available / self.requested if self.requested else 0.0


@dataclass(frozen=True)
class ComparisonEntry:
    """One policy, or one value of a swept setting, on one data set.

    Attributes:
        score: The score.
        difference: Difference from the reference on their common seeds; None for the reference or without such seeds.
        is_best: Whether it is the highest of its row and differs from all others by verdict.
        synthetic_counts: Numbers of synthetic dialogues; None where none were requested.
    """

    score: IntervalEstimate
    difference: PairedDifference | None = None
    is_best: bool = False
    synthetic_counts: SyntheticCounts | None = None


@dataclass(frozen=True)
class ComparisonRow:
    """Entries that are compared with each other.

    Attributes:
        data: Name of the data set.
        synthetic: Synthetic dialogues per selected one; None where that is the swept setting.
        base: Score of the base model.
        entries: Entries by what the table compares: policies, or values of a setting.
        constant_answer: Score of the constant answer.
        policy: Policy of all entries, in a sweep that compares values.
        value: Value of the setting of all entries, in a sweep that compares policies.
    """

    data: str
    synthetic: int | None
    base: IntervalEstimate | None
    entries: Mapping[Any, ComparisonEntry]
    constant_answer: IntervalEstimate | None = None
    policy: str | None = None
    value: Any = None

    @property
    def differences(self) -> list[PairedDifference]:
        """Differences from the reference."""
        return [entry.difference for entry in self.entries.values() if entry.difference]


@dataclass(frozen=True)
class Comparison:
    """A table of one score.

    Attributes:
        score: `rouge1` or `rougeL`.
        reference: Entry that the others are compared with; a row without it has no differences.
        rows: The rows.
        family_size: Number of comparisons that Holm's correction covers.
    """

    score: str
    reference: Any
    rows: Sequence[ComparisonRow]
    family_size: int

    @property
    def columns(self) -> list[Any]:
        """Keys of all rows' entries, in the order of the rows."""
        return list(dict.fromkeys(name for row in self.rows for name in row.entries))


@dataclass(frozen=True)
class LearningCurve:
    """ROUGE-1 at each checkpoint.

    Attributes:
        data: Name of the data set.
        policy: Policy.
        synthetic: Synthetic dialogues per selected one.
        points: Scores by the number of received dialogues.
    """

    data: str
    policy: str
    synthetic: int
    points: Mapping[int, IntervalEstimate]


@dataclass(frozen=True)
class OtherMetrics:
    """Metrics other than ROUGE of one policy on one data set; None where not measured or without a base model.

    Attributes:
        data: Name of the data set.
        policy: Policy.
        synthetic: Synthetic dialogues per selected one.
        perplexity: Perplexity of the preferred answers.
        perplexity_difference: Difference from that of the reference policy; below 0 is better.
        win_rate: Share of dialogues with a higher ROUGE-1 than the base model's; ties count half.
        forgetting: Relative increase of the loss on general dialogues.
        answer_words: Mean number of words per answer.
        synthetic_counts: Numbers of synthetic dialogues; None where none were requested.
        not_comparable: Comparisons that were left out because the two sides do not have the same tokens.
    """

    data: str
    policy: str
    synthetic: int
    perplexity: IntervalEstimate | None
    perplexity_difference: PairedDifference | None
    win_rate: IntervalEstimate | None
    forgetting: IntervalEstimate | None
    answer_words: float | None
    synthetic_counts: SyntheticCounts | None = None
    not_comparable: Sequence[str] = ()


@dataclass(frozen=True)
class SweepPoint:
    """One value of a sweep.

    Attributes:
        score: ROUGE-1 at the end of the stream.
        seconds_per_epoch: Training time per epoch.
        questions: Dialogues that the user annotated.
        synthetic_counts: Numbers of synthetic dialogues; None where none were requested.
    """

    score: IntervalEstimate
    seconds_per_epoch: float | None
    questions: float | None
    synthetic_counts: SyntheticCounts | None = None


@dataclass(frozen=True)
class SweepLine:
    """A sweep of one policy on one data set.

    Attributes:
        data: Name of the data set.
        policy: Policy.
        synthetic: Synthetic dialogues per selected one; None where that is the swept setting.
        points: Points by the value of the setting.
    """

    data: str
    policy: str
    synthetic: int | None
    points: Mapping[Any, SweepPoint]


@dataclass(frozen=True)
class SweepFindings:
    """All sweeps of one setting.

    Attributes:
        comparison: Comparison of the scores.
        lines: The same results as lines of a figure.
    """

    comparison: Comparison
    lines: Sequence[SweepLine]


@dataclass(frozen=True)
class FailedSynthesis:
    """Cells of which no synthetic dialogue passed the filters.

    Attributes:
        data: Name of the data set.
        policy: Policy.
        synthetic: Requested synthetic dialogues per selected one.
    """

    data: str
    policy: str
    synthetic: int


@dataclass(frozen=True)
class WeightTuning:
    """The policy `weighted` with several weights, compared with the reference policy on the first halves.

    Attributes:
        comparison: Comparison of the scores.
        relative_gains: By weight, the mean over data sets of the difference in ROUGE-1 from the reference policy
            divided by that policy's score; None where a data set lacks the weight.
        best_weight: Weight with the highest gain.
        num_seeds: Seeds that all columns of a data set have, and that the gains are computed from; the minimum over
            data sets.
    """

    comparison: Comparison
    relative_gains: Mapping[float, float | None]
    best_weight: float | None
    num_seeds: int


@dataclass(frozen=True)
class Findings:
    """All results of one base model.

    Attributes:
        model: Name of the base model.
        main: The policy of [Qin24] and its baselines.
        ablation: Single scores.
        weighted: The policy `weighted` on the second halves.
        curves: Learning curves.
        sweeps: Sweeps by the name of the setting.
        other_metrics: Other metrics of the main protocol.
        weighted_other_metrics: Other metrics of the second halves.
        tuning: The weights of the policy `weighted` on the first halves.
        failed_synthesis: Cells that the tables of the main protocol leave out.
        weighted_failed_synthesis: Cells that the tables of the second halves leave out.
    """

    model: str
    main: Sequence[Comparison]
    ablation: Sequence[Comparison]
    weighted: Sequence[Comparison]
    curves: Sequence[LearningCurve]
    sweeps: Mapping[str, SweepFindings]
    other_metrics: Sequence[OtherMetrics]
    weighted_other_metrics: Sequence[OtherMetrics]
    tuning: WeightTuning | None
    failed_synthesis: Sequence[FailedSynthesis]
    weighted_failed_synthesis: Sequence[FailedSynthesis]


def count_verdicts(comparison: Comparison, name: str) -> dict[str, int]:
    """Return how many data sets have each verdict on a policy's difference from the reference."""
    counts = {"higher": 0, "lower": 0, NO_DIFFERENCE: 0, TOO_FEW_SEEDS: 0}
    for row in comparison.rows:
        if name in row.entries and (difference := row.entries[name].difference):
            counts[difference.verdict] += 1
    return counts
