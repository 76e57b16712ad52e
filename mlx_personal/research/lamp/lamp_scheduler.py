"""Run all users of a task: first send all requests to the server, then run each user as one independent job.

Methods whose results are stored are not run again. Each process loads the base model once; adapters
are trained and swapped in memory.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlx_personal import jobs
from mlx_personal.augmentation.consent import Consent
from mlx_personal.errors import Remedy
from mlx_personal.progress import Progress, ProgressEvent
from mlx_personal.research.lamp import lamp_jobs
from mlx_personal.research.lamp.lamp_config import LampSpec
from mlx_personal.research.lamp.lamp_folder import LampFolder
from mlx_personal.research.lamp.lamp_jobs import LampJob, ServerResponses
from mlx_personal.research.lamp.lamp_results import Count
from mlx_personal.research.lamp.lamp_users import FileCounts, LampUser
from mlx_personal.research.lamp.methods import Method
from mlx_personal.research.lamp.server_responses import fetch_server_responses
from mlx_personal.research.lamp.tasks import LampTask

logger = logging.getLogger(__name__)


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


class LampScheduler:
    """Computes the results that a run lacks. Users are identified by their index in the file.

    Args:
        folder: Folder of the run, which no other process writes.
        setting: Hash of what all users of the run have in common.
        spec: What to run.
        task: Task of all users.
        methods: Methods to run.
        model_dir: Folder of the base model.
        read_users: Reads the users; every call starts from the first one.
        counts: Counts of reading all users.
    """

    def __init__(
        self,
        folder: LampFolder,
        setting: str,
        spec: LampSpec,
        task: LampTask,
        methods: Sequence[Method],
        model_dir: Path,
        read_users: Callable[[], Iterator[LampUser]],
        counts: FileCounts,
    ):
        self._folder, self._setting, self._spec, self._task = folder, setting, spec, task
        self._methods, self._model_dir, self._read_users = methods, model_dir, read_users
        self._result = LampResult(setting, counts)
        self._active: dict[str, tuple[int, LampUser]] = {}  # index and user of each job that is running, by its key

    def run(self, workers: int | None, ray_address: str | None, on_progress: Progress) -> LampResult:
        """Compute the missing results, and store each one as soon as it is ready.

        A user whose job fails does not stop the others.

        Args:
            workers: Number of worker processes; see `jobs.run_jobs`.
            ray_address: Address of a Ray cluster; see `jobs.run_jobs`.
            on_progress: Called with the progress.

        Raises:
            UserError: If a server is needed without consent, or it refuses a request.
        """
        self._workers, self._ray_address, self._on_progress = workers, ray_address, on_progress
        missing = self._find_missing()
        responses = self._fetch_responses(missing)
        logger.info("%d results are stored, %d users have missing ones", self._result.num_stored, len(missing))
        for done in self._run_jobs(lamp_jobs.run_methods, self._user_jobs(missing, responses), "users", len(missing)):
            index, user = self._active.pop(done.key)
            if done.error is not None:
                self._result.failed.append((user.id, done.error))
                continue
            for method, answers in done.result.items():
                self._folder.add_answers(self._setting, index, method, answers)
                self._result.num_computed += 1
        return self._result

    def _find_missing(self) -> dict[int, tuple[Method, ...]]:
        """Return the methods of each user whose results are not stored."""
        missing = {}
        for index in range(self._result.counts.users):
            methods = tuple(method for method in self._methods if self._is_missing(index, method))
            self._result.num_stored += len(self._methods) - len(methods)
            if methods:
                missing[index] = methods
        return missing

    def _is_missing(self, index: int, method: Method) -> bool:
        """Return whether a result is not stored, or lacks synthetic records that a server may still write."""
        num_unanswered = self._num_unanswered(index, method)
        return num_unanswered is None or (num_unanswered > 0 and self._spec.server is not None)

    def _num_unanswered(self, index: int, method: Method) -> int | None:
        """Return how many synthetic records a result lacks because a server did not answer; None for no result."""
        result = self._folder.result(self._setting, index, method.name)
        return None if result is None else result.counts.get(Count.UNANSWERED, 0)

    def _fetch_responses(self, missing: Mapping[int, tuple[Method, ...]]) -> dict[int, ServerResponses]:
        """Fetch the server's responses for the methods that need them; return them by the user's index."""
        spec, server, folder = self._spec, self._spec.server, self._folder.path
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
            for index, user in enumerate(self._read_users())
            if index in needing
        )
        responses: dict[int, ServerResponses] = {}
        for done in self._run_jobs(lamp_jobs.build_server_prompts, prompt_jobs, "prompts", len(needing)):
            index, user = self._active.pop(done.key)
            if done.error is None:
                responses[index] = done.result
            else:
                self._result.failed.append((user.id, done.error))
        fetched = fetch_server_responses(
            responses,
            server,
            folder,
            answer_tokens=spec.server_answer_tokens or spec.config.answer_tokens,
            token_budget=spec.token_budget,
            on_progress=self._on_progress,
        )
        self._result.server_tokens, self._result.message, self._result.remedy = fetched
        return responses

    def _user_jobs(
        self, missing: Mapping[int, tuple[Method, ...]], all_responses: Mapping[int, ServerResponses]
    ) -> Iterator[jobs.Job]:
        """Yield the job of each user; methods without the responses they need are left for another run."""
        for index, user in enumerate(self._read_users()):
            methods, responses = missing.get(index, ()), all_responses.get(index)
            if self._spec.server is not None:
                complete = tuple(method for method in methods if _is_complete(method, responses))
                self._result.num_unanswered += len(methods) - len(complete)
                # A result that is incomplete because of the budget is computed again only if there are more responses.
                methods = tuple(
                    method for method in complete if responses is None or self._has_more(index, method, responses)
                )
                self._result.num_stored += len(complete) - len(methods)
            if methods:
                yield self._start_job(index, user, methods, responses)

    def _has_more(self, index: int, method: Method, responses: ServerResponses) -> bool:
        num_unanswered = self._num_unanswered(index, method)
        return num_unanswered is None or responses.num_unanswered < num_unanswered

    def _start_job(
        self, index: int, user: LampUser, methods: tuple[Method, ...], responses: ServerResponses | None = None
    ) -> jobs.Job:
        self._active[str(index)] = (index, user)
        job = LampJob(str(self._model_dir), self._task.name, user, methods, self._spec.config, responses)
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
