"""Augment many users at once: requests to the server and an adapter for each user, in one folder.

Only this process writes to the folder. It contains `adapters/NAME` and `synthetic/NAME.jsonl` for each finished user,
`augment.db` with the server's responses and the users' results, `ledger.jsonl` and `consent.jsonl`. An interrupted run
resumes from there: no answered request is sent again, and no finished user is trained again.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mlx_personal import jobs
from mlx_personal.augmentation import user_jobs
from mlx_personal.augmentation.client import RequestSummary, fetch_responses
from mlx_personal.augmentation.consent import Consent
from mlx_personal.augmentation.database import SCHEMA, open_database
from mlx_personal.augmentation.ledger import Ledger
from mlx_personal.augmentation.on_device import PreparedRequests
from mlx_personal.augmentation.prompting import PromptRequest
from mlx_personal.augmentation.response_cache import ResponseCache
from mlx_personal.augmentation.server import Server
from mlx_personal.augmentation.user_jobs import TrainingJob, User
from mlx_personal.augmentation.user_results import UserResult, UserResultStore
from mlx_personal.errors import UserError, quoted
from mlx_personal.models.loading import fingerprint
from mlx_personal.progress import Progress, ProgressEvent, as_stage, ignore_progress

logger = logging.getLogger(__name__)

# Increase it whenever the same settings lead to another adapter, for example by other prompts or filters.
PROTOCOL: Final = 1


@dataclass
class AugmentationResult:
    """The result of a run.

    Attributes:
        existing: Results of the users that were finished before, by name.
        trained: Results of the users that were trained now, by name.
        failed: Users whose jobs failed, with the reason.
        incomplete: Users with missing responses; the next run continues with them.
        request_summary: Result of the requests; None if none was needed.
    """

    existing: dict[str, UserResult] = field(default_factory=dict)
    trained: dict[str, UserResult] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    incomplete: list[str] = field(default_factory=list)
    request_summary: RequestSummary | None = None


@dataclass(frozen=True)
class RequestBody:
    """The body of a request as it would be sent.

    Attributes:
        user: Name of the user whose records it shows.
        text: The exact text.
    """

    user: str
    text: str


def augment_users(
    folder: Path,
    users: Sequence[User],
    server: Server,
    *,
    workers: int | None = None,
    ray_address: str | None = None,
    concurrency: int = 8,
    token_budget: int | None = None,
    on_progress: Progress = ignore_progress,
) -> AugmentationResult:
    """Augment each user's records with the server's help, and train an adapter on that user's records alone.

    All users share the limit on concurrent requests and the token budget. An adapter is trained on the responses that
    the budget allowed, and again once a later run allows more. If requests failed, or were not sent because others
    failed, users with missing responses are left for the next run. A user whose job fails does not stop the others.

    Args:
        folder: Folder of the run, created if it is missing. Consent for the server must be recorded in it.
        users: The users, with distinct names.
        server: The server.
        workers: See `jobs.run_jobs`.
        ray_address: See `jobs.run_jobs`.
        concurrency: See `fetch_responses`.
        token_budget: See `fetch_responses`.
        on_progress: Called with the stages `preparing`, `requests` and `training`.

    Returns:
        What happened to each user.

    Raises:
        UserError: If consent is missing, a user's name is not a valid folder name or differs from another only in its
            case, the server refuses a request, or a file cannot be written.
        StoppedError: On SIGTERM or Ctrl-C while requests are sent.
    """
    _check_names(users)
    Consent(folder).require(server.url, server.model, folder)
    with open_database(folder) as database, Ledger(folder) as ledger:
        result, store = AugmentationResult(), UserResultStore(database, folder)
        store.remove_partials()
        unfinished: dict[str, tuple[User, str]] = {}
        for user in users:
            key = _result_key(user, server)
            if (stored := store.get(user.name, key, max_unanswered=0)) is not None:
                result.existing[user.name] = stored
            else:
                unfinished[user.name] = (user, key)
        prepared, failed = _prepare([user for user, _ in unfinished.values()], workers, ray_address, on_progress)
        result.failed |= failed
        if not prepared:
            return result
        result.request_summary = summary = fetch_responses(
            [request for user_requests in prepared.values() for request in user_requests.requests],
            server,
            ResponseCache(database),
            ledger,
            concurrency=concurrency,
            token_budget=token_budget,
            on_progress=as_stage("requests", on_progress),
        )
        texts = iter(summary.responses)
        training_jobs: dict[str, TrainingJob] = {}
        for name, user_requests in prepared.items():
            responses = [next(texts) for _ in user_requests.requests]
            user, key = unfinished[name]
            if None in responses and summary.failed + summary.remaining:
                result.incomplete.append(name)
            # The adapter was trained within an earlier budget, and this one brought no further response.
            elif (stored := store.get(name, key, max_unanswered=responses.count(None))) is not None:
                result.existing[name] = stored
            else:
                training_jobs[name] = TrainingJob(user, user_requests, responses)
        work = [jobs.Job(name, job) for name, job in training_jobs.items()]
        finished_jobs = _run(user_jobs.train, work, "training", workers, ray_address, on_progress)
        for number, finished in enumerate(finished_jobs, 1):
            name = finished.key
            if finished.error is not None:
                logger.info("the training run of user %r failed", name)
                result.failed[name] = finished.error
            else:
                _, key = unfinished[name]
                result.trained[name] = store.add(training_jobs[name], key, finished.result)
            on_progress(ProgressEvent("training", number, len(work)))
        return result


def preview_users(
    folder: Path,
    users: Sequence[User],
    server: Server,
    *,
    workers: int | None = None,
    ray_address: str | None = None,
    on_progress: Progress = ignore_progress,
) -> list[RequestBody]:
    """Return the bodies that `augment_users` would send with the same arguments.

    Their order may differ, and neither a token budget nor repeated attempts are considered. Nothing is sent or written,
    so no consent is needed.

    Args:
        folder: Folder of the run, which need not exist.
        users: The users, with distinct names.
        server: The server.
        workers: See `jobs.run_jobs`.
        ray_address: See `jobs.run_jobs`.
        on_progress: Called with the stage `preparing`.

    Raises:
        UserError: If a user's name is invalid or a user's job fails.
    """
    _check_names(users)
    unfinished = list(users)
    if (folder / SCHEMA.file_name).exists():
        with open_database(folder, write=False) as database:
            store = UserResultStore(database, folder)
            unfinished = [user for user in users if store.get(user.name, _result_key(user, server), 0) is None]
    prepared, failed = _prepare(unfinished, workers, ray_address, on_progress)
    for name, error in failed.items():
        raise UserError(error, name)
    requests = [request for user_requests in prepared.values() for request in user_requests.requests]
    return unanswered_bodies(folder, requests, server)


def unanswered_bodies(folder: Path, requests: Sequence[PromptRequest], server: Server) -> list[RequestBody]:
    """Return the bodies of the requests that have no response in `folder` yet."""
    unanswered = {server.request_key(request): request for request in requests}
    if (folder / SCHEMA.file_name).exists():
        with open_database(folder, write=False) as database:
            cache = ResponseCache(database)
            unanswered = {key: request for key, request in unanswered.items() if cache.get(key) is None}
    # Encoded as `http_client.Session.post` does it.
    return [RequestBody(r.user, json.dumps(server.payload(r), ensure_ascii=False)) for r in unanswered.values()]


def _result_key(user: User, server: Server) -> str:
    """Return a digest of everything that determines a user's adapter except the server's responses."""
    identity = {
        "protocol": PROTOCOL,
        "user": user.name,
        "task": {"question": user.task.question, "labels": user.task.labels},
        "records": [(record.text, record.answer) for record in user.records],
        "model": fingerprint(Path(user.model)),
        "config": user.config.to_json(),
        "server": [server.model, server.temperature, server.max_tokens],
    }
    if server.omitted_fields:  # otherwise the digest is that of versions without this setting
        identity["omitted_fields"] = sorted(server.omitted_fields)
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _prepare(
    users: Sequence[User], workers: int | None, ray_address: str | None, on_progress: Progress
) -> tuple[dict[str, PreparedRequests], dict[str, str]]:
    """Return each user's requests, in the order of the users, and the errors of those whose job failed."""
    work = [jobs.Job(user.name, user) for user in users]
    completed = {}
    for number, finished in enumerate(_run(user_jobs.prepare, work, "preparing", workers, ray_address, on_progress), 1):
        completed[finished.key] = finished
        on_progress(ProgressEvent("preparing", number, len(work)))
    ordered = [completed[user.name] for user in users]
    return (
        {finished.key: finished.result for finished in ordered if finished.error is None},
        {finished.key: finished.error for finished in ordered if finished.error is not None},
    )


def _run(
    function: Callable[[Any], Any],
    work: Sequence[jobs.Job],
    stage: str,
    workers: int | None,
    ray_address: str | None,
    on_progress: Progress,
) -> Iterator[jobs.JobResult]:
    if work:  # otherwise no worker and no cluster is needed
        on_progress(ProgressEvent(stage, 0, len(work)))
        yield from jobs.run_jobs(function, work, workers, ray_address)


def _check_names(users: Sequence[User]) -> None:
    """Raise UserError for a name that is not a valid folder name, and for one that two users have."""
    seen: set[str] = set()
    for name in (user.name for user in users):
        if not name or not name.isprintable() or name.startswith(".") or Path(name).name != name:
            raise UserError(f"{quoted(name)} cannot be a user's name", hint="a folder gets that name; choose another")
        # On a file system that ignores case one adapter would replace the other.
        if name.casefold() in seen:
            raise UserError(
                f"two users are named {quoted(name)}, apart from upper and lower case", hint="rename one of them"
            )
        seen.add(name.casefold())
