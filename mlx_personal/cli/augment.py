"""`augment`: have a server enlarge scarce personal records, with the owner's consent and a ledger of what left."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from rich.console import Console

from mlx_personal.cli.context import Answer, Cli, answers, printable, styled
from mlx_personal.cli.profile import MAC_MODEL
from mlx_personal.cli.server_options import server_named

if TYPE_CHECKING:
    from mlx_personal.augmentation.augment_profile import Augmented
    from mlx_personal.augmentation.augment_users import Body, Outcome
    from mlx_personal.augmentation.client import Asked
    from mlx_personal.augmentation.config import AugmentConfig
    from mlx_personal.augmentation.server import Server
    from mlx_personal.augmentation.user_files import Users
    from mlx_personal.augmentation.user_results import Result

# Those of the room that filters, which loads the model libraries: `--help` does not wait for them.
_FILTERS: Final = ("copy", "balance", "label", "style", "perplexity")
_PATH = click.Path(path_type=Path)
# Options that only `--users` has a use for: a profile has its own base and its own settings of the training.
_OF_USERS: Final = ("out", "model", "synthetic_weight", "epochs", "learning_rate", "rank", "workers", "ray")
_MEANING: Final = """\
Parts of your records will be sent to {server}, for its model {model}, which sees them as they are
but for e-mail addresses, phone numbers, keys, card and account numbers, and the words that you name by --own-word.
Names and facts that have no such form are sent. Every byte that leaves is written to {ledger}.
`mlx-personal augment ... --dry-run` shows it before. What has left cannot be called back."""


@click.group(invoke_without_command=True)
@click.option("--server", "url", metavar="URL", help="Of an OpenAI-compatible endpoint, mostly ending in /v1.")
@click.option("--server-model", metavar="NAME", help="The model's name there.")
@click.option("--users", type=_PATH, metavar="DIR", help="A file of dialogues for each user.  [default: the profile]")
@click.option("--out", type=_PATH, metavar="FOLDER", help="With --users: the folder that gets the adapters.")
@click.option("--model", metavar="NAME_OR_PATH", help=f"With --users: this device's model.  [default: {MAC_MODEL}]")
@click.option("--k", type=click.IntRange(1), help="Synthetic records to ask for, a user.")
@click.option("--demonstrations", type=click.IntRange(1), help="Own records that each request shows.")
@click.option("--records", type=click.IntRange(1), help="The most records of a user that are sent.")
@click.option("--tokens", type=click.IntRange(1), help="The most tokens of these.")
@click.option("--prompt", type=_PATH, metavar="FILE", help="Another prompt than the bundled one.")
@click.option("--own-word", "own_words", multiple=True, metavar="WORD", help="A name or word that never leaves.")
@click.option("--token-budget", type=click.IntRange(1), help="The most tokens that the server may bill, for all users.")
@click.option("--concurrency", type=click.IntRange(1), default=8, show_default=True, help="Requests at a time.")
@click.option("--key-env", metavar="VARIABLE", help="The environment variable that holds the server's key.")
@click.option("--temperature", type=click.FloatRange(0, 2), help="Of the server's sampling.")
@click.option("--off", multiple=True, type=click.Choice(_FILTERS), help="A filter that is not asked.")
@click.option("--synthetic-weight", type=click.FloatRange(0, 1, min_open=True), help="With --users: in the loss.")
@click.option("--epochs", type=click.IntRange(1), help="With --users: of each training.")
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True), help="With --users: of each training.")
@click.option("--rank", type=click.IntRange(1), help="With --users: of each adapter.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="Of all that is drawn.")
@click.option("--workers", type=click.IntRange(1), help="With --users: processes here.  [default: one a core]")
@click.option("--ray", metavar="ADDRESS", help="With --users: run on this Ray cluster (extra `cluster`).")
@click.option("--dry-run", is_flag=True, help="Send nothing: show what would be sent, byte by byte.")
@answers
def augment(
    cli: Cli, url: str | None, server_model: str | None, users: Path | None, dry_run: bool, **options: Any
) -> Answer | None:
    """Let a server's model write more records like yours; this device learns them and then answers alone.

    Without --users: of the profile's annotated dialogues, for `train`. With it: an adapter for each user.
    """
    if click.get_current_context().invoked_subcommand is not None:
        return None
    if url is None or server_model is None:
        raise click.UsageError("name the --server and its --server-model")
    given = {name: value for name, value in options.items() if value not in (None, ())}
    server = server_named(url, server_model, given.get("key_env"), given.get("temperature"))
    config = _config(given)
    if users is None:
        for name in _OF_USERS:
            if name in given:
                raise click.UsageError(f"--{name.replace('_', '-')} is for --users; a profile has its own settings")
        return _profile(cli, server, config, given, dry_run)
    if "out" not in given:
        raise click.UsageError("with --users, name the folder that gets the adapters: --out")
    # Its ledger and its consent would be read as two more users.
    if given["out"].resolve() == users.resolve():
        raise click.UsageError("--out is the folder of the users; name another one for the adapters")
    return _users(cli, users, server, config, given, dry_run)


@augment.command()
@click.option("--server", "url", required=True, metavar="URL", help="The server.")
@click.option("--server-model", required=True, metavar="NAME", help="The model's name there.")
@click.option("--out", type=_PATH, metavar="FOLDER", help="For the users of this folder.  [default: the profile]")
@click.option("--withdraw", is_flag=True, help="From now on nothing may be sent.")
@click.option("--yes", is_flag=True, help="Consent without being asked.")
@answers
def consent(cli: Cli, url: str, server_model: str, out: Path | None, withdraw: bool, yes: bool) -> Answer:
    """Say yes, or no any more, to sending records to a model of a server."""
    from mlx_personal.augmentation.consent import Consent

    folder = _folder(cli, out)
    server = server_named(url, server_model)
    record = Consent(folder)
    granted = not withdraw
    if granted and not yes:
        if cli.as_json or not sys.stdin.isatty():
            raise click.UsageError("nobody is here to be asked: say --yes if you consent")
        click.echo(printable(_MEANING.format(server=server.url, model=server.model, ledger=folder / "ledger.jsonl")))
        granted = click.confirm("Do you consent?")
    if granted:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # what it will hold is for its owner's eyes only
        record.grant(server.url, server.model)
    elif withdraw:
        record.withdraw(server.url, server.model)

    def show(console: Console) -> None:
        what = "Consent is given" if granted else "Consent is withdrawn" if withdraw else "No consent was given"
        console.print(printable(f"{what}: {server.model} at {server.url}; see {record.path}"), soft_wrap=True)

    data = {"server": server.url, "model": server.model, "granted": granted, "record": str(record.path)}
    return Answer(data, show, 0 if granted or withdraw else 1)


@augment.command()
@click.option("--out", type=_PATH, metavar="FOLDER", help="Of the users of this folder.  [default: the profile]")
@answers
def ledger(cli: Cli, out: Path | None) -> Answer:
    """Tell how much has left, and where every byte of it is on record."""
    from mlx_personal.augmentation.ledger import Ledger

    record = Ledger(_folder(cli, out))
    totals = record.totals()

    def show(console: Console) -> None:
        if not totals.attempts:
            console.print("Nothing has left.")
            return
        console.print(f"{totals.bytes:,} bytes have left, or were about to, in {totals.attempts} attempts.")
        if totals.unanswered:
            console.print(f"{totals.unanswered} of these have no reply, and may not have arrived.")
        console.print(printable(f"Every one is in {record.path}"), soft_wrap=True)

    return Answer({**dataclasses.asdict(totals), "record": str(record.path)}, show)


def _profile(cli: Cli, server: Server, config: AugmentConfig, given: dict[str, Any], dry_run: bool) -> Answer:
    from mlx_personal.augmentation.augment_profile import augment_profile, preview_profile

    with cli.open(write=not dry_run) as me:
        if dry_run:
            return _previewed(preview_profile(me, server, config))
        with cli.bar("asking") as progress:
            done = augment_profile(me, server, config, on_progress=progress, **_asking(given))
    data = {**dataclasses.asdict(done), "asked": _counts(done.asked)}
    return Answer(data, lambda console: _show_profile(console, done), 1 if done.left else 0)


def _users(
    cli: Cli, folder: Path, server: Server, config: AugmentConfig, given: dict[str, Any], dry_run: bool
) -> Answer:
    from mlx_personal.augmentation.augment_users import augment as augment_users
    from mlx_personal.augmentation.augment_users import preview
    from mlx_personal.augmentation.consent import Consent
    from mlx_personal.augmentation.user_files import read_users
    from mlx_personal.augmentation.user_jobs import User
    from mlx_personal.models.language_model import resolve

    out: Path = given["out"]
    read = read_users(folder)
    if not dry_run:
        # Before a model is looked for, which may be far away.
        Consent(out).require(server.url, server.model, out)
    base = str(resolve(given.get("model", MAC_MODEL)))
    all_users = [User(name, read.task, of.records, base, config, of.skipped) for name, of in read.users.items()]
    where: dict[str, Any] = {"workers": given.get("workers"), "ray": given.get("ray")}
    with cli.bar("preparing", by_stage=True) as on_progress:
        if dry_run:
            return _previewed(preview(out, all_users, server, **where, on_progress=on_progress))
        done = augment_users(out, all_users, server, **where, **_asking(given), on_progress=on_progress)
    data = {
        "found": {name: dataclasses.asdict(result) for name, result in done.found.items()},
        "learnt": {name: dataclasses.asdict(result) for name, result in done.learnt.items()},
        "failed": done.failed,
        "left": done.left,
        "left_out": read.left_out,
        "bad_lines": [{"where": line.where, "reason": line.reason} for line in read.bad],
        "asked": None if done.asked is None else _counts(done.asked),
    }
    return Answer(data, lambda console: _show_users(console, read, done, out), 1 if done.failed or done.left else 0)


def _config(given: dict[str, Any]) -> AugmentConfig:
    """The settings that were named; the others keep the rooms' defaults."""
    from mlx_personal.augmentation.config import AugmentConfig
    from mlx_personal.augmentation.filters import FilterConfig
    from mlx_personal.augmentation.prompting import read_prompt
    from mlx_personal.augmentation.sampling import Budget
    from mlx_personal.finetune import LoRAConfig

    def of(*names: str) -> dict[str, Any]:
        return {name: given[name] for name in names if name in given}

    return _sensible(
        lambda: AugmentConfig(
            **of("k", "demonstrations", "own_words", "synthetic_weight", "seed"),
            budget=Budget(**of("records", "tokens")),
            filters=FilterConfig(off=frozenset(given.get("off", ()))),
            prompt=read_prompt(given["prompt"]) if "prompt" in given else read_prompt(),
            training=LoRAConfig(**of("epochs", "learning_rate", "rank", "seed")),
        )
    )


