"""Runs all users of a task: what a server is asked first, for all of them, then each user as one independent job.

A user's methods that are in the records already are not done again. The base model is loaded once a process; adapters
are made and swapped in memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from mlx_personal import jobs
from mlx_personal.augmentation.client import ask
from mlx_personal.augmentation.consent import Consent
from mlx_personal.augmentation.ledger import Ledger
from mlx_personal.augmentation.prompting import Request
from mlx_personal.augmentation.response_cache import Answers, opened
from mlx_personal.augmentation.server import Server
from mlx_personal.progress import Progress, ProgressEvent, as_stage, ignore_progress
from mlx_personal.research.lamp import user_jobs
from mlx_personal.research.lamp.lamp_database import Records, Result
from mlx_personal.research.lamp.methods import Method
from mlx_personal.research.lamp.predictions import Outputs, write_outputs
from mlx_personal.research.lamp.run_config import PROTOCOL, RunConfig, digest
from mlx_personal.research.lamp.tasks import LampTask
from mlx_personal.research.lamp.user_jobs import Prompts, Work
from mlx_personal.research.lamp.user_profiles import Counts, User

# What decides a server's answers, whoever runs it.
_OF_A_SERVER: Final = ("model", "temperature", "max_tokens")


@dataclass(frozen=True)
class Source:
    """What is run on.

    Args:
        task: of all users; `name`: what the file of golds calls it.
        users: reads the users, from the first one at each call.
        files: hashes of the files that they come from: users of other files are in another table.
        counts: of a reading of them all.
        model: the base's folder, its `fingerprint`, and `model_name`, what it was asked for by.
    """

    task: LampTask
    name: str
    users: Callable[[], Iterator[User]]
    files: Sequence[str]
    counts: Counts
    model: str
    fingerprint: str
    model_name: str


@dataclass
class Outcome:
    """What a run did.

    Args:
        setting: under which its results are kept.
        found, ran: results that were there, and that were made.
        failed: (user, why) of jobs that failed.
        unanswered: results that were left out, since the server did not answer all that they need; `message` says why.
        server_tokens: that all requests of this folder have cost, where this run asked any.
        counts: of the files.
    """

    setting: str
    counts: Counts
    found: int = 0
    ran: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    unanswered: int = 0
    message: str | None = None
    server_tokens: int = 0


def run(
    records: Records,
    source: Source,
    methods: Sequence[Method],
    config: RunConfig,
    server: Server | None = None,
    *,
    token_budget: int | None = None,
    workers: int | None = None,
    ray: str | None = None,
    on_progress: Progress = ignore_progress,
) -> Outcome:
    """Does what `records` lacks, keeps each user's results as they come, and writes the predictions of every method to
    `predictions/` in the records' folder, in LaMP's form, in place of those of other settings.

    Args:
        server: asked with the consent that is on record in the records' folder; None: synthetic records are written
            by the base model itself, and no method may be `cloud`.
        token_budget: most tokens that the server may cost.
        workers, ray: as `cluster.run` has them.
        tell: called with the progress.

    A user whose job fails does not stop the others. UserError where there is no consent, or the server refuses.
    """
    facts = {
        "protocol": PROTOCOL,
        "task": source.task.name,
        "files": source.files,
        "model": source.fingerprint,
        "model_name": source.model_name,
        "config": config.to_json(),
        "server": None if server is None else {name: getattr(server, name) for name in _OF_A_SERVER},
    }
    run_ = _Run(records, source, methods, config, server, digest(facts), workers, ray, on_progress)
    records.add_setting(run_.setting, {**facts, "file_task": source.name})
    outcome = run_.run(token_budget)
    _write_predictions(records, source, run_.setting)
    return outcome


class _Run:
    def __init__(
        self,
        records: Records,
        source: Source,
        methods: Sequence[Method],
        config: RunConfig,
        server: Server | None,
        setting: str,
        workers: int | None,
        ray: str | None,
        on_progress: Progress,
    ):
        self._records, self._source, self._methods, self._config = records, source, methods, config
        self._server, self.setting = server, setting
        self._workers, self._ray, self._on_progress = workers, ray, on_progress
        self._outcome = Outcome(setting, source.counts)
        self._known: dict[str, tuple[int, User]] = {}  # the place and user of each job under way

    def run(self, token_budget: int | None) -> Outcome:
        missing: dict[int, tuple[Method, ...]] = {}
        for place, user in enumerate(self._source.users()):
            lacking = tuple(m for m in self._methods if self._lacks(user, m))
            self._outcome.found += len(self._methods) - len(lacking)
            if lacking:
                missing[place] = lacking
        asked = self._asked(missing, token_budget)
        works = self._works(missing, asked)
        for done in self._done(user_jobs.perform, works, "users", len(missing)):
            place, user = self._known.pop(done.key)
            if done.error is not None:
                self._outcome.failed.append((user.id, done.error))
                continue
            for name, result in done.result.items():
                found = Result(self._source.task.name, self.setting, name, user.id, result)
                self._records.add(self._key(user, name), place, found)
                self._outcome.ran += 1
        return self._outcome

    def _lacks(self, user: User, method: Method) -> bool:
        """Whether a result is not there, or had to do without some of the synthetic records that a server may bring."""
        unanswered = self._records.unanswered(self._key(user, method.name))
        return unanswered is None or (unanswered > 0 and self._server is not None)

    def _key(self, user: User, method: str) -> str:
        return digest([self.setting, dataclasses.asdict(user), method])

    def _works(self, missing: Mapping[int, tuple[Method, ...]], asked: Mapping[int, _Said]) -> Iterator[jobs.Job]:
        """Each user's job as there is room for it; what lacks an answer of the server's is left for another run."""
        for place, user in enumerate(self._source.users()):
            methods = missing.get(place, ())
            said = asked.get(place)
            if self._server is not None:
                whole = tuple(m for m in methods if not _asks(m) or (said is not None and said.whole(m)))
                self._outcome.unanswered += len(methods) - len(whole)
                # What a budget has left incomplete is done again only with more answers.
                methods = tuple(m for m in whole if said is None or self._is_news(user, m, said))
                self._outcome.found += len(whole) - len(methods)
            if methods:
                yield self._job(place, user, methods, said)

    def _is_news(self, user: User, method: Method, said: _Said) -> bool:
        unanswered = self._records.unanswered(self._key(user, method.name))
        return unanswered is None or said.written.count(None) < unanswered

    def _job(self, place: int, user: User, methods: tuple[Method, ...], said: _Said | None = None) -> jobs.Job:
        self._known[str(place)] = (place, user)
        work = Work(self._source.model, self._source.task.name, user, methods, self._config)
        return jobs.Job(str(place), work if said is None else said.put_into(work))

    def _asked(self, missing: Mapping[int, tuple[Method, ...]], token_budget: int | None) -> dict[int, _Said]:
        """What the server says to all that the missing results need of it, by the user's place."""
        needing = {place: needed for place, ms in missing.items() if (needed := tuple(m for m in ms if _asks(m)))}
        if self._server is None or not needing:
            return {}
        Consent(self._records.folder).require(self._server.url, self._server.model, self._records.folder)
        works = (
            self._job(place, user, needing[place])
            for place, user in enumerate(self._source.users())
            if place in needing
        )
        said: dict[int, _Said] = {}
        for done in self._done(user_jobs.prompts, works, "prompts", len(needing)):
            _, user = self._known.pop(done.key)
            if done.error is None:
                said[int(done.key)] = _Said(done.result)
            else:
                self._outcome.failed.append((user.id, done.error))
        self._ask(said, token_budget)
        return said

    def _ask(self, said: Mapping[int, _Said], token_budget: int | None) -> None:
        assert self._server is not None
        # Queries are answered without chance, and no longer than the device may.
        exact = dataclasses.replace(self._server, temperature=0.0, max_tokens=self._config.answer_tokens)
        with contextlib.ExitStack() as open_:
            # In a folder of their own, since a folder has one lock.
            answers = Answers(open_.enter_context(opened(self._records.folder / "answers")))
            ledger = open_.enter_context(Ledger(self._records.folder))

            def asked(
                stage: str, server: Server, requests: Sequence[Request]
            ) -> tuple[Sequence[str | None], float | None, bool]:
                """The answers; the seconds that each new one took; and whether some are missing for another reason
                than the budget, so that another run may bring them."""
                start = time.perf_counter()
                found = ask(
                    requests,
                    server,
                    answers,
                    ledger,
                    token_budget=token_budget,
                    on_progress=as_stage(stage, self._on_progress),
                )
                self._outcome.server_tokens = answers.total()
                self._outcome.message = self._outcome.message or found.message
                seconds = (time.perf_counter() - start) / found.new if found.new else None
                return found.answers, seconds, bool(found.failed or found.left)

            written = [(place, r) for place in sorted(said) for r in said[place].requests]
            texts, _, waits = asked("synthetic records", self._server, [r for _, r in written])
            for (place, _), text in zip(written, texts, strict=True):
                said[place].written.append(text)
                said[place].waits = waits
            queries = [
                (place, n, r) for place in sorted(said) for n, rs in said[place].prompts.cloud.items() for r in rs
            ]
            texts, seconds, _ = asked("cloud answers", exact, [r for *_, r in queries])
            for (place, name, _), text in zip(queries, texts, strict=True):
                said[place].cloud.setdefault(name, []).append(text)
                said[place].seconds[name] = seconds

    def _done(
        self, function: Callable[[Work], Any], works: Iterator[jobs.Job], stage: str, total: int
    ) -> Iterator[jobs.JobResult]:
        start = time.perf_counter()
        if total:
            self._on_progress(ProgressEvent(stage, 0, total, None))
        for number, done in enumerate(jobs.run(function, works, self._workers, self._ray), 1):
            yield done
            remaining = (time.perf_counter() - start) / number * (total - number)
            self._on_progress(ProgressEvent(stage, number, total, remaining))


