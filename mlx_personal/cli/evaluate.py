"""`evaluate`: compare an adapter with the base model on held-out dialogues."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlx_personal.cli.context import ID, CommandContext
from mlx_personal.cli.evaluation_table import evaluation_lines, forgetting_lines
from mlx_personal.cli.output import CommandResult, json_option
from mlx_personal.cli.progress import progress_bar
from mlx_personal.cli.terminal import print_lines, print_notice
from mlx_personal.errors import Action, UserError

if TYPE_CHECKING:
    from rich.console import Console

    from mlx_personal.profile import AdapterRow


@click.command()
@click.argument("adapter_id", type=ID, required=False)
@click.option(
    "--adapter-path",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Compare this adapter in mlx-lm's format, which is not stored in the profile.",
)
@json_option
def evaluate(cli: CommandContext, adapter_id: int | None, adapter_path: Path | None) -> CommandResult:
    """Compare an adapter with the base model on held-out dialogues.

    Without ADAPTER_ID, the promoted adapter is compared. Answers are greedy, whatever the settings of `chat` are. With
    `memory.use = "auto"` the adapter is compared with and without memory. Nothing is stored or promoted.
    """
    from mlx_personal.models.adapter_folder import adapter_changes_nothing

    if adapter_id is not None and adapter_path is not None:
        raise click.UsageError("give ADAPTER_ID or --adapter-path, not both")
    with cli.open_profile() as personalizer:
        adapters = personalizer.adapters
        adapter: AdapterRow | Path | None = adapter_path
        if adapter_path is None:
            adapter = adapters.promoted() if adapter_id is None else adapters.get(adapter_id)
        if adapter is None:
            raise UserError("no adapter is promoted", personalizer.folder, "name one", remedy=Action.LIST_ADAPTERS)
        if adapter_path is not None and adapter_changes_nothing(personalizer.adapted_model(adapter_path).model):
            print_notice(f"{adapter_path}: this adapter changes nothing: all its updates are zero")
        with progress_bar(cli, "Comparing") as on_progress:
            result = personalizer.evaluate(adapter, on_progress)
        forgetting = None if isinstance(adapter, Path) else adapters.forgetting(adapter)
    name = f"The adapter in {adapter}" if isinstance(adapter, Path) else f"Adapter {adapter.id}"
    evaluation = None if result is None else dataclasses.asdict(result)

    def show(console: Console) -> None:
        if evaluation is None:
            print_lines(
                console,
                "No annotated dialogue is held out yet; about one in ten will be. "
                f"Annotate more with {cli.command('review')}",
            )
        else:
            print_lines(console, *evaluation_lines(evaluation, name), *forgetting_lines(forgetting))

    data = {
        "adapter": None if isinstance(adapter, Path) else adapter.id,
        "adapter_path": None if adapter_path is None else str(adapter_path),
        "forgetting": forgetting,
        "evaluation": evaluation,
    }
    return CommandResult(data, show, exit_code=0 if evaluation is not None else 1)
