"""The three kinds of job a study runs, each in a worker process that keeps its model from one job to the next.

A job gets all it needs in its argument and gives back all that came of it: it writes no file that outlives it, so it
may run on any machine that has the package and sees the model's folder.
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
from mlx_personal.evaluation import answer_losses, answers
from mlx_personal.finetune import finetune
from mlx_personal.models import LanguageModel
from mlx_personal.models.cached_model import cached_model
from mlx_personal.research.study.cell import Cell, digest
from mlx_personal.research.study.constant_answer import one_answer
from mlx_personal.research.study.stream import OTHERS
from mlx_personal.runtime.machine import machine
from mlx_personal.scoring import ESTIMATORS, entropies_of_embedding
from mlx_personal.synthesis import SynthesisConfig, synthesize


@dataclass(frozen=True)
class Embed:
    """Texts to embed and to take the entropy of, by every estimator."""

    model: str
    texts: Sequence[str]


def embed(job: Embed) -> tuple[np.ndarray, dict[str, list[float]]]:
    """Vectors float32 [N, D], and EOE [N] by estimator."""
    found = HiddenStateEmbedder(cached_model(job.model)).embed(job.texts)
    states = [embedding.states for embedding in found]
    return np.stack([e.vector for e in found]), {name: entropies_of_embedding(states, name) for name in ESTIMATORS}


@dataclass(frozen=True)
class Write:
    """Dialogues to write synthetic sets of; `writer`: folder of an adapter that writes better than the model alone."""

    model: str
    writer: str | None
    dialogues: Sequence[Dialogue]
    config: SynthesisConfig
    forbidden: Sequence[Dialogue]


def write(job: Write) -> list[tuple[str, list[Dialogue], dict[str, int]]]:
    """For each dialogue its key, the synthetic sets that passed the checks, and how many met which fate.

    One dialogue at a time, each with a seed of its own, so that what is written of it does not hang on which others are
    wanted: the same cell gets the same sets, whatever ran before.
    """
    lm = cached_model(job.model)
    if job.writer is not None:
        lm.attach_adapter(Path(job.writer))
    try:
        return [_written(lm, dialogue, job) for dialogue in job.dialogues]
    finally:
        lm.detach_adapter()


def _written(lm: LanguageModel, dialogue: Dialogue, job: Write) -> tuple[str, list[Dialogue], dict[str, int]]:
    seed = int(digest([job.config.seed, dialogue.key])[:15], 16)
    found = synthesize(lm, [dialogue], dataclasses.replace(job.config, seed=seed), forbidden=job.forbidden)
    kept = [c.dialogue for c in found if c.kept and c.dialogue is not None]
    return dialogue.key, kept, dict(Counter(c.reason for c in found))


@dataclass(frozen=True)
class Lesson:
    """What is learnt at a checkpoint: `facts`, that go into its result as they are; the dialogues, and what each comes
    from. Without dialogues, the adapter of the checkpoint before stays."""

    facts: dict[str, Any]
    dialogues: Sequence[Dialogue]
    sources: Sequence[int]


@dataclass(frozen=True)
class Run:
    """A cell, its lessons in the stream's order (none for the base alone), and what it is evaluated on; `others`:
    dialogues that the one answer for all is taken from, for the base alone."""

    cell: Cell
    model: str
    lessons: Sequence[Lesson]
    evaluation: Sequence[Dialogue]
    general: Sequence[Dialogue]
    others: Sequence[Dialogue] = ()


def run(job: Run) -> dict[str, Any]:
    """The cell's result, as JSON has it: for each checkpoint what was learnt, how long it took and the ROUGE of each
    evaluation dialogue; for the last one how likely it finds the preferred answers and the general dialogues."""
    start = time.perf_counter()
    lm, config = cached_model(job.model), dataclasses.replace(job.cell.training, seed=job.cell.seed)
    checkpoints: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        adapter: Path | None = None
        try:
            for number, lesson in enumerate(job.lessons):
                checkpoint = {**lesson.facts, "rows": 0, "train_seconds": 0.0, "epochs": config.epochs}
                if lesson.dialogues:
                    adapter = Path(folder, str(number))
                    report = finetune(lm, lesson.dialogues, config, adapter, sources=lesson.sources)
                    checkpoint |= {"rows": report.rows, "train_seconds": report.seconds, "epochs": report.epochs}
                    lm.attach_adapter(adapter)
                if lesson.dialogues or not checkpoints:
                    scores = _scores(answers(lm, job.evaluation, job.cell.answer_tokens), job.evaluation)
                checkpoints.append(checkpoint | scores)
            if not job.lessons:
                given = answers(lm, job.evaluation, job.cell.answer_tokens)
                scores = _scores(given, job.evaluation) | {"one_answer": _one_answer(lm, job)}
                checkpoints.append({"received": 0, "kept": [], "questions": 0, "rows": 0} | scores)
            final = _likelihoods(lm, job)
        finally:
            lm.detach_adapter()
    seconds = time.perf_counter() - start
    return {"checkpoints": checkpoints, "final": final, "machine": dataclasses.asdict(machine()), "seconds": seconds}


def _scores(given: Sequence[Sequence[str]], evaluation: Sequence[Dialogue]) -> dict[str, Any]:
    """ROUGE of what each dialogue was answered, one number a dialogue: the mean over its assistant turns."""
    preferred = [[strip_thoughts(turn) for turn in dialogue.assistant_turns] for dialogue in evaluation]
    pairs = [list(zip(g, p, strict=True)) for g, p in zip(given, preferred, strict=True)]
    return {
        "rouge1": [round(float(np.mean([rouge1(a, b) for a, b in turns])), 6) for turns in pairs],
        "rougeL": [round(float(np.mean([rougeL(a, b) for a, b in turns])), 6) for turns in pairs],
        "answer_words": float(np.mean([len(words(answer)) for turns in given for answer in turns])),
    }


def _one_answer(lm: LanguageModel, job: Run) -> dict[str, Any] | None:
    """The scores of one answer, no longer than the model's may be, given at every turn; None without `others`."""
    turns = [strip_thoughts(turn) for dialogue in job.others for turn in dialogue.assistant_turns][:OTHERS]
    cut = [lm.tokenizer.decode(lm.text_tokens(turn)[: job.cell.answer_tokens]) for turn in turns]
    answer = one_answer(cut, turns)
    if answer is None:
        return None
    return _scores([[answer] * len(dialogue.assistant_turns) for dialogue in job.evaluation], job.evaluation)


def _likelihoods(lm: LanguageModel, job: Run) -> dict[str, Any]:
    own, general = (
        answer_losses(lm, dialogues, job.cell.training.max_tokens) for dialogues in (job.evaluation, job.general)
    )
    return {
        "nats": [round(loss.nats, 4) for loss in own],
        "tokens": [loss.tokens for loss in own],
        "general_nats": [round(loss.nats, 4) for loss in general],
        "general_tokens": [loss.tokens for loss in general],
    }
