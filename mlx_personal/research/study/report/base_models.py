"""The models as they are: what each base answers without an adapter, side by side on the same dialogues."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlx_personal.reporting import table
from mlx_personal.research.study.cell import BASE
from mlx_personal.research.study.report import statistics
from mlx_personal.research.study.report.cell_group import Group
from mlx_personal.research.study.report.grouped_cells import Study
from mlx_personal.research.study.report.labels import ONE_ANSWER, code, data_label, with_interval
from mlx_personal.research.study.report.other_metrics import perplexity
from mlx_personal.research.study.report.statistics import Estimate


@dataclass(frozen=True)
class Untrained:
    """A model's base cell on one data set. `alone`: nothing else was run of this model; `dialogues`: that it answered;
    `tokens`: of their preferred answers, together; None where they were not counted."""

    model: str
    fingerprint: str
    alone: bool
    data: str
    part: str
    dialogues: int
    rouge1: Estimate
    rouge_l: Estimate
    perplexity: Estimate | None
    tokens: float | None
    answer_words: float | None
    one_answer: OneAnswer | None


@dataclass(frozen=True)
class OneAnswer:
    """What one answer, given to every question, scores on the same dialogues: see `study.one_answer`."""

    rouge1: Estimate
    rouge_l: Estimate
    answer_words: float


def untrained(studies: Sequence[Study]) -> list[Untrained]:
    """Every model's, a data set after the other: on the dialogues of the first model's main protocol there, or where
    it has none on those that most models answered, then on those answered last."""
    names = list(dict.fromkeys(name for study in studies for name in study.data))
    found = []
    for data in sorted(names, key=lambda name: min(s.data.index(name) for s in studies if name in s.data)):
        groups = [(study, group) for study in studies for group in _bases(study, data)]
        if not groups:
            continue
        counts = Counter(_dialogues(group) for _, group in groups)
        latest = {_dialogues(group): group.latest for _, group in sorted(groups, key=lambda found: found[1].latest)}
        main = [_dialogues(base) for s in studies for g in s.protocol(data)[:1] if (base := s.base(g))]
        chosen = main[0] if main else max(counts, key=lambda key: (counts[key], latest[key]))
        found += [_one(study, group) for study, group in groups if _dialogues(group) == chosen]
    return found


def untrained_table(found: Sequence[Untrained]) -> str:
    """All models in one table."""
    names = Counter(name for name, _ in {(u.model, u.fingerprint) for u in found})
    rows = []
    for data in dict.fromkeys(u.data for u in found):
        own = [u for u in found if u.data == data]
        for u in own:
            model = code(f"{u.model} {u.fingerprint[:8]}" if names[u.model] > 1 else u.model)
            rows.append(_row(u, model, u, with_interval(u.perplexity, 2)))
        # Cut to as many tokens, it may differ by the model that counts them; one stands for all.
        rows += [_row(u, ONE_ANSWER, u.one_answer, None) for u in own if u.one_answer][:1]
    head = ("data set", "model", "ROUGE-1", "ROUGE-L", "perplexity", "words an answer", "dialogues")
    text = f"Without an adapter, on the same dialogues. The intervals draw dialogues.\n\n{table(head, rows)}"
    other = [data for data in dict.fromkeys(u.data for u in found) if len(_tokens(found, data)) > 1]
    if other:
        labels = ", ".join(map(data_label, other))
        text += f"\nOn {labels} models cut the answers into different numbers of tokens: perplexities do not compare.\n"
    return text


def _row(of: Untrained, name: str, scores: Untrained | OneAnswer, likelihood: str | None) -> list[str | None]:
    words = None if scores.answer_words is None else f"{scores.answer_words:.1f}"
    rouge = [with_interval(scores.rouge1), with_interval(scores.rouge_l)]
    return [data_label(of.data), name, *rouge, likelihood, words, f"{of.dialogues:,}"]


def upper_reference(found: Sequence[Untrained]) -> str:
    """What a main table has to say of models of which the base alone was run; empty without one."""
    lines = []
    for name, fingerprint in dict.fromkeys((u.model, u.fingerprint) for u in found if u.alone):
        own = [u for u in found if (u.model, u.fingerprint) == (name, fingerprint)]
        scores = (f"{u.rouge1.value:.4f} on {data_label(u.data)}" for u in own)
        lines.append(
            f"Upper reference: {code(name)} as it is (only its base was run, and it is no side of a comparison), "
            f"ROUGE-1 {', '.join(scores)}.\n"
        )
    return "\n".join(lines)


def _bases(study: Study, data: str) -> list[Group]:
    return [g for g in study.groups.values() if g.cell.policy == BASE and g.cell.data == data]


def _dialogues(group: Group) -> str:
    """Equal for cells of any models that answered the same dialogues alike."""
    return group.without("model", "model_name")


def _tokens(found: Sequence[Untrained], data: str) -> set[float]:
    return {u.tokens for u in found if u.data == data and u.tokens is not None}


def _one(study: Study, group: Group) -> Untrained:
    rouge1, tokens, one = group.scores("rouge1"), group.final("tokens"), group.one_answer
    return Untrained(
        model=study.name,
        fingerprint=group.cell.model,
        alone=all(cell.policy == BASE for cell, _ in study.cells),
        data=group.cell.data,
        part=group.cell.part,
        dialogues=rouge1.shape[1],
        rouge1=statistics.mean(rouge1),
        rouge_l=statistics.mean(group.scores("rougeL")),
        perplexity=perplexity(group),
        tokens=float(tokens.sum()) if tokens.size else None,
        answer_words=group.last("answer_words"),
        one_answer=None if one is None else _one_answer(one),
    )


def _one_answer(found: Mapping[str, Any]) -> OneAnswer:
    rouge1, rouge_l = (statistics.mean(np.array([found[name]])) for name in ("rouge1", "rougeL"))
    return OneAnswer(rouge1, rouge_l, found["answer_words"])
