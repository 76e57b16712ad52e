"""What the answer modes give on the held-out dialogues, each model's outputs computed once for all comparisons.

Whether examples stand before a question is the only difference between a mode with memory and one without. The costly
likelihoods of answers after other questions are computed only of the two modes whose metrics are shown, and of all
modes if the rule needs them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlx_personal.config import Config
from mlx_personal.dialogue import Dialogue
from mlx_personal.embedding import make_embedder
from mlx_personal.errors import StorageError, UserError
from mlx_personal.evaluation import (
    AnswerMode,
    Evaluation,
    EvaluationPart,
    ModelOutputs,
    compare_outputs,
    compute_outputs,
    make_parts,
    typical_answer,
    with_cache,
    with_likelihoods,
    without_questions,
)
from mlx_personal.evaluation.answer_similarity import Embed
from mlx_personal.models import LanguageModel
from mlx_personal.personalizer.memory import profile_memory
from mlx_personal.profile import AdapterRow, Store
from mlx_personal.progress import Progress, ProgressEvent, as_stage

logger = logging.getLogger(__name__)

AnyAdapter = AdapterRow | Path | None
"""An adapter of the profile, the folder of another one, or None for the base model."""


@dataclass(frozen=True)
class HeldOutDialogue:
    """A held-out dialogue.

    Attributes:
        annotation_id: Id of its annotation.
        dialogue: The dialogue with the preferred answers.
        is_inferred: Whether an export implied these.
    """

    annotation_id: int
    dialogue: Dialogue
    is_inferred: bool


def held_out_dialogues(store: Store) -> list[HeldOutDialogue]:
    """Return the held-out dialogues of a profile.

    Args:
        store: The profile's store.
    """
    return [
        HeldOutDialogue(annotation.id, annotation.preferred, annotation.origin == "inferred")
        for annotation in store.preferred_annotations(held_out=True)
        if annotation.preferred is not None
    ]


class ModeOutputs:
    """The outputs of answer modes on the held-out dialogues of a profile.

    Args:
        store: The profile's store.
        config: The profile's settings.
        held_out: The held-out dialogues, at least one.
        adapters: The adapters of the modes, by the names that the modes have for them.
        adapted_model: Returns the model with an adapter, or the base model for None.
        measure: Returns a context manager that measures the duration of the named stage.
        on_progress: Receives an event of stage `evaluation` for each generated answer.

    Attributes:
        states: The memory states that are compared: without memory, with it, or both.
        count: Number of dialogues that decide: those that the user judged, or all others if there are none.
        memory_note: Why only one is compared although `memory.use` is `auto`; empty if both are.
    """

    def __init__(
        self,
        store: Store,
        config: Config,
        held_out: Sequence[HeldOutDialogue],
        adapters: Mapping[int | str, AdapterRow | Path],
        adapted_model: Callable[[AnyAdapter], LanguageModel],
        measure: Callable[[str], AbstractContextManager[None]],
        on_progress: Progress | None,
    ):
        self._store, self._config, self._adapters = store, config, adapters
        self._adapted_model, self._measure, self._on_progress = adapted_model, measure, on_progress
        self._outputs: dict[AnswerMode, list[ModelOutputs]] = {}
        self._with_questions: set[AnswerMode] = set()
        lm = adapted_model(None)
        self._embed = _make_embed(lm, config)
        asked, self.memory_note = self._ask(lm, held_out)
        self.states = tuple(asked)
        inferred = [dialogue.is_inferred for dialogue in held_out]
        self._parts: Mapping[bool, list[EvaluationPart]] = {
            state: make_parts(lm, dialogues, inferred, config.evaluation) for state, dialogues in asked.items()
        }
        self.count = len(self._parts[self.states[0]][0].dialogues)
        annotations = store.preferred_annotations(held_out=False)
        trained_on = [annotation.preferred for annotation in annotations if annotation.preferred is not None]
        self._constant_answer = typical_answer(lm, trained_on, config.evaluation.max_tokens)

    def compute(self, mode: AnswerMode, with_questions: bool) -> None:
        """Compute the outputs of a mode unless they are there.

        Args:
            mode: The mode.
            with_questions: Whether the likelihoods of answers after several questions are needed too.

        Raises:
            UserError: If its adapter is damaged or missing.
        """
        mode = self._computed(mode)
        with_questions = with_questions or self._config.evaluation.promotion == "choice"
        if mode in self._with_questions or (mode in self._outputs and not with_questions):
            return
        parts, max_tokens = self._parts[mode.uses_memory], self._config.evaluation.max_tokens
        if self._on_progress is not None:  # because the first answer may take a while
            self._on_progress(ProgressEvent("evaluation", 0, sum(len(part.dialogues) for part in parts)))
        with self._measure("evaluation"):
            lm = self._adapted_model(None if mode.adapter is None else self._adapters[mode.adapter])
            report = as_stage("evaluation", self._on_progress)
            if mode in self._outputs:
                self._outputs[mode] = with_likelihoods(lm, parts, self._outputs[mode], report)
            else:
                computed = parts if with_questions else without_questions(parts)
                self._outputs[mode] = compute_outputs(lm, computed, max_tokens, report)
        if with_questions:
            self._with_questions.add(mode)

    def is_finite(self, mode: AnswerMode) -> bool:
        """Return whether the likelihoods of a computed mode are finite, which those of a damaged adapter are not.

        Args:
            mode: The mode.
        """
        outputs = self._outputs[self._computed(mode)]
        return all(math.isfinite(loss.nats) for part in outputs for loss in part.losses)

    def compare(self, before: AnswerMode, after: AnswerMode, is_shown: bool = True) -> Evaluation:
        """Compare two computed modes.

        Args:
            before: The first mode.
            after: The second mode.
            is_shown: Whether by all metrics that were computed of both; otherwise only by what the rule needs.
        """
        first, second = self._computed(before), self._computed(after)
        parts = self._parts[second.uses_memory]
        if not {first, second} <= self._with_questions:
            parts = without_questions(parts)
        with self._measure("evaluation"):
            return compare_outputs(
                parts,
                self._outputs[first],
                self._outputs[second],
                self._constant_answer if is_shown else None,
                self._embed if is_shown else None,
                self._config.evaluation.seed,
            )

    def _computed(self, mode: AnswerMode) -> AnswerMode:
        """Return the mode that is computed for another: without memory if memory changes no prompt."""
        return mode if mode.uses_memory in self._parts else AnswerMode(mode.adapter, self.states[0])

    def _ask(self, lm: LanguageModel, held_out: Sequence[HeldOutDialogue]) -> tuple[dict[bool, list[Dialogue]], str]:
        """Return the held-out dialogues as they are asked in each memory state, and why there is only one."""
        config, plain = self._config.memory, [dialogue.dialogue for dialogue in held_out]
        if config.use == "never" or not config.examples:
            return {False: plain}, ""
        try:
            memory = profile_memory(self._store, self._config, lm, uses_memory=True)
            # As in chat: the nearest kept dialogues, of which none is held out, stand before each question.
            with_examples = [memory.with_examples(dialogue) for dialogue in plain]
        except StorageError:
            raise
        except UserError as error:
            if config.use == "always":
                raise
            return {False: plain}, f"the memory cannot be used: {error.what}"
        if config.use == "always":
            return {True: with_examples}, ""
        if not memory.entries:
            return {False: plain}, "there is no dialogue that could be an example"
        if with_examples == plain:
            return {False: plain}, "no dialogue is near enough to a held-out question to be its example"
        return {False: plain, True: with_examples}, ""


def _make_embed(lm: LanguageModel, config: Config) -> Embed | None:
    """Return a function that computes the base model's vectors, whatever adapter is attached."""
    try:
        embedder = make_embedder(config.embedding, lm)
    except UserError as error:
        logger.info("the similarity of answers is not measured: %s", error)
        return None

    def embed(texts: Sequence[str]) -> list[np.ndarray]:
        with lm.disable_adapter():
            return [embedding.vector for embedding in embedder.embed(texts)]

    return with_cache(embed)
