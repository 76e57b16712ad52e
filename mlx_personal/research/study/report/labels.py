"""What tables and figures call the study's data sets, policies and settings, and how they write numbers."""

from __future__ import annotations

from mlx_personal.research.study.cell import KB_A_BIN
from mlx_personal.research.study.datasets import DATASETS
from mlx_personal.research.study.report.findings import Sets
from mlx_personal.research.study.report.statistics import LEAST_SEEDS, NO_DIFFERENCE, TOO_FEW, Difference, Estimate

POLICIES = {
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
# What no model gave: see `study.one_answer`.
ONE_ANSWER = "one answer for all"
SCORES = {"rouge1": "ROUGE-1", "rougeL": "ROUGE-L"}


def data_label(data: str) -> str:
    return DATASETS[data].title if data in DATASETS else data


def policy_label(policy: str) -> str:
    return POLICIES.get(policy, policy)


def value_label(setting: str, value: object) -> str:
    """A swept setting's value in words; `setting`: a name in `measures.SWEEPS`, or `weight`."""
    match setting, value:
        case "bins", int(bins):
            return f"{bins:,} bins ({bins * KB_A_BIN:,} KB)"
        case "annotations", None:
            return "no limit"
        case "annotations", int(questions):
            return f"at most {questions:,}"
        case "weight", float(weight):
            return f"weight {weight:g}"
        case "order", (str(order), float(strength)):
            return f"{order}, {strength:g}" if order == "correlated" else order
    return str(value)


def number(estimate: Estimate | None, digits: int = 4) -> str | None:
    return None if estimate is None else f"{estimate.value:.{digits}f}"


def with_interval(estimate: Estimate | None, digits: int = 4, sign: str = "") -> str | None:
    """The figure and its 95 % interval; `sign` `+` writes it out."""
    if estimate is None:
        return None
    value, low, high = (f"{x:{sign}.{digits}f}" for x in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"


def difference_text(difference: Difference | None, digits: int = 4) -> str | None:
    """The signed difference with its interval, or that there is none, with the interval and, where that does not cover
    0, the correction that says so. Of too few seeds it is said that they are."""
    if difference is None:
        return None
    text = with_interval(difference, digits, "+") or ""
    if difference.verdict == TOO_FEW:
        return f"{text} ({TOO_FEW})"
    if difference.verdict != NO_DIFFERENCE:
        return text
    why = "" if difference.low <= 0 <= difference.high else " (Holm)"
    return f"{NO_DIFFERENCE}{why} {text[text.index('[') :]}"


def beside(estimate: Estimate | None, nothing: float, digits: int = 3, sign: str = "") -> str | None:
    """The figure with its interval, or that it is no different from `nothing`, or that it is of too few seeds."""
    text = with_interval(estimate, digits, sign)
    if estimate is None or text is None:
        return None
    if estimate.seeds < LEAST_SEEDS:
        return f"{text} ({TOO_FEW})"
    return f"{NO_DIFFERENCE} {text[text.index('[') :]}" if estimate.low <= nothing <= estimate.high else text


def sets_text(sets: Sets | None) -> str | None:
    """The synthetic sets got, of those asked for."""
    return None if sets is None else f"{_count(sets.got)} of {_count(sets.wanted)}"


def _count(number: float) -> str:
    return f"{number:,.0f}" if number == round(number) else f"{number:,.1f}"


def code(text: str) -> str:
    """A name from outside, as Markdown shows it: as it is, on one line."""
    return f"`{' '.join(text.replace('`', ' ').split())}`"
