"""A table of an evaluation in 80 columns: each metric before and after, its gain, and what it means in plain words."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from mlx_personal.reporting import counted

# Widths of the columns: metric, before, after, gain, interval of the gain.
_WIDTHS: Final = (24, 9, 9, 9, 21)
# Widths of the columns of answer modes: mode, metric, ROUGE-1, gain, interval of the gain.
_MODE_WIDTHS: Final = (28, 15, 8, 8, 20)
_WIDTH: Final = 79


def evaluation_lines(evaluation: Mapping[str, Any], name: str) -> list[str]:
    """Return the table of an evaluation as lines of text.

    Args:
        evaluation: An evaluation as it is stored with an adapter; those of older versions have fewer metrics.
        name: What is compared with the base model.
    """
    whose = " with verdicts inferred from imports" if evaluation.get("is_inferred") else ""
    modes = evaluation.get("modes")
    memory = " with memory" if modes and modes["evaluated"]["uses_memory"] else ""
    base = "the base model" + (" with memory" if modes and _base_has_memory(modes) else "")
    title = f"{name}{memory} against {base}, on {counted(evaluation['n'], 'held-out dialogue')}{whose}:"
    lines = [
        *_wrapped(title),
        _row("", "before", "after", "gain", "95 % interval"),
        *_likelihood_lines(evaluation),
        *_question_lines(evaluation),
        *_answer_lines(evaluation),
    ]
    if evaluation.get("inferred"):
        lines += ["", *evaluation_lines(evaluation["inferred"], "Apart from these, " + _lower_first(name))]
    if modes:
        lines += mode_lines(modes)
    return lines


def mode_lines(modes: Mapping[str, Any]) -> list[str]:
    """Return a table of the answer modes that were compared, and what is to know about the comparison.

    Args:
        modes: A stored `ModeComparison`.
    """
    from mlx_personal.evaluation.config import MIN_HELD_OUT
    from mlx_personal.personalizer.held_out_choices import choices_text

    in_use, memory, rule = modes["in_use"], modes["memory"], modes["rule"]
    metric = "recip. rank" if rule == "choice" else "log-likelihood"
    lines = ["", f"Answer modes, compared with {_mode_text(in_use)}, which was in use:"]
    lines.append(_row("", metric, "ROUGE-1", "gain", "95 % interval", widths=_MODE_WIDTHS))
    for result in modes["results"]:
        value = result["mrr" if rule == "choice" else "log_likelihood"]
        cells = ["-" if value is None else f"{value:.3f}", f"{result['rouge1']:.3f}"]
        if result["mode"] == in_use:
            cells.append("in use")
        elif (gain := result["gain"]) is not None:
            cells += [f"{gain['gain']:+z.3f}", _interval(gain["low"], gain["high"])]
        lines.append(_row(_mode_text(result["mode"]), *cells, widths=_MODE_WIDTHS))
    gained = {"likelihood": "log-likelihood, nats a token", "choice": "reciprocal rank", "rouge1": "ROUGE-1"}[rule]
    notes = [f"the gain is that in {gained}"]
    if any(result["mode"]["uses_memory"] for result in modes["results"]):
        notes.append(
            f"with memory: up to {counted(memory['examples'], 'example')} of at most {memory['max_tokens']:,} tokens, "
            f"retrieval {memory['retrieval']}"
        )
    lines += _note("; ".join(notes))
    if modes["memory_note"]:
        lines += _wrapped(f"Memory is not used: {modes['memory_note']}.")
    if not modes["can_decide"]:
        lines += _wrapped(
            f"With fewer than {MIN_HELD_OUT} held-out dialogues nothing is decided: these figures may be chance."
        )
    else:
        is_kept = modes["best"] == in_use
        outcome = "nothing is better than what was in use" if is_kept else f"{_mode_text(modes['best'])} is the best"
        lines += _wrapped(f"By the rule {rule}: {outcome}.")
    if choices := choices_text(modes["earlier_choices"]):
        lines += _wrapped(f"{choices[:1].upper()}{choices[1:]}.")
    return lines


def forgetting_lines(forgetting: float | None) -> list[str]:
    """Return a sentence on how much worse an adapter is on general dialogues, if that was measured.

    Args:
        forgetting: The relative increase of the loss on them.
    """
    return [] if forgetting is None else [f"The loss on general dialogues changed by {forgetting:+.1%}."]


def _likelihood_lines(evaluation: Mapping[str, Any]) -> Iterator[str]:
    change = evaluation.get("log_likelihood")
    if change is None:
        return
    yield from _change_lines("log-likelihood", change, "of your answers, nats a token; higher is better")
    before, after = (_perplexity_text(change[end]) for end in ("before", "after"))
    factor, *interval = (f"x{_perplexity_text(change[end])}" for end in ("gain", "high", "low"))
    yield _row("perplexity", before, after, factor, " to ".join(interval))
    yield from _note("the same, as the number of equally likely tokens; lower is better")


def _question_lines(evaluation: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the metrics that one answer for all cannot win."""
    if specificity := evaluation.get("specificity"):
        intervals = (_interval(*specificity[f"{end}_interval"]) for end in ("before", "after"))
        yield from _change_lines(
            "specificity",
            specificity["nats"],
            "how much likelier your answer is after its own question than after "
            f"{_number(specificity['other_questions'], 'another', 'others')}, nats a token; 0 ignores the question "
            f"(before {next(intervals)}, after {next(intervals)})",
        )
        yield from _change_lines(
            "own question wins",
            specificity["share"],
            "share of these comparisons in which the own question makes your answer likelier; chance 50 %",
            "percent",
        )
    if choice := evaluation.get("choice"):
        note = (
            f"the right one of up to {choice['choices']} of your answers of like length, by likelihood, for "
            f"{counted(choice['n'], 'question')}; chance {choice['chance_top1']:.0%}"
        )
        yield from _change_lines("right choice", choice["top1"], note, "percent")
        note = f"mean of 1 / the rank of the right one (MRR); chance {choice['chance_mrr']:.3f}"
        yield from _change_lines("reciprocal rank", choice["mrr"], note)


