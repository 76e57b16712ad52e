"""The promotion rule: a new adapter is promoted if it is better than the one in use on the held-out dialogues."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from mlx_personal.config import Config
from mlx_personal.dialogue import Dialogue
from mlx_personal.errors import StorageError, UserError
from mlx_personal.evaluation import Evaluation, compare_apart, generate_answers
from mlx_personal.finetune.report import forgetting
from mlx_personal.models import LanguageModel
from mlx_personal.personalizer.adapters import Adapters
from mlx_personal.personalizer.pending import unevaluated_adapter
from mlx_personal.profile import AdapterRow, Store
from mlx_personal.progress import Progress, ProgressEvent, as_stage

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PromotionResult:
    """The evaluation of an adapter and the result of the promotion rule.

    Attributes:
        evaluation: Comparison with the base model; None if no dialogue is held out.
        against_current: Comparison with the adapter that was in use, or with the base model if none was; None if no
            dialogue is held out.
        promoted: Whether the adapter is now in use.
        exceeds_forgetting: Whether forgetting exceeds the configured limit, so that it is not promoted.
        has_effect: Whether the adapter changes what the model computes; otherwise it is not promoted.
    """

    evaluation: Evaluation | None
    against_current: Evaluation | None
    promoted: bool
    exceeds_forgetting: bool
    has_effect: bool


@dataclass(frozen=True)
class _HeldOut:
    """The held-out dialogues.

    Attributes:
        dialogues: The dialogues with their preferred answers.
        inferred: For each one, whether its annotation was inferred from an export and accepted without asking.
    """

    dialogues: list[Dialogue]
    inferred: list[bool]


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
        return self._held_out().dialogues

    def promote_if_better(self, adapter: AdapterRow, on_progress: Progress | None = None) -> PromotionResult:
        """Evaluate an adapter, store the evaluation, and promote the adapter if it is better than the one in use.

        It is better if its mean ROUGE-1 on the held-out dialogues is higher, if its forgetting does not exceed the
        configured limit, and if it changes what the base model computes. Dialogues whose annotation was inferred from
        an export count only if the user annotated none of those that are held out. Without held-out dialogues the
        adapter is neither evaluated nor promoted.

        Args:
            adapter: The adapter.
            on_progress: Receives an event of stage `evaluation` for each generated answer.
        """
        current, held_out = self._adapters.promoted(), self._held_out()
        exceeds_forgetting, has_effect = self._exceeds_forgetting(adapter), self._adapters.has_effect(adapter)
        if not held_out.dialogues:
            return PromotionResult(None, None, adapter == current, exceeds_forgetting, has_effect)
        answers = self._generate(adapter, held_out.dialogues, on_progress)
        evaluation = against_current = self._compare(None, answers, held_out, on_progress)
        if current is not None and current != adapter:
            # If the files of the adapter in use are damaged or missing, the comparison with the base model decides.
            try:
                against_current = self._compare(current, answers, held_out, on_progress)
            except StorageError:
                raise  # they may be undamaged, so the adapter in use must not be replaced without a comparison
            except UserError as error:
                logger.info("the adapter in use cannot be compared: %s", error)
        with self._store.transaction():
            self._store.set_evaluation(adapter.id, dataclasses.asdict(evaluation))
            is_better = against_current.rouge1.gain > 0 and not exceeds_forgetting and has_effect
            if current != adapter and is_better:
                self._store.promote(adapter.id)
        promoted = self._adapters.promoted()
        is_promoted = promoted is not None and promoted.id == adapter.id
        logger.info("adapter %d was evaluated: %s", adapter.id, "promoted" if is_promoted else "not promoted")
        return PromotionResult(evaluation, against_current, is_promoted, exceeds_forgetting, has_effect)

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
        if not held_out.dialogues:
            return None
        return self._compare(None, self._generate(adapter, held_out.dialogues, on_progress), held_out, on_progress)

    def _held_out(self) -> _HeldOut:
        annotations = self._store.preferred_annotations(held_out=True)
        pairs = [(a.preferred, a.origin == "inferred") for a in annotations if a.preferred is not None]
        return _HeldOut([dialogue for dialogue, _ in pairs], [inferred for _, inferred in pairs])

    def _exceeds_forgetting(self, adapter: AdapterRow) -> bool:
        """Return whether forgetting exceeds the configured limit; False without general dialogues."""
        run = self._store.run(adapter.run_id)
        result = {} if run is None or run.result is None else run.result
        rise = forgetting(result.get("general_losses", ()), result.get("best_step", 0))
        # Not `>`: an adapter whose loss is NaN must not be promoted.
        return rise is not None and not rise <= self._config.finetune.max_forgetting

    def _generate(
        self, adapter: AdapterRow | Path | None, preferred: Sequence[Dialogue], on_progress: Progress | None
    ) -> list[list[str]]:
        if on_progress is not None:
            on_progress(ProgressEvent("evaluation", 0, len(preferred)))  # because the first answer may take a while
        with self._measure("evaluation"):
            return generate_answers(
                self._adapted_model(adapter),
                preferred,
                self._config.evaluation.max_tokens,
                as_stage("evaluation", on_progress),
            )

    def _compare(
        self,
        baseline: AdapterRow | None,
        answers: Sequence[Sequence[str]],
        held_out: _HeldOut,
        on_progress: Progress | None,
    ) -> Evaluation:
        """Compare an adapter's answers with those of another adapter, or of the base model."""
        before = self._generate(baseline, held_out.dialogues, on_progress)
        return compare_apart(before, answers, held_out.dialogues, held_out.inferred, self._config.evaluation.seed)
