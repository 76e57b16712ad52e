"""`synthesize`: generate synthetic dialogues from the annotated ones."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from mlx_personal.cli.context import CommandContext
from mlx_personal.cli.output import CommandResult, json_option
from mlx_personal.cli.progress import progress_bar
from mlx_personal.cli.terminal import counts_text, print_lines

if TYPE_CHECKING:
    from mlx_personal.personalizer import Personalizer, SynthesisResult
    from mlx_personal.personalizer.question_proposals import ProposalResult


@click.command()
@click.option("--regenerate", is_flag=True, help="Generate for all annotated dialogues, not only for the new ones.")
@click.option("--recalibrate", is_flag=True, help="Find the prompt style again that works with the base model.")
@click.option(
    "--questions",
    type=click.IntRange(0, 100),
    help="Propose this many new questions for `review`.  [default: the setting synthesis.questions]",
)
@json_option
def synthesize(cli: CommandContext, regenerate: bool, recalibrate: bool, questions: int | None) -> CommandResult:
    """Generate synthetic dialogues from the annotated ones.

    The model rewrites each annotated dialogue several times; the rewrites that pass the checks are trained on too. The
    first time, the prompt style that works with the base model is found on a few dialogues. On request, the model also
    proposes questions that you might ask, which `review` lets you answer or reject.
    """
    with cli.open_profile() as personalizer:
        result = run_synthesis(cli, personalizer, regenerate, recalibrate)
        proposals = run_proposals(cli, personalizer, questions)
    lines = [synthesis_text(result), *proposal_lines(cli, proposals)]
    data = {**dataclasses.asdict(result), "questions": dataclasses.asdict(proposals)}
    return CommandResult(data, lambda console: print_lines(console, *lines))


def run_synthesis(
    cli: CommandContext, personalizer: Personalizer, regenerate: bool = False, recalibrate: bool = False
) -> SynthesisResult:
    """Generate the synthetic dialogues under a progress bar."""
    with progress_bar(cli, "Rewriting") as on_progress:
        return personalizer.synthesize(on_progress, regenerate, recalibrate)


def run_proposals(cli: CommandContext, personalizer: Personalizer, count: int | None = None) -> ProposalResult:
    """Propose questions under a progress bar; without a number, as many as the settings want."""
    with progress_bar(cli, "Proposing questions") as on_progress:
        return personalizer.propose_questions(count, on_progress)


def proposal_lines(cli: CommandContext, result: ProposalResult) -> list[str]:
    """Return a sentence about proposed questions, if any were wanted."""
    if result.needed:
        return [f"No questions were proposed: the model needs {result.needed} more annotated questions of yours."]
    if not result.generated:
        return []
    if not result.proposed:
        return [f"None of {result.generated} generated questions could be proposed ({counts_text(result.dropped)})."]
    return [f"{result.proposed} questions are proposed; answer or reject them with {cli.command('review')}"]


def synthesis_text(result: SynthesisResult) -> str:
    """Return a sentence about the result of a synthesis."""
    if not result.dialogues:
        return "Every annotated dialogue was rewritten already."
    if not result.kept:
        return (
            f"None of {result.generated} rewrites could be kept ({counts_text(result.dropped, 'none drawn')}). Prompt "
            f"style: {result.style}. You can train without synthetic dialogues; a larger instruction-tuned base model "
            "would write them."
        )
    dropped = counts_text(result.dropped, "none dropped")
    return (
        f"{result.dialogues} dialogues rewritten: {result.kept} of {result.wanted} wanted rewrites kept, "
        f"{result.generated} drawn ({dropped}). Prompt style: {result.style}."
    )
