"""Tables on the policy `weighted`, and on metrics other than ROUGE, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from mlx_personal.reporting import markdown_table
from mlx_personal.research.study.cell import WEIGHTED, describe_synthetic
from mlx_personal.research.study.report.findings import (
    Comparison,
    Findings,
    OtherMetrics,
    WeightTuning,
    count_verdicts,
)
from mlx_personal.research.study.report.labels import (
    data_label,
    format_difference,
    format_interval,
    format_synthetic_counts,
    format_unless_neutral,
    policy_label,
    value_label,
)
from mlx_personal.research.study.report.model_study import REFERENCE
from mlx_personal.research.study.report.statistics import NO_DIFFERENCE, TOO_FEW_SEEDS
from mlx_personal.research.study.report.tables import (
    comparison_table,
    comparison_title,
    failed_synthesis_text,
    family_size_text,
    family_text,
    row_data_label,
)
from mlx_personal.selection.weighted import DEFAULT_WEIGHT

# Data sets on which the policy must be higher to win; it must be lower on none.
_DATASETS_TO_WIN: Final = 3


def weighted_tables(findings: Findings) -> str:
    """Return tables of the policy `weighted` and the reference policy on the second halves of the data sets."""
    weighted, reference = policy_label(WEIGHTED), policy_label(REFERENCE)
    policies = (REFERENCE, WEIGHTED)
    parts = [
        f"The primary comparison, defined in advance: {weighted} against {reference} in ROUGE-1, without synthetic "
        f"dialogues. {weighted} beats {reference} if it is higher on at least {_DATASETS_TO_WIN} data sets and lower "
        "on none. All other comparisons of the two are secondary.\n",
        failed_synthesis_text(findings.weighted_failed_synthesis, findings.weighted, policies),
    ]
    if not any(map(_is_primary, findings.weighted)):
        parts.append("The primary comparison was not run.\n")
    for comparison in findings.weighted:
        table = comparison_table(comparison, "data set", row_data_label, policy_label, None)
        rank = "primary" if _is_primary(comparison) else "secondary"
        notes = f"{family_text(comparison)} {_verdict_text(comparison)}"
        parts.append(f"### {comparison_title(comparison)} ({rank})\n\n{table}\n{notes}\n")
    if findings.weighted_other_metrics:
        tables = other_metrics_tables(findings.weighted_other_metrics, "####")
        parts.append(f"### Other metrics (secondary)\n\n{tables}")
    return "\n".join(filter(None, parts))


def tuning_table(tuning: WeightTuning) -> str:
    """Return the scores of the weights on the first halves, and the rule that selects one of them."""
    reference = policy_label(REFERENCE)

    def column_label(name: Any) -> str:
        return policy_label(name) if name == REFERENCE else value_label("weight", name)

    table = comparison_table(tuning.comparison, "data set", row_data_label, column_label, None)
    weight_labels = (
        f"**{value_label('weight', w)}**" if w == tuning.best_weight else value_label("weight", w)
        for w in tuning.relative_gains
    )
    gains = [None if gain is None else f"{100 * gain:+.2f} %" for gain in tuning.relative_gains.values()]
    gain_table = markdown_table(["", *weight_labels], [["mean relative difference", *gains]])
    if tuning.best_weight is None:
        selected = f"No weight can be selected: no weight and {reference} were run on the same data sets."
    elif tuning.best_weight == DEFAULT_WEIGHT:
        selected = f"This is {tuning.best_weight:g} (bold), the default weight of the policy."
    else:
        selected = (
            f"By these cells this is {tuning.best_weight:g} (bold), while the default weight of the policy is "
            f"{DEFAULT_WEIGHT:g}."
        )
    seeds = "one seed" if tuning.num_seeds == 1 else f"{tuning.num_seeds} seeds"
    return (
        f"On the first half of the data only, {describe_synthetic(tuning.comparison.rows[0].synthetic or 0)}; a weight "
        f"of 0 is a plain random sample. Differences are from {reference}.\n\n{table}\n"
        f"{family_text(tuning.comparison)}\n\n{gain_table}\n"
        "The rule selects the weight with the highest mean over the data sets of the difference in ROUGE-1 from "
        f"{reference}, divided by the score of {reference}. It was fixed before the second halves were evaluated. It "
        f"uses the seeds that all columns of a data set have, at least {seeds} here. {selected}\n"
    )


def other_metrics_tables(metrics: Sequence[OtherMetrics], heading: str = "###") -> str:
    """Return tables of perplexity, win rate, forgetting and length for each number of synthetic dialogues.

    Args:
        metrics: The metrics.
        heading: Prefix of the headings.
    """
    head = ["data set", "policy", "perplexity", f"from {policy_label(REFERENCE)}", "win rate", "forgetting"]
    parts = []
    for synthetic in dict.fromkeys(m.synthetic for m in metrics):
        shown = [m for m in metrics if m.synthetic == synthetic]
        num_comparisons = sum(m.perplexity_difference is not None for m in shown)
        columns = [*head, "words per answer", *(["synthetic dialogues"] if synthetic else [])]
        title = describe_synthetic(synthetic)
        table = markdown_table(columns, (_metrics_row(m)[: len(columns)] for m in shown))
        parts.append(f"{heading} {title[:1].upper()}{title[1:]}\n\n{table}\n{family_size_text(num_comparisons)}\n")
        parts += [
            f"{data_label(m.data)}, {policy_label(m.policy)}: no {' and no '.join(m.not_comparable)}, because the two "
            "sides do not have the same tokens.\n"
            for m in shown
            if m.not_comparable
        ]
    parts.append(
        "Perplexity is that of the user's preferred answers; lower is better. Win rate: share of dialogues on which "
        f"ROUGE-1 is above that of the base model, ties count half; `{NO_DIFFERENCE}` if the interval covers 0.5. "
        "Forgetting: relative increase of the loss on general dialogues, 0.1 is 10 %; "
        f"`{NO_DIFFERENCE}` if the interval covers 0. Win rate and forgetting are not corrected for multiple "
        "comparisons.\n"
    )
    return "\n".join(parts)


def _metrics_row(m: OtherMetrics) -> list[str | None]:
    return [
        data_label(m.data),
        policy_label(m.policy),
        format_interval(m.perplexity, 2),
        format_difference(m.perplexity_difference, 2),
        format_unless_neutral(m.win_rate, 0.5),
        format_unless_neutral(m.forgetting, 0.0, sign="+"),
        None if m.answer_words is None else f"{m.answer_words:.1f}",
        format_synthetic_counts(m.synthetic_counts),
    ]


def _is_primary(comparison: Comparison) -> bool:
    return comparison.score == "rouge1" and comparison.rows[0].synthetic == 0


def _verdict_text(comparison: Comparison) -> str:
    """Return the numbers of verdicts, and the outcome of the primary comparison."""
    counts = count_verdicts(comparison, WEIGHTED)
    total = sum(counts.values())
    text = (
        f"{policy_label(WEIGHTED)} is higher on {counts['higher']}, lower on {counts['lower']}, and no different on "
        f"{counts[NO_DIFFERENCE]} of {total} data sets"
    )
    text += f"; {TOO_FEW_SEEDS} on {counts[TOO_FEW_SEEDS]}." if counts[TOO_FEW_SEEDS] else "."
    if not _is_primary(comparison):
        return text
    if total - counts[TOO_FEW_SEEDS] < _DATASETS_TO_WIN:
        return f"{text} These are too few data sets for a conclusion."
    wins = counts["higher"] >= _DATASETS_TO_WIN and not counts["lower"]
    name, reference = policy_label(WEIGHTED), policy_label(REFERENCE)
    return f"{text} {name} {'beats' if wins else 'does not beat'} {reference}."
