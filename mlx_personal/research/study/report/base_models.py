"""The scores of base models without an adapter, compared on the same dialogues."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlx_personal.reporting import markdown_table
from mlx_personal.research.study.cell import BASE
from mlx_personal.research.study.report import statistics
from mlx_personal.research.study.report.cell_group import CellGroup
from mlx_personal.research.study.report.labels import CONSTANT_ANSWER_LABEL, code, data_label, format_interval
from mlx_personal.research.study.report.model_study import ModelStudy
from mlx_personal.research.study.report.other_metrics import group_perplexity
from mlx_personal.research.study.report.statistics import IntervalEstimate


@dataclass(frozen=True)
class ConstantAnswerScores:
    """The scores of the constant answer, see `evaluation.constant_answer`.

    Attributes:
        rouge1: ROUGE-1.
        rouge_l: ROUGE-L.
        answer_words: Words of the answer.
    """

    rouge1: IntervalEstimate
    rouge_l: IntervalEstimate
    answer_words: float


@dataclass(frozen=True)
class BaseModelScores:
    """The scores of a base model on one data set.

    Attributes:
        model: Name of the model.
        fingerprint: Fingerprint of the model.
        only_base: Whether no adapter of this model was trained.
        data: Name of the data set.
        part: Part of the data.
        num_dialogues: Number of evaluation dialogues.
        rouge1: ROUGE-1.
        rouge_l: ROUGE-L.
        perplexity: Perplexity of the preferred answers; None if it was not measured.
        num_tokens: Tokens of the preferred answers; None if they were not counted.
        answer_words: Mean number of words per answer; None if it was not measured.
        constant_answer: Scores of the constant answer; None if it was not scored.
    """

    model: str
    fingerprint: str
    only_base: bool
    data: str
    part: str
    num_dialogues: int
    rouge1: IntervalEstimate
    rouge_l: IntervalEstimate
    perplexity: IntervalEstimate | None
    num_tokens: float | None
    answer_words: float | None
    constant_answer: ConstantAnswerScores | None


def base_model_scores(studies: Sequence[ModelStudy]) -> list[BaseModelScores]:
    """Return the scores of all base models, ordered by data set.

    The models are compared on the same dialogues: those of the first model's main protocol. Where it has none, those
    that most models answered are used, and then those that were answered last.
    """
    names = list(dict.fromkeys(name for study in studies for name in study.datasets))
    scores = []
    for data in sorted(names, key=lambda name: min(s.datasets.index(name) for s in studies if name in s.datasets)):
        groups = [(study, group) for study in studies for group in _base_groups(study, data)]
        if not groups:
            continue
        counts = Counter(_dialogues_key(group) for _, group in groups)
        latest = {_dialogues_key(group): group.latest for _, group in sorted(groups, key=lambda pair: pair[1].latest)}
        main = [_dialogues_key(base) for s in studies for g in s.protocol(data)[:1] if (base := s.base_of(g))]
        chosen = main[0] if main else max(counts, key=lambda key: (counts[key], latest[key]))
        scores += [_group_scores(study, group) for study, group in groups if _dialogues_key(group) == chosen]
    return scores


def base_model_table(scores: Sequence[BaseModelScores]) -> str:
    """Return the scores of all base models as one table in Markdown."""
    name_counts = Counter(name for name, _ in {(s.model, s.fingerprint) for s in scores})
    rows = []
    for data in dict.fromkeys(s.data for s in scores):
        of_data = [s for s in scores if s.data == data]
        for s in of_data:
            model = code(f"{s.model} {s.fingerprint[:8]}" if name_counts[s.model] > 1 else s.model)
            rows.append(_table_row(s, model, s, format_interval(s.perplexity, 2)))
        # It depends on the model only through the tokens that limit its length, so one row is enough.
        constant = [_table_row(s, CONSTANT_ANSWER_LABEL, s.constant_answer, None) for s in of_data if s.constant_answer]
        rows += constant[:1]
    head = ("data set", "model", "ROUGE-1", "ROUGE-L", "perplexity", "words per answer", "dialogues")
    text = (
        "Scores without an adapter, on the same dialogues. The intervals resample dialogues.\n\n"
        f"{markdown_table(head, rows)}"
    )
    different_tokens = [data for data in dict.fromkeys(s.data for s in scores) if len(_token_counts(scores, data)) > 1]
    if different_tokens:
        labels = ", ".join(map(data_label, different_tokens))
        text += (
            f"\nOn {labels} the models split the answers into different numbers of tokens, so their perplexities "
            "cannot be compared.\n"
        )
    return text


def upper_reference(scores: Sequence[BaseModelScores]) -> str:
    """Return a note on the models of which only the base model was run; empty without any."""
    lines = []
    for name, fingerprint in dict.fromkeys((s.model, s.fingerprint) for s in scores if s.only_base):
        of_model = [s for s in scores if (s.model, s.fingerprint) == (name, fingerprint)]
        values = (f"{s.rouge1.value:.4f} on {data_label(s.data)}" for s in of_model)
        lines.append(
            f"Upper reference: {code(name)} without an adapter (only its base model was run, and it is not part of any "
            f"comparison), ROUGE-1 {', '.join(values)}.\n"
        )
    return "\n".join(lines)


def _table_row(
    model: BaseModelScores, name: str, scores: BaseModelScores | ConstantAnswerScores, perplexity: str | None
) -> list[str | None]:
    words = None if scores.answer_words is None else f"{scores.answer_words:.1f}"
    rouge = [format_interval(scores.rouge1), format_interval(scores.rouge_l)]
    return [data_label(model.data), name, *rouge, perplexity, words, f"{model.num_dialogues:,}"]


def _base_groups(study: ModelStudy, data: str) -> list[CellGroup]:
    return [g for g in study.groups.values() if g.cell.policy == BASE and g.cell.data == data]


def _dialogues_key(group: CellGroup) -> str:
    """Return a hash that is equal for base models evaluated on the same dialogues in the same way."""
    return group.hash_without("model", "model_name")


def _token_counts(scores: Sequence[BaseModelScores], data: str) -> set[float]:
    return {s.num_tokens for s in scores if s.data == data and s.num_tokens is not None}


def _group_scores(study: ModelStudy, group: CellGroup) -> BaseModelScores:
    rouge1, tokens, constant = group.scores("rouge1"), group.final_losses("tokens"), group.constant_answer
    return BaseModelScores(
        model=study.model_name,
        fingerprint=group.cell.model,
        only_base=all(cell.policy == BASE for cell, _ in study.cells),
        data=group.cell.data,
        part=group.cell.part,
        num_dialogues=rouge1.shape[1],
        rouge1=statistics.mean_estimate(rouge1),
        rouge_l=statistics.mean_estimate(group.scores("rougeL")),
        perplexity=group_perplexity(group),
        num_tokens=float(tokens.sum()) if tokens.size else None,
        answer_words=group.last_checkpoint_mean("answer_words"),
        constant_answer=None if constant is None else _constant_answer_scores(constant),
    )


def _constant_answer_scores(stored: Mapping[str, Any]) -> ConstantAnswerScores:
    rouge1, rouge_l = (statistics.mean_estimate(np.array([stored[name]])) for name in ("rouge1", "rougeL"))
    return ConstantAnswerScores(rouge1, rouge_l, stored["answer_words"])
