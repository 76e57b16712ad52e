"""Send requests to a server, several at once, repeat failed attempts, and cache the responses.

A response is stored as soon as it arrives. Whatever ends a run (a used-up budget, an unreachable server, Ctrl-C, a
power cut), the same call resumes from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mlx_personal.augmentation.completion import CUT_OFF_REASONS
from mlx_personal.augmentation.ledger import Ledger
from mlx_personal.augmentation.prompting import PromptRequest
from mlx_personal.augmentation.response_cache import ResponseCache
from mlx_personal.augmentation.server import (
    AttemptError,
    LengthLimit,
    NoAnswerError,
    RequestRefusedError,
    RetryableError,
    Server,
)
from mlx_personal.errors import Action, Remedy, StoppedError, StorageError, UserError
from mlx_personal.http_client import Session, TransportError
from mlx_personal.progress import Progress, ProgressEvent, ignore_progress
from mlx_personal.runtime.signals import StopRequest, stop_on_signal

if TYPE_CHECKING:
    import tenacity

logger = logging.getLogger(__name__)

# The run ends after this many requests in a row that failed in all their attempts.
_MAX_FAILURES_IN_A_ROW: Final = 3
# Longest wait between two attempts: by the exponential backoff, and on demand of the server.
_MAX_BACKOFF_S: Final = 60.0
_MAX_RETRY_AFTER_S: Final = 300.0
# Interval between two checks for a stop request.
_STOP_CHECK_INTERVAL_S: Final = 0.05
# A response without an answer is requested once more, with this many times as many tokens.
_MORE_TOKENS: Final = 4
_RESUME_HINT: Final = "run it again to continue"


@dataclass(frozen=True)
class RequestSummary:
    """The result of `fetch_responses`. Requests with equal keys (`Server.request_key`) count as one.

    Attributes:
        responses: Texts of the responses in the order of the requests; None for a request without one.
        cached: Requests that had a response before.
        new: Requests that were answered now.
        failed: Requests whose attempts all failed.
        unaffordable: Requests that might have cost more than was left of the budget.
        remaining: Requests that were not sent, or whose attempts were cut short.
        tokens: Tokens that all of these requests have cost so far, in earlier calls too, attempts without an answer
            included. The upper bound counts where the server reports no usage.
        message: One line on why responses are missing; None if none is.
        remedy: What to do about it, where the message does not say it.
        cut_off: Responses that reached the maximum number of tokens.
    """

    responses: tuple[str | None, ...]
    cached: int
    new: int
    failed: int
    unaffordable: int
    remaining: int
    tokens: int
    message: str | None
    remedy: Remedy | None = None
    cut_off: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return everything but the responses, under the keys of version 0.1 and `cut_off`."""
        return {
            "known": self.cached,
            "new": self.new,
            "failed": self.failed,
            "unaffordable": self.unaffordable,
            "left": self.remaining,
            "tokens": self.tokens,
            "message": f"{self.message}; {self.remedy.action.value}" if self.remedy else self.message,
            "cut_off": self.cut_off,
        }


