"""What a study found, as data: comparisons, curves, sweeps, and what ROUGE does not show; made by `measures`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_personal.research.study.report.statistics import NO_DIFFERENCE, TOO_FEW, Difference, Estimate


@dataclass(frozen=True)
class Sets:
    """Synthetic sets, those asked for beside those learnt: `wanted` and `got` at the last checkpoint, in the mean over
    seeds, for `each` kept one so many asked for.

    `short`: of each seed that at some checkpoint got clearly less than it asked for, the worst one: sets received
    there, synthetic sets got, and wanted. `none`: there was not one at any.
    """

    each: int
    wanted: float
    got: float
    short: Mapping[int, tuple[int, int, int]]
    none: bool

    @property
    def got_each(self) -> float:
        """Sets got for each kept one."""
        return self.each * self.got / self.wanted if self.wanted else 0.0


@dataclass(frozen=True)
class Entry:
    """One policy, or one value of a swept setting, on one data set.

    `difference`: to the reference, on the seeds that both have; None for the reference itself, or without such seeds.
    `best`: the highest of its row, and by verdict different from all others there. `sets`: the synthetic ones; None
    where none were asked for.
    """

    score: Estimate
    difference: Difference | None = None
    best: bool = False
    sets: Sets | None = None


@dataclass(frozen=True)
class Row:
    """Entries that are compared with each other, by what their table compares: policies, or a setting's values.

    `base`: the untrained model's score; `one_answer`: that of one answer for all, see `study.one_answer`. `policy` or
    `value`: of a sweep's row, what all its entries share.
    """

    data: str
    synthetic: int | None
    base: Estimate | None
    entries: Mapping[Any, Entry]
    one_answer: Estimate | None = None
    policy: str | None = None
    value: Any = None

    @property
    def differences(self) -> list[Difference]:
        """Those to the reference."""
        return [entry.difference for entry in self.entries.values() if entry.difference]


@dataclass(frozen=True)
class Comparison:
    """A table of one score. `reference`: what others are compared with; a row without it has no differences.
    `family`: how many comparisons Holm's correction is over."""

    score: str
    reference: Any
    rows: Sequence[Row]
    family: int

    @property
    def columns(self) -> list[Any]:
        """What any row has an entry of, as rows list them."""
        return list(dict.fromkeys(name for row in self.rows for name in row.entries))


@dataclass(frozen=True)
class Curve:
    """ROUGE-1 at each checkpoint, by sets received."""

    data: str
    policy: str
    synthetic: int
    points: Mapping[int, Estimate]


@dataclass(frozen=True)
class Beyond:
    """What ROUGE does not show of one policy on one data set. None: not measured, or no base cell to compare with.

    `perplexity` of the preferred answers; `perplexity_difference` to the reference policy's, below 0 is better;
    `win_rate`: share of dialogues with a higher ROUGE-1 than the base's, ties half; `forgetting`: relative rise of the
    loss on general dialogues; `answer_words`: mean length of an answer; `sets`: the synthetic ones; `unequal`: what was
    not compared, for the two sides do not have the same tokens.
    """

    data: str
    policy: str
    synthetic: int
    perplexity: Estimate | None
    perplexity_difference: Difference | None
    win_rate: Estimate | None
    forgetting: Estimate | None
    answer_words: float | None
    sets: Sets | None = None
    unequal: Sequence[str] = ()


@dataclass(frozen=True)
class Point:
    """One value of a sweep: ROUGE-1 at the end, training seconds an epoch, questions put to the owner, and the
    synthetic sets."""

    score: Estimate
    seconds_an_epoch: float | None
    questions: float | None
    sets: Sets | None = None


@dataclass(frozen=True)
class Line:
    """A sweep of one policy on one data set, by value. `synthetic`: None where that is what is swept."""

    data: str
    policy: str
    synthetic: int | None
    points: Mapping[Any, Point]


@dataclass(frozen=True)
class Swept:
    """All sweeps of one setting: compared, and as lines to draw."""

    comparison: Comparison
    lines: Sequence[Line]


@dataclass(frozen=True)
class Unwritten:
    """Cells that asked for so many synthetic sets for each kept one, of which not one passed the checks."""

    data: str
    policy: str
    synthetic: int


@dataclass(frozen=True)
class Tuning:
    """This project's policy at several weights beside the paper's, on the first halves.

    `gains`: by weight, the mean over data sets of the difference in ROUGE-1 to the paper's policy, divided by that
    policy's own; None where a data set lacks it. `best`: the weight with the highest. `seeds`: that all columns of a
    data set have, which the gains are of; the fewest.
    """

    comparison: Comparison
    gains: Mapping[float, float | None]
    best: float | None
    seeds: int


@dataclass(frozen=True)
class Findings:
    """All numbers of one base model. `sweeps`: by the setting's name, with what each point took beside it; `unwritten`
    and `own_unwritten`: what is in no table of the main protocol and of the second halves."""

    model: str
    main: Sequence[Comparison]
    ablation: Sequence[Comparison]
    own: Sequence[Comparison]
    curves: Sequence[Curve]
    sweeps: Mapping[str, Swept]
    beyond: Sequence[Beyond]
    own_beyond: Sequence[Beyond]
    tuning: Tuning | None
    unwritten: Sequence[Unwritten]
    own_unwritten: Sequence[Unwritten]


def verdicts(comparison: Comparison, name: str) -> dict[str, int]:
    """How many data sets a policy is `higher` and `lower` on than the reference, `no difference`, `too few seeds`."""
    counts = {"higher": 0, "lower": 0, NO_DIFFERENCE: 0, TOO_FEW: 0}
    for row in comparison.rows:
        if name in row.entries and (difference := row.entries[name].difference):
            counts[difference.verdict] += 1
    return counts
