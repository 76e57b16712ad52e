"""The promotion rule: a new adapter is promoted if it is better than the one in use on the held-out dialogues.

What counts as better is the setting `evaluation.promotion`:

- `likelihood`: the preferred answers became likelier, and ROUGE-1 is not worse.
- `choice`: the preferred answers rank higher among other answers, and ROUGE-1 is not worse.
- `rouge1`: the mean ROUGE-1 is higher.

A gain counts if its 95 % interval is above 0. ROUGE-1 is worse only if the interval of its gain is below 0: greedy
answers to a few questions differ by chance.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlx_personal.config import Config
from mlx_personal.dialogue import Dialogue
from mlx_personal.embedding import make_embedder
from mlx_personal.errors import StorageError, UserError
from mlx_personal.evaluation import (
    Evaluation,
    EvaluationPart,
    MetricChange,
    ModelOutputs,
    compare_outputs,
    compute_outputs,
    make_parts,
    typical_answer,
    with_cache,
)
from mlx_personal.evaluation.answer_similarity import Embed
from mlx_personal.finetune.report import forgetting
from mlx_personal.models import LanguageModel
from mlx_personal.personalizer.adapters import Adapters
from mlx_personal.personalizer.memory import profile_memory
from mlx_personal.personalizer.pending import unevaluated_adapter
from mlx_personal.profile import AdapterRow, Store
from mlx_personal.progress import Progress, ProgressEvent, as_stage
from mlx_personal.reporting import counted

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PromotionResult:
    """The evaluation of an adapter and the result of the promotion rule.

    Attributes:
        evaluation: Comparison with the base model; None if no dialogue is held out.
        against_current: Comparison with the adapter that was in use, or with the base model if none was or it is
            damaged; None if no dialogue is held out.
        promoted: Whether the adapter is now in use.
        reason: Why the adapter is better than the one in use, or why it is not; empty if no dialogue is held out.
        exceeds_forgetting: Whether forgetting exceeds the configured limit, so that it is not promoted.
        has_effect: Whether the adapter changes what the model computes; otherwise it is not promoted.
    """

    evaluation: Evaluation | None
    against_current: Evaluation | None
    promoted: bool
    reason: str
    exceeds_forgetting: bool
    has_effect: bool


@dataclass(frozen=True)
class _Comparison:
    """What is the same for all models that are compared.

    Attributes:
        parts: The held-out dialogues.
        constant_answer: One answer for all; None without answers to choose it from.
        embed: Computes the base model's vectors of answers; None if the embedder cannot be used.
    """

    parts: Sequence[EvaluationPart]
    constant_answer: str | None
    embed: Embed | None


class Promoter:
    """Evaluates the adapters of one profile, and promotes better ones.

    Args:
        store: The profile's store.
        adapters: The profile's adapters.
        config: The profile's settings.
        adapted_model: Returns the model with an adapter, or the base model for None.
        measure: Returns a context manager that measures the duration of the named stage.
    """

    def __init__(
        self,
        store: Store,
        adapters: Adapters,
        config: Config,
        adapted_model: Callable[[AdapterRow | Path | None], LanguageModel],
        measure: Callable[[str], AbstractContextManager[None]],
    ):
        self._store = store
        self._adapters = adapters
        self._config = config
        self._adapted_model = adapted_model
        self._measure = measure

    def held_out_dialogues(self) -> list[Dialogue]:
        """Return the annotated dialogues that are held out, with their preferred answers."""
        return [dialogue for dialogue, _ in self._held_out()]

    def promote_if_better(self, adapter: AdapterRow, on_progress: Progress | None = None) -> PromotionResult:
        """Evaluate an adapter, store the evaluation, and promote the adapter if it is better than the one in use.

        It is promoted if it is better by the configured rule, if its forgetting does not exceed the configured limit,
        and if it changes what the base model computes. Dialogues whose annotation was inferred from an export count
        only if the user annotated none of those that are held out. Without held-out dialogues the adapter is neither
        evaluated nor promoted.

        Args:
            adapter: The adapter.
            on_progress: Receives an event of stage `evaluation` for each generated answer.
        """
        current, held_out = self._adapters.promoted(), self._held_out()
        exceeds_forgetting, has_effect = self._exceeds_forgetting(adapter), self._adapters.has_effect(adapter)
        if not held_out:
            return PromotionResult(None, None, adapter == current, "", exceeds_forgetting, has_effect)
        comparison = self._prepare(held_out)
        outputs = self._compute_outputs(adapter, comparison, on_progress)
        evaluation = against_current = self._compare(None, outputs, comparison, on_progress)
        if current is not None and current != adapter:
            # If the adapter in use is damaged or missing, the comparison with the base model decides.
            try:
                compared = self._compare(current, outputs, comparison, on_progress)
                if compared.log_likelihood is None and evaluation.log_likelihood is not None:
                    raise UserError("its likelihoods are not finite", current.folder)
                against_current = compared
            except StorageError:
                raise  # they may be undamaged, so the adapter in use must not be replaced without a comparison
            except UserError as error:
                logger.info("the adapter in use cannot be compared: %s", error)
        is_better, reason = is_better_by(self._config.evaluation.promotion, against_current)
        with self._store.transaction():
            self._store.set_evaluation(adapter.id, dataclasses.asdict(evaluation))
            if current != adapter and is_better and not exceeds_forgetting and has_effect:
                self._store.promote(adapter.id)
        promoted = self._adapters.promoted()
        is_promoted = promoted is not None and promoted.id == adapter.id
        logger.info("adapter %d was evaluated: %s", adapter.id, "promoted" if is_promoted else "not promoted")
        return PromotionResult(evaluation, against_current, is_promoted, reason, exceeds_forgetting, has_effect)

    def promote_pending(self, on_progress: Progress | None = None) -> tuple[AdapterRow, PromotionResult]:
        """Evaluate the adapter that has not been evaluated, and promote it if it is better.

        Args:
            on_progress: Receives an event of stage `evaluation` for each generated answer.

        Returns:
            The adapter and the result.

        Raises:
            UserError: If there is none.
        """
        adapter = unevaluated_adapter(self._store, self._store.fingerprint())
        if adapter is None:
            raise UserError("every adapter has been evaluated", self._store.folder)
        return adapter, self.promote_if_better(adapter, on_progress)

    def evaluate(self, adapter: AdapterRow | Path, on_progress: Progress | None = None) -> Evaluation | None:
        """Compare an adapter with the base model without storing the result.

        Args:
            adapter: An adapter of the profile, or the folder of any other one.
            on_progress: Receives an event of stage `evaluation` for each generated answer.

        Returns:
            The comparison; None if no dialogue is held out.
        """
        held_out = self._held_out()
        if not held_out:
            return None
        comparison = self._prepare(held_out)
        return self._compare(None, self._compute_outputs(adapter, comparison, on_progress), comparison, on_progress)

    def _held_out(self) -> list[tuple[Dialogue, bool]]:
        """Return the held-out dialogues with the preferred answers, and whether an export implied these."""
        annotations = self._store.preferred_annotations(held_out=True)
        return [(a.preferred, a.origin == "inferred") for a in annotations if a.preferred is not None]

    def _prepare(self, held_out: Sequence[tuple[Dialogue, bool]]) -> _Comparison:
        """Prepare the comparison of models on the held-out dialogues."""
        lm, config = self._adapted_model(None), self._config.evaluation
        memory = profile_memory(self._store, self._config, lm)
        # As in chat: the nearest kept dialogues, of which none is held out, stand before each question.
        dialogues = [memory.with_examples(dialogue) for dialogue, _ in held_out]
        parts = make_parts(lm, dialogues, [flag for _, flag in held_out], config)
        annotations = self._store.preferred_annotations(held_out=False)
        trained_on = [annotation.preferred for annotation in annotations if annotation.preferred is not None]
        return _Comparison(parts, typical_answer(lm, trained_on, config.max_tokens), self._make_embed(lm))

    def _make_embed(self, lm: LanguageModel) -> Embed | None:
        """Return a function that computes the base model's vectors, whatever adapter is attached."""
        try:
            embedder = make_embedder(self._config.embedding, lm)
        except UserError as error:
            logger.info("the similarity of answers is not measured: %s", error)
            return None

        def embed(texts: Sequence[str]) -> list[np.ndarray]:
            with lm.disable_adapter():
                return [embedding.vector for embedding in embedder.embed(texts)]

        return with_cache(embed)

    def _exceeds_forgetting(self, adapter: AdapterRow) -> bool:
        """Return whether forgetting exceeds the configured limit; False without general dialogues."""
        run = self._store.run(adapter.run_id)
        result = {} if run is None or run.result is None else run.result
        rise = forgetting(result.get("general_losses", ()), result.get("best_step", 0))
        # Not `>`: an adapter whose loss is NaN must not be promoted.
        return rise is not None and not rise <= self._config.finetune.max_forgetting

    def _compute_outputs(
        self, adapter: AdapterRow | Path | None, comparison: _Comparison, on_progress: Progress | None
    ) -> list[ModelOutputs]:
        """Generate answers with an adapter or the base model, and compute the likelihoods of the preferred ones."""
        if on_progress is not None:  # because the first answer may take a while
            on_progress(ProgressEvent("evaluation", 0, sum(len(part.dialogues) for part in comparison.parts)))
        with self._measure("evaluation"):
            lm, max_tokens = self._adapted_model(adapter), self._config.evaluation.max_tokens
            return compute_outputs(lm, comparison.parts, max_tokens, as_stage("evaluation", on_progress))

    def _compare(
        self,
        baseline: AdapterRow | None,
        outputs: Sequence[ModelOutputs],
        comparison: _Comparison,
        on_progress: Progress | None,
    ) -> Evaluation:
        """Compare an adapter's outputs with those of another adapter, or of the base model."""
        before = self._compute_outputs(baseline, comparison, on_progress)
        with self._measure("evaluation"):
            return compare_outputs(
                comparison.parts,
                before,
                outputs,
                comparison.constant_answer,
                comparison.embed,
                self._config.evaluation.seed,
            )


