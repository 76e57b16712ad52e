"""`augment`: have a server's model write synthetic records, with the user's consent and a ledger of all sent data."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from mlx_personal.cli.context import MAC_MODEL, CommandContext
from mlx_personal.cli.output import CommandResult, json_option
from mlx_personal.cli.progress import progress_bar
from mlx_personal.cli.server_options import make_server, request_message, without_field_option
from mlx_personal.cli.terminal import counts_text, print_lines, print_styled, printable

if TYPE_CHECKING:
    from rich.console import Console

    from mlx_personal.augmentation.augment_profile import ProfileAugmentationResult
    from mlx_personal.augmentation.augment_users import AugmentationResult, RequestBody
    from mlx_personal.augmentation.client import RequestSummary
    from mlx_personal.augmentation.config import AugmentConfig
    from mlx_personal.augmentation.server import Server
    from mlx_personal.augmentation.user_files import UserFolder
    from mlx_personal.augmentation.user_results import UserResult

# Repeats `augmentation.filters.FILTERS`, because importing that module would import MLX.
_FILTERS: Final = ("copy", "balance", "label", "style", "perplexity")
_PATH: Final = click.Path(path_type=Path)
# Options that have an effect with --users only: a profile has its own base model and its own training settings.
_USERS_ONLY: Final = ("out", "model", "synthetic_weight", "epochs", "learning_rate", "rank", "workers", "ray")
_CONSENT_NOTICE: Final = """\
Some of your questions and answers will be sent to {server}, for its model {model}. E-mail addresses, phone numbers,
keys, card and account numbers, and the words that you name with --redact are replaced first. Everything else in these
texts is sent as it is, including other names and facts. Everything that is sent is written to {ledger}.
`mlx-personal augment ... --dry-run` shows it beforehand. What has been sent cannot be taken back."""


@click.group(invoke_without_command=True)
@click.option("--server", "url", metavar="URL", help="URL of an OpenAI-compatible endpoint; most end in /v1.")
@click.option("--server-model", metavar="NAME", help="Name of the server's model.")
@click.option("--users", type=_PATH, metavar="FOLDER", help="Folder with a file of dialogues for each user.")
@click.option("--out", type=_PATH, metavar="FOLDER", help="With --users: output folder of the adapters.")
@click.option("--model", metavar="REPO_OR_PATH", help=f"With --users: base model.  [default: {MAC_MODEL}]")
@click.option("--k", type=click.IntRange(1), help="Synthetic records to request for each user.  [default: 20]")
@click.option("--demonstrations", type=click.IntRange(1), help="Records of the user in each request.  [default: 4]")
@click.option("--records", type=click.IntRange(1), help="Maximum records of a user that are sent.  [default: 32]")
@click.option("--tokens", type=click.IntRange(1), help="Maximum tokens of these records.  [default: 4096]")
@click.option("--prompt", type=_PATH, metavar="FILE", help="Prompt template.  [default: the bundled one]")
@click.option("--redact", multiple=True, metavar="WORD", help="Word that is never sent; can be given more than once.")
@click.option(
    "--token-budget", type=click.IntRange(1), help="Maximum tokens that the server may bill.  [default: no limit]"
)
@click.option("--concurrency", type=click.IntRange(1), default=8, show_default=True, help="Concurrent requests.")
@click.option("--key-env", metavar="VARIABLE", help="Environment variable that holds the server's API key.")
@click.option("--temperature", type=click.FloatRange(0, 2), help="Sampling temperature of the server.  [default: 0.8]")
@click.option(
    "--max-tokens",
    type=click.IntRange(1),
    help="Maximum tokens of a response, the server's reasoning included.  [default: 512]",
)
@without_field_option
@click.option(
    "--off", multiple=True, type=click.Choice(_FILTERS), help="Filter to turn off; can be given more than once."
)
@click.option(
    "--synthetic-weight",
    type=click.FloatRange(0, 1, min_open=True),
    help="With --users: weight of a synthetic record in the loss; a real one weighs 1.  [default: 0.5]",
)
@click.option("--epochs", type=click.IntRange(1), help="With --users: number of epochs.  [default: 3]")
@click.option(
    "--learning-rate",
    type=click.FloatRange(0, min_open=True),
    help="With --users: learning rate.  [default: 3e-4]",
)
@click.option("--rank", type=click.IntRange(1), help="With --users: LoRA rank.  [default: 8]")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="Random seed.  [default: 0]")
@click.option("--workers", type=click.IntRange(1), help="With --users: worker processes.  [default: one per core]")
@click.option("--ray", metavar="ADDRESS", help="With --users: run on this Ray cluster (extra `cluster`).")
@click.option("--dry-run", is_flag=True, help="Send nothing: show what would be sent, byte by byte.")
@json_option
def augment(
    cli: CommandContext, url: str | None, server_model: str | None, users: Path | None, dry_run: bool, **options: Any
) -> CommandResult | None:
    """Have a server's model write more dialogues like yours.

    The synthetic dialogues are filtered on this device, and the adapter that is trained on them answers without the
    server. A record is one question with its answer. Without --users, the profile's annotated dialogues are augmented,
    and the next `train` uses the result. With --users, an adapter is trained for each user.
    """
    if click.get_current_context().invoked_subcommand is not None:
        return None
    if url is None or server_model is None:
        raise click.UsageError("name the --server and its --server-model")
    options = {name: value for name, value in options.items() if value not in (None, ())}
    server = make_server(
        url,
        server_model,
        options.get("key_env"),
        options.get("temperature"),
        options.get("max_tokens"),
        options.get("without_field", ()),
    )
    config = _make_config(options)
    if users is None:
        for name in _USERS_ONLY:
            if name in options:
                raise click.UsageError(f"--{name.replace('_', '-')} needs --users; a profile has its own settings")
        return _augment_profile(cli, server, config, options, dry_run)
    if "out" not in options:
        raise click.UsageError("--users needs --out, the output folder of the adapters")
    # Otherwise the files of the ledger and the consent would be read as two more users.
    if options["out"].resolve() == users.resolve():
        raise click.UsageError("--out is the folder of the users; name another one for the adapters")
    return _augment_users(cli, users, server, config, options, dry_run)


@augment.command()
@click.option("--server", "url", required=True, metavar="URL", help="URL of the server.")
@click.option("--server-model", required=True, metavar="NAME", help="Name of the server's model.")
@click.option("--out", type=_PATH, metavar="FOLDER", help="Output folder of the users.  [default: the profile]")
@click.option("--withdraw", is_flag=True, help="Withdraw the consent: nothing may be sent from now on.")
@click.option("--yes", is_flag=True, help="Consent without a question.")
@json_option
def consent(
    cli: CommandContext, url: str, server_model: str, out: Path | None, withdraw: bool, yes: bool
) -> CommandResult:
    """Give or withdraw your consent to send records to a server's model."""
    from mlx_personal.augmentation.consent import Consent

    folder = _augmentation_folder(cli, out)
    server = make_server(url, server_model)
    record = Consent(folder)
    granted = not withdraw
    if granted and not yes:
        if cli.as_json or not sys.stdin.isatty():
            raise click.UsageError("there is no terminal to ask for your consent; use --yes if you consent")
        ledger_file = folder / "ledger.jsonl"
        click.echo(printable(_CONSENT_NOTICE.format(server=server.url, model=server.model, ledger=ledger_file)))
        granted = click.confirm("Do you consent?")
    if granted:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # it will hold personal records
        record.grant(server.url, server.model)
    elif withdraw:
        record.withdraw(server.url, server.model)

    def show(console: Console) -> None:
        what = "Consent is given" if granted else "Consent is withdrawn" if withdraw else "No consent was given"
        print_lines(console, f"{what}: {server.model} at {server.url}; see {record.path}")

    data = {"server": server.url, "model": server.model, "granted": granted, "record": str(record.path)}
    return CommandResult(data, show, exit_code=0 if granted or withdraw else 1)


