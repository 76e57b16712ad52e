"""`demo`: run the whole loop on bundled dialogues, on the embedded model or on one's own, offline."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
from typing import TYPE_CHECKING

import click

from mlx_personal.cli.context import CommandContext
from mlx_personal.cli.output import CommandResult, json_option
from mlx_personal.cli.progress import progress_bar_or_lines
from mlx_personal.cli.remedies import ProfileOptions
from mlx_personal.cli.terminal import make_console, print_lines, printable
from mlx_personal.errors import StoppedError
from mlx_personal.progress import Progress, ProgressEvent

if TYPE_CHECKING:
    from rich.console import Console

    from mlx_personal.demo import DemoResult
    from mlx_personal.evaluation import Evaluation

_PROFILE = "demo"


@click.command()
@click.option(
    "--model",
    metavar="NAME",
    help="Chat model to run it on, named as for `init`.  [default: the embedded model]",
)
@click.option(
    "--memory",
    is_flag=True,
    help="Compare answers with the nearest kept dialogues as examples too, and use the better.",
)
@json_option
def demo(cli: CommandContext, model: str | None, memory: bool) -> CommandResult:
    """Run the whole loop on bundled dialogues, offline.

    Creates the profile `demo`, in place of one of an earlier run. Afterwards you can chat with the personalized model:
    mlx-personal --profile demo chat
    """
    from mlx_personal.models.model_names import DEMO_MODEL

    result = _run(cli, DEMO_MODEL if model is None else model, memory)
    data = dataclasses.asdict(result)
    del data["evaluation"], data["asked_again"]
    options = ProfileOptions(_PROFILE, cli.profile_options.home_folder)
    next_steps = f"Next: {options.command('chat')}; all metrics: {options.command('evaluate')}"
    return CommandResult(data, lambda console: _show_result(console, result, next_steps))


def _run(cli: CommandContext, model: str, memory: bool) -> DemoResult:
    """Run the demo, with its progress on standard error and a line of text on standard output after each step."""
    from mlx_personal.runtime.signals import TerminatedError, terminate_immediately

    console = make_console()
    with terminate_immediately(), contextlib.ExitStack() as display:
        shown: list[Progress] = []

        def show_progress(event: ProgressEvent) -> None:
            if not shown:
                shown.append(display.enter_context(progress_bar_or_lines(cli)))
            shown[0](event)

        def on_progress(event: ProgressEvent, /) -> None:
            if not isinstance(event.detail, str):
                show_progress(event)
                return
            # A line that is printed while a bar is shown would be overwritten by it.
            display.close()
            shown.clear()
            if not cli.as_json:
                print_lines(console, event.detail)
            if cli.shows_progress:
                show_progress(ProgressEvent("working", 0, None))

        if cli.shows_progress:
            show_progress(ProgressEvent("loading", 0, None))
        try:
            from mlx_personal.demo import run_demo

            return run_demo(cli.home.profile(_PROFILE), model, on_progress, memory=memory)
        except (KeyboardInterrupt, TerminatedError, StoppedError) as error:
            number = signal.SIGINT if isinstance(error, KeyboardInterrupt) else error.signal
            hint = "its profile holds what was done so far; the same command runs it again from the beginning"
            raise StoppedError("the demo was stopped", number, hint) from None


def _show_result(console: Console, result: DemoResult, next_steps: str) -> None:
    from rich.table import Table

    from mlx_personal.demo.settings import MAX_ANSWER_TOKENS

    title = f"The same questions, before and after (answers of at most {MAX_ANSWER_TOKENS} tokens)"
    table = Table("question", "before", "after", show_lines=True, title=title)
    for row in result.asked_again:
        table.add_row(*(printable(text) for text in row))
    console.print(table)
    low, high = result.rouge1_gain_ci
    print_lines(
        console,
        f"ROUGE-1 on held-out dialogues: {result.rouge1_before:.3f} -> {result.rouge1_after:.3f}, gain "
        f"{result.rouge1_after - result.rouge1_before:+.3f} (95 % interval {low:+.3f} to {high:+.3f})",
        *_other_metrics(result.evaluation),
        *_mode_lines(result.evaluation),
        ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in result.seconds.items()),
        f"Peak memory {result.peak_memory_bytes / 1e6:.0f} MB. The adapter: {result.adapter_path}",
        next_steps,
    )


def _mode_lines(evaluation: Evaluation) -> list[str]:
    """Return the table of what answers with and without memory, if both were compared."""
    from mlx_personal.cli.evaluation_table import mode_lines

    modes = evaluation.modes
    is_compared = modes is not None and any(result.mode.uses_memory for result in modes.results)
    return mode_lines(dataclasses.asdict(modes)) if modes is not None and is_compared else []


def _other_metrics(evaluation: Evaluation) -> list[str]:
    """Return a line about each metric that shows more than the style of the answers."""
    lines = []
    if (constant := evaluation.constant_answer) is not None:
        lines.append(f"ROUGE-1 of one typical answer given to every question: {constant.rouge1.before:.3f}")
    if (likelihood := evaluation.log_likelihood) is not None:
        lines.append(
            f"Log-likelihood of the preferred answers: {likelihood.before:.2f} -> {likelihood.after:.2f} nats a token"
        )
    if (choice := evaluation.choice) is not None:
        lines.append(
            f"The preferred answer found among {choice.choices}, by likelihood: {choice.top1.before:.0%} -> "
            f"{choice.top1.after:.0%} (chance {choice.chance_top1:.0%})"
        )
    return lines