@dataclass
class _Said:
    """What a server was asked for one user, and its answers, None where there is none; `waits`: synthetic records that
    are missing may still come."""

    prompts: Prompts
    written: list[str | None] = field(default_factory=list)
    cloud: dict[str, list[str | None]] = field(default_factory=dict)
    seconds: dict[str, float | None] = field(default_factory=dict)
    waits: bool = False

    @property
    def requests(self) -> Sequence[Request]:
        return () if self.prompts.prepared is None else self.prompts.prepared.requests

    def whole(self, method: Method) -> bool:
        """Whether all is answered that a method needs: each query, and as many synthetic records as the budget let."""
        if method.cloud:
            return None not in self.cloud.get(method.name, [])
        return not self.waits or None not in self.written

    def put_into(self, work: Work) -> Work:
        cloud = {name: [text or "" for text in texts] for name, texts in self.cloud.items()}
        return dataclasses.replace(
            work, prepared=self.prompts.prepared, written=self.written, cloud=cloud, seconds=self.seconds
        )


def _asks(method: Method) -> bool:
    return method.cloud or method.learns == "augmented"


def _write_predictions(records: Records, source: Source, setting: str) -> None:
    by_method: dict[str, dict[str, str]] = {}
    for found in records.results(setting):
        by_method.setdefault(found.method, {}).update(found.result["predictions"])
    for method, predictions in by_method.items():
        path = records.folder / "predictions" / f"{method.replace(':', '-')}.json"
        write_outputs(path, Outputs(source.name, predictions))
