"""`lamp`: download the LaMP benchmark, run methods on its users, and make tables of the results."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import click

from mlx_personal.cli.context import MAC_MODEL, CommandContext
from mlx_personal.cli.output import CommandResult, json_option
from mlx_personal.cli.progress import progress_bar, progress_bar_or_lines
from mlx_personal.cli.server_options import make_server, request_message, without_field_option
from mlx_personal.cli.terminal import print_lines
from mlx_personal.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from mlx_personal.augmentation.server import Server
    from mlx_personal.research.lamp import LampResult
    from mlx_personal.research.lamp.download import Split
    from mlx_personal.research.lamp.lamp_config import LampConfig

# Repeats names of `research.lamp`, because importing that package would import MLX.
_TASKS: Final = ("1", "2N", "2M", "3", "4", "5", "7")
_SPLITS: Final = ("train", "dev", "test")
_METHODS: Final = (
    "non-personalized, majority, random, recency, bm25, profile, oppu, oppu+bm25, cdcda, cdcda+bm25, cdcda-no-FILTER, "
    "cloud; bm25:1 has one item in the prompt, bm25 four"
)
_PATH: Final = click.Path(path_type=Path)


@click.group()
def lamp() -> None:
    """Run the LaMP benchmark with one adapter for each user.

    The adapters are compared with prompts that contain items of the user, such as earlier reviews.
    """


@lamp.command()
@click.argument("folder", type=_PATH)
@click.option(
    "--task",
    "tasks",
    multiple=True,
    default=_TASKS,
    metavar="TASK",
    help=f"One of {', '.join(_TASKS)}; can be given more than once.  [default: all]",
)
@click.option("--split", type=click.Choice(_SPLITS), default="dev", show_default=True, help="Split to download.")
@click.option("--by-time", is_flag=True, help="Use the time-based splits instead of the user-based ones.")
@json_option
def download(cli: CommandContext, folder: Path, tasks: tuple[str, ...], split: str, by_time: bool) -> CommandResult:
    """Download the files of LaMP into FOLDER.

    Existing files are not downloaded again.
    """
    from mlx_personal.research.lamp.download import download_split
    from mlx_personal.research.lamp.tasks import get_task

    written = []
    for name in tasks:
        with progress_bar(cli, f"LaMP-{name}") as on_progress:
            written += download_split(
                get_task(name), cast("Split", split), folder, by_time=by_time, on_progress=on_progress
            )
    files = [str(path) for path in written]
    return CommandResult({"files": files}, lambda console: print_lines(console, *files))


@lamp.command()
@click.option("--task", required=True, metavar="TASK", help=f"One of {', '.join(_TASKS)}.")
@click.option(
    "--questions",
    type=_PATH,
    required=True,
    metavar="FILE",
    help="LaMP's questions, alone or with their outputs, or OPPU's user_top_100_history.json.",
)
@click.option(
    "--outputs", type=_PATH, metavar="FILE", help="LaMP's outputs, where the file of questions does not contain them."
)
@click.option("--method", "methods", required=True, metavar="NAME,...", help=f"Methods, among {_METHODS}.")
@click.option("--model", default=MAC_MODEL, show_default=True, metavar="REPO_OR_PATH", help="Base model.")
@click.option("--users", type=click.IntRange(1), help="Number of users, from the first in the file.  [default: all]")
@click.option(
    "--others",
    type=_PATH,
    metavar="FILE",
    help="Questions of other users, on which OPPU's task adapter is trained first.",
)
@click.option("--others-outputs", type=_PATH, metavar="FILE", help="Outputs for the questions of other users.")
@click.option("--server", metavar="URL", help="URL of an OpenAI-compatible endpoint, for cdcda and cloud.")
@click.option("--server-model", metavar="NAME", help="Name of the server's model.")
@click.option("--key-env", metavar="VARIABLE", help="Environment variable that holds the server's API key.")
@click.option(
    "--token-budget", type=click.IntRange(1), help="Maximum tokens that the server may bill.  [default: no limit]"
)
@click.option(
    "--max-tokens",
    type=click.IntRange(1),
    help="Maximum tokens of a server's response, its reasoning included.  [default: 512; --answer-tokens for cloud]",
)
@without_field_option
@click.option(
    "--synthetic", type=click.IntRange(1, 10_000), help="Synthetic items to request for each user.  [default: 20]"
)
@click.option(
    "--synthetic-weight",
    type=click.FloatRange(0, 1, min_open=True),
    help="Weight of a synthetic item in the loss; a real one weighs 1.  [default: 0.5]",
)
@click.option("--demonstrations", type=click.IntRange(1, 100), help="Items of the user in each request.  [default: 4]")
@click.option("--redact", multiple=True, metavar="WORD", help="Word that is never sent; can be given more than once.")
@click.option("--choose", is_flag=True, help="Answer with the most likely label instead of generated text.")
@click.option("--max-length", type=click.IntRange(1), help="Maximum tokens of an input with items.  [default: 512]")
@click.option("--answer-tokens", type=click.IntRange(1), help="Maximum tokens of an answer.  [default: 128]")
@click.option("--epochs", type=click.IntRange(1), help="Number of epochs.  [default: 2, as in OPPU]")
@click.option(
    "--learning-rate", type=click.FloatRange(0, min_open=True), help="Learning rate.  [default: 1e-4, as in OPPU]"
)
@click.option("--batch-size", type=click.IntRange(1), help="Batch size.  [default: 16, as in OPPU]")
@click.option("--num-layers", type=click.IntRange(1), help="Number of layers to adapt, from the last.  [default: all]")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Random seed.")
@click.option(
    "--out", type=_PATH, metavar="FOLDER", help="Output folder.  [default: lamp/ in the folder of all profiles]"
)
@click.option("--workers", type=click.IntRange(1), help="Worker processes.  [default: one per core]")
@click.option("--ray", metavar="ADDRESS", help="Run on this Ray cluster (extra `cluster`).")
@json_option
def run(
    cli: CommandContext,
    task: str,
    questions: Path,
    outputs: Path | None,
    methods: str,
    model: str,
    users: int | None,
    others: Path | None,
    others_outputs: Path | None,
    token_budget: int | None,
    seed: int,
    out: Path | None,
    workers: int | None,
    ray: str | None,
    **settings: Any,
) -> CommandResult:
    """Answer the users' queries by each method and score the answers.

    The same command resumes an interrupted run and computes only what is missing. The folder receives report.md,
    results.jsonl, from which the report can be made again and which has no texts, and the predictions in LaMP's own
    format. Without a server, the base model writes the synthetic items of cdcda itself.
    """
    from mlx_personal.research.lamp import LampSpec, run_lamp
    from mlx_personal.research.lamp.lamp_folder import LampFolder
    from mlx_personal.research.lamp.lamp_report import file_remarks, method_rows, method_tables

    folder = out or cli.home.folder / "lamp"
    spec = LampSpec(
        task=task,
        methods=[name.strip() for name in methods.split(",") if name.strip()],
        model=model,
        questions=questions,
        outputs=outputs,
        num_users=users,
        others=others,
        others_outputs=others_outputs,
        server=_make_server(settings, token_budget),
        token_budget=token_budget,
        server_answer_tokens=settings["max_tokens"],
        config=_make_config(settings, seed),
    )
    with progress_bar_or_lines(cli) as on_progress:
        result = run_lamp(folder, spec, workers, ray, on_progress)
    setting = LampFolder(folder).settings[result.setting]
    rows = method_rows(setting)
    tables = method_tables(setting.task, rows) if rows else ""
    data = {
        "folder": str(folder),
        "found": result.num_stored,
        "ran": result.num_computed,
        "failed": [{"user": user, "error": error} for user, error in result.failed],
        "unanswered": result.num_unanswered,
        "message": result.message,
        "server_tokens": result.server_tokens,
        "files": dataclasses.asdict(result.counts),
        "methods": [row.to_json() for row in rows],
    }
    return CommandResult(
        data,
        lambda console: _show_result(console, result, file_remarks(result.counts), tables, folder),
        exit_code=1 if result.failed or result.num_unanswered else 0,
    )


@lamp.command()
@click.argument("path", type=_PATH, required=False)
@click.option("--out", type=_PATH, metavar="FILE", help="Also write the tables to this file.")
@json_option
def report(cli: CommandContext, path: Path | None, out: Path | None) -> CommandResult:
    """Make tables of all results in PATH: the folder of a run, or its results.jsonl.

    Without PATH, the default output folder of `run` is read.
    """
    from mlx_personal.research.lamp.lamp_folder import LampFolder
    from mlx_personal.research.lamp.lamp_report import write_report

    text = write_report(LampFolder(path or cli.home.folder / "lamp"), out)
    return CommandResult({"markdown": text}, lambda console: print_lines(console, text))


def _make_server(settings: Mapping[str, Any], token_budget: int | None) -> Server | None:
    url, name, key_variable = settings["server"], settings["server_model"], settings["key_env"]
    max_tokens, without_fields = settings["max_tokens"], settings["without_field"]
    if url is None:
        if any(value is not None for value in (name, key_variable, token_budget, max_tokens)) or without_fields:
            raise click.UsageError(
                "--server-model, --key-env, --token-budget, --max-tokens and --without-field need --server"
            )
        return None
    if name is None:
        raise click.UsageError("--server needs --server-model")
    return make_server(url, name, key_variable, max_tokens=max_tokens, without_fields=without_fields)


def _make_config(settings: Mapping[str, Any], seed: int) -> LampConfig:
    """Return the settings that were given as options, and the defaults for the others."""
    from mlx_personal.augmentation.config import AugmentConfig
    from mlx_personal.research.lamp.lamp_config import OPPU_TRAINING, LampConfig

    def fields_from(**fields: str) -> dict[str, Any]:
        return {field: settings[option] for field, option in fields.items() if settings[option] is not None}

    training = fields_from(
        epochs="epochs", learning_rate="learning_rate", batch_size="batch_size", num_layers="num_layers"
    )
    augment = fields_from(
        num_synthetic="synthetic",
        num_demonstrations="demonstrations",
        redacted_words="redact",
        synthetic_weight="synthetic_weight",
    )
    try:
        return LampConfig(
            choose_label=settings["choose"],
            augment=AugmentConfig(
                training=dataclasses.replace(OPPU_TRAINING, seed=seed, **training), seed=seed, **augment
            ),
            seed=seed,
            **fields_from(max_length="max_length", answer_tokens="answer_tokens"),
        )
    except ValueError as error:
        raise UserError(str(error), hint="change that setting") from error


def _show_result(console: Console, result: LampResult, remarks: Sequence[str], tables: str, folder: Path) -> None:
    print_lines(
        console,
        *remarks,
        f"{result.num_computed} results computed, {result.num_stored} stored already.",
        *(f"failed: {user}: {error}" for user, error in result.failed),
    )
    if result.message is not None:
        print_lines(console, request_message(result.message, result.remedy))
    if result.num_unanswered:
        print_lines(
            console,
            f"{result.num_unanswered} results lack responses of the server; run the same command again for them.",
        )
    print_lines(console, f"\n{tables}", f"Predictions in LaMP's format: {folder / 'predictions'}")
