"""Run the search for settings within a time budget, and store each trial.

What a trial will take is estimated from its tokens and the speed of those before. A trial is only begun if enough time
is left for it, and for training and comparing the best candidate on all dialogues at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from mlx_personal.errors import StoppedError, StorageError, UserError
from mlx_personal.personalizer.tuning.search import (
    BRACKET_SIZE,
    REDUCTION_FACTOR,
    Candidate,
    SearchSpace,
    Trial,
    best_trial,
    draw_brackets,
    run_bracket,
)
from mlx_personal.personalizer.tuning.state import PresentOutputs, TuningState
from mlx_personal.personalizer.tuning.trials import HeldOutOutputs
from mlx_personal.progress import Progress, ProgressEvent, ignore_progress

# Of this number of the last trials the slowest one says how fast the next one is: the load of a machine changes.
_TRIALS_FOR_SPEED: Final = 3


class Runner(Protocol):
    """Trains and scores candidates, see `TrialRunner`."""

    @property
    def rungs(self) -> int:
        """Number of rungs."""

    def tokens(self, candidate: Candidate, rung: int | None) -> int:
        """Return the number of tokens that a trial computes; a rung of None is all dialogues."""

    def score(self, candidate: Candidate, rung: int, on_progress: Progress | None = None) -> float:
        """Train a candidate in a rung, and return its score."""

    def compute_held_out(self, candidate: Candidate, on_progress: Progress | None = None) -> HeldOutOutputs:
        """Train a candidate on all dialogues, and compute what is compared on the held-out ones."""


class OutOfTimeError(BaseException):
    """The time for a trial is over. A `BaseException`, so that no handler of ordinary errors catches it."""


class TimedSearch:
    """A search within a time budget.

    Args:
        runner: Trains and scores candidates.
        state: The trials so far, to which new ones are added.
        save: Stores the state.
        budget_s: The time budget in seconds, from now on.
        clock: Returns the time in seconds.
        on_progress: Receives events of stage `tuning`, in seconds of the budget.
    """

    def __init__(
        self,
        runner: Runner,
        state: TuningState,
        save: Callable[[], None],
        budget_s: float,
        clock: Callable[[], float],
        on_progress: Progress | None = None,
    ):
        self._runner, self._state, self._save, self._clock = runner, state, save, clock
        self._begin, self._budget_s = clock(), budget_s
        self._on_progress = on_progress or ignore_progress
        self._full_tokens: dict[Candidate, int] = {}
        self._present_examples = 0

    @property
    def elapsed_s(self) -> float:
        """Seconds since the search began."""
        return self._clock() - self._begin

    def run(self, space: SearchSpace, present: Candidate, others: Sequence[Candidate], seed: int) -> Trial | None:
        """Search until the time is over, and return the best trial, or None if no candidate could be scored.

        Args:
            space: What candidates are drawn from.
            present: The present settings, which are trained on all dialogues first: that measures what the comparison
                at the end will take.
            others: Further candidates of the first bracket.
            seed: Random seed of the candidates.

        Raises:
            UserError: If the time is over before the present settings are trained and computed.
        """
        self._present_examples = present.memory_examples
        self._compute_present(present)
        for bracket in draw_brackets(space, [present, *others], seed):
            size = BRACKET_SIZE if self._has_time_for_bracket(present) else REDUCTION_FACTOR
            parts = [bracket[start : start + size] for start in range(0, len(bracket), size)]
            if not any([run_bracket(part, self._runner.rungs, self._run_trial) for part in parts]):
                break
        return best_trial(self._state.trials)

    def forward(self, event: ProgressEvent, /) -> None:
        """Report an event of the work as one of the budget."""
        total = round(self._budget_s)
        self._on_progress(ProgressEvent("tuning", min(round(self.elapsed_s), total), total))

    def _compute_present(self, present: Candidate) -> None:
        if self._state.present is not None:
            return
        tokens, begin, steps = self._tokens_on_all(present), self.elapsed_s, (0, 0)
        stop_after_budget = self._stop_after(self._budget_s)

        def report(event: ProgressEvent, /) -> None:
            nonlocal steps
            if event.stage == "training":
                steps = event.done, event.total or event.done
            stop_after_budget(event)

        try:
            held_out = self._runner.compute_held_out(present, report)
        except OutOfTimeError:
            done, total = steps
            at_least = "more" if not done else f"at least about {math.ceil(2 * self.elapsed_s / 60 * total / done)}"
            what = (
                f"{self._budget_s / 60:.3g} minutes are too few to train the present settings and the best ones, which "
                f"are compared at the end (step {done} of {total} of the first of them)"
            )
            raise UserError(what, hint=f"allow {at_least} minutes") from None
        elapsed_s = self.elapsed_s - begin
        training_s = min(held_out.training_s, elapsed_s)
        self._state.present = PresentOutputs(tuple(held_out.outputs), tokens, training_s, elapsed_s - training_s)
        self._save()

    def _has_time_for_bracket(self, present: Candidate) -> bool:
        """Return whether there is time for a whole bracket; if not, smaller ones reach the last rung more likely."""
        count, tokens = BRACKET_SIZE, 0
        for rung in range(self._runner.rungs):
            try:
                tokens += count * self._runner.tokens(present, rung)
            except (StorageError, StoppedError):
                raise
            except UserError:  # they cannot be trained on this rung, which fails as their trial
                tokens += count * self._tokens_on_all(present)
            count = max(1, count // REDUCTION_FACTOR)
        left_s = self._budget_s - self.elapsed_s - self._reserve_s(present)
        return tokens / self._tokens_per_second() <= left_s

    def _run_trial(self, candidate: Candidate, rung: int) -> Trial | None:
        """Train and score a candidate, unless it was before; return None if there is no time left for it."""
        for stored in self._state.trials:
            if (stored.candidate, stored.rung) == (candidate, rung):
                return stored
        tokens, begin, score, problem = 0, self.elapsed_s, None, ""
        try:
            # Raises if, for example, a rung has no preference pair for this objective.
            tokens, limit_s = self._runner.tokens(candidate, rung), self._budget_s - self._reserve_s(candidate)
            begin = self.elapsed_s
            if begin + tokens / self._tokens_per_second() > limit_s:
                return None
            score = self._runner.score(candidate, rung, self._stop_after(limit_s))
            if not math.isfinite(score):
                score, problem = None, "the likelihood is not finite"
        except OutOfTimeError:
            return None
        except (StorageError, StoppedError):
            raise
        except UserError as error:
            problem = error.what
        trial = Trial(candidate, rung, score, tokens, self.elapsed_s - begin, problem)
        self._state.trials.append(trial)
        self._save()
        return trial

    def _reserve_s(self, candidate: Candidate) -> float:
        """Return the seconds to keep for the comparison at the end, if this candidate or the best one so far wins."""
        best = best_trial(self._state.trials)
        return max(self._comparison_s(c) for c in (candidate, *(() if best is None else (best.candidate,))))

    def _comparison_s(self, candidate: Candidate) -> float:
        """Return the estimated seconds to train a candidate on all dialogues and compute the held-out ones."""
        present = self._state.present
        assert present is not None
        tokens = self._tokens_on_all(candidate) / max(1, present.tokens)
        # Each example makes a prompt longer by about the length of a prompt.
        prompts = (1 + candidate.memory_examples) / (1 + self._present_examples)
        return present.training_s * max(1.0, tokens) + present.evaluation_s * max(1.0, prompts)

    def _tokens_on_all(self, candidate: Candidate) -> int:
        if candidate not in self._full_tokens:
            self._full_tokens[candidate] = self._runner.tokens(candidate, None)
        return self._full_tokens[candidate]

    def _tokens_per_second(self) -> float:
        assert self._state.present is not None
        scored = [trial for trial in self._state.trials if trial.score is not None]
        measured = [(trial.tokens, trial.elapsed_s) for trial in scored[-_TRIALS_FOR_SPEED:]]
        measured = measured or [(self._state.present.tokens, self._state.present.training_s)]
        return min(max(tokens, 1) / max(seconds, 1e-6) for tokens, seconds in measured)

    def _stop_after(self, limit_s: float) -> Progress:
        """Return a `Progress` that ends the work when the search has taken this many seconds."""

        def report(event: ProgressEvent, /) -> None:
            if self.elapsed_s > limit_s:
                raise OutOfTimeError
            self.forward(event)

        return report
