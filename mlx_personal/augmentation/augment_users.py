"""Many users at once: what a server is asked for each, and an adapter for each, in one folder that only this process
writes to.

The folder has `adapters/NAME` and `synthetic/NAME.jsonl` for every user that is done, `augment.db` with the server's
answers and what came of each user, `ledger.jsonl` and `consent.jsonl`. A run that was killed goes on from there:
nothing that was answered is asked again, and no user that is done is learnt again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mlx_personal import jobs
from mlx_personal.augmentation import user_jobs
from mlx_personal.augmentation.client import Asked, ask
from mlx_personal.augmentation.consent import Consent
from mlx_personal.augmentation.device import Prepared
from mlx_personal.augmentation.ledger import Ledger
from mlx_personal.augmentation.prompting import Request
from mlx_personal.augmentation.response_cache import SCHEMA, Answers, opened
from mlx_personal.augmentation.server import Server
from mlx_personal.augmentation.user_results import Result, Results
from mlx_personal.errors import UserError, quoted
from mlx_personal.models.language_model import fingerprint
from mlx_personal.progress import Progress, ProgressEvent, as_stage, ignore_progress

# To be raised whenever the same settings come to mean another adapter: other prompts, filters, training.
PROTOCOL: Final = 1


@dataclass
class Outcome:
    """What a run did.

    Args:
        found: users that were done already; learnt: those done now. By name.
        failed: users whose jobs failed, and why.
        left: users that wait for answers that did not come.
        asked: what the asking came to; None where nothing was to be asked.
    """

    found: dict[str, Result] = field(default_factory=dict)
    learnt: dict[str, Result] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    asked: Asked | None = None


@dataclass(frozen=True)
class Body:
    """One request as it would leave: whose it is, and its body's text, to the byte."""

    user: str
    text: str


def augment(
    folder: Path,
    users: Sequence[user_jobs.User],
    server: Server,
    *,
    workers: int | None = None,
    ray: str | None = None,
    concurrency: int = 8,
    token_budget: int | None = None,
    on_progress: Progress = ignore_progress,
) -> Outcome:
    """Enlarges every user's records with the server's help and trains their adapters, each on that user's alone.

    All users share one bound on concurrency and one budget. A user's adapter is learnt with what the budget left it,
    and anew once a later run has more; where a request failed, or was not sent because others did, all users without
    some of their answers wait for the next run. A user whose job fails does not stop the others.

    Args:
        folder: made where it is missing; consent for the server must be on record in it.
        workers, ray: as `cluster.run` takes them.
        concurrency, token_budget: as `ask` takes them.
        tell: called with the progress.

    Raises:
        UserError: no consent is given, a user's name is no file's name or, but for its case, another's, the server
            refuses, or the disk does.
        StoppedError: SIGTERM or Ctrl-C while the server was asked.
    """
    _check_names(users)
    Consent(folder).require(server.url, server.model, folder)
    with opened(folder) as database, Ledger(folder) as ledger:
        outcome, results = Outcome(), Results(database, folder)
        results.remove_partials()
        waiting: dict[str, tuple[user_jobs.User, str]] = {}
        for user in users:
            key = _key(user, server)
            if (result := results.found(user.name, key, unanswered=0)) is not None:
                outcome.found[user.name] = result
            else:
                waiting[user.name] = (user, key)
        prepared, failed = _prepared([user for user, _ in waiting.values()], workers, ray, on_progress)
        outcome.failed |= failed
        if not prepared:
            return outcome
        outcome.asked = asked = ask(
            [request for one in prepared.values() for request in one.requests],
            server,
            Answers(database),
            ledger,
            concurrency=concurrency,
            token_budget=token_budget,
            on_progress=as_stage("asking", on_progress),
        )
        texts = iter(asked.answers)
        lessons: dict[str, user_jobs.Lesson] = {}
        for name, one in prepared.items():
            answers = [next(texts) for _ in one.requests]
            user, key = waiting[name]
            if None in answers and asked.failed + asked.left:
                outcome.left.append(name)
            # A user of an earlier, smaller budget, for whom this one brought nothing either.
            elif (result := results.found(name, key, answers.count(None))) is not None:
                outcome.found[name] = result
            else:
                lessons[name] = user_jobs.Lesson(user, one, answers)
        work = [jobs.Job(name, lesson) for name, lesson in lessons.items()]
        for number, done in enumerate(_run(user_jobs.learn, work, "learning", workers, ray, on_progress), 1):
            if done.error is not None:
                outcome.failed[done.key] = done.error
            else:
                outcome.learnt[done.key] = results.add(lessons[done.key], waiting[done.key][1], done.result)
            on_progress(ProgressEvent("learning", number, len(work)))
        return outcome


