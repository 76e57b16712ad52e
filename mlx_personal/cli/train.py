"""`train`: train an adapter, or show what a training run would take."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, cast

import click

from mlx_personal.cli.context import CommandContext
from mlx_personal.cli.evaluation_table import evaluation_lines, forgetting_lines
from mlx_personal.cli.output import CommandResult, json_option
from mlx_personal.cli.progress import bytes_text, progress_bar
from mlx_personal.cli.terminal import print_lines
from mlx_personal.cli.training_progress import training_progress
from mlx_personal.errors import StoppedError
from mlx_personal.progress import Progress, ProgressEvent
from mlx_personal.reporting import counted

if TYPE_CHECKING:
    from rich.console import Console

    from mlx_personal.finetune import TrainingEstimate, TrainingReport, TrainingStep
    from mlx_personal.personalizer import Personalizer, PromotionResult, TrainResult

# What to say when Ctrl-C or SIGTERM stops a training run, by its phase: what happened, and what to do.
_INTERRUPTED: Final = {
    "prepare": ("the training was interrupted before its first step", "the same command starts it again"),
    "train": ("the training was interrupted", "the same command resumes it from its last checkpoint"),
    "evaluate": ("the comparison was interrupted; the new adapter is kept", "{run} compares it"),
}
# Size in characters of the plot of the losses.
_PLOT_WIDTH, _PLOT_HEIGHT = 100, 14


@click.command()
@click.option("--restart", is_flag=True, help="Discard an interrupted training run and start again.")
@click.option(
    "--dry-run", is_flag=True, help="Show the samples, steps and memory of a training run without running it."
)
@json_option
def train(cli: CommandContext, restart: bool, dry_run: bool) -> CommandResult | None:
    """Train an adapter on the annotated and synthetic dialogues.

    An interrupted training run is resumed. Under `mlx.launch`, several machines train together.
    """
    if dry_run:
        with cli.open_profile(write=False) as personalizer:
            estimate = personalizer.estimate_training(restart)
        return CommandResult(
            dataclasses.asdict(estimate), lambda console: print_lines(console, *_estimate_lines(estimate))
        )
    from mlx_personal.finetune.distributed import ProcessGroup
    from mlx_personal.finetune.worker import run_worker

    if (group := ProcessGroup()).rank > 0:
        run_worker(group)
        return None  # the first machine prints the result
    with cli.open_profile() as personalizer:
        result = run_training(cli, personalizer, restart)
    return CommandResult(dataclasses.asdict(result), lambda console: _show_result(console, cli, result))


def run_training(cli: CommandContext, personalizer: Personalizer, restart: bool = False) -> TrainResult:
    """Train with progress on standard error; a signal stops the training in an orderly way."""
    from mlx_personal.runtime.energy import EnergyMeter
    from mlx_personal.runtime.signals import TerminatedError, terminate_immediately

    meter = EnergyMeter()
    with terminate_immediately(), contextlib.ExitStack() as stack:
        # Only one display is active at a time; each opens with its first event.
        current: dict[str, Progress] = {}

        def display(phase: str, make: Callable[[], contextlib.AbstractContextManager[Progress]]) -> Progress:
            if phase not in current:
                stack.close()
                current.clear()
                current[phase] = stack.enter_context(make())
            return current[phase]

        def on_progress(event: ProgressEvent, /) -> None:
            if event.stage == "training":
                step = dataclasses.replace(cast("TrainingStep", event.detail), power_watts=meter.power_watts())
                display("train", lambda: training_progress(cli))(dataclasses.replace(event, detail=step))
            elif event.stage == "evaluation":
                display("evaluate", lambda: progress_bar(cli, "Comparing"))(event)
            else:
                display("prepare", lambda: progress_bar(cli, "Preparing"))(event)

        try:
            return personalizer.train(on_progress, restart)
        except (KeyboardInterrupt, TerminatedError) as error:
            # Outside the steps, or by a second Ctrl-C: the training itself handles the first one between two steps.
            what, hint = _INTERRUPTED[next(iter(current), "prepare")]
            number = signal.SIGINT if isinstance(error, KeyboardInterrupt) else error.signal
            raise StoppedError(what, number, hint.format(run=cli.command("run"))) from None


def training_lines(cli: CommandContext, result: TrainResult) -> list[str]:
    """Return sentences about a training run and its evaluation."""
    report = result.report
    computed_share = (report.steps - report.resumed_from) / report.steps
    tokens_per_second = report.target_tokens * report.epochs * computed_share / report.elapsed_s
    lines = [
        f"Adapter {result.adapter.id}: {report.samples} samples, {report.steps} steps, mean loss "
        f"{report.epoch_losses[0]:.3f} in the first epoch, {report.epoch_losses[-1]:.3f} in the last, "
        f"{report.elapsed_s:.1f} s, {tokens_per_second:,.0f} target tokens/s, "
        f"peak memory {report.peak_memory_bytes / 1e9:.2f} GB{_estimate_text(report)}."
    ]
    if report.resumed_from == report.steps:
        lines.append("Its training had finished before, so nothing was trained again.")
    elif report.resumed_from:
        lines.append(f"Resumed from step {report.resumed_from}, where it had been interrupted.")
    lines += _pair_lines(report)
    lines += _excluded_lines(report)
    lines += [f"Note: {note}" for note in report.notes]
    lines.append(
        "For a plot of the losses, install matplotlib: pip install 'mlx-personal[plots]'"
        if result.plot is None
        else f"Plot of the losses: {result.plot}"
    )
    lines += forgetting_lines(report.forgetting)
    if result.evaluation is None and not result.has_effect:
        lines.append("The adapter is kept and not promoted.")
        return lines
    if result.evaluation is None:
        promote = cli.command("adapters", "promote", str(result.adapter.id))
        lines.append(
            "No annotated dialogue is held out yet, so the adapter was not compared with the base model and not "
            f"promoted; to use it: {promote}"
        )
        return lines
    lines += evaluation_lines(dataclasses.asdict(result.evaluation), f"Adapter {result.adapter.id}")
    lines += promotion_lines(cli, result.adapter.id, result)
    return lines


def promotion_lines(cli: CommandContext, adapter_id: int, result: PromotionResult) -> list[str]:
    """Return sentences on whether an adapter was promoted, and why, and on what answers from now on.

    Args:
        cli: The context of the command.
        adapter_id: Id of the adapter.
        result: The result of the promotion rule.
    """
    modes = None if result.evaluation is None else result.evaluation.modes
    if modes is None:
        return []
    baseline = "" if result.against_current == result.evaluation else f"Against {modes.in_use.text()}: "
    text = f"{baseline}{result.reason}."
    reason = _capital(text)
    kept = "it is kept and not promoted"
    if not modes.can_decide:
        promote = cli.command("adapters", "promote", str(adapter_id))
        outcome = "The adapter stays in use." if result.promoted else f"The adapter is kept; to use it: {promote}"
        return [f"{reason} {outcome}"]
    if result.promoted:
        return [reason, f"The adapter is promoted: {modes.best.text()} answers from now on."]
    if not result.has_effect:
        lines = [f"The adapter changes nothing: {kept}."]
    elif result.exceeds_forgetting:
        lines = [reason, f"The adapter exceeds `max_forgetting` of the settings: {kept}."]
    elif modes.best == modes.in_use:
        lines = [reason, f"The adapter is not better than what is in use: {kept}."]
    else:
        lines = [reason, f"The adapter is not the best: {kept}."]
    if modes.best != modes.in_use:
        lines.append(f"{_capital(modes.best.text())} is better than {modes.in_use.text()} and answers from now on.")
    return lines


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _show_result(console: Console, cli: CommandContext, result: TrainResult) -> None:
    from mlx_personal.finetune.plot import curves_of, loss_plot_text

    if result.report.steps > 1:
        console.print(loss_plot_text(curves_of(result.report), min(console.width, _PLOT_WIDTH), _PLOT_HEIGHT))
    print_lines(console, *training_lines(cli, result))


def _estimate_lines(estimate: TrainingEstimate) -> list[str]:
    """Return what `train --dry-run` prints."""
    plan = estimate.plan
    cache = f"in memory ({bytes_text(plan.cache_bytes)})" if plan.cache_bytes else "in a temporary file"
    layers = f"All {estimate.layers} layers are adapted; none is frozen."
    if estimate.frozen_layers:
        layers = (
            f"{estimate.frozen_layers} of {estimate.layers} layers are frozen and computed once per sample; "
            f"their output is cached {cache}."
        )
    lines = [
        f"{estimate.samples} samples, {estimate.replayed_samples} of them general ones, in {estimate.epochs} epochs of "
        f"{estimate.target_tokens:,} target tokens: {estimate.steps} steps."
    ]
    if estimate.pairs:
        pairs = counted(estimate.pairs, "preference pair")
        lines.append(f"Among the samples: {pairs}, for the objective {estimate.objective}.")
    if estimate.validation_samples:
        lines.append(f"{estimate.validation_samples} samples are held out to find the best epoch.")
    if estimate.general_samples:
        lines.append(f"{estimate.general_samples} general samples are held out to measure forgetting.")
    recomputed = ", each layer twice, to keep less of it in memory" if plan.gradient_checkpointing else ""
    return [
        *lines,
        *_excluded_lines(estimate),
        f"At most {plan.micro_batch_tokens:,} tokens are computed at once{recomputed}.",
        layers,
        f"Estimated peak memory: {_bytes_or_unknown(plan.estimated_peak_bytes)}, of "
        f"{_bytes_or_unknown(estimate.usable_memory_bytes)} usable and "
        f"{_bytes_or_unknown(estimate.machine_memory_bytes)} in the machine.",
        *(f"Note: {note}" for note in estimate.notes),
    ]


def _bytes_or_unknown(count: int | None) -> str:
    return "unknown" if count is None else bytes_text(count)


def _estimate_text(report: TrainingReport) -> str:
    """Return how far the peak memory was from its estimate."""
    estimate = report.estimated_memory_bytes
    if estimate is None:
        return ""
    return f" ({estimate / 1e9:.2f} GB estimated, {estimate / report.peak_memory_bytes - 1:+.0%})"


def _pair_lines(report: TrainingReport) -> list[str]:
    """Return a line about the rewards of preference pairs, under trl's names, if there are any."""
    if not report.rewards:
        return []
    texts = []
    for name in ("rewards/margins", "rewards/accuracies"):
        values = report.rewards[name]
        held_out = report.validation_rewards.get(f"eval_{name}", ())
        of_best = next((f", validation {value:.3f}" for step, value in held_out if step == report.best_step), "")
        texts.append(f"{name} {values[0]:.3f} in the first epoch, {values[-1]:.3f} in the last{of_best}")
    return [f"{counted(report.pairs, 'preference pair')}: {'; '.join(texts)}."]


def _excluded_lines(training: TrainingReport | TrainingEstimate) -> list[str]:
    """Return a line about samples that are dropped or truncated, if there are any."""
    parts = []
    if training.dropped_samples:
        parts.append(f"{training.dropped_samples} samples have no target and are dropped")
    if training.truncated_samples:
        parts.append(f"{training.truncated_samples} samples are too long and are truncated at the start")
    return [", ".join(parts) + "."] if parts else []
