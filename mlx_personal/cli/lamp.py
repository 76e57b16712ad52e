"""`lamp`: the LaMP benchmark on its own files: get them, run methods on their users, and make tables of it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import click
from rich.console import Console

from mlx_personal.cli.context import Answer, Cli, answers, printable
from mlx_personal.cli.profile import MAC_MODEL
from mlx_personal.cli.server_options import server_named
from mlx_personal.errors import UserError
from mlx_personal.progress import Progress, ProgressEvent

if TYPE_CHECKING:
    from mlx_personal.augmentation.server import Server
    from mlx_personal.research.lamp import Outcome

# Those of the room's tasks and splits, which loads the model libraries: `--help` does not wait for them.
_TASKS: Final = ("1", "2N", "2M", "3", "4", "5", "7")
_SPLITS: Final = ("train", "dev", "test")
_METHODS: Final = (
    "non-personalised, random, recency, bm25, profile, oppu, oppu+bm25, cdcda, cdcda+bm25, cdcda-no-FILTER, cloud; "
    "bm25:1 has one item in the prompt, bm25 four"
)
_PATH: Final = click.Path(path_type=Path)
# Seconds between two lines of progress where there is no terminal.
_SECONDS: Final = 10


@click.group()
def lamp() -> None:
    """Run the LaMP benchmark: one adapter a user, beside prompts with the user's items."""


@lamp.command()
@click.argument("folder", type=_PATH)
@click.option("--task", "tasks", multiple=True, default=_TASKS, metavar="TASK", help="May be given more than once.")
@click.option("--split", type=click.Choice(_SPLITS), default="dev", show_default=True)
@click.option("--by-time", is_flag=True, help="The split by time: the same users, earlier and later.")
@answers
def download(cli: Cli, folder: Path, tasks: tuple[str, ...], split: str, by_time: bool) -> Answer:
    """Fetch LaMP's files into FOLDER; those that are there already are not fetched again."""
    from mlx_personal.research.lamp.download import download as fetch
    from mlx_personal.research.lamp.tasks import task_named

    written = []
    for name in tasks:
        with cli.bar(f"LaMP-{name}") as progress:
            written += fetch(
                task_named(name),
                cast(Any, split),
                folder,
                by_time=by_time,
                on_progress=progress,
            )
    files = [str(path) for path in written]
    return Answer({"files": files}, lambda console: console.print(printable("\n".join(files)), soft_wrap=True))


@lamp.command()
@click.option("--task", required=True, metavar="TASK", help=f"One of {', '.join(_TASKS)}.")
@click.option("--questions", type=_PATH, required=True, help="LaMP's questions, or OPPU's user_top_100_history.json.")
@click.option("--outputs", type=_PATH, help="LaMP's outputs that belong to them; OPPU's file has them in it.")
@click.option("--method", "methods", required=True, metavar="NAME,...", help=f"Some of {_METHODS}.")
@click.option("--model", default=MAC_MODEL, show_default=True, metavar="NAME_OR_PATH", help="The device's base model.")
@click.option("--users", type=click.IntRange(1), help="The first so many of the file.  [default: all]")
@click.option("--others", type=_PATH, help="Questions of other users, to train a task adapter on first (OPPU).")
@click.option("--others-outputs", type=_PATH, help="The outputs that belong to those.")
@click.option("--server", metavar="URL", help="An OpenAI-compatible server, for cdcda and cloud.")
@click.option("--server-model", metavar="NAME", help="The model's name there.")
@click.option("--key-env", metavar="VARIABLE", help="The environment variable that holds the server's key.")
@click.option("--token-budget", type=click.IntRange(1), help="Most tokens that the server may cost.")
@click.option("--synthetic", type=click.IntRange(1, 10_000), help="Synthetic items that are asked for, a user.")
@click.option("--synthetic-weight", type=click.FloatRange(0, 1, min_open=True), help="Of one, where a real item has 1.")
@click.option("--demonstrations", type=click.IntRange(1, 100), help="The user's items in each prompt to the server.")
@click.option("--own-word", "own_words", multiple=True, metavar="WORD", help="A name or word that never leaves.")
@click.option("--choose", is_flag=True, help="Take the likeliest label instead of what the model writes.")
@click.option("--max-length", type=click.IntRange(1), help="Tokens of an input with items in it.  [default: 512]")
@click.option("--answer-tokens", type=click.IntRange(1), help="The longest answer.  [default: 128]")
@click.option("--epochs", type=click.IntRange(1), help="Of each user's adapter.  [default: OPPU's 2]")
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True), help="[default: OPPU's 1e-4]")
@click.option("--batch-size", type=click.IntRange(1), help="[default: OPPU's 16]")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True)
@click.option("--out", type=_PATH, help="The run's folder.  [default: lamp/ in the folder of all profiles]")
@click.option("--workers", type=click.IntRange(1), help="Processes on this machine.  [default: one a core]")
@click.option("--ray", metavar="ADDRESS", help="Run on this Ray cluster instead (extra `cluster`).")
@answers
def run(
    cli: Cli,
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
) -> Answer:
    """Answer the users' queries by every method, and score them.

    The same command goes on after an interruption, and does only what is new. Predictions are written in LaMP's own
    form beside. Without a server the base model writes the synthetic items of cdcda itself.
    """
    from mlx_personal.research.lamp import Request, run_lamp
    from mlx_personal.research.lamp.lamp_database import Records
    from mlx_personal.research.lamp.lamp_report import markdown, rows
    from mlx_personal.research.lamp.tasks import task_named

    folder = out or cli.home.folder / "lamp"
    request = Request(
        task=task,
        methods=[name.strip() for name in methods.split(",") if name.strip()],
        model=model,
        questions=questions,
        outputs=outputs,
        users=users,
        others=others,
        others_outputs=others_outputs,
        server=_server(settings, token_budget),
        token_budget=token_budget,
        config=_config(settings, seed),
    )
    with _progress(cli) as on_progress:
        done = run_lamp(folder, request, workers, ray, on_progress)
    with Records(folder) as records:
        found = rows(task_named(task), records.results(done.setting))
    text = markdown(task_named(task), found) if found else ""
    data = {
        "folder": str(folder),
        "found": done.found,
        "ran": done.ran,
        "failed": [{"user": user, "error": error} for user, error in done.failed],
        "unanswered": done.unanswered,
        "message": done.message,
        "server_tokens": done.server_tokens,
        "files": dataclasses.asdict(done.counts),
        "methods": [dataclasses.asdict(row) for row in found],
    }
    status = 1 if done.failed or done.unanswered else 0
    return Answer(data, lambda console: _show(console, done, text, folder), status)


