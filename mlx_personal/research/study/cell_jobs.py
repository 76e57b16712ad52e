"""The jobs of a study: embed dialogues, and run a cell.

A job receives all its inputs in its argument and returns all its results; it leaves no files behind. It can therefore
run on any machine that has this package and can read the model's folder. Worker processes keep their model from job to
job.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from mlx_personal.dialogue import Dialogue
from mlx_personal.embedding import HiddenStateEmbedder
from mlx_personal.evaluation import EvaluationConfig
from mlx_personal.evaluation.comparison import typical_answer
from mlx_personal.models import LanguageModel
from mlx_personal.models.loading import cached_model
from mlx_personal.research.answer_metrics import answer_metrics, answer_scores
from mlx_personal.research.study.cell import BASE, Cell
from mlx_personal.research.study.profile_run import ADAPTER, BOTH, MEMORY, Ask, profile_config, run_profile
from mlx_personal.scoring import entropies_of_embedding
from mlx_personal.scoring.config import ScoringConfig

# Decimal places of a stored value; more would only make the files larger.
_DIGITS: Final = 4


@dataclass(frozen=True)
class EmbeddingJob:
    """The argument of `embed_texts`.

    Attributes:
        model: Folder of the model.
        texts: Texts to embed.
    """

    model: str
    texts: Sequence[str]


def embed_texts(job: EmbeddingJob) -> tuple[np.ndarray, list[float]]:
    """Embed texts and compute their EOE.

    Returns:
        Vectors, float32 [N, D], and N entropies.
    """
    embeddings = HiddenStateEmbedder(cached_model(job.model)).embed(job.texts)
    entropies = entropies_of_embedding([e.states for e in embeddings], ScoringConfig.entropy_estimator)
    return np.stack([embedding.vector for embedding in embeddings]), entropies


@dataclass(frozen=True)
class CellJob:
    """The argument of `run_cell`.

    Attributes:
        cell: The cell.
        model: Folder of the model.
        kept: Dialogues that the policy kept, in the order of the stream; none for the base model.
        evaluation: Evaluation dialogues.
        reference: Dialogues from which one answer for all is chosen; only for the base model.
    """

    cell: Cell
    model: str
    kept: Sequence[Dialogue]
    evaluation: Sequence[Dialogue]
    reference: Sequence[Dialogue] = ()


def run_cell(job: CellJob) -> dict[str, Any]:
    """Compute a cell.

    Returns:
        The stored result: for the base model `modes` with its own values alone, and `one_answer`, those of one answer
        for all; for others what `run_profile` returns. Values are those of `answer_metrics`.
    """
    start, cell, lm = time.perf_counter(), job.cell, cached_model(job.model)
    config = EvaluationConfig(max_tokens=cell.answer_tokens, choices=cell.choices, seed=cell.seed)

    def measure(lm: LanguageModel, ask: Ask) -> dict[str, list[float]]:
        return rounded(answer_metrics(lm, [ask(dialogue) for dialogue in job.evaluation], config))

    if cell.policy == BASE:
        answer = typical_answer(lm, job.reference, cell.answer_tokens) or ""
        answers = [[answer] * len(dialogue.assistant_turns) for dialogue in job.evaluation]
        result: dict[str, Any] = {
            "modes": {BASE: measure(lm, lambda dialogue: dialogue)},
            "one_answer": rounded(answer_scores(answers, job.evaluation)),
        }
    else:
        bins = max(1, len(job.kept))
        settings = profile_config(cell.training, cell.seed, bins, cell.examples, cell.answer_tokens, cell.synthetic)
        modes = (MEMORY, ADAPTER, BOTH)
        result = run_profile(lm, job.model, job.kept, settings, modes, measure, cell.synthetic)
    return {**result, "seconds": round(time.perf_counter() - start, 1)}


def rounded(values: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Return values as they are stored.

    Args:
        values: The values by metric.

    Raises:
        FloatingPointError: If one is not finite, as the likelihoods of a diverged adapter.
    """
    for name, of_metric in values.items():
        if not all(map(math.isfinite, of_metric)):
            raise FloatingPointError(f"{name} is not finite")
    return {name: [round(value, _DIGITS) for value in of_metric] for name, of_metric in values.items()}
