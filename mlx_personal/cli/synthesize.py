"""`synthesize`: generate synthetic dialogues from the annotated ones."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from mlx_personal.cli.context import CommandContext
from mlx_personal.cli.output import CommandResult, counts_text, json_option, print_lines
from mlx_personal.cli.progress import progress_bar

if TYPE_CHECKING:
    from mlx_personal.personalizer import Personalizer, SynthesisResult


@click.command()
@click.option("--regenerate", is_flag=True, help="Generate for all annotated dialogues, not only for the new ones.")
@json_option
def synthesize(cli: CommandContext, regenerate: bool) -> CommandResult:
    """Generate synthetic dialogues from the annotated ones.

    The model rewrites each annotated dialogue several times; the rewrites that pass the filters are trained on too.
    """
    with cli.open_profile() as personalizer:
        result = run_synthesis(cli, personalizer, regenerate)
    return CommandResult(dataclasses.asdict(result), lambda console: print_lines(console, synthesis_text(result)))


def run_synthesis(cli: CommandContext, personalizer: Personalizer, regenerate: bool = False) -> SynthesisResult:
    """Generate the synthetic dialogues under a progress bar."""
    with progress_bar(cli, "Rewriting") as on_progress:
        return personalizer.synthesize(on_progress, regenerate)


def synthesis_text(result: SynthesisResult) -> str:
    """Return a sentence about the result of a synthesis."""
    if not result.dialogues:
        return "Every annotated dialogue has synthetic dialogues already."
    if not result.kept:
        return (
            f"None of {result.generated} rewrites could be kept: this model does not follow the instruction to "
            "rewrite. You can train without synthetic dialogues; an instruction-tuned base model would write them."
        )
    dropped = counts_text(result.dropped, "none dropped")
    return f"{result.dialogues} dialogues rewritten: {result.kept} of {result.generated} rewrites kept ({dropped})."