def _sensible(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _asking(given: dict[str, Any]) -> dict[str, Any]:
    return {"concurrency": given["concurrency"], "token_budget": given.get("token_budget")}


def _folder(cli: Cli, out: Path | None) -> Path:
    """Where consent and ledger are."""
    from mlx_personal.augmentation.augment_profile import FOLDER

    return cli.folder / FOLDER if out is None else out


def _previewed(found: Sequence[Body]) -> Answer:
    size = sum(len(body.text.encode()) for body in found)

    def show(console: Console) -> None:
        for body in found:
            console.print(styled(f"{body.user}:", "bold", f" {body.text}"), soft_wrap=True)
        console.print(f"{len(found)} requests, {size:,} bytes; nothing was sent.")

    requests = [{"user": body.user, "body": body.text} for body in found]
    return Answer({"requests": requests, "bytes": size}, show)


def _show_profile(console: Console, done: Augmented) -> None:
    _show_asked(console, done.asked)
    if done.left:
        console.print("No synthetic set was made: the same command goes on.", soft_wrap=True)
        return
    there = "were there already" if done.found else "are kept"
    console.print(f"{done.kept} synthetic sets {there} ({_counted(done.counts)}): mlx-personal train", soft_wrap=True)
    too_long = {"too long": done.too_long} if done.too_long else {}
    for reason, count in (done.skipped | too_long).items():
        console.print(f"{count} annotated dialogues were not sent: {reason}.", soft_wrap=True)


def _show_users(console: Console, read: Users, done: Outcome, out: Path) -> None:
    for line in read.bad:
        console.print(styled("skipped", "yellow", f" {line.where}: {line.reason}"), soft_wrap=True)
    for name, why in read.left_out.items():
        console.print(styled("left out", "yellow", f" {name}: {why}"), soft_wrap=True)
    if done.asked is not None:
        _show_asked(console, done.asked)
    for name, result in done.learnt.items():
        console.print(styled(name, "bold", f": {_line(result)}"), soft_wrap=True)
    for name, why in done.failed.items():
        console.print(styled("failed", "red", f" {name}: {why}"), soft_wrap=True)
    for name in done.left:
        console.print(styled("left", "yellow", f" {name}: some answers are missing; run it again"), soft_wrap=True)
    console.print(
        printable(f"{len(done.learnt)} adapters are new in {out / 'adapters'}, {len(done.found)} were there already."),
        soft_wrap=True,
    )


def _counts(asked: Asked) -> dict[str, Any]:
    """Without the answers themselves."""
    return {name: value for name, value in dataclasses.asdict(asked).items() if name != "answers"}


def _show_asked(console: Console, asked: Asked) -> None:
    console.print(
        f"{asked.new} answers are new, {asked.known} were there already, {asked.tokens:,} tokens in all.",
        soft_wrap=True,
    )
    if asked.message is not None:
        console.print(printable(asked.message), soft_wrap=True)


def _line(result: Result) -> str:
    skipped = f"; skipped: {_counted(result.skipped)}" if result.skipped else ""
    too_long = f" ({result.too_long} too long)" if result.too_long else ""
    return (
        f"{result.records} records{skipped}, {result.sent} sent{too_long}, {result.kept} synthetic ones kept of "
        f"{result.asked} ({_counted(result.counts)}), loss {result.loss:.3f}, {result.seconds:.1f} s"
    )


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(counts.items())) or "none"
