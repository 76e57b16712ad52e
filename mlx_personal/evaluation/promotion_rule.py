"""The promotion rule: which gains on held-out dialogues make a second model better than a first.

What counts as better is the setting `evaluation.promotion`:

- `likelihood`: the preferred answers became likelier, and ROUGE-1 is not worse.
- `choice`: the preferred answers rank higher among other answers, and ROUGE-1 is not worse.
- `rouge1`: the mean ROUGE-1 is higher.

A gain counts if its 95 % interval is above 0. ROUGE-1 is worse only if the interval of its gain is below 0: greedy
answers to a few questions differ by chance. Fewer than `config.MIN_HELD_OUT` dialogues decide nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mlx_personal.evaluation.config import MIN_HELD_OUT
from mlx_personal.reporting import counted

if TYPE_CHECKING:
    from mlx_personal.evaluation.evaluate import Evaluation
    from mlx_personal.evaluation.intervals import MetricChange

# For each rule its metric, and the unit of a gain in it.
METRIC_NAMES: Final = {
    "likelihood": ("likelihood", "nats a token"),
    "choice": ("rank among other answers", "in mean reciprocal rank"),
    "rouge1": ("ROUGE-1", ""),
}


def rule_change(rule: str, evaluation: Evaluation) -> MetricChange | None:
    """Return the change in the metric of a rule; None if it could not be computed.

    Args:
        rule: One of `config.PROMOTION_RULES`.
        evaluation: The comparison of two models.
    """
    if rule == "rouge1":
        return evaluation.rouge1
    if rule == "choice":
        return None if evaluation.choice is None else evaluation.choice.mrr
    return evaluation.log_likelihood


def is_better_by(rule: str, evaluation: Evaluation) -> tuple[bool, str]:
    """Decide whether the second model of an evaluation is better than the first.

    Args:
        rule: One of `config.PROMOTION_RULES`.
        evaluation: The comparison of the two models.

    Returns:
        Whether it is better, and why or why not.
    """
    rouge1, change = evaluation.rouge1, rule_change(rule, evaluation)
    if evaluation.n < MIN_HELD_OUT:
        count = counted(evaluation.n, "dialogue is", "dialogues are")
        return False, f"only {count} held out, too few to decide; at least {MIN_HELD_OUT} are needed"
    if rule == "rouge1":
        is_better = rouge1.gain > 0
        return is_better, f"ROUGE-1 {'rose' if is_better else 'did not rise'}: {rouge1.gain:+z.3f}"
    name, _ = METRIC_NAMES[rule]
    if change is None:
        return False, f"the preferred answers' {name} could not be compared on {counted(evaluation.n, 'dialogue')}"
    gain = gain_text(rule, change)
    if change.high < 0:
        return False, f"the preferred answers' {name} fell: {gain}"
    if not change.low > 0:
        return False, f"the gain in the preferred answers' {name} may be chance: {gain}"
    if not rouge1.high >= 0:
        return False, f"the preferred answers' {name} rose ({gain}), but ROUGE-1 fell: {_interval_text(rouge1)}"
    return True, f"the preferred answers' {name} rose ({gain}), and ROUGE-1 is not worse"


def answers_better(rule: str, evaluation: Evaluation) -> bool:
    """Return whether the second of two models that are better than a third one is to be taken, if the first gains more.

    It is if its greedy answers are better: if ROUGE-1 is higher with an interval above 0, while the difference in the
    metric of the rule may be chance.

    Args:
        rule: One of `config.PROMOTION_RULES`.
        evaluation: The comparison of the first with the second.
    """
    change = rule_change(rule, evaluation)
    return rule != "rouge1" and change is not None and change.high >= 0 and evaluation.rouge1.low > 0


def gain_text(rule: str, change: MetricChange) -> str:
    """Return a gain with its interval, such as `+0.120 nats a token, 95 % interval +0.050 to +0.190`.

    Args:
        rule: One of `config.PROMOTION_RULES`, whose metric it is.
        change: The change in this metric.
    """
    unit = METRIC_NAMES[rule][1]
    return f"{change.gain:+z.3f}{f' {unit}' if unit else ''}, {_interval_text(change)}"


def _interval_text(change: MetricChange) -> str:
    return f"95 % interval {change.low:+z.3f} to {change.high:+z.3f}"
