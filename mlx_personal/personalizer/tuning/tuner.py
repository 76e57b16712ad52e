"""Tuning: search the settings of training and of the memory that suit one user, within a time budget.

    result = tune(personalizer, minutes=10)

Candidates are scored on a part of the dialogues that are trained on. At the end the best one and the present settings,
both trained on all of these dialogues, are compared on the held-out dialogues by the rule that promotes adapters. Only
if the best one is better there, its settings are written to the profile's settings file. Until then nothing of the
profile changes; the trials are stored, so that an interrupted tuning continues.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from mlx_personal.config import Config
from mlx_personal.errors import StoppedError, StorageError, UserError
from mlx_personal.evaluation import Evaluation, compare_outputs
from mlx_personal.evaluation.promotion_rule import METRIC_NAMES, is_better_by, rule_change
from mlx_personal.personalizer.answering import mode_in_use
from mlx_personal.personalizer.held_out_choices import choices_text, count_choice, earlier_choices
from mlx_personal.personalizer.personalizer import Personalizer
from mlx_personal.personalizer.settings_file import change_settings
from mlx_personal.personalizer.tuning.budget import TimedSearch
from mlx_personal.personalizer.tuning.record import TuningRecord, write_record
from mlx_personal.personalizer.tuning.search import (
    BRACKET_SIZE,
    Candidate,
    SearchSpace,
    Trial,
    apply_settings,
    draw_brackets,
)
from mlx_personal.personalizer.tuning.state import TuningState, read_state, remove_state, tuning_identity
from mlx_personal.personalizer.tuning.trials import TrialRunner
from mlx_personal.profile import Store
from mlx_personal.progress import Progress
from mlx_personal.reporting import counted
from mlx_personal.storage.database import utc_now

_CHANGED: Final = "the dialogues or the settings are not those of the stored trials, which are discarded"
_PRESENT_IS_BEST: Final = "the present settings scored best in the search"
# With fewer held-out dialogues only large differences are beyond chance.
_FEW: Final = 30


@dataclass(frozen=True)
class TuningPlan:
    """What a tuning would do.

    Attributes:
        training: Number of groups of near-duplicates that candidates are trained on.
        validation: Number of dialogues that they are scored on.
        held_out: Number of held-out dialogues, on which the best one is compared at the end.
        rung_sizes: Number of groups that each rung trains on.
        objectives: The objectives that are tried, with or without negatives.
        candidates: The candidates of the first bracket; the first one is the present settings.
        stored_trials: Number of trials that are stored and not run again.
        notes: Notes for the user, one line each.
    """

    training: int
    validation: int
    held_out: int
    rung_sizes: tuple[int, ...]
    objectives: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    stored_trials: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class TuningResult:
    """What a tuning found.

    Attributes:
        plan: What it set out to do.
        trials: All trials, also those that were stored before.
        elapsed_s: Its duration in seconds.
        present: The settings before.
        best: The best trial; None if no candidate could be scored.
        evaluation: Comparison of the settings before with those of the best trial on the held-out dialogues; None if
            they are the same.
        is_better: Whether the best trial's settings are better there.
        reason: Why they are, or why not.
        written: Whether the settings were written.
        notes: Notes for the user, one line each.
    """

    plan: TuningPlan
    trials: tuple[Trial, ...]
    elapsed_s: float
    present: Candidate
    best: Trial | None
    evaluation: Evaluation | None
    is_better: bool
    reason: str
    written: bool
    notes: tuple[str, ...]


def tune(
    personalizer: Personalizer,
    minutes: float,
    seed: int = 0,
    restart: bool = False,
    on_progress: Progress | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> TuningResult:
    """Search better settings for a profile, and write them to its settings file if they are better.

    A tuning that was interrupted, or that found nothing, continues with the same seed, dialogues and settings.

    Args:
        personalizer: The profile, open for writing.
        minutes: The time budget. The comparison at the end may take longer than was estimated.
        seed: Random seed of the candidates and of the part that they are scored on.
        restart: Whether to discard stored trials.
        on_progress: Receives events of stage `tuning`, in seconds of the budget.
        clock: Returns the time in seconds.

    Returns:
        The trials and the comparison of the best one with the present settings.

    Raises:
        UserError: If too few dialogues are annotated or held out, or the time is too short.
    """
    store, config = personalizer.store, personalizer.config
    runner = TrialRunner(store, config, personalizer.base_model(), seed)
    state, is_discarded = _open_state(personalizer, seed, restart)
    plan = _make_plan(runner, store, config, seed, state, is_discarded)
    present, defaults = plan.candidates[0], Candidate.of(Config())
    choices = earlier_choices(store, runner.deciding_ids)
    search = TimedSearch(runner, state, lambda: state.write(store.folder), 60 * minutes, clock, on_progress)
    best = search.run(_space(runner, config), present, [defaults], seed)
    evaluation, is_better, reason = _compare(runner, config, state, present, best, search.forward)
    rule = config.evaluation.promotion
    notes = [*plan.notes, *_few_notes(runner.held_out_count, rule, evaluation)]
    if evaluation is not None:
        notes += [text] if (text := choices_text(choices)) else []
        count_choice(store, runner.deciding_ids)
    record = _make_record(state, best, runner.held_out_count, rule, evaluation, is_better, choices)
    written = False
    if best is not None and is_better:
        settings = best.candidate.changes_from(present)
        try:
            change_settings(store.folder / "config.toml", settings, apply_settings(config, settings), record.text())
            written = True
        except StorageError:
            raise
        except UserError as error:
            notes.append(error.line())
            record = dataclasses.replace(record, problem=error.what)
    if best is not None:  # otherwise nothing was found out
        write_record(store, record)
    if written:
        remove_state(store.folder)
    return TuningResult(
        plan=plan,
        trials=tuple(state.trials),
        elapsed_s=search.elapsed_s,
        present=present,
        best=best,
        evaluation=evaluation,
        is_better=is_better,
        reason=reason,
        written=written,
        notes=tuple(notes),
    )


def plan_tuning(personalizer: Personalizer, seed: int = 0, restart: bool = False) -> TuningPlan:
    """Return what a tuning would do, without training anything.

    Args:
        personalizer: The profile.
        seed: As for `tune`.
        restart: As for `tune`.

    Raises:
        UserError: If too few dialogues are annotated or held out.
    """
    runner = TrialRunner(personalizer.store, personalizer.config, personalizer.base_model(lazy=True), seed)
    state, is_discarded = _open_state(personalizer, seed, restart)
    return _make_plan(runner, personalizer.store, personalizer.config, seed, state, is_discarded)


def summary(result: TuningResult) -> dict[str, Any]:
    """Return a result as a JSON object, without the texts of the held-out dialogues.

    Args:
        result: The result.
    """
    evaluation = result.evaluation
    values = dataclasses.asdict(dataclasses.replace(result, evaluation=None))
    if evaluation is not None:
        change = evaluation.log_likelihood
        values["evaluation"] = {
            "n": evaluation.n,
            "log_likelihood": None if change is None else dataclasses.asdict(change),
            "mrr": None if evaluation.choice is None else dataclasses.asdict(evaluation.choice.mrr),
            "rouge1": dataclasses.asdict(evaluation.rouge1),
        }
    return values


def _open_state(personalizer: Personalizer, seed: int, restart: bool) -> tuple[TuningState, bool]:
    identity = tuning_identity(personalizer.store, personalizer.config, seed)
    return (TuningState(identity), False) if restart else read_state(personalizer.folder, identity)


def _present(store: Store, config: Config) -> Candidate:
    """Return the present settings: with memory if it is in use, or would be with an adapter trained as in chat."""
    is_trained_so = config.finetune.examples == "as in chat" and config.memory.is_used(decided=True)
    return Candidate.of(config, is_trained_so or mode_in_use(store, config.memory).uses_memory)


def _space(runner: TrialRunner, config: Config) -> SearchSpace:
    return SearchSpace(config.finetune.learning_rate, runner.objectives)


def _make_plan(
    runner: TrialRunner, store: Store, config: Config, seed: int, state: TuningState, is_discarded: bool
) -> TuningPlan:
    first = [_present(store, config), Candidate.of(Config())]
    candidates = next(draw_brackets(_space(runner, config), first, seed))
    assert len(candidates) == BRACKET_SIZE
    return TuningPlan(
        training=len(runner.split.training),
        validation=runner.validation_count,
        held_out=runner.held_out_count,
        rung_sizes=tuple(runner.rung_sizes),
        objectives=tuple(f"{name} with negatives" if negatives else name for name, negatives in runner.objectives),
        candidates=tuple(candidates),
        stored_trials=len(state.trials),
        notes=(_CHANGED,) if is_discarded else (),
    )


def _compare(
    runner: TrialRunner,
    config: Config,
    state: TuningState,
    present: Candidate,
    best: Trial | None,
    on_progress: Progress,
) -> tuple[Evaluation | None, bool, str]:
    """Compare the present settings with the best trial's on the held-out dialogues, as promotion does."""
    assert state.present is not None
    if best is None:
        problems = "; ".join(sorted({trial.problem for trial in state.trials}))
        return None, False, f"no candidate could be scored{f': {problems}' if problems else ' in this time'}"
    if best.candidate == present:
        return None, False, _PRESENT_IS_BEST
    try:
        held_out = runner.compute_held_out(best.candidate, on_progress)
    except (StorageError, StoppedError):
        raise
    except UserError as error:
        return None, False, f"the best candidate cannot be trained on all dialogues: {error.what}"
    evaluation = compare_outputs(held_out.parts, state.present.outputs, held_out.outputs, seed=config.evaluation.seed)
    is_better, reason = is_better_by(config.evaluation.promotion, evaluation)
    # Not `>`: a loss that is NaN must not pass.
    if is_better and held_out.forgetting is not None and not held_out.forgetting <= config.finetune.max_forgetting:
        return evaluation, False, f"the loss on general dialogues rises by {held_out.forgetting:.1%}"
    return evaluation, is_better, reason


def _few_notes(held_out: int, rule: str, evaluation: Evaluation | None) -> list[str]:
    """Return what so few held-out dialogues can say."""
    if held_out >= _FEW:
        return []
    text = f"only {counted(held_out, 'dialogue is', 'dialogues are')} held out, which is weak evidence"
    change = None if evaluation is None else rule_change(rule, evaluation)
    if change is None:
        return [text]
    unit = METRIC_NAMES[rule][1] or "in ROUGE-1"
    return [f"{text}: gains below about {(change.high - change.low) / 2:.2f} {unit} may be chance"]


def _make_record(
    state: TuningState,
    best: Trial | None,
    held_out: int,
    rule: str,
    evaluation: Evaluation | None,
    is_better: bool,
    choices: tuple[int, int],
) -> TuningRecord:
    change = None if evaluation is None else rule_change(rule, evaluation)
    gain, low, high = (None, None, None) if change is None else (change.gain, change.low, change.high)
    settings = {} if best is None else best.candidate.settings()
    n = held_out if evaluation is None else evaluation.n
    return TuningRecord(
        utc_now(), is_better, len(state.trials), n, gain, low, high, settings, rule=rule, earlier_choices=choices
    )
