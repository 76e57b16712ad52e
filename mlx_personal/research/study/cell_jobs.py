"""The jobs of a study: embed dialogues, and run a cell.

A job receives all its inputs in its argument and returns all its results; it leaves no files behind. It can therefore
run on any machine that has this package and can read the model's folder. Worker processes keep their model from job to
job.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from mlx_personal.annotation import AnnotationConfig
from mlx_personal.config import Config
from mlx_personal.dialogue import Dialogue
from mlx_personal.embedding import HiddenStateEmbedder
from mlx_personal.evaluation import EvaluationConfig
from mlx_personal.evaluation.comparison import typical_answer
from mlx_personal.memory import MemoryConfig
from mlx_personal.models import LanguageModel
from mlx_personal.models.loading import cached_model
from mlx_personal.personalizer import Personalizer
from mlx_personal.personalizer.answering import mode_in_use
from mlx_personal.personalizer.memory import profile_memory
from mlx_personal.profile import NewSynthetic
from mlx_personal.research.answer_metrics import answer_metrics, answer_scores
from mlx_personal.research.study.cell import BASE, Cell
from mlx_personal.scoring import entropies_of_embedding
from mlx_personal.scoring.config import ScoringConfig
from mlx_personal.selection import SelectionConfig
from mlx_personal.synthesis import SynthesisConfig

# The answer modes that are measured, with whether there is an adapter and whether there is a memory.
MEMORY, ADAPTER, BOTH = "memory", "adapter", "adapter and memory"
MODES: Final[Mapping[str, tuple[bool, bool]]] = {
    BASE: (False, False),
    MEMORY: (False, True),
    ADAPTER: (True, False),
    BOTH: (True, True),
}
# Decimal places of a stored value; more would only make the files larger.
_DIGITS: Final = 4
# More rewrites are drawn than are used, because those that are kept differ in number from dialogue to dialogue.
_SPARE_REWRITES: Final = 1


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
        The stored result. `modes`: by the name of each measured answer mode the values of `answer_metrics`. For the
        base model also `one_answer`, the values of one answer for all; for others `default`, the mode that a profile
        would use from then on, and the numbers of dialogues that were trained on, synthetic and held out.
    """
    start = time.perf_counter()
    result = _run_base(job) if job.cell.policy == BASE else _run_profile(job)
    return {**result, "seconds": round(time.perf_counter() - start, 1)}


def _run_base(job: CellJob) -> dict[str, Any]:
    lm, tokens = cached_model(job.model), job.cell.answer_tokens
    lm.detach_adapter()
    answer = typical_answer(lm, job.reference, tokens) or ""
    answers = [[answer] * len(dialogue.assistant_turns) for dialogue in job.evaluation]
    return {
        "modes": {BASE: _measure(lm, job.evaluation, job.cell)},
        "one_answer": _rounded(answer_scores(answers, job.evaluation)),
    }


def _run_profile(job: CellJob) -> dict[str, Any]:
    """Make a profile of what the policy kept, train and promote as for any owner, and measure the answer modes."""
    cell, lm = job.cell, cached_model(job.model)
    with (
        tempfile.TemporaryDirectory() as folder,
        Personalizer.create(Path(folder, "profile"), job.model, _config(cell, len(job.kept)), lm) as profile,
    ):
        profile.observe(job.kept)
        for question in profile.annotations.open_questions():
            profile.annotations.record(question.dialogue_id, "accept")
        synthetic = _synthesize(profile, cell.synthetic) if cell.synthetic else 0
        trained = profile.train()
        modes = {}
        for name in (MEMORY, ADAPTER, BOTH):
            has_adapter, has_memory = MODES[name]
            asked = job.evaluation
            if has_memory:
                memory = profile_memory(profile.store, profile.config, profile.base_model(), uses_memory=True)
                asked = [memory.with_examples(dialogue) for dialogue in asked]
            profile.adapted_model(trained.adapter if has_adapter else None)
            modes[name] = _measure(lm, asked, cell)
        in_use = mode_in_use(profile.store, profile.config.memory)
        used = (in_use.adapter is not None, in_use.uses_memory)
        counts = {
            "trained": len(profile.training_annotations()),
            "synthetic": synthetic,
            "held_out": len(profile.held_out_dialogues()),
        }
    lm.detach_adapter()
    default = next(name for name, mode in MODES.items() if mode == used)
    return {"modes": modes, "default": default, **counts, "train_seconds": round(trained.report.elapsed_s, 1)}


def _config(cell: Cell, kept: int) -> Config:
    """Return the settings of a cell's profile: the defaults, with the sizes of the cell."""
    return Config(
        selection=SelectionConfig(bins=max(1, kept), seed=cell.seed),
        annotation=AnnotationConfig(questions_per_day=1_000_000),
        synthesis=SynthesisConfig(k=cell.synthetic + _SPARE_REWRITES, seed=cell.seed),
        finetune=dataclasses.replace(cell.training, seed=cell.seed),
        memory=MemoryConfig(examples=cell.examples),
        # What decides is the likelihood, so the other likelihoods need not be computed on the held-out dialogues.
        evaluation=EvaluationConfig(max_tokens=cell.answer_tokens, choices=0, other_questions=0, seed=cell.seed),
    )


def _synthesize(profile: Personalizer, number: int) -> int:
    """Rewrite the dialogues that are trained on, keep as many rewrites as are wanted, and return how many.

    The first rewrite of each dialogue is taken, then the second one, and so on, so that every policy gets the same
    number wherever there are enough.
    """
    profile.synthesize()
    rows = profile.synthetic()
    by_original: dict[int, list[int]] = {}
    for row in rows:
        if row.kept:
            by_original.setdefault(row.annotation_id, []).append(row.id)
    in_rounds = [row_id for ids in itertools.zip_longest(*by_original.values()) for row_id in ids if row_id is not None]
    chosen = set(in_rounds[: number * len(profile.training_annotations())])
    texts = [
        NewSynthetic(row.annotation_id, row.dialogue, "", row.rouge1, row.id in chosen, row.reason) for row in rows
    ]
    profile.record_synthesis({}, texts, {})
    return len(chosen)


def _measure(lm: LanguageModel, dialogues: Sequence[Dialogue], cell: Cell) -> dict[str, list[float]]:
    config = EvaluationConfig(max_tokens=cell.answer_tokens, choices=cell.choices, seed=cell.seed)
    return _rounded(answer_metrics(lm, dialogues, config))


def _rounded(values: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Return values as they are stored.

    Raises:
        FloatingPointError: If one is not finite, as the likelihoods of a diverged adapter.
    """
    for name, of_metric in values.items():
        if not all(map(math.isfinite, of_metric)):
            raise FloatingPointError(f"{name} is not finite")
    return {name: [round(value, _DIGITS) for value in of_metric] for name, of_metric in values.items()}
