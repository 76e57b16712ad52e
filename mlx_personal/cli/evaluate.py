"""`evaluate`: compare an adapter with the base model on held-out dialogues."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from mlx_personal.cli.context import ID, CommandContext
from mlx_personal.cli.output import CommandResult, json_option, print_lines
from mlx_personal.cli.progress import progress_bar
from mlx_personal.errors import Action, UserError

if TYPE_CHECKING:
    from rich.console import Console


@click.command()
@click.argument("adapter_id", type=ID, required=False)
@json_option
def evaluate(cli: CommandContext, adapter_id: int | None) -> CommandResult:
    """Compare an adapter with the base model on held-out dialogues.

    Without ADAPTER_ID, the promoted adapter is compared.
    """
    with cli.open_profile() as personalizer:
        adapters = personalizer.adapters
        adapter = adapters.promoted() if adapter_id is None else adapters.get(adapter_id)
        if adapter is None:
            raise UserError("no adapter is promoted", personalizer.folder, "name one", remedy=Action.LIST_ADAPTERS)
        with progress_bar(cli, "Comparing") as on_progress:
            result = personalizer.evaluate(adapter, on_progress)
    evaluation = None if result is None else dataclasses.asdict(result)

    def show(console: Console) -> None:
        if evaluation is None:
            print_lines(
                console,
                "No annotated dialogue is held out yet; about one in ten will be. "
                f"Annotate more with {cli.command('review')}",
            )
        else:
            print_lines(console, f"adapter {adapter.id} against the base model: {evaluation_text(evaluation)}")

    data = {"adapter": adapter.id, "evaluation": evaluation}
    return CommandResult(data, show, exit_code=0 if evaluation is not None else 1)


def evaluation_text(evaluation: Mapping[str, Any]) -> str:
    """Return ROUGE-1 and ROUGE-L before and after, with the interval of the gain.

    Args:
        evaluation: An evaluation as it is stored with an adapter.
    """
    rouge1, rouge_l = evaluation["rouge1"], evaluation["rougeL"]
    return (
        f"ROUGE-1 {rouge1['before']:.3f} -> {rouge1['after']:.3f} (gain {rouge1['gain']:+.3f}, 95 % interval "
        f"{rouge1['low']:+.3f} to {rouge1['high']:+.3f}), ROUGE-L {rouge_l['before']:.3f} -> {rouge_l['after']:.3f}, "
        f"on {evaluation['n']} held-out dialogues"
    )
