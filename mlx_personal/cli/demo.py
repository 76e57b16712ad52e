"""`demo`: run the whole loop on the embedded model and bundled dialogues, offline."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from mlx_personal.cli.context import CommandContext
from mlx_personal.cli.output import CommandResult, json_option, make_console, print_lines, printable
from mlx_personal.cli.progress import show_status
from mlx_personal.cli.remedies import ProfileOptions
from mlx_personal.progress import ProgressEvent

if TYPE_CHECKING:
    from rich.console import Console

    from mlx_personal.demo import DemoResult

_PROFILE = "demo"


@click.command()
@json_option
def demo(cli: CommandContext) -> CommandResult:
    """Run the whole loop on bundled dialogues, offline.

    Creates the profile `demo`, in place of one of an earlier run. Afterwards you can chat with the personalized model:
    mlx-personal --profile demo chat
    """
    console = make_console()
    with show_status(cli, "Loading the embedded model") as status:

        def on_progress(event: ProgressEvent, /) -> None:
            if not cli.as_json:
                print_lines(console, str(event.detail))
            status.update("Working")

        from mlx_personal.demo import run_demo

        result = run_demo(cli.home.profile(_PROFILE), on_progress)
    data = dataclasses.asdict(result)
    del data["evaluation"], data["asked_again"]
    chat = ProfileOptions(_PROFILE, cli.profile_options.home_folder).command("chat")
    return CommandResult(data, lambda console: _show_result(console, result, chat))


def _show_result(console: Console, result: DemoResult, chat: str) -> None:
    from rich.table import Table

    table = Table("question", "before", "after", show_lines=True, title="The same questions, before and after")
    for row in result.asked_again:
        table.add_row(*(printable(text) for text in row))
    console.print(table)
    low, high = result.rouge1_gain_ci
    print_lines(
        console,
        f"ROUGE-1 on held-out dialogues: {result.rouge1_before:.3f} -> {result.rouge1_after:.3f}, gain "
        f"{result.rouge1_after - result.rouge1_before:+.3f} (95 % interval {low:+.3f} to {high:+.3f})",
        ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in result.seconds.items()),
        f"Peak memory {result.peak_memory_bytes / 1e6:.0f} MB. The adapter: {result.adapter_path}",
        f"Next: {chat}",
    )