@augment.command()
@click.option("--out", type=_PATH, metavar="FOLDER", help="Output folder of the users.  [default: the profile]")
@json_option
def ledger(cli: CommandContext, out: Path | None) -> CommandResult:
    """Show how much has been sent, and the file that has every byte of it."""
    from mlx_personal.augmentation.ledger import Ledger

    record = Ledger(_augmentation_folder(cli, out))
    totals = record.totals()

    def show(console: Console) -> None:
        if not totals.attempts:
            print_lines(console, "Nothing has been sent.")
            return
        print_lines(console, f"{totals.bytes:,} bytes were sent, or about to be sent, in {totals.attempts} attempts.")
        if totals.unanswered:
            print_lines(console, f"{totals.unanswered} of them have no response and may not have arrived.")
        print_lines(console, f"Each of them is recorded in {record.path}")

    return CommandResult({**dataclasses.asdict(totals), "record": str(record.path)}, show)


def _augment_profile(
    cli: CommandContext, server: Server, config: AugmentConfig, options: Mapping[str, Any], dry_run: bool
) -> CommandResult:
    from mlx_personal.augmentation.augment_profile import augment_profile, preview_profile

    with cli.open_profile(write=not dry_run) as personalizer:
        if dry_run:
            return _preview_result(preview_profile(personalizer, server, config))
        with progress_bar(cli, "Sending requests") as on_progress:
            result = augment_profile(personalizer, server, config, on_progress=on_progress, **_request_options(options))
    return CommandResult(
        result.to_json(),
        lambda console: _show_profile_result(console, cli, result),
        exit_code=1 if result.incomplete else 0,
    )


