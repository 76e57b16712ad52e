"""Whether a new adapter is better than what answers now: the comparison on the dialogues set aside, and promotion."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from mlx_personal.config import Config
from mlx_personal.dialogue import Dialogue
from mlx_personal.errors import UserError
from mlx_personal.evaluation import Evaluation, answers, compare_answers
from mlx_personal.finetune.report import forgetting
from mlx_personal.models import LanguageModel
from mlx_personal.personalizer.adapters import Adapters
from mlx_personal.personalizer.pending import never_compared
from mlx_personal.profile import AdapterRow, Store
from mlx_personal.progress import Progress, ProgressEvent, as_stage


@dataclass(frozen=True)
class PromotionResult:
    """What came of judging an adapter.

    Args:
        evaluation, against_current: it compared with the base model, and with the adapter that answered until then, or
            with the base where none did; both None where no dialogue has been set aside yet.
        promoted: whether it answers from now on.
        forgot_much: whether it may not, for what it forgot.
    """

    evaluation: Evaluation | None
    against_current: Evaluation | None
    promoted: bool
    exceeds_forgetting: bool


class Promoter:
    """Compares one profile's adapters, and promotes those that are better.

    Args:
        store: the profile's store.
        adapters: that the store holds.
        config: its settings.
        adapted: gives the model with an adapter, or the base model for None.
        timed: `timed(room)` measures the block that it opens.
    """

    def __init__(
        self,
        store: Store,
        adapters: Adapters,
        config: Config,
        adapted: Callable[[AdapterRow | None], LanguageModel],
        timed: Callable[[str], AbstractContextManager[None]],
    ):
        self._store = store
        self._adapters = adapters
        self._config = config
        self._adapted = adapted
        self._timed = timed

    def held_out(self) -> list[Dialogue]:
        """The annotated dialogues that are set aside, with their preferred answers."""
        return [d for a in self._store.preferred(held_out=True) if (d := a.preferred)]

    def decide(self, adapter: AdapterRow, on_progress: Progress | None = None) -> PromotionResult:
        """Compares an adapter with the base and with what answers now, and promotes it if it is better.

        Better is: a higher mean ROUGE-1 on the dialogues set aside than what answers now, and not much forgotten of
        the general ones, if there are any. With none set aside nobody can tell.
        """
        current, held_out, exceeds_forgetting = self._adapters.promoted(), self.held_out(), self._forgot_much(adapter)
        if not held_out:
            return PromotionResult(None, None, adapter == current, exceeds_forgetting)
        after = self._answers(adapter, held_out, on_progress)
        evaluation = against_current = self._compare(None, after, held_out, on_progress)
        if current is not None and current != adapter:
            # One whose files are damaged or gone answers nothing: then the base is what to beat.
            with contextlib.suppress(UserError):
                against_current = self._compare(current, after, held_out, on_progress)
        with self._store.database.transaction():
            self._store.set_evaluation(adapter.id, dataclasses.asdict(evaluation))
            if current != adapter and against_current.rouge1.gain > 0 and not exceeds_forgetting:
                self._store.promote(adapter.id)
        promoted = self._adapters.promoted()
        return PromotionResult(
            evaluation, against_current, promoted is not None and promoted.id == adapter.id, exceeds_forgetting
        )

    def promote_pending(self, on_progress: Progress | None = None) -> tuple[AdapterRow, PromotionResult]:
        """The same for the adapter that `due` says was never compared; UserError if there is none."""
        adapter = never_compared(self._store, self._store.fingerprint())
        if adapter is None:
            raise UserError("every adapter has been compared", self._store.folder)
        return adapter, self.decide(adapter, on_progress)

    def evaluate(self, adapter: AdapterRow, on_progress: Progress | None = None) -> Evaluation | None:
        """Compares an adapter with the base model on the dialogues set aside; None where none has been set aside yet.

        It only looks: `decide` keeps what it finds and promotes.
        """
        held_out = self.held_out()
        if not held_out:
            return None
        return self._compare(None, self._answers(adapter, held_out, on_progress), held_out, on_progress)

    def _forgot_much(self, adapter: AdapterRow) -> bool:
        """Whether the training raised the loss on general dialogues by more than is allowed; False for none given."""
        run = self._store.run(adapter.run_id)
        result = {} if run is None or run.result is None else run.result
        rise = forgetting(result.get("general_losses", ()), result.get("best_step", 0))
        # Not `>`: what is no number is no reason to trust an adapter.
        return rise is not None and not rise <= self._config.finetune.max_forgetting

    def _answers(
        self, adapter: AdapterRow | None, preferred: Sequence[Dialogue], on_progress: Progress | None
    ) -> list[list[str]]:
        if on_progress is not None:
            on_progress(ProgressEvent("evaluation", 0, len(preferred)))  # the first answer may take a while
        with self._timed("evaluation"):
            return answers(
                self._adapted(adapter),
                preferred,
                self._config.evaluation.max_tokens,
                as_stage("evaluation", on_progress),
            )

    def _compare(
        self,
        against: AdapterRow | None,
        after: Sequence[Sequence[str]],
        preferred: Sequence[Dialogue],
        on_progress: Progress | None,
    ) -> Evaluation:
        """The answers `after` of an adapter compared with those of another one, or of the base model."""
        before = self._answers(against, preferred, on_progress)
        return compare_answers(before, after, preferred, self._config.evaluation.seed)