def preview(
    folder: Path,
    users: Sequence[user_jobs.User],
    server: Server,
    *,
    workers: int | None = None,
    ray: str | None = None,
    on_progress: Progress = ignore_progress,
) -> list[Body]:
    """The bodies that `augment` with the same arguments would send, but for the order, a budget, and what it would
    send again after a failure. Nothing leaves and nothing is written, so it takes no consent."""
    _check_names(users)
    todo = list(users)
    if (folder / SCHEMA.file).exists():
        with opened(folder, write=False) as database:
            results = Results(database, folder)
            todo = [user for user in users if results.found(user.name, _key(user, server), unanswered=0) is None]
    prepared, failed = _prepared(todo, workers, ray, on_progress)
    for name, error in failed.items():
        raise UserError(error, name)
    return bodies(folder, [request for one in prepared.values() for request in one.requests], server)


def bodies(folder: Path, requests: Sequence[Request], server: Server) -> list[Body]:
    """What would leave for those of the requests that have no answer in `folder` yet."""
    different = {server.key(request): request for request in requests}
    if (folder / SCHEMA.file).exists():
        with opened(folder, write=False) as database:
            answers = Answers(database)
            different = {key: request for key, request in different.items() if answers.get(key) is None}
    # As `web.Session.post` writes them.
    return [Body(r.user, json.dumps(server.payload(r), ensure_ascii=False)) for r in different.values()]


def _key(user: user_jobs.User, server: Server) -> str:
    """Of all that decides a user's adapter, but for what the server happens to answer."""
    decisive = {
        "protocol": PROTOCOL,
        "user": user.name,
        "task": dataclasses.asdict(user.task),
        "records": [dataclasses.astuple(record) for record in user.records],
        "model": fingerprint(Path(user.model)),
        "config": user.config.to_json(),
        "server": [server.model, server.temperature, server.max_tokens],
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _prepared(
    users: Sequence[user_jobs.User], workers: int | None, ray: str | None, on_progress: Progress
) -> tuple[dict[str, Prepared], dict[str, str]]:
    """What is asked for each user, in the users' order whatever order they finish in, and whose job failed with why."""
    work = [jobs.Job(user.name, user) for user in users]
    done = {}
    for number, one in enumerate(_run(user_jobs.prepare, work, "preparing", workers, ray, on_progress), 1):
        done[one.key] = one
        on_progress(ProgressEvent("preparing", number, len(work)))
    ordered = [done[user.name] for user in users]
    return (
        {one.key: one.result for one in ordered if one.error is None},
        {one.key: one.error for one in ordered if one.error is not None},
    )


def _run(
    function: Callable[[Any], Any],
    work: Sequence[jobs.Job],
    stage: str,
    workers: int | None,
    ray: str | None,
    on_progress: Progress,
) -> Iterator[jobs.JobResult]:
    if work:  # else no worker and no cluster is needed
        on_progress(ProgressEvent(stage, 0, len(work)))
        yield from jobs.run(function, work, workers, ray)


def _check_names(users: Sequence[user_jobs.User]) -> None:
    """UserError for a name that a folder cannot have, and for one that two users have."""
    seen: set[str] = set()
    for name in (user.name for user in users):
        if not name or not name.isprintable() or name.startswith(".") or Path(name).name != name:
            raise UserError(f"{quoted(name)} is no name for a user", hint="a folder gets that name; choose another")
        # Where a file system does not tell upper case from lower, one's adapter would take the other's place.
        if name.casefold() in seen:
            raise UserError(f"two users are named {quoted(name)}, but for its case", hint="rename one of them")
        seen.add(name.casefold())