def _augment_users(
    cli: CommandContext,
    folder: Path,
    server: Server,
    config: AugmentConfig,
    options: Mapping[str, Any],
    dry_run: bool,
) -> CommandResult:
    from mlx_personal.augmentation.augment_users import augment_users, preview_users
    from mlx_personal.augmentation.consent import Consent
    from mlx_personal.augmentation.user_files import read_users
    from mlx_personal.augmentation.user_jobs import User
    from mlx_personal.models.loading import resolve_model

    out: Path = options["out"]
    user_folder = read_users(folder)
    if not dry_run:
        # Checked before the model is resolved, which may download it.
        Consent(out).require(server.url, server.model, out)
    base = str(resolve_model(options.get("model", MAC_MODEL)))
    users = [
        User(name, user_folder.task, user.records, base, config, user.skipped)
        for name, user in user_folder.users.items()
    ]
    workers: dict[str, Any] = {"workers": options.get("workers"), "ray_address": options.get("ray")}
    with progress_bar(cli) as on_progress:
        if dry_run:
            return _preview_result(preview_users(out, users, server, **workers, on_progress=on_progress))
        result = augment_users(out, users, server, **workers, **_request_options(options), on_progress=on_progress)
    data = {
        "found": {name: user.to_json() for name, user in result.existing.items()},
        "learnt": {name: user.to_json() for name, user in result.trained.items()},  # codespell:ignore learnt
        "failed": result.failed,
        "left": result.incomplete,
        "left_out": user_folder.excluded,
        "bad_lines": [{"where": line.where, "reason": line.reason} for line in user_folder.invalid_lines],
        "asked": None if result.request_summary is None else result.request_summary.to_json(),
    }
    return CommandResult(
        data,
        lambda console: _show_users_result(console, user_folder, result, out),
        exit_code=1 if result.failed or result.incomplete else 0,
    )