@lamp.command()
@click.argument("folder", type=_PATH, required=False)
@click.option("--out", type=_PATH, help="Keep the tables in this file, too.")
@answers
def report(cli: Cli, folder: Path | None, out: Path | None) -> Answer:
    """Make tables of all that was run in FOLDER."""
    from mlx_personal.research.lamp.lamp_database import Records
    from mlx_personal.research.lamp.lamp_report import write_report

    with Records(folder or cli.home.folder / "lamp") as records:
        text = write_report(records, out)
    return Answer({"markdown": text}, lambda console: console.print(printable(text), soft_wrap=True))


def _server(settings: dict[str, Any], token_budget: int | None) -> Server | None:
    url, name, variable = settings["server"], settings["server_model"], settings["key_env"]
    if url is None:
        if name is not None or variable is not None or token_budget is not None:
            raise click.UsageError("--server-model, --key-env and --token-budget go with --server")
        return None
    if name is None:
        raise click.UsageError("--server needs --server-model")
    return server_named(url, name, variable)


def _config(settings: dict[str, Any], seed: int) -> Any:
    """The settings that were given over the defaults; UserError for one that makes no sense."""
    from mlx_personal.augmentation.config import AugmentConfig
    from mlx_personal.research.lamp.run_config import OPPU, RunConfig

    def given(*names: str, **renamed: str) -> dict[str, Any]:
        wanted = {**{name: name for name in names}, **renamed}
        return {field: settings[name] for field, name in wanted.items() if settings[name] is not None}

    try:
        training = dataclasses.replace(OPPU, seed=seed, **given("epochs", "learning_rate", "batch_size"))
        augment = given("synthetic_weight", "demonstrations", "own_words", k="synthetic")
        return RunConfig(
            choose=settings["choose"],
            augment=AugmentConfig(training=training, seed=seed, **augment),
            seed=seed,
            **given("max_length", "answer_tokens"),
        )
    except ValueError as error:
        raise UserError(str(error), hint="change that setting") from error


@contextmanager
def _progress(cli: Cli) -> Iterator[Progress]:
    """A bar on a terminal, now and then a line elsewhere, nothing with --json."""
    if cli.progress.is_terminal or cli.as_json:
        with cli.bar("Reading", by_stage=True) as bar:
            yield bar
        return
    last = 0.0

    def line(progress: ProgressEvent) -> None:
        nonlocal last
        if progress.done in (0, progress.total) or time.monotonic() - last >= _SECONDS:
            last = time.monotonic()
            left = "" if progress.remaining_s is None else f", {progress.remaining_s:.0f} s left"
            click.echo(f"mlx-personal: {progress.stage} {progress.done}/{progress.total}{left}", err=True)

    yield line


def _show(console: Console, done: Outcome, text: str, folder: Path) -> None:
    counts = done.counts
    said = [
        f"{counts.users} users, {counts.queries} queries, {counts.items} items.",
        *(
            f"{count} {what}."
            for count, what in (
                (counts.skipped_items, "items were left out, as they lack a text or an answer"),
                (counts.empty_profiles, "users have no items"),
                (counts.single_items, "users have one item"),
                (counts.users_without_queries, "users have no queries and were left out"),
                (counts.unasked_outputs, "outputs have no question"),
            )
            if count
        ),
        f"{done.ran} results made, {done.found} were there already.",
        *(f"failed: {user}: {error}" for user, error in done.failed),
    ]
    if done.message is not None:
        said.append(done.message)
    if done.unanswered:
        said.append(f"{done.unanswered} results wait for answers of the server.")
    for line in said:
        console.print(printable(line), soft_wrap=True)
    console.print(printable(f"\n{text}"), soft_wrap=True)
    console.print(printable(f"Predictions in LaMP's form: {folder / 'predictions'}"), soft_wrap=True)