def is_better_by(rule: str, evaluation: Evaluation) -> tuple[bool, str]:
    """Decide whether the second model of an evaluation is better than the first.

    Args:
        rule: One of `evaluation.config.PROMOTION_RULES`.
        evaluation: The comparison of the two models.

    Returns:
        Whether it is better, and why or why not.
    """
    rouge1 = evaluation.rouge1
    if rule == "rouge1":
        is_better = rouge1.gain > 0
        return is_better, f"ROUGE-1 {'rose' if is_better else 'did not rise'}: {rouge1.gain:+z.3f}"
    if rule == "choice":
        name, unit = "rank among other answers", "in mean reciprocal rank"
        change = None if evaluation.choice is None else evaluation.choice.mrr
    else:
        name, unit = "likelihood", "nats a token"
        change = evaluation.log_likelihood
    if change is None:
        return False, f"the preferred answers' {name} could not be compared on {counted(evaluation.n, 'dialogue')}"
    gain = f"{change.gain:+z.3f} {unit}, {_interval_text(change)}"
    if not change.low > 0:
        return False, f"the gain in the preferred answers' {name} may be chance: {gain}"
    if not rouge1.high >= 0:
        return False, f"the preferred answers' {name} rose ({gain}), but ROUGE-1 fell: {_interval_text(rouge1)}"
    return True, f"the preferred answers' {name} rose ({gain}), and ROUGE-1 is not worse"


def _interval_text(change: MetricChange) -> str:
    return f"95 % interval {change.low:+z.3f} to {change.high:+z.3f}"
