"""`demo`: the whole loop on the embedded model and a bundled stream, without a network."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from mlx_personal.cli.context import Answer, Cli, answers, printable, terminal

if TYPE_CHECKING:
    from mlx_personal.demo import DemoResult

PROFILE = "demo"


@click.command()
@answers
def demo(cli: Cli) -> Answer:
    """Run the whole loop on a bundled stream, offline, and show what was learnt.

    It makes a profile named `demo` anew; afterwards `mlx-personal --profile demo chat` talks to it.
    """
    console = terminal()
    with cli.progress.status("Loading the embedded model") as status:

        def say(line: str) -> None:
            if not cli.as_json:
                console.print(line, soft_wrap=True)
            status.update("Working")

        from mlx_personal.demo import run_demo

        result = run_demo(cli.home.profile(PROFILE), say)
    data = dataclasses.asdict(result)
    del data["evaluation"], data["asked_again"]
    return Answer(data, lambda console: _show(console, result))


def _show(console: Console, result: DemoResult) -> None:
    table = Table("question", "before", "after", show_lines=True, title="The same questions, before and after")
    for row in result.asked_again:
        table.add_row(*(printable(text) for text in row))
    console.print(table)
    low, high = result.rouge1_gain_ci
    console.print(
        f"ROUGE-1 on dialogues never trained on: {result.rouge1_before:.3f} -> {result.rouge1_after:.3f}, gain "
        f"{result.rouge1_after - result.rouge1_before:+.3f} (95 % interval {low:+.3f} to {high:+.3f})"
    )
    console.print(", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in result.seconds.items()), soft_wrap=True)
    console.print(
        f"Peak memory {result.peak_memory_bytes / 1e6:.0f} MB. The adapter: {result.adapter_path}", soft_wrap=True
    )
    console.print("Go on: mlx-personal --profile demo chat")
