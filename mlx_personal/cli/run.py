"""`run`: run all pending steps that need no input."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import click

from mlx_personal.cli.context import CommandContext
from mlx_personal.cli.evaluation_table import evaluation_lines, forgetting_lines
from mlx_personal.cli.import_ import accepted_text, open_questions_text, run_scoring
from mlx_personal.cli.output import CommandResult, json_option
from mlx_personal.cli.progress import progress_bar
from mlx_personal.cli.synthesize import proposal_lines, run_proposals, run_synthesis, synthesis_text
from mlx_personal.cli.terminal import print_lines
from mlx_personal.cli.train import promotion_lines, run_training, training_lines
from mlx_personal.cli.watch import poll_data, poll_lines
from mlx_personal.reporting import counted


@click.command()
@json_option
def run(cli: CommandContext) -> CommandResult:
    """Run all pending steps: score, synthesize, train, evaluate.

    Before them, new conversations of watched folders are imported.
    An adapter that answers better than the one in use is promoted. Questions stay open for `review`.
    """
    done: dict[str, Any] = {}
    lines: list[str] = []
    with cli.open_profile() as personalizer:

        def is_pending(step: str) -> bool:
            return any(pending.step == step for pending in personalizer.pending_steps())

        with progress_bar(cli, "Reading", in_bytes=True) as on_progress:
            polls = [poll for poll in personalizer.poll_watched_folders(on_progress) if poll.changed or poll.problem]
        if polls:
            done["watch"] = [poll_data(poll) for poll in polls]
            lines += itertools.chain.from_iterable(map(poll_lines, polls))
        unscored = personalizer.unscored_count()
        decisions, accepted = run_scoring(cli, personalizer)
        if unscored:
            done["score"] = decisions
            lines.append(f"{counted(unscored, 'dialogue')} scored.")
        if accepted:
            done["accept"] = accepted
            lines.append(f"{accepted_text(accepted)}.")
        if is_pending("synthesize"):
            synthesis = run_synthesis(cli, personalizer)
            done["synthesize"] = dataclasses.asdict(synthesis)
            lines.append(synthesis_text(synthesis))
        proposals = run_proposals(cli, personalizer)
        if proposals.generated:
            done["questions"] = dataclasses.asdict(proposals)
            lines += proposal_lines(cli, proposals)
        if is_pending("train"):
            training = run_training(cli, personalizer)
            done["train"] = dataclasses.asdict(training)
            lines += training_lines(cli, training)
        if is_pending("evaluate"):
            with progress_bar(cli, "Comparing") as on_progress:
                adapter, promotion = personalizer.promote_pending(on_progress)
            evaluation = None if promotion.evaluation is None else dataclasses.asdict(promotion.evaluation)
            done["evaluate"] = {
                "adapter": adapter.id,
                "promoted": promotion.promoted,
                "reason": promotion.reason,
                "forgetting": promotion.forgetting,
                "evaluation": evaluation,
            }
            lines += forgetting_lines(promotion.forgetting)
            if evaluation is not None:
                lines += evaluation_lines(evaluation, f"Adapter {adapter.id}")
            lines += promotion_lines(cli, adapter.id, promotion)
        open_questions = personalizer.annotations.open_question_count()
    if not done:
        lines.append("No step is pending.")
    if open_questions:
        lines.append(open_questions_text(cli, open_questions))
    return CommandResult({"done": done, "open_questions": open_questions}, lambda console: print_lines(console, *lines))