def _answer_lines(evaluation: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the metrics of generated answers."""
    constant = evaluation.get("constant_answer")
    for key, name, note in (
        ("rouge1", "ROUGE-1", "words that the model's answers share with yours, 0 to 1"),
        ("rougeL", "ROUGE-L", "the same, in order"),
    ):
        if constant:
            change = constant[key]
            note += (
                f"; one answer for all has {change['before']:.3f}, the model {change['gain']:+z.3f} "
                f"({_interval(change['low'], change['high'])})"
            )
        yield from _change_lines(name, evaluation[key], note)
    if similarity := evaluation.get("similarity"):
        yield from _change_lines("similarity", similarity, "in meaning, by embeddings, -1 to 1")
    if counts := evaluation.get("answer_words"):
        yield _row("words per answer", *(f"{counts[end]:.1f}" for end in ("before", "after")))
        yield from _note(f"yours have {counts['preferred']:.1f}")
    if distinct := evaluation.get("distinct_2"):
        yield _row("distinct-2", *(f"{distinct[end]:.3f}" for end in ("before", "after")))
        yield from _note(f"share of pairs of words that are not repeated; yours {distinct['preferred']:.3f}")


def _change_lines(name: str, change: Mapping[str, float], note: str, unit: str = "") -> Iterator[str]:
    """Yield the line of a metric, and below it what it means."""
    if unit == "percent":
        before, after, gain = f"{change['before']:.1%}", f"{change['after']:.1%}", f"{change['gain']:+z.1%}"
        interval = f"{change['low']:+z.1%} to {change['high']:+z.1%}"
    else:
        before, after, gain = f"{change['before']:.3f}", f"{change['after']:.3f}", f"{change['gain']:+z.3f}"
        interval = _interval(change["low"], change["high"])
    yield _row(name, before, after, gain, interval)
    yield from _note(note)


def _row(name: str, *cells: str, widths: tuple[int, ...] = _WIDTHS) -> str:
    aligned: Iterable[str] = (f" {cell.rjust(width - 1)}" for cell, width in zip(cells, widths[1:], strict=False))
    return (name.ljust(widths[0]) + "".join(aligned)).rstrip()


def _mode_text(mode: Mapping[str, Any]) -> str:
    from mlx_personal.evaluation.answer_modes import AnswerMode

    return AnswerMode.from_json(mode).text()


def _base_has_memory(modes: Mapping[str, Any]) -> bool:
    """Return whether the base model was only compared with memory, because `memory.use` is `always`."""
    return all(result["mode"]["uses_memory"] for result in modes["results"])


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False)


def _note(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="    ", subsequent_indent="    ")


def _interval(low: float, high: float) -> str:
    return f"{low:+z.3f} to {high:+z.3f}"


def _perplexity_text(log_likelihood: float) -> str:
    perplexity = math.exp(min(-log_likelihood, 700))  # a larger one is infinite
    return f"{perplexity:.2f}" if perplexity < 1000 else f"{perplexity:.3g}"


def _number(count: int, one: str, several: str) -> str:
    return one if count == 1 else f"{count} {several}"


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
