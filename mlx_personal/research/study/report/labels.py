"""Names and number formats of the report's tables and figures."""

from __future__ import annotations

from typing import Final

from mlx_personal.research.study.cell import KB_PER_BIN
from mlx_personal.research.study.datasets import DATASETS
from mlx_personal.research.study.report.findings import SyntheticCounts
from mlx_personal.research.study.report.statistics import (
    MIN_SEEDS,
    NO_DIFFERENCE,
    TOO_FEW_SEEDS,
    IntervalEstimate,
    PairedDifference,
)

POLICY_LABELS: Final = {
    "base": "base",
    "quality": "quality",
    "random": "random",
    "fifo": "FIFO",
    "k-center": "K-center",
    "eoe": "EOE",
    "dss": "DSS",
    "idd": "IDD",
    "eoe-script": "EOE, authors' script",
    "dss-script": "DSS, authors' script",
    "idd-script": "IDD, authors' script",
    "weighted": "weighted (ours)",
}
CONSTANT_ANSWER_LABEL: Final = "constant answer"
SCORE_LABELS: Final = {"rouge1": "ROUGE-1", "rougeL": "ROUGE-L"}


def data_label(data: str) -> str:
    """Return the title of a data set."""
    return DATASETS[data].title if data in DATASETS else data


def policy_label(policy: str) -> str:
    """Return the label of a policy."""
    return POLICY_LABELS.get(policy, policy)


def value_label(setting: str, value: object) -> str:
    """Return the label of a setting's value.

    Args:
        setting: A name in `analysis.SWEEPS`, or `weight`.
        value: The value.
    """
    match setting, value:
        case "bins", int(bins):
            return f"{bins:,} bins ({bins * KB_PER_BIN:,} KB)"
        case "annotations", None:
            return "no limit"
        case "annotations", int(limit):
            return f"at most {limit:,}"
        case "weight", float(weight):
            return f"weight {weight:g}"
        case "order", (str(order), float(strength)):
            return f"{order}, {strength:g}" if order == "correlated" else order
    return str(value)


def format_value(estimate: IntervalEstimate | None, digits: int = 4) -> str | None:
    """Return a value without its interval."""
    return None if estimate is None else f"{estimate.value:.{digits}f}"


def format_interval(estimate: IntervalEstimate | None, digits: int = 4, sign: str = "") -> str | None:
    """Return a value with its 95 % interval; with the sign `+` a plus sign is shown."""
    if estimate is None:
        return None
    value, low, high = (f"{x:{sign}.{digits}f}" for x in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"


def format_difference(difference: PairedDifference | None, digits: int = 4) -> str | None:
    """Return a signed difference with its interval, or `no difference` with the interval.

    If the interval does not cover 0 and only Holm's correction gives `no difference`, that is stated.
    """
    if difference is None:
        return None
    text = format_interval(difference, digits, "+") or ""
    if difference.verdict == TOO_FEW_SEEDS:
        return f"{text} ({TOO_FEW_SEEDS})"
    if difference.verdict != NO_DIFFERENCE:
        return text
    reason = "" if difference.low <= 0 <= difference.high else " (Holm)"
    return f"{NO_DIFFERENCE}{reason} {text[text.index('[') :]}"


def format_unless_neutral(
    estimate: IntervalEstimate | None, neutral: float, digits: int = 3, sign: str = ""
) -> str | None:
    """Return a value with its interval, or `no difference` with the interval if it covers the neutral value."""
    text = format_interval(estimate, digits, sign)
    if estimate is None or text is None:
        return None
    if estimate.seeds < MIN_SEEDS:
        return f"{text} ({TOO_FEW_SEEDS})"
    return f"{NO_DIFFERENCE} {text[text.index('[') :]}" if estimate.low <= neutral <= estimate.high else text


def format_synthetic_counts(counts: SyntheticCounts | None) -> str | None:
    """Return the numbers of available and requested synthetic dialogues."""
    return None if counts is None else f"{_format_count(counts.available)} of {_format_count(counts.requested)}"


def _format_count(number: float) -> str:
    return f"{number:,.0f}" if number == round(number) else f"{number:,.1f}"


def code(text: str) -> str:
    """Return an external name as inline code in Markdown, on one line."""
    return f"`{' '.join(text.replace('`', ' ').split())}`"