def _make_config(options: Mapping[str, Any]) -> AugmentConfig:
    """Return the settings that were given as options, and the defaults for the others."""
    from mlx_personal.augmentation.config import AugmentConfig
    from mlx_personal.augmentation.filters import FilterConfig
    from mlx_personal.augmentation.prompting import read_prompt
    from mlx_personal.augmentation.sampling import SampleBudget
    from mlx_personal.finetune import LoRAConfig

    def fields_from(**fields: str) -> dict[str, Any]:
        return {field: options[option] for field, option in fields.items() if option in options}

    try:
        return AugmentConfig(
            **fields_from(
                num_synthetic="k",
                num_demonstrations="demonstrations",
                redacted_words="redact",
                synthetic_weight="synthetic_weight",
                seed="seed",
            ),
            sample_budget=SampleBudget(**fields_from(max_records="records", max_tokens="tokens")),
            filters=FilterConfig(disabled=frozenset(options.get("off", ()))),
            prompt=read_prompt(options["prompt"]) if "prompt" in options else read_prompt(),
            training=LoRAConfig(
                **fields_from(epochs="epochs", learning_rate="learning_rate", rank="rank", seed="seed")
            ),
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _request_options(options: Mapping[str, Any]) -> dict[str, Any]:
    return {"concurrency": options["concurrency"], "token_budget": options.get("token_budget")}


def _augmentation_folder(cli: CommandContext, out: Path | None) -> Path:
    """Return the folder of the consent and the ledger."""
    from mlx_personal.augmentation.augment_profile import FOLDER

    return cli.profile_folder / FOLDER if out is None else out


def _preview_result(bodies: Sequence[RequestBody]) -> CommandResult:
    size = sum(len(body.text.encode()) for body in bodies)

    def show(console: Console) -> None:
        for body in bodies:
            print_styled(console, f"{body.user}:", "bold", f" {body.text}")
        print_lines(console, f"{len(bodies)} requests, {size:,} bytes; nothing was sent.")

    requests = [{"user": body.user, "body": body.text} for body in bodies]
    return CommandResult({"requests": requests, "bytes": size}, show)


def _show_profile_result(console: Console, cli: CommandContext, result: ProfileAugmentationResult) -> None:
    _show_requests(console, result.request_summary)
    if result.incomplete:
        again = "; run the same command again to continue" if result.request_summary.remedy is None else ""
        print_lines(console, f"No synthetic dialogue is stored yet{again}.")
        return
    kept = "were stored already" if result.up_to_date else "passed the filters"
    print_lines(
        console,
        f"{result.kept} synthetic dialogues {kept} ({counts_text(result.outcome_counts)}); train on them with "
        f"{cli.command('train')}",
    )
    too_long = {"too long": result.too_long} if result.too_long else {}
    for reason, count in (result.skipped | too_long).items():
        print_lines(console, f"{count} annotated dialogues were not sent: {reason}.")


def _show_users_result(console: Console, user_folder: UserFolder, result: AugmentationResult, out: Path) -> None:
    for line in user_folder.invalid_lines:
        print_styled(console, "skipped", "yellow", f" {line.where}: {line.reason}")
    for name, reason in user_folder.excluded.items():
        print_styled(console, "left out", "yellow", f" {name}: {reason}")
    if result.request_summary is not None:
        _show_requests(console, result.request_summary)
    for name, user in result.trained.items():
        print_styled(console, name, "bold", f": {_user_text(user)}")
    for name, reason in result.failed.items():
        print_styled(console, "failed", "red", f" {name}: {reason}")
    has_remedy = result.request_summary is not None and result.request_summary.remedy is not None
    again = "" if has_remedy else "; run the same command again"
    for name in result.incomplete:
        print_styled(console, "incomplete", "yellow", f" {name}: some responses are missing{again}")
    print_lines(
        console,
        f"{len(result.trained)} new adapters in {out / 'adapters'}; {len(result.existing)} existed already.",
    )


def _show_requests(console: Console, requests: RequestSummary) -> None:
    print_lines(
        console,
        f"{requests.new} new responses, {requests.cached} from the cache, {requests.tokens:,} tokens in total.",
    )
    if requests.cut_off:
        print_lines(console, f"{requests.cut_off} of them were cut off at the maximum of tokens; raise --max-tokens.")
    if requests.message is not None:
        print_lines(console, request_message(requests.message, requests.remedy))


def _user_text(user: UserResult) -> str:
    skipped = f"; skipped: {counts_text(user.skipped)}" if user.skipped else ""
    too_long = f" ({user.too_long} too long)" if user.too_long else ""
    return (
        f"{user.records} records{skipped}, {user.sent} sent{too_long}, {user.kept} synthetic ones kept of "
        f"{user.requested} ({counts_text(user.outcome_counts)}), loss {user.loss:.3f}, {user.elapsed_s:.1f} s"
    )
