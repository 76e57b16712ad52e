"""`tune`: search the settings that suit the owner's dialogues, within a time budget."""

from __future__ import annotations

import dataclasses
import math
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from mlx_personal.cli.context import CommandContext
from mlx_personal.cli.output import CommandResult, json_option
from mlx_personal.cli.progress import progress_bar_or_lines
from mlx_personal.cli.terminal import print_lines
from mlx_personal.errors import StoppedError
from mlx_personal.reporting import counted

if TYPE_CHECKING:
    from mlx_personal.evaluation import MetricChange
    from mlx_personal.personalizer import Personalizer
    from mlx_personal.personalizer.tuning import TuningPlan, TuningResult

_MAX_MINUTES = 7 * 24 * 60


def _check_minutes(ctx: click.Context, parameter: click.Parameter, value: float) -> float:
    if not 0 < value <= _MAX_MINUTES or math.isnan(value):
        raise click.BadParameter(f"{value:g} is not above 0 and at most {_MAX_MINUTES:,}")
    return value


@click.command()
@click.option(
    "--minutes", type=float, required=True, callback=_check_minutes, metavar="N", help="Time budget in minutes."
)
@click.option("--restart", is_flag=True, help="Discard the trials of an earlier tuning and start again.")
@click.option("--dry-run", is_flag=True, help="Show what would be tried, without training anything.")
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default=True,
    help="Random seed of what is tried, and of the dialogues that it is scored on.",
)
@json_option
def tune(cli: CommandContext, minutes: float, restart: bool, dry_run: bool, seed: int) -> CommandResult:
    """Search the settings of training and memory that suit your dialogues.

    Learning rate, epochs, rank, objective and number of examples are tried on a part of your annotated dialogues. What
    is best there is compared with the present settings on the held-out dialogues, and written to config.toml only if it
    is better. An interrupted search continues.
    """
    if dry_run:
        from mlx_personal.personalizer.tuning import plan_tuning

        with cli.open_profile(write=False) as personalizer:
            plan = plan_tuning(personalizer, seed, restart)
        return CommandResult(
            dataclasses.asdict(plan), lambda console: print_lines(console, *_plan_lines(plan), *_candidate_lines(plan))
        )
    from mlx_personal.personalizer.tuning import summary

    with cli.open_profile() as personalizer:
        result = _run(cli, personalizer, minutes, restart, seed)
    return CommandResult(summary(result), lambda console: print_lines(console, *_result_lines(cli, result)))


def _run(cli: CommandContext, personalizer: Personalizer, minutes: float, restart: bool, seed: int) -> TuningResult:
    """Tune with progress on standard error; a signal stops it in an orderly way."""
    from mlx_personal.personalizer.tuning import tune as search
    from mlx_personal.runtime.signals import TerminatedError, terminate_immediately

    try:
        with terminate_immediately(), progress_bar_or_lines(cli) as on_progress:
            return search(personalizer, minutes, seed, restart, on_progress)
    except (KeyboardInterrupt, TerminatedError, StoppedError) as error:
        # A training run handles signals itself, between two steps.
        number = signal.SIGINT if isinstance(error, KeyboardInterrupt) else signal.Signals(error.signal)
        hint = "the same command continues after the last finished trial"
        raise StoppedError("the search was interrupted", number, hint) from None


def _plan_lines(plan: TuningPlan) -> Iterator[str]:
    """Yield what a search works with."""
    yield (
        f"Trained on {counted(plan.training, 'group')} of near-duplicates, scored on "
        f"{counted(plan.validation, 'dialogue')} of other groups, compared at the end on "
        f"{counted(plan.held_out, 'held-out dialogue')}."
    )
    yield from (f"Note: {note}." for note in plan.notes)


def _candidate_lines(plan: TuningPlan) -> Iterator[str]:
    """Yield the candidates of the first bracket."""
    sizes = ", ".join(map(str, plan.rung_sizes))
    yield f"Rungs of {sizes} groups; of each, the better third goes on to the next."
    yield f"Objectives: {', '.join(plan.objectives)}."
    if plan.stored_trials:
        yield f"{counted(plan.stored_trials, 'trial')} of an earlier search would not be run again."
    yield "The first candidates, beginning with the present settings:"
    yield from (f"  {_settings_text(candidate.settings())}" for candidate in plan.candidates)


def _result_lines(cli: CommandContext, result: TuningResult) -> Iterator[str]:
    """Yield what a search found."""
    yield from _plan_lines(result.plan)
    earlier = result.plan.stored_trials
    stored = f", {earlier} of them from an earlier search" if earlier else ""
    rungs = [
        f"{sum(t.rung == rung for t in result.trials)} on {counted(size, 'group')}"
        for rung, size in enumerate(result.plan.rung_sizes)
    ]
    failed = sum(trial.score is None for trial in result.trials)
    yield (
        f"{counted(len(result.trials), 'trial')}{stored}: {', '.join(rungs)}"
        f"{f'; {failed} failed' if failed else ''}; {result.elapsed_s:.0f} s."
    )
    yield f"Before:  {_settings_text(result.present.settings())}"
    if result.best is not None and result.best.candidate != result.present:
        yield f"Best:    {_settings_text(result.best.candidate.settings())}"
    yield from _comparison_lines(result)
    reason = f"{result.reason[:1].upper()}{result.reason[1:]}."
    yield from (f"Note: {note}." for note in result.notes if note not in result.plan.notes)
    if result.written:
        train, chat = cli.command("train"), cli.command("chat")
        yield f"{reason} The settings are written to config.toml; they count from the next training: {train}"
        if result.best is not None and result.best.candidate.memory_examples != result.present.memory_examples:
            yield f"Those of the memory count from the next {chat} on, also with the adapter in use now."
    elif result.is_better:
        yield f"{reason} The settings are better, but not written."
    elif result.best is None:
        yield f"{reason} The present settings stay; more minutes continue the search."
    else:
        yield f"{reason} Nothing is better than the present settings, which stay; more minutes continue the search."


def _comparison_lines(result: TuningResult) -> Iterator[str]:
    """Yield the figures of the held-out dialogues."""
    if result.evaluation is None:
        return
    yield f"Present settings and the best ones, each trained on all dialogues, on {result.evaluation.n} held out:"
    if result.evaluation.log_likelihood is not None:
        yield f"  log-likelihood {_change_text(result.evaluation.log_likelihood)}, nats a token"
    if result.evaluation.choice is not None:
        yield f"  reciprocal rank {_change_text(result.evaluation.choice.mrr)}"
    yield f"  ROUGE-1 {_change_text(result.evaluation.rouge1)}"


def _change_text(change: MetricChange) -> str:
    return (
        f"{change.before:.3f} -> {change.after:.3f}: {change.gain:+z.3f} "
        f"(95 % interval {change.low:+z.3f} to {change.high:+z.3f})"
    )


def _settings_text(settings: dict[str, dict[str, Any]]) -> str:
    return ", ".join(f"{table}.{key} = {value}" for table, values in settings.items() for key, value in values.items())
