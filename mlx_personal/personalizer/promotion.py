"""Promotion: a new adapter, or memory, is put to use if it is better than what answers now on the held-out dialogues.

What answers is an answer mode: the base model or an adapter, with or without memory. After a training the mode in use
is compared with the new adapter in both memory states, and with itself in the other one, by the rule that
`evaluation.promotion` names. With `memory.use = "always"` or `"never"` there is only one memory state.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlx_personal.config import Config
from mlx_personal.dialogue import Dialogue
from mlx_personal.errors import StorageError, UserError
from mlx_personal.evaluation import AnswerMode, Evaluation, ModeComparison, ModeResult
from mlx_personal.evaluation.answer_modes import best_result, most_promising
from mlx_personal.evaluation.config import MIN_HELD_OUT
from mlx_personal.evaluation.promotion_rule import answers_better, is_better_by, rule_change
from mlx_personal.models import LanguageModel
from mlx_personal.personalizer.adapters import Adapters
from mlx_personal.personalizer.answering import (
    AnswerDecision,
    compared_settings,
    is_trained_as_in_chat,
    mode_in_use,
    promote,
)
from mlx_personal.personalizer.held_out_choices import count_choice, earlier_choices
from mlx_personal.personalizer.mode_outputs import AnyAdapter, HeldOutDialogue, ModeOutputs, held_out_dialogues
from mlx_personal.personalizer.pending import unevaluated_adapter
from mlx_personal.profile import AdapterRow, Store
from mlx_personal.progress import Progress
from mlx_personal.storage.database import utc_now

logger = logging.getLogger(__name__)

_FORGETS: Final = "its loss on general dialogues rises by more than finetune.max_forgetting"
_NO_EFFECT: Final = "it changes nothing"


@dataclass(frozen=True)
class PromotionResult:
    """The evaluation of an adapter and the result of the promotion rule.

    Attributes:
        evaluation: Comparison with the base model; None if no dialogue is held out. Its `modes` say what is best.
        against_current: Comparison with what was in use, or with the base model if that was in use or the adapter in
            use is damaged; None if no dialogue is held out.
        promoted: Whether the adapter is now in use.
        reason: Why the adapter is better than what was in use, or why it is not; empty if no dialogue is held out.
        exceeds_forgetting: Whether forgetting exceeds the configured limit, so that it is not promoted.
        has_effect: Whether the adapter changes what the model computes; otherwise it is not promoted.
        forgetting: Relative increase of the loss on general dialogues; None if it was not measured.
    """

    evaluation: Evaluation | None
    against_current: Evaluation | None
    promoted: bool
    reason: str
    exceeds_forgetting: bool
    has_effect: bool
    forgetting: float | None


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
        adapted_model: Callable[[AnyAdapter], LanguageModel],
        measure: Callable[[str], AbstractContextManager[None]],
    ):
        self._store = store
        self._adapters = adapters
        self._config = config
        self._adapted_model = adapted_model
        self._measure = measure

    def held_out_dialogues(self) -> list[Dialogue]:
        """Return the annotated dialogues that are held out, with their preferred answers."""
        return [held_out.dialogue for held_out in held_out_dialogues(self._store)]

    def promote_if_better(self, adapter: AdapterRow, on_progress: Progress | None = None) -> PromotionResult:
        """Evaluate an adapter, store the evaluation, and put to use what is better than what is in use.

        The adapter is promoted if it is better by the configured rule, if its forgetting does not exceed the configured
        limit, and if it changes what the base model computes. Of several modes that are better the one with the largest
        gain is used, or one whose gain may be as large and whose answers are better. Dialogues whose annotation was
        inferred from an export count only if the user annotated none of those that are held out. Without held-out
        dialogues the adapter is neither evaluated nor promoted.

        Args:
            adapter: The adapter.
            on_progress: Receives an event of stage `evaluation` for each generated answer.
        """
        current, held_out = self._adapters.promoted(), held_out_dialogues(self._store)
        forgetting = self._adapters.forgetting(adapter)
        # Not `>`: an adapter whose loss is NaN must not be promoted.
        exceeds_forgetting = forgetting is not None and not forgetting <= self._config.finetune.max_forgetting
        has_effect = self._adapters.has_effect(adapter)
        if not held_out:
            return PromotionResult(None, None, adapter == current, "", exceeds_forgetting, has_effect, forgetting)
        problem = _NO_EFFECT if not has_effect else _FORGETS if exceeds_forgetting else ""
        evaluation, against_current = self._evaluate(adapter, held_out, problem, on_progress)
        _, reason = is_better_by(self._config.evaluation.promotion, against_current)
        modes = evaluation.modes
        assert modes is not None
        with self._store.transaction():
            self._store.set_evaluation(adapter.id, dataclasses.asdict(evaluation))
            if modes.can_decide:
                count_choice(self._store, _deciding(held_out))
            if modes.best != modes.in_use:
                assert not isinstance(modes.best.adapter, str)
                promote(self._store, modes.best.adapter, _decision(modes))
        promoted = self._adapters.promoted()
        is_promoted = promoted is not None and promoted.id == adapter.id
        logger.info("adapter %d was evaluated; from now on %s answers", adapter.id, modes.best.text())
        return PromotionResult(
            evaluation, against_current, is_promoted, reason, exceeds_forgetting, has_effect, forgetting
        )

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
        held_out = held_out_dialogues(self._store)
        return self._evaluate(adapter, held_out, "", on_progress)[0] if held_out else None

    def _evaluate(
        self,
        adapter: AdapterRow | Path,
        held_out: Sequence[HeldOutDialogue],
        problem: str,
        on_progress: Progress | None,
    ) -> tuple[Evaluation, Evaluation]:
        """Compare an adapter, with and without memory, with the base model and with what is in use.

        Args:
            adapter: The adapter.
            held_out: The held-out dialogues.
            problem: Why the adapter may not be used whatever is measured; empty if it may.
            on_progress: Receives an event of stage `evaluation` for each generated answer.

        Returns:
            The comparison with the base model, and that with what is in use.
        """
        memory, rule = self._config.memory, self._config.evaluation.promotion
        name = adapter.id if isinstance(adapter, AdapterRow) else str(adapter)
        current = self._adapters.promoted()
        adapters: dict[int | str, AdapterRow | Path] = {} if current is None else {current.id: current}
        adapters[name] = adapter
        outputs = ModeOutputs(
            self._store, self._config, held_out, adapters, self._adapted_model, self._measure, on_progress
        )
        base = AnswerMode(None, memory.is_used(decided=False))
        own = [AnswerMode(name, state) for state in outputs.states]
        for mode in own:
            outputs.compute(mode, with_questions=len(own) == 1)
        outputs.compute(base, with_questions=True)
        in_use = self._usable_mode(outputs, base)
        others = [AnswerMode(in_use.adapter, state) for state in outputs.states] if len(outputs.states) > 1 else []
        modes = dict.fromkeys([in_use, *others, *own])
        for mode in modes:
            outputs.compute(mode, with_questions=False)
        results = [_result(outputs, rule, in_use, mode, problem if mode.adapter == name else "") for mode in modes]
        can_decide = outputs.count >= MIN_HELD_OUT
        best = _best_result(outputs, rule, results)
        evaluated = self._own_mode(adapter, [r for r in results if r.mode in own], best, can_decide)
        outputs.compute(evaluated, with_questions=True)
        if base not in modes:
            results.insert(0, _shown_result(outputs, rule, base))
        comparison = ModeComparison(
            rule=rule,
            n=outputs.count,
            can_decide=can_decide,
            in_use=in_use,
            evaluated=evaluated,
            best=in_use if best is None else best.mode,
            results=tuple(results),
            memory=compared_settings(memory),
            memory_note=outputs.memory_note,
            earlier_choices=earlier_choices(self._store, _deciding(held_out)),
            compared_at=utc_now(),
        )
        evaluation = dataclasses.replace(outputs.compare(base, evaluated), modes=comparison)
        is_base = in_use in (base, evaluated)
        return evaluation, evaluation if is_base else outputs.compare(in_use, evaluated)

    def _usable_mode(self, outputs: ModeOutputs, base: AnswerMode) -> AnswerMode:
        """Return the mode in use, whose outputs are computed; the base model if its adapter is damaged."""
        in_use = mode_in_use(self._store, self._config.memory)
        try:
            outputs.compute(in_use, with_questions=False)
            if not outputs.is_finite(in_use) and outputs.is_finite(base):
                raise UserError("its likelihoods are not finite", in_use.text())
        except StorageError:
            raise  # it may be undamaged, so the adapter in use must not be replaced without a comparison
        except UserError as error:
            if in_use.adapter is None:
                raise
            logger.info("the adapter in use cannot be compared: %s", error)
            return base
        return in_use

    def _own_mode(
        self, adapter: AdapterRow | Path, own: Sequence[ModeResult], best: ModeResult | None, can_decide: bool
    ) -> AnswerMode:
        """Return the mode of the evaluated adapter: the best mode, or else the one of the larger gain."""
        if best is not None and best in own:
            return best.mode
        if can_decide:
            return most_promising(own).mode
        is_trained_so = isinstance(adapter, AdapterRow) and is_trained_as_in_chat(self._store, adapter)
        uses_memory = self._config.memory.is_used(decided=is_trained_so)
        return next((result.mode for result in own if result.mode.uses_memory == uses_memory), own[0].mode)


def _result(outputs: ModeOutputs, rule: str, in_use: AnswerMode, mode: AnswerMode, problem: str) -> ModeResult:
    """Compare a mode with the one in use."""
    shown = _shown_result(outputs, rule, mode)
    if mode == in_use:
        return shown
    evaluation = outputs.compare(in_use, mode, is_shown=False)
    is_better, reason = is_better_by(rule, evaluation)
    gain = rule_change(rule, evaluation)
    return dataclasses.replace(shown, gain=gain, is_better=is_better and not problem, reason=problem or reason)


def _best_result(outputs: ModeOutputs, rule: str, results: Sequence[ModeResult]) -> ModeResult | None:
    """Return the result of the mode to use from now on; None if none is better than the mode in use."""
    best = best_result(results)
    if best is None:
        return None
    largest_gain, chosen = 0.0, best
    for result in results:
        if result.is_better and result is not best:
            evaluation = outputs.compare(best.mode, result.mode, is_shown=False)
            if answers_better(rule, evaluation) and evaluation.rouge1.gain > largest_gain:
                largest_gain, chosen = evaluation.rouge1.gain, result
    return chosen


def _shown_result(outputs: ModeOutputs, rule: str, mode: AnswerMode) -> ModeResult:
    """Return the figures of a mode without a comparison."""
    evaluation = outputs.compare(mode, mode, is_shown=False)
    likelihood, choice = evaluation.log_likelihood, evaluation.choice if rule == "choice" else None
    return ModeResult(
        mode=mode,
        log_likelihood=None if likelihood is None else likelihood.after,
        mrr=None if choice is None else choice.mrr.after,
        rouge1=evaluation.rouge1.after,
    )


def _decision(modes: ModeComparison) -> AnswerDecision:
    """Return what is stored with the promotion of the best mode."""
    gain = next(result.gain for result in modes.results if result.mode == modes.best)
    return AnswerDecision(
        modes.best.uses_memory, modes.rule, modes.n, gain, modes.in_use, modes.memory, modes.compared_at
    )


def _deciding(held_out: Sequence[HeldOutDialogue]) -> list[int]:
    """Return the annotations of the dialogues that decide: of the user's own verdicts, or of all if there are none."""
    own = [dialogue.annotation_id for dialogue in held_out if not dialogue.is_inferred]
    return own or [dialogue.annotation_id for dialogue in held_out]
