"""Run all users of a task: first send all requests to the server, then run each user as one independent job.

Methods whose results are stored are not run again. Each process loads the base model once; adapters
are trained and swapped in memory.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlx_personal import jobs
from mlx_personal.augmentation.consent import Consent
from mlx_personal.augmentation.server import Server
from mlx_personal.errors import Remedy
from mlx_personal.progress import Progress, ProgressEvent, ignore_progress
from mlx_personal.research.hashing import digest
from mlx_personal.research.lamp import lamp_jobs
from mlx_personal.research.lamp.lamp_config import PROTOCOL, LampConfig
from mlx_personal.research.lamp.lamp_database import LampDatabase
from mlx_personal.research.lamp.lamp_jobs import LampJob
from mlx_personal.research.lamp.lamp_results import StoredResult
from mlx_personal.research.lamp.lamp_users import FileCounts, LampUser
from mlx_personal.research.lamp.methods import Method, stored_name
from mlx_personal.research.lamp.predictions import Outputs, write_outputs
from mlx_personal.research.lamp.server_responses import ServerResponses, fetch_server_responses
from mlx_personal.research.lamp.tasks import LampTask

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LampPlan:
    """A checked `LampSpec`: the users, the base model and the methods of a run.

    Attributes:
        task: Task of all users.
        file_task: Name of the task in the file of gold answers.
        read_users: Reads the users; every call starts from the first one.
        file_hashes: Hashes of the files that the users come from; users of other files get another table.
        counts: Counts of reading all users.
        model_dir: Folder of the base model.
        model_fingerprint: Fingerprint of the base model.
        model_name: Name of the base model in reports.
        methods: Methods to run.
        config: Settings of the run.
        server: Server to use; None if the base model writes the synthetic records itself.
        token_budget: Maximum tokens that the server may cost; None for no limit.
        server_answer_tokens: Maximum tokens of the server's answers to queries; None for those of `config`.
    """

    task: LampTask
    file_task: str
    read_users: Callable[[], Iterator[LampUser]]
    file_hashes: Sequence[str]
    counts: FileCounts
    model_dir: str
    model_fingerprint: str
    model_name: str
    methods: Sequence[Method]
    config: LampConfig
    server: Server | None = None
    token_budget: int | None = None
    server_answer_tokens: int | None = None

    def setting_metadata(self) -> dict[str, Any]:
        """Return what all users of a table have in common, under the keys whose hash version 0.1 stored."""
        server = self.server
        # Settings that version 0.1 did not have are part of the hash only where they are used.
        more_of_server: dict[str, Any] = {}
        if server is not None and server.omitted_fields:
            more_of_server["omitted_fields"] = sorted(server.omitted_fields)
        if self.server_answer_tokens is not None:
            more_of_server["answer_tokens"] = self.server_answer_tokens
        return {
            "protocol": PROTOCOL,
            "task": self.task.name,
            "files": self.file_hashes,
            "model": self.model_fingerprint,
            "model_name": self.model_name,
            "config": self.config.to_json(),
            "server": None
            if server is None
            else {
                "model": server.model,
                "temperature": server.temperature,
                "max_tokens": server.max_tokens,
                **more_of_server,
            },
        }


@dataclass
class LampResult:
    """What a run did.

    Attributes:
        setting: Hash under which the results are stored.
        counts: Counts of the files.
        num_stored: Results that were stored already.
        num_computed: Results that were computed.
        failed: (user, error) of each job that failed.
        num_unanswered: Results that were not computed because responses of the server are missing.
        message: Why responses are missing; None if none is.
        remedy: What to do about it, where the message does not say it.
        server_tokens: Tokens that all requests of the folder have cost; 0 if this run sent none.
    """

    setting: str
    counts: FileCounts
    num_stored: int = 0
    num_computed: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    num_unanswered: int = 0
    message: str | None = None
    remedy: Remedy | None = None
    server_tokens: int = 0


def run_plan(
    database: LampDatabase,
    plan: LampPlan,
    *,
    workers: int | None = None,
    ray_address: str | None = None,
    on_progress: Progress = ignore_progress,
) -> LampResult:
    """Compute the missing results, store each one as soon as it is ready, and write all predictions.

    A user whose job fails does not stop the others. The predictions of each method go to `predictions/` in the run's
    folder, in LaMP's form, and replace those of other settings.

    Args:
        database: Database of the run.
        plan: What to run.
        workers: Number of worker processes; see `jobs.run_jobs`.
        ray_address: Address of a Ray cluster; see `jobs.run_jobs`.
        on_progress: Called with the progress.

    Raises:
        UserError: If a server is needed without consent, or it refuses a request.
    """
    metadata = plan.setting_metadata()
    scheduler = _LampScheduler(database, plan, digest(metadata), workers, ray_address, on_progress)
    database.save_setting(scheduler.setting, {**metadata, "file_task": plan.file_task})
    result = scheduler.run()
    _write_predictions(database, plan.file_task, scheduler.setting)
    return result


class _LampScheduler:
    """One call of `run_plan`. Users are identified by their index in the file."""

    def __init__(
        self,
        database: LampDatabase,
        plan: LampPlan,
        setting: str,
        workers: int | None,
        ray_address: str | None,
        on_progress: Progress,
    ):
        self._database, self._plan, self.setting = database, plan, setting
        self._workers, self._ray_address, self._on_progress = workers, ray_address, on_progress
        self._result = LampResult(setting, plan.counts)
        self._active: dict[str, tuple[int, LampUser]] = {}  # index and user of each job that is running, by its key

    def run(self) -> LampResult:
        missing = self._find_missing()
        responses = self._fetch_responses(missing)
        logger.info("%d results are stored, %d users have missing ones", self._result.num_stored, len(missing))
        for done in self._run_jobs(lamp_jobs.run_methods, self._user_jobs(missing, responses), "users", len(missing)):
            index, user = self._active.pop(done.key)
            if done.error is not None:
                self._result.failed.append((user.id, done.error))
                continue
            for method, result in done.result.items():
                stored = StoredResult(self._plan.task.name, self.setting, method, user.id, result)
                self._database.save_result(self._key(user, method), index, stored)
                self._result.num_computed += 1
        return self._result

    def _find_missing(self) -> dict[int, tuple[Method, ...]]:
        """Return the methods of each user whose results are not stored."""
        missing = {}
        for index, user in enumerate(self._plan.read_users()):
            methods = tuple(method for method in self._plan.methods if self._is_missing(user, method))
            self._result.num_stored += len(self._plan.methods) - len(methods)
            if methods:
                missing[index] = methods
        return missing

    def _is_missing(self, user: LampUser, method: Method) -> bool:
        """Return whether a result is not stored, or lacks synthetic records that a server may still write."""
        num_unanswered = self._database.num_unanswered(self._key(user, method.name))
        return num_unanswered is None or (num_unanswered > 0 and self._plan.server is not None)

    def _key(self, user: LampUser, method: str) -> str:
        return digest([self.setting, dataclasses.asdict(user), stored_name(method)])

    def _fetch_responses(self, missing: Mapping[int, tuple[Method, ...]]) -> dict[int, ServerResponses]:
        """Fetch the server's responses for the methods that need them; return them by the user's index."""
        server, folder = self._plan.server, self._database.folder
        needing = {
            index: needed
            for index, methods in missing.items()
            if (needed := tuple(method for method in methods if method.needs_server_responses))
        }
        if server is None or not needing:
            return {}
        Consent(folder).require(server.url, server.model, folder)
        prompt_jobs = (
            self._start_job(index, user, needing[index])
            for index, user in enumerate(self._plan.read_users())
            if index in needing
        )
        responses: dict[int, ServerResponses] = {}
        for done in self._run_jobs(lamp_jobs.build_server_prompts, prompt_jobs, "prompts", len(needing)):
            index, user = self._active.pop(done.key)
            if done.error is None:
                responses[index] = ServerResponses(done.result)
            else:
                self._result.failed.append((user.id, done.error))
        summary = fetch_server_responses(
            responses,
            server,
            folder,
            answer_tokens=self._plan.server_answer_tokens or self._plan.config.answer_tokens,
            token_budget=self._plan.token_budget,
            on_progress=self._on_progress,
        )
        self._result.server_tokens = summary.tokens
        self._result.message, self._result.remedy = summary.message, summary.remedy
        return responses

    def _user_jobs(
        self, missing: Mapping[int, tuple[Method, ...]], all_responses: Mapping[int, ServerResponses]
    ) -> Iterator[jobs.Job]:
        """Yield the job of each user; methods without the responses they need are left for another run."""
        for index, user in enumerate(self._plan.read_users()):
            methods, responses = missing.get(index, ()), all_responses.get(index)
            if self._plan.server is not None:
                complete = tuple(method for method in methods if _is_complete(method, responses))
                self._result.num_unanswered += len(methods) - len(complete)
                # A result that is incomplete because of the budget is computed again only if there are more responses.
                methods = tuple(
                    method for method in complete if responses is None or self._has_more(user, method, responses)
                )
                self._result.num_stored += len(complete) - len(methods)
            if methods:
                yield self._start_job(index, user, methods, responses)

    def _has_more(self, user: LampUser, method: Method, responses: ServerResponses) -> bool:
        num_unanswered = self._database.num_unanswered(self._key(user, method.name))
        return num_unanswered is None or responses.num_unanswered < num_unanswered

    def _start_job(
        self, index: int, user: LampUser, methods: tuple[Method, ...], responses: ServerResponses | None = None
    ) -> jobs.Job:
        self._active[str(index)] = (index, user)
        job_responses = None if responses is None else responses.for_job()
        job = LampJob(self._plan.model_dir, self._plan.task.name, user, methods, self._plan.config, job_responses)
        return jobs.Job(str(index), job)

    def _run_jobs(
        self, function: Callable[[LampJob], Any], users: Iterator[jobs.Job], stage: str, total: int
    ) -> Iterator[jobs.JobResult]:
        """Yield each job's result, and report the progress after the caller has stored it."""
        start = time.perf_counter()
        if total:
            self._on_progress(ProgressEvent(stage, 0, total, None))
        for number, done in enumerate(jobs.run_jobs(function, users, self._workers, self._ray_address), 1):
            yield done
            remaining_s = (time.perf_counter() - start) / number * (total - number)
            self._on_progress(ProgressEvent(stage, number, total, remaining_s))


def _is_complete(method: Method, responses: ServerResponses | None) -> bool:
    return not method.needs_server_responses or (responses is not None and responses.are_complete_for(method))


def _write_predictions(database: LampDatabase, file_task: str, setting: str) -> None:
    by_method: dict[str, dict[str, str]] = {}
    for stored in database.results(setting):
        by_method.setdefault(stored.method, {}).update(stored.result.predictions)
    for method, predictions in by_method.items():
        path = database.folder / "predictions" / f"{method.replace(':', '-')}.json"
        write_outputs(path, Outputs(file_task, predictions))