def fetch_responses(
    requests: Sequence[PromptRequest],
    server: Server,
    cache: ResponseCache,
    ledger: Ledger,
    *,
    concurrency: int = 8,
    token_budget: int | None = None,
    on_progress: Progress | None = None,
) -> RequestSummary:
    """Send the requests that `cache` has no response to, and store the responses there.

    An unreachable server and a used-up budget are no errors: the summary shows what is missing. Two things that a
    server demands are remembered until the end of the call: `max_completion_tokens` where it does not support
    `max_tokens`, and more tokens where a reasoning model used up those of a response before its answer.

    Args:
        requests: The requests.
        server: Where and how to send them.
        cache: Responses of earlier calls; receives the new ones.
        ledger: Receives every body before it is sent.
        concurrency: Requests in progress at once, at most.
        token_budget: Tokens that everything in `cache` may cost at most, earlier calls included; None for no limit. An
            upper bound of a request's cost is reserved before it is sent, so concurrent requests cannot overspend.
        on_progress: Called with the stage `requests`, first with the cached responses and then after each new one.

    Returns:
        The responses, and a count of what happened to the requests.

    Raises:
        UserError: If the server refuses a request (a wrong key, URL, model or setting, no quota), a file cannot be
            written, or there is a token budget although requests leave out `max_tokens`.
        StoppedError: On SIGTERM and Ctrl-C, after the responses in progress have arrived. A second Ctrl-C does not
            wait for them.
        ValueError: If the concurrency is below 1.
    """
    if concurrency < 1:
        raise ValueError(f"the concurrency is {concurrency}; it must be at least 1")
    if token_budget is not None and server.length_limit.field is None:
        what = "a token budget needs the request field max_tokens: without it a response may cost any number of tokens"
        raise UserError(what, server.url, "send that field, or set no budget")
    by_key = {server.request_key(request): request for request in requests}
    missing = {key: request for key, request in by_key.items() if cache.get(key) is None}
    cached = len(by_key) - len(missing)
    report = on_progress or ignore_progress
    report(ProgressEvent("requests", cached, len(by_key)))
    run = _Run(
        missing,
        server,
        cache,
        ledger,
        TokenBudget(token_budget, cache.total_tokens()),
        lambda new: report(ProgressEvent("requests", cached + new, len(by_key))),
    )
    if missing:
        logger.info("sending %d requests, %d responses are cached", len(missing), cached)
        with stop_on_signal() as stop:
            asyncio.run(run.send_all(concurrency, stop))
        stored = f"{cached + run.new} of {len(by_key)} responses are stored"
        if isinstance(run.refusal, StorageError):
            raise StorageError(f"{run.refusal.what}, {stored}", run.refusal.where, run.refusal.hint)
        if run.refusal is not None:
            raise run.refusal
        if stop.signal is not None:
            what = f"stopped; {stored}"
            raise StoppedError(what, stop.signal, _RESUME_HINT)
    responses = {key: cache.get(key) for key in by_key}
    texts = tuple(
        None if (response := responses[server.request_key(request)]) is None else response.text for request in requests
    )
    remaining = len(missing) - run.new - run.failed - run.unaffordable
    return RequestSummary(
        responses=texts,
        cached=cached,
        new=run.new,
        failed=run.failed,
        unaffordable=run.unaffordable,
        remaining=remaining,
        tokens=cache.tokens_of(by_key),
        message=None if run.new == len(missing) else run.message(cached, remaining),
        remedy=run.remedy,
        cut_off=sum(
            response is not None and response.finish_reason in CUT_OFF_REASONS for response in responses.values()
        ),
    )


class TokenBudget:
    """A number of tokens that concurrent requests of one event loop may spend.

    Args:
        tokens: The limit; None for no limit.
        spent: Tokens of it that are spent already.
    """

    def __init__(self, tokens: int | None, spent: int = 0):
        self._tokens = tokens
        self._spent = spent
        self._reserved = 0
        self._settled = asyncio.Event()

    async def reserve(self, tokens: int) -> bool:
        """Reserve tokens, if necessary after other reservations have been settled.

        Returns:
            Whether the budget had that many tokens left.
        """
        while self._tokens is not None and self._spent + self._reserved + tokens > self._tokens:
            if self._reserved == 0:
                return False
            self._settled.clear()
            await self._settled.wait()
        self._reserved += tokens
        return True

    def settle(self, reserved: int, spent: int) -> None:
        """End a reservation.

        Args:
            reserved: Tokens that were reserved.
            spent: Tokens of them that were spent.
        """
        self._reserved -= reserved
        self._spent += spent
        self._settled.set()


class _UnaffordableError(Exception):
    """The budget has too few tokens left for a request."""


class _RunEndedError(Exception):
    """The run is ending, so no further attempt is made."""


