"""Asks a server all that has no answer yet: several requests at once, each until it is answered or its tries are over.

What was answered is kept the moment it comes, so a run may end at any point, by a budget, a dead server, Ctrl-C or a
power cut, and the same call goes on from there.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mlx_personal.augmentation.ledger import Ledger
from mlx_personal.augmentation.prompting import Request
from mlx_personal.augmentation.response_cache import Answers
from mlx_personal.augmentation.server import AgainError, Server
from mlx_personal.errors import StoppedError, UserError
from mlx_personal.http_client import Session, WebError
from mlx_personal.progress import Progress, ProgressEvent, ignore_progress
from mlx_personal.runtime.signals import Stop, stopping

if TYPE_CHECKING:
    import tenacity

# So many requests in a row whose tries were all in vain: the server is dead, and the rest would only wait for nothing.
_DEAD: Final = 3
# The longest wait between two attempts, in seconds: of the back-off, and of what a server may ask for.
_LONGEST_BACKOFF: Final = 60.0
_LONGEST_WAIT: Final = 300.0
# Seconds between two looks at whether the run was asked to stop.
_LOOK: Final = 0.05
_GO_ON: Final = "run the same command again to go on"


@dataclass(frozen=True)
class Asked:
    """What came of it. Requests that are alike to the server (`Server.key`) count as one.

    Args:
        answers: the answers' texts in the requests' order, None for a request without one.
        known: had been answered before; new: are since.
        failed: used up their tries; unaffordable: might have cost more than the budget had left; left: were not asked,
            or not to the end.
        tokens: that all of the requests have cost until now, in earlier calls too; where the server did not count, and
            for attempts that it may bill although no answer came, the most that it may be.
        message: one line on why not all are answered, None where all are.
    """

    answers: tuple[str | None, ...]
    known: int
    new: int
    failed: int
    unaffordable: int
    left: int
    tokens: int
    message: str | None


def ask(
    requests: Sequence[Request],
    server: Server,
    answers: Answers,
    ledger: Ledger,
    *,
    concurrency: int = 8,
    token_budget: int | None = None,
    on_progress: Progress | None = None,
) -> Asked:
    """Asks what `answers` does not hold yet, and keeps it there; a dead server or a used-up budget is no error.

    UserError where the server refuses (a wrong key, address, model or setting) or the disk does; StoppedError for
    SIGTERM and Ctrl-C, after the answers that were on their way have come. A second Ctrl-C does not wait for them.

    Args:
        concurrency: the most requests that are on their way at once.
        token_budget: the most tokens that all that `answers` keeps may cost, with what it has cost in earlier calls.
            Before one is sent the most that it can cost is set aside, so that many at once cannot overspend.
        on_progress: called with (answered, all) after each answer, and first with what is known.
    """
    if concurrency < 1:
        raise ValueError(f"the concurrency is {concurrency}; it must be at least 1")
    by_key = {server.key(request): request for request in requests}
    missing = {key: request for key, request in by_key.items() if answers.get(key) is None}
    known = len(by_key) - len(missing)
    report = on_progress or ignore_progress
    report(ProgressEvent("requests", known, len(by_key)))
    budget = Budget(token_budget, answers.total())
    run = _Run(
        missing,
        server,
        answers,
        ledger,
        budget,
        lambda new: report(ProgressEvent("requests", known + new, len(by_key))),
    )
    if missing:
        with stopping() as stop:
            asyncio.run(run.all(concurrency, stop))
        if run.refused is not None:
            raise run.refused
        if stop.requested is not None:
            what = f"stopped; {known + run.new} of {len(by_key)} answers are kept"
            raise StoppedError(what, stop.requested, _GO_ON)
    found = {key: answers.get(key) for key in by_key}
    texts = tuple(None if (answer := found[server.key(r)]) is None else answer.text for r in requests)
    left = len(missing) - run.new - run.failed - run.unaffordable
    message = None if run.new == len(missing) else run.message(known, left)
    return Asked(texts, known, run.new, run.failed, run.unaffordable, left, answers.charged(by_key), message)


class Budget:
    """Tokens that may be spent, for requests of one event loop: spent, set aside, and free. None: no end of them."""

    def __init__(self, tokens: int | None, spent: int = 0):
        self._tokens = tokens
        self._spent = spent
        self._aside = 0
        self._settled = asyncio.Event()

    async def set_aside(self, tokens: int) -> bool:
        """Whether there was room for so many: where there is none yet, once others have settled."""
        while self._tokens is not None and self._spent + self._aside + tokens > self._tokens:
            if self._aside == 0:
                return False
            self._settled.clear()
            await self._settled.wait()
        self._aside += tokens
        return True

    def settle(self, aside: int, spent: int) -> None:
        """What was set aside is over, and cost so many."""
        self._aside -= aside
        self._spent += spent
        self._settled.set()


class _UnaffordableError(Exception):
    """The budget has no room for a request."""


class _OverError(Exception):
    """The run ends, so no further attempt is made."""


class _Run:
    """One call of `ask`, inside its event loop."""

    def __init__(
        self,
        missing: dict[str, Request],
        server: Server,
        answers: Answers,
        ledger: Ledger,
        budget: Budget,
        on_answer: Callable[[int], None],
    ):
        self._queue = deque(missing.items())
        self._server, self._answers, self._ledger, self._budget = server, answers, ledger, budget
        self._on_answer = on_answer
        self._retrying = _retrying(server, self._sleep)
        self._over = asyncio.Event()
        self._in_a_row = 0
        self._last_failure = ""
        self.new = self.failed = self.unaffordable = 0
        self.refused: UserError | None = None

    async def all(self, concurrency: int, stop: Stop) -> None:
        """Asks everything, or until it is over: then what is on its way is waited for, and nothing else is begun."""
        server = self._server
        async with Session(server.endpoint, server.timeout, concurrency, server.headers) as session:
            watching = asyncio.create_task(self._watch(stop))
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(concurrency, len(self._queue))):
                        group.create_task(self._work(session))
            finally:
                watching.cancel()

    def message(self, known: int, left: int) -> str:
        """One line on what is missing and why."""
        counts = [f"{known + self.new} answered"]
        counts += [f"{n} {word}" for n, word in ((self.failed, "failed"), (left, "left")) if n]
        if self.unaffordable:
            counts.append(f"{self.unaffordable} over the token budget")
        why, hint = "the token budget is used up", "raise it to go on"
        if self.failed:
            gone = self._in_a_row >= _DEAD
            why = f"the server at {self._server.url} {'does not answer' if gone else 'did not answer all'}"
            why, hint = f"{why} ({self._last_failure})", _GO_ON
        return f"{why}: {', '.join(counts)}; {hint}"

    async def _watch(self, stop: Stop) -> None:
        while stop.requested is None:
            await asyncio.sleep(_LOOK)
        self._over.set()

    async def _work(self, session: Session) -> None:
        """One of those that ask side by side, each one request at a time."""
        while self._queue and not self._over.is_set():
            key, request = self._queue.popleft()
            try:
                await self._retrying.copy()(self._attempt, session, key, request)
            except _OverError:
                return
            except _UnaffordableError:
                self.unaffordable += 1
            except AgainError as error:
                self.failed += 1
                self._in_a_row += 1
                self._last_failure = str(error)
                if self._in_a_row >= _DEAD:
                    self._over.set()
            except UserError as error:
                self.refused = self.refused or error
                self._over.set()

    async def _attempt(self, session: Session, key: str, request: Request) -> None:
        """Sends a request once and keeps its answer; AgainError where it brought none."""
        most = self._server.most_tokens(request)
        affordable = await self._budget.set_aside(most)
        spent = 0
        try:
            if self._over.is_set():
                raise _OverError
            if not affordable:
                raise _UnaffordableError
            spent = await self._send(session, key, request)
        except AgainError as error:
            spent = most if error.billed else 0
            raise
        finally:
            self._budget.settle(most if affordable else 0, spent)
        self.new += 1
        self._in_a_row = 0
        self._on_answer(self.new)

    async def _send(self, session: Session, key: str, request: Request) -> int:
        """Sends a request, between its two lines in the ledger, keeps the answer and returns the tokens it cost."""
        attempt = charge = 0

        def before_sending(url: str, body: bytes) -> None:
            nonlocal attempt, charge
            attempt = self._ledger.sending(request.user, url, body)
            # Now, and not when it has failed: a process that is killed while it waits may be billed too.
            charge = self._answers.begin(key, self._server.most_tokens(request))

        try:
            # A server that knows this header does not bill a repeated request twice.
            reply = await session.post(self._server.payload(request), {"Idempotency-Key": key}, before_sending)
        except WebError as error:
            self._ledger.ended(attempt, None, 0, failure=str(error))
            if not error.sent:
                self._answers.not_billed(charge)
            raise AgainError(str(error), billed=error.sent) from error
        try:
            answer = self._server.read(reply)
        except (AgainError, UserError) as error:
            self._ledger.ended(attempt, reply.status, len(reply.body), failure=str(error))
            if isinstance(error, UserError) or not error.billed:
                self._answers.not_billed(charge)
            raise
        spent = self._server.charged(request, answer)
        self._answers.add(charge, key, answer, spent)
        self._ledger.ended(attempt, reply.status, len(reply.body), spent)
        return spent

    async def _sleep(self, seconds: float) -> None:
        """Waits between two attempts, but not beyond the end of the run."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), seconds)


def _retrying(server: Server, sleep: Callable[[float], Awaitable[None]]) -> tenacity.AsyncRetrying:
    """Attempts until one brings an answer or all tries are over, whose last error is raised."""
    try:
        import tenacity
    except ImportError as error:
        raise UserError("tenacity is not installed", hint="pip install 'mlx-personal[augment]'") from error
    backoff = tenacity.wait_exponential_jitter(multiplier=server.backoff, max=_LONGEST_BACKOFF, jitter=server.backoff)

    def wait(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome is not None else None
        asked_for = error.wait if isinstance(error, AgainError) else 0.0
        return max(backoff(state), min(asked_for, _LONGEST_WAIT))

    return tenacity.AsyncRetrying(
        sleep=sleep,
        stop=tenacity.stop_after_attempt(server.tries),
        wait=wait,
        retry=tenacity.retry_if_exception_type(AgainError),
        reraise=True,
    )
