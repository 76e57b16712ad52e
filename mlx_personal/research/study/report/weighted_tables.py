"""Markdown on this project's own policy, and on what ROUGE does not show: tuning, verdict, perplexity, forgetting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from mlx_personal.reporting import table
from mlx_personal.research.study.cell import OWN, synthetic_text
from mlx_personal.research.study.report.findings import Beyond, Comparison, Findings, Tuning, verdicts
from mlx_personal.research.study.report.grouped_cells import REFERENCE
from mlx_personal.research.study.report.labels import (
    beside,
    data_label,
    difference_text,
    policy_label,
    sets_text,
    value_label,
    with_interval,
)
from mlx_personal.research.study.report.statistics import NO_DIFFERENCE, TOO_FEW
from mlx_personal.research.study.report.tables import by_data, data_label_of, family, family_of, title, unwritten_text
from mlx_personal.selection.weighted import DEFAULT_WEIGHT

# On how many data sets this project's policy must be higher, and lower on none.
_STREAMS_TO_WIN: Final = 3


def own_tables(found: Findings) -> str:
    """This project's policy against the paper's, on the half of each stream that it was not tuned on."""
    own, theirs = policy_label(OWN), policy_label(REFERENCE)
    parts = [
        f"The primary comparison, stated in advance: {own} against {theirs} in ROUGE-1, without synthetic "
        f"sets. {own} beats {theirs} if it is higher on at least {_STREAMS_TO_WIN} data sets and lower on none. All "
        "other comparisons of the two are secondary.\n",
        unwritten_text(found.own_unwritten, found.own, (REFERENCE, OWN)),
    ]
    if not any(map(_is_primary, found.own)):
        parts.append("The primary comparison was not run.\n")
    for comparison in found.own:
        text = by_data(comparison, "data set", data_label_of, policy_label, None)
        rank = "primary" if _is_primary(comparison) else "secondary"
        parts.append(f"### {title(comparison)} ({rank})\n\n{text}\n{family(comparison)} {_verdict(comparison)}\n")
    if found.own_beyond:
        parts.append(f"### Beyond ROUGE (secondary)\n\n{beyond_tables(found.own_beyond, '####')}")
    return "\n".join(filter(None, parts))


def tuning_table(found: Tuning) -> str:
    """The weights on the first halves beside the paper's policy, and the rule by which one of them was chosen."""
    theirs = policy_label(REFERENCE)

    def column(name: Any) -> str:
        return policy_label(name) if name == REFERENCE else value_label("weight", name)

    text = by_data(found.comparison, "data set", data_label_of, column, None)
    head = [
        "",
        *(f"**{value_label('weight', w)}**" if w == found.best else value_label("weight", w) for w in found.gains),
    ]
    gains = [None if gain is None else f"{100 * gain:+.2f} %" for gain in found.gains.values()]
    rule = table(head, [["mean relative difference", *gains]])
    if found.best is None:
        chosen = f"Nothing to go by: no weight and {theirs} were run on the same data sets."
    elif found.best == DEFAULT_WEIGHT:
        chosen = f"That is {found.best:g} (bold), the policy's weight."
    else:
        chosen = f"By these cells that is {found.best:g} (bold), while the policy's weight is {DEFAULT_WEIGHT:g}."
    seeds = "one seed" if found.seeds == 1 else f"{found.seeds} seeds"
    return (
        f"On the first half of the data alone, {synthetic_text(found.comparison.rows[0].synthetic or 0)}; a weight of "
        f"0 is a plain random sample. Differences are to {theirs}.\n\n{text}\n{family(found.comparison)}\n\n{rule}\n"
        "The rule: the weight with the highest mean, over the data sets, of the difference in ROUGE-1 to "
        f"{theirs} divided by {theirs}'s own score; settled before the second halves were looked at. It goes by "
        f"the seeds that all columns of a data set have, at least {seeds} here. {chosen}\n"
    )


def beyond_tables(found: Sequence[Beyond], heading: str = "###") -> str:
    """Perplexity, win rate, forgetting and length, once for each number of synthetic sets."""
    head = ["data set", "policy", "perplexity", f"to {policy_label(REFERENCE)}", "win rate", "forgetting"]
    parts = []
    for synthetic in dict.fromkeys(b.synthetic for b in found):
        shown = [b for b in found if b.synthetic == synthetic]
        compared = sum(b.perplexity_difference is not None for b in shown)
        columns = [*head, "words an answer", *(["synthetic sets"] if synthetic else [])]
        label = synthetic_text(synthetic)
        rows = table(columns, (_beyond_row(b)[: len(columns)] for b in shown))
        parts.append(f"{heading} {label[:1].upper()}{label[1:]}\n\n{rows}\n{family_of(compared)}\n")
        parts += [
            f"{data_label(b.data)}, {policy_label(b.policy)}: no {' and no '.join(b.unequal)}, for the two sides do "
            "not have the same tokens.\n"
            for b in shown
            if b.unequal
        ]
    parts.append(
        "Perplexity is of the user's preferred answers, lower is better. Win rate: share of dialogues on which the "
        f"adapted model's ROUGE-1 is above the base's, ties half; `{NO_DIFFERENCE}` where the interval covers 0.5. "
        "Forgetting: relative rise of the loss on general dialogues, 0.1 is 10 %; "
        f"`{NO_DIFFERENCE}` where the interval covers 0. These two are not corrected for their number.\n"
    )
    return "\n".join(parts)


def _beyond_row(b: Beyond) -> list[str | None]:
    return [
        data_label(b.data),
        policy_label(b.policy),
        with_interval(b.perplexity, 2),
        difference_text(b.perplexity_difference, 2),
        beside(b.win_rate, 0.5),
        beside(b.forgetting, 0.0, sign="+"),
        None if b.answer_words is None else f"{b.answer_words:.1f}",
        sets_text(b.sets),
    ]


def _is_primary(comparison: Comparison) -> bool:
    return comparison.score == "rouge1" and comparison.rows[0].synthetic == 0


def _verdict(comparison: Comparison) -> str:
    """The counts; for the primary comparison also what they mean by its rule."""
    counts = verdicts(comparison, OWN)
    sets = sum(counts.values())
    text = (
        f"{policy_label(OWN)} is higher on {counts['higher']}, lower on {counts['lower']}, and no different on "
        f"{counts[NO_DIFFERENCE]} of {sets} data sets"
    )
    text += f"; {TOO_FEW} on {counts[TOO_FEW]}." if counts[TOO_FEW] else "."
    if not _is_primary(comparison):
        return text
    if sets - counts[TOO_FEW] < _STREAMS_TO_WIN:
        return f"{text} Too few to say."
    won = counts["higher"] >= _STREAMS_TO_WIN and not counts["lower"]
    return f"{text} {'It beats it.' if won else 'It does not beat it.'}"