class _Run:
    """One call of `fetch_responses`, inside its event loop."""

    def __init__(
        self,
        missing: dict[str, PromptRequest],
        server: Server,
        cache: ResponseCache,
        ledger: Ledger,
        budget: TokenBudget,
        on_response: Callable[[int], None],
    ):
        self._queue = deque(missing.items())
        self._server, self._cache, self._ledger, self._budget = server, cache, ledger, budget
        self._on_response = on_response
        self._retrying = _retrying(server, self._sleep)
        self._ending = asyncio.Event()
        self._failures_in_a_row = 0
        self._last_failure = ""
        self._limit = server.length_limit
        # The most tokens that are allowed for a response; the server may refuse more than the first limit.
        self._max_tokens = server.max_tokens * (1 if self._limit.field is None else _MORE_TOKENS)
        self.remedy: Remedy | None = None
        self.new = self.failed = self.unaffordable = 0
        self.refusal: UserError | None = None

    async def send_all(self, concurrency: int, stop: StopRequest) -> None:
        """Send all requests; when the run has to end, wait for those in progress and start no other."""
        server = self._server
        async with Session(server.endpoint, server.timeout_s, concurrency, server.headers) as session:
            watcher = asyncio.create_task(self._watch(stop))
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(concurrency, len(self._queue))):
                        group.create_task(self._work(session))
            finally:
                watcher.cancel()

    def message(self, cached: int, remaining: int) -> str:
        """Return one line on which responses are missing and why."""
        counts = [f"{cached + self.new} answered"]
        counts += [f"{n} {word}" for n, word in ((self.failed, "failed"), (remaining, "remaining")) if n]
        if self.unaffordable:
            counts.append(f"{self.unaffordable} over the token budget")
        reason, hint = "the token budget is used up", "raise it to continue"
        if self.failed:
            does_not_respond = self._failures_in_a_row >= _MAX_FAILURES_IN_A_ROW and self.remedy is None
            problem = "does not respond" if does_not_respond else "did not answer all requests"
            reason = f"the server at {self._server.url} {problem} ({self._last_failure})"
            hint = _RESUME_HINT
        line = f"{reason}: {', '.join(counts)}"
        return line if self.remedy is not None else f"{line}; {hint}"

    async def _watch(self, stop: StopRequest) -> None:
        while stop.signal is None:
            await asyncio.sleep(_STOP_CHECK_INTERVAL_S)
        self._ending.set()

    async def _work(self, session: Session) -> None:
        """Send one request of the queue after the other, concurrently with other such tasks."""
        while self._queue and not self._ending.is_set():
            key, request = self._queue.popleft()
            try:
                await self._retrying.copy()(self._attempt, session, key, request)
            except _RunEndedError:
                return
            except _UnaffordableError:
                self.unaffordable += 1
            except AttemptError as error:
                logger.info("a request failed in all its attempts: %s", error)
                self.failed += 1
                self._failures_in_a_row += 1
                self._last_failure = str(error)
                more_tokens_help = isinstance(error, NoAnswerError) and self._limit.field is not None
                self.remedy = Remedy(Action.RAISE_MAX_TOKENS) if more_tokens_help else None
                if self._failures_in_a_row >= _MAX_FAILURES_IN_A_ROW:
                    self._ending.set()
            except UserError as error:
                self.refusal = self.refusal or error
                self._ending.set()

    async def _attempt(self, session: Session, key: str, request: PromptRequest) -> None:
        """Send a request, again in another form if the server demands one; AttemptError if no answer came."""
        cut_off: NoAnswerError | None = None
        while True:
            limit = self._limit
            try:
                await self._send_within_budget(session, key, request, limit)
            except NoAnswerError as error:
                if limit.tokens >= self._max_tokens:
                    raise
                cut_off = error
                self._limit = dataclasses.replace(self._limit, tokens=self._max_tokens)
            except _UnaffordableError:
                if cut_off is not None:
                    raise cut_off from None
                raise
            except RequestRefusedError as error:
                if error.field == limit.field == "max_tokens":
                    self._limit = self._limit.renamed()
                elif limit.tokens > self._server.max_tokens:  # perhaps more than the model's context holds
                    self._max_tokens = self._server.max_tokens
                    self._limit = dataclasses.replace(self._limit, tokens=self._max_tokens)
                    if cut_off is not None:
                        what = f"{cut_off}; with {limit.tokens:,} tokens, {error.what}"
                        raise NoAnswerError(what) from error
                else:
                    raise
            else:
                break
        self.new += 1
        self._failures_in_a_row = 0
        self._on_response(self.new)

    async def _send_within_budget(self, session: Session, key: str, request: PromptRequest, limit: LengthLimit) -> None:
        max_tokens = self._server.max_request_tokens(request, limit)
        affordable = await self._budget.reserve(max_tokens)
        spent = 0
        try:
            if self._ending.is_set():
                raise _RunEndedError
            if not affordable:
                raise _UnaffordableError
            spent = await self._send(session, key, request, limit)
        except AttemptError as error:
            spent = _charge(error, max_tokens)
            raise
        finally:
            self._budget.settle(max_tokens if affordable else 0, spent)

    async def _send(self, session: Session, key: str, request: PromptRequest, limit: LengthLimit) -> int:
        """Send a request, recorded in ledger and cache, store the response and return the tokens it cost."""
        ledger_attempt = cache_attempt = 0
        payload, max_tokens = self._server.payload(request, limit), self._server.max_request_tokens(request, limit)

        def before_sending(url: str, body: bytes) -> None:
            nonlocal ledger_attempt, cache_attempt
            ledger_attempt = self._ledger.begin_attempt(request.user, url, body)
            # Charged before sending, because a process that is killed while it waits may be billed too.
            cache_attempt = self._cache.begin_attempt(key, max_tokens)

        def record_failure(error: AttemptError | UserError, status: int | None, received: int) -> None:
            tokens = _charge(error, max_tokens) if isinstance(error, AttemptError) else 0
            self._ledger.end_attempt(ledger_attempt, status, received, tokens or None, failure=str(error))
            if tokens:
                self._cache.charge_attempt(cache_attempt, tokens)
            else:
                self._cache.discard_attempt(cache_attempt)

        # A server that supports this header does not bill a repeated request twice.
        headers = {"Idempotency-Key": hashlib.sha256(json.dumps(payload).encode()).hexdigest()}
        try:
            http_response = await session.post(payload, headers, before_sending)
        except TransportError as error:
            failure = RetryableError(str(error), billed=error.sent)
            record_failure(failure, None, 0)
            raise failure from error
        status, received = http_response.status, len(http_response.body)
        try:
            response = self._server.parse_response(http_response, limit)
        except (AttemptError, UserError) as error:
            record_failure(error, status, received)
            raise
        spent = self._server.response_tokens(request, response, limit)
        self._cache.store(cache_attempt, key, response, spent)
        self._ledger.end_attempt(ledger_attempt, status, received, spent)
        return spent

    async def _sleep(self, delay_s: float) -> None:
        """Wait between two attempts, but not beyond the end of the run."""
        logger.debug("waiting %.1f s before the next attempt", delay_s)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ending.wait(), delay_s)


def _charge(error: AttemptError, max_tokens: int) -> int:
    """Return the tokens that an attempt without an answer cost, as the server counted, or else the upper bound."""
    if not error.billed:
        return 0
    return max_tokens if error.tokens is None else error.tokens


def _retrying(server: Server, sleep: Callable[[float], Awaitable[None]]) -> tenacity.AsyncRetrying:
    """Return tenacity's loop over attempts, which raises the error of the last one."""
    try:
        import tenacity
    except ImportError as error:
        raise UserError("tenacity is not installed", hint="pip install 'mlx-personal[augment]'") from error
    backoff = tenacity.wait_exponential_jitter(multiplier=server.backoff_s, max=_MAX_BACKOFF_S, jitter=server.backoff_s)

    def wait(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome is not None else None
        retry_after_s = error.wait_s if isinstance(error, RetryableError) else 0.0
        return max(backoff(state), min(retry_after_s, _MAX_RETRY_AFTER_S))

    return tenacity.AsyncRetrying(
        sleep=sleep,
        stop=tenacity.stop_after_attempt(server.max_attempts),
        wait=wait,
        retry=tenacity.retry_if_exception_type(RetryableError),
        reraise=True,
    )
