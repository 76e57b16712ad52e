"""The jobs of a study: embed dialogues, generate synthetic dialogues, and run a cell.

A job receives all its inputs in its argument and returns all its results; it leaves no files behind. It can therefore
run on any machine that has this package and can read the model's folder. Worker processes keep their model from job to
job.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlx_personal.dialogue import Dialogue, rouge1, rougeL, strip_thoughts, words
from mlx_personal.embedding import HiddenStateEmbedder
from mlx_personal.evaluation import answer_losses, choose_constant_answer, generate_answers
from mlx_personal.finetune import finetune
from mlx_personal.models import LanguageModel
from mlx_personal.models.loading import cached_model
from mlx_personal.research.hashing import digest
from mlx_personal.research.study.cell import Cell
from mlx_personal.research.study.checkpoint_data import CheckpointData
from mlx_personal.research.study.stream import MAX_REFERENCE_ANSWERS
from mlx_personal.runtime.machine import machine_info
from mlx_personal.scoring import ESTIMATORS, entropies_of_embedding
from mlx_personal.synthesis import SynthesisConfig, synthesize
from mlx_personal.synthesis.config import PUBLISHED_METHOD


@dataclass(frozen=True)
class EmbeddingJob:
    """The argument of `embed_texts`.

    Attributes:
        model: Folder of the model.
        texts: Texts to embed.
    """

    model: str
    texts: Sequence[str]


def embed_texts(job: EmbeddingJob) -> tuple[np.ndarray, dict[str, list[float]]]:
    """Embed texts and compute their EOE by every estimator.

    Returns:
        Vectors, float32 [N, D], and by estimator N entropies.
    """
    embeddings = HiddenStateEmbedder(cached_model(job.model)).embed(job.texts)
    states = [embedding.states for embedding in embeddings]
    entropies = {name: entropies_of_embedding(states, name) for name in ESTIMATORS}
    return np.stack([embedding.vector for embedding in embeddings]), entropies


@dataclass(frozen=True)
class SynthesisJob:
    """The argument of `synthesize_dialogues`.

    Attributes:
        model: Folder of the model.
        writer: Folder of an adapter that generates better than the base model; None for the base model.
        dialogues: Originals.
        config: Settings.
        forbidden: Evaluation dialogues, near-duplicates of which are rejected.
    """

    model: str
    writer: str | None
    dialogues: Sequence[Dialogue]
    config: SynthesisConfig
    forbidden: Sequence[Dialogue]


@dataclass(frozen=True)
class SynthesizedDialogues:
    """The synthetic dialogues of one original.

    Attributes:
        original: Key of the original.
        dialogues: Dialogues that passed the filters.
        reasons: How many candidates were accepted, and how many were rejected for each reason.
    """

    original: str
    dialogues: list[Dialogue]
    reasons: dict[str, int]


def synthesize_dialogues(job: SynthesisJob) -> list[SynthesizedDialogues]:
    """Generate synthetic dialogues of each original.

    Each original is processed alone, with its own seed, so that its synthetic dialogues do not depend on which other
    originals are in the job.
    """
    lm = cached_model(job.model)
    if job.writer is not None:
        lm.attach_adapter(Path(job.writer))
    try:
        return [_synthesize_one(lm, dialogue, job) for dialogue in job.dialogues]
    finally:
        lm.detach_adapter()


def _synthesize_one(lm: LanguageModel, dialogue: Dialogue, job: SynthesisJob) -> SynthesizedDialogues:
    seed = int(digest([job.config.seed, dialogue.key])[:15], 16)
    config = dataclasses.replace(job.config, seed=seed, **PUBLISHED_METHOD)
    candidates = synthesize(lm, [dialogue], config, held_out=job.forbidden)
    accepted = [c.dialogue for c in candidates if c.kept and c.dialogue is not None]
    return SynthesizedDialogues(dialogue.key, accepted, dict(Counter(c.reason for c in candidates)))


@dataclass(frozen=True)
class CellJob:
    """The argument of `run_cell`.

    Attributes:
        cell: The cell.
        model: Folder of the model.
        checkpoints: Training data of each checkpoint, in order; empty for the base model.
        evaluation: Evaluation dialogues.
        general: General dialogues to measure forgetting on.
        reference: Dialogues from which the constant answer is chosen; only for the base model.
    """

    cell: Cell
    model: str
    checkpoints: Sequence[CheckpointData]
    evaluation: Sequence[Dialogue]
    general: Sequence[Dialogue]
    reference: Sequence[Dialogue] = ()


def run_cell(job: CellJob) -> dict[str, Any]:
    """Train and evaluate an adapter at each checkpoint of a cell.

    Returns:
        The stored result. `checkpoints`: for each checkpoint the training data, the time and the ROUGE of each
        evaluation dialogue. `final`: losses of the last adapter on the preferred answers and the general dialogues.
    """
    start = time.perf_counter()
    lm, config = cached_model(job.model), dataclasses.replace(job.cell.training, seed=job.cell.seed)
    checkpoints: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            for number, data in enumerate(job.checkpoints):
                checkpoint = {**data.metadata, "rows": 0, "train_seconds": 0.0, "epochs": config.epochs}
                if data.examples:
                    adapter = Path(folder, str(number))
                    report = finetune(lm, data.examples, config, adapter)
                    checkpoint |= {
                        "rows": report.samples,
                        "train_seconds": report.elapsed_s,
                        "epochs": report.epochs,
                    }
                    lm.attach_adapter(adapter)
                if data.examples or not checkpoints:
                    scores = _rouge_scores(generate_answers(lm, job.evaluation, job.cell.answer_tokens), job.evaluation)
                checkpoints.append(checkpoint | scores)
            if not job.checkpoints:
                generated = generate_answers(lm, job.evaluation, job.cell.answer_tokens)
                scores = _rouge_scores(generated, job.evaluation) | {"one_answer": _constant_answer_scores(lm, job)}
                checkpoints.append({"received": 0, "kept": [], "questions": 0, "rows": 0} | scores)
            final = _losses(lm, job)
        finally:
            lm.detach_adapter()
    elapsed_s = time.perf_counter() - start
    return {
        "checkpoints": checkpoints,
        "final": final,
        "machine": dataclasses.asdict(machine_info()),
        "seconds": elapsed_s,
    }


def _rouge_scores(generated: Sequence[Sequence[str]], evaluation: Sequence[Dialogue]) -> dict[str, Any]:
    """Return the ROUGE of each dialogue, the mean over its assistant turns, and the mean length of an answer."""
    preferred = [[strip_thoughts(turn) for turn in dialogue.assistant_turns] for dialogue in evaluation]
    pairs = [list(zip(g, p, strict=True)) for g, p in zip(generated, preferred, strict=True)]
    return {
        "rouge1": [round(float(np.mean([rouge1(a, b) for a, b in turns])), 6) for turns in pairs],
        "rougeL": [round(float(np.mean([rougeL(a, b) for a, b in turns])), 6) for turns in pairs],
        "answer_words": float(np.mean([len(words(answer)) for turns in generated for answer in turns])),
    }


def _constant_answer_scores(lm: LanguageModel, job: CellJob) -> dict[str, Any] | None:
    """Return the scores of a constant answer, no longer than the model's may be; None without `job.reference`."""
    turns = [strip_thoughts(turn) for dialogue in job.reference for turn in dialogue.assistant_turns]
    turns = turns[:MAX_REFERENCE_ANSWERS]
    truncated = [lm.tokenizer.decode(lm.tokenize(turn)[: job.cell.answer_tokens]) for turn in turns]
    answer = choose_constant_answer(truncated, turns)
    if answer is None:
        return None
    return _rouge_scores([[answer] * len(dialogue.assistant_turns) for dialogue in job.evaluation], job.evaluation)


def _losses(lm: LanguageModel, job: CellJob) -> dict[str, Any]:
    """Return the summed cross entropy in nats and the target tokens of each evaluation and general dialogue."""
    evaluation, general = (
        answer_losses(lm, dialogues, job.cell.training.max_seq_length) for dialogues in (job.evaluation, job.general)
    )
    return {
        "nats": [round(loss.nats, 4) for loss in evaluation],
        "tokens": [loss.tokens for loss in evaluation],
        "general_nats": [round(loss.nats, 4) for loss in general],
        "general_tokens": [loss.tokens for loss in general],
    }
