"""The client: whatever the server does, no response is lost, none is requested twice, and the limits hold."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import email.utils
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest

from mlx_personal.augmentation.client import RequestSummary, TokenBudget, fetch_responses
from mlx_personal.augmentation.database import SCHEMA
from mlx_personal.augmentation.ledger import Ledger
from mlx_personal.augmentation.prompting import PromptRequest
from mlx_personal.augmentation.response_cache import Response, ResponseCache
from mlx_personal.augmentation.server import Server
from mlx_personal.errors import StoppedError, UserError
from mlx_personal.http_client import HTTPResponse
from mlx_personal.progress import ProgressEvent
from mlx_personal.storage.database import Database
from tests.support.cases import slow_cases
from tests.support.fake_server import ANSWER_TOKENS, PROMPT_TOKENS, FakeServer, Fault, ReceivedRequest

COST = PROMPT_TOKENS + ANSWER_TOKENS


class Fetch(Protocol):
    """The fixture `fetch`."""

    def __call__(self, requests: Sequence[PromptRequest], **changes: Any) -> RequestSummary: ...


def make_requests(count: int, user: str = "ann") -> list[PromptRequest]:
    return [PromptRequest(user, i, f"prompt {i} of {user}", i, (0,)) for i in range(count)]


@pytest.fixture
def fake_server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def cache(folder: Path) -> Iterator[ResponseCache]:
    database = Database(folder, write=True, schema=SCHEMA)
    yield ResponseCache(database)
    database.close()


@pytest.fixture
def ledger(folder: Path) -> Iterator[Ledger]:
    with Ledger(folder) as ledger:
        yield ledger


@pytest.fixture
def fetch(fake_server: FakeServer, cache: ResponseCache, ledger: Ledger) -> Fetch:
    """Return `fetch_responses` with short waits; keywords go to it or change the server's settings."""

    def fetch(requests: Sequence[PromptRequest], **changes: Any) -> RequestSummary:
        options = {k: changes.pop(k) for k in ("concurrency", "token_budget", "on_progress") if k in changes}
        server = Server(
            **{"url": fake_server.url, "model": "m", "timeout_s": 5.0, "max_attempts": 4, "backoff_s": 0.001, **changes}
        )
        return fetch_responses(requests, server, cache, ledger, **options)

    return fetch


def read_lines(ledger: Ledger) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ledger.path.read_text().splitlines()]


# Requests and responses


def test_every_request_gets_its_own_response_in_order(fetch: Fetch, fake_server: FakeServer) -> None:
    events: list[ProgressEvent] = []
    summary = fetch(make_requests(20), concurrency=4, on_progress=events.append)
    assert summary.responses == tuple(f"answer to prompt {i} of ann" for i in range(20))
    assert (summary.new, summary.cached, summary.failed, summary.remaining, summary.message) == (20, 0, 0, 0, None)
    assert summary.tokens == 20 * COST == fake_server.billed_tokens
    assert events == [ProgressEvent("requests", i, 20) for i in range(21)]


def test_a_request_is_a_chat_completion_with_seed_and_key(fetch: Fetch, fake_server: FakeServer) -> None:
    fetch([PromptRequest("ann", 0, "Grüße", 77, (0,))], api_key="abc", temperature=0.5, max_tokens=9)
    (received,) = fake_server.received
    assert received.path == "/v1/chat/completions"
    assert json.loads(received.body) == {
        "model": "m",
        "messages": [{"role": "user", "content": "Grüße"}],
        "temperature": 0.5,
        "max_tokens": 9,
        "seed": 77,
    }
    assert received.headers["authorization"] == "Bearer abc"
    assert len(received.headers["idempotency-key"]) == 64


def test_an_answered_request_is_never_sent_again(fetch: Fetch, fake_server: FakeServer) -> None:
    first = fetch(make_requests(3))
    again = fetch(make_requests(5))
    assert (again.cached, again.new) == (3, 2) and again.responses[:3] == first.responses
    assert len(fake_server.received) == 5
    fake_server.kill()
    assert fetch(make_requests(5)).responses == again.responses


@pytest.mark.parametrize("change", [{"model": "n"}, {"temperature": 0.1}, {"max_tokens": 3}])
def test_another_setting_of_the_server_makes_another_request(
    fetch: Fetch, fake_server: FakeServer, change: dict[str, Any]
) -> None:
    fetch(make_requests(2))
    assert fetch(make_requests(2), **change).new == 2


def test_equal_requests_are_sent_once(fetch: Fetch, fake_server: FakeServer) -> None:
    equal = [dataclasses.replace(make_requests(1)[0], user=user) for user in ("ann", "bob")]
    assert fetch(equal).responses == ("answer to prompt 0 of ann",) * 2
    assert len(fake_server.received) == 1


def test_without_requests_no_server_is_needed(fetch: Fetch, fake_server: FakeServer) -> None:
    fake_server.kill()
    assert fetch([]).responses == ()


# Limits


def test_no_more_requests_than_allowed_are_in_progress(fetch: Fetch, fake_server: FakeServer) -> None:
    fake_server.default_fault = Fault(delay=0.02)
    fetch(make_requests(20), concurrency=3)
    assert fake_server.max_concurrent == 3


@pytest.mark.parametrize(("concurrency", "usage"), [(8, True), *slow_cases((1, True), (1, False), (8, False))])
def test_the_token_budget_is_never_exceeded_and_unaffordable_requests_are_counted(
    fetch: Fetch, fake_server: FakeServer, concurrency: int, usage: bool
) -> None:
    fake_server.default_fault, fake_server.reports_usage = Fault(delay=0.005), usage
    max_cost = Server(fake_server.url, "m", max_tokens=20).max_request_tokens(make_requests(1)[0])
    budget = 6 * max_cost
    summary = fetch(make_requests(60), max_tokens=20, token_budget=budget, concurrency=concurrency)
    assert fake_server.billed_tokens <= summary.tokens <= budget
    # A request is only sent if the budget covers the most it can cost.
    assert summary.tokens > budget - max_cost - COST
    assert summary.new == len(fake_server.received) and summary.unaffordable == 60 - summary.new > 0
    assert summary.message is not None
    assert f"{summary.unaffordable} over the token budget" in summary.message
    assert fetch(make_requests(60), max_tokens=20, token_budget=budget).new == 0
    assert fetch(make_requests(60), max_tokens=20).unaffordable == 0


def test_an_attempt_that_may_be_billed_is_charged(fetch: Fetch, fake_server: FakeServer) -> None:
    fake_server.default_fault = Fault(truncated=True)
    most = Server(fake_server.url, "m").max_request_tokens(make_requests(1)[0])
    summary = fetch(make_requests(1), token_budget=2 * most + 5)
    assert len(fake_server.received) == 2
    assert summary.unaffordable == 1 and summary.tokens == 2 * most
    fake_server.default_fault = None
    assert fetch(make_requests(1), token_budget=2 * most + 5).unaffordable == 1
    assert fetch(make_requests(1), token_budget=3 * most).new == 1


def test_an_attempt_is_charged_while_it_is_in_progress(
    fetch: Fetch, fake_server: FakeServer, cache: ResponseCache
) -> None:
    (request,), server = make_requests(1), Server(fake_server.url, "m")
    charged: list[int] = []
    fake_server.on_request = lambda received: charged.append(cache.tokens_of([server.request_key(request)]))
    assert fetch([request]).tokens == COST
    assert charged == [server.max_request_tokens(request)]


@pytest.mark.parametrize("status", [500, 401])
def test_an_attempt_that_is_not_billed_is_not_charged(
    fetch: Fetch, fake_server: FakeServer, cache: ResponseCache, status: int
) -> None:
    fake_server.default_fault = Fault(status)
    with contextlib.suppress(UserError):
        fetch(make_requests(1))
    assert (
        fake_server.received and cache.tokens_of([Server(fake_server.url, "m").request_key(make_requests(1)[0])]) == 0
    )


def test_a_budget_waits_for_reservations() -> None:
    async def reserve() -> bool:
        budget = TokenBudget(10)
        assert await budget.reserve(8)
        waiting = [asyncio.create_task(budget.reserve(n)) for n in (5, 5)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        budget.settle(8, 1)
        await asyncio.sleep(0.01)
        assert [task.done() for task in waiting] == [True, False]
        budget.settle(5, 5)
        return await waiting[1]

    assert asyncio.run(asyncio.wait_for(reserve(), 2)) is False


# Faults


@pytest.mark.parametrize(
    "fault",
    [
        Fault(500),
        Fault(503),
        Fault(429),
        Fault(truncated=True),
        Fault(reset=True),
        Fault(body=b'{"choices": []}'),
        Fault(body=b"[]"),
        Fault(body=b'{"choices": [{"message": {"content": 5}}]}'),
        Fault(body=b"\xff"),
        Fault(body=b"[" * 100_000),
        Fault(delay=0.8),
    ],
    ids=str,
)
def test_a_temporary_fault_is_retried(fetch: Fetch, fake_server: FakeServer, fault: Fault) -> None:
    fake_server.queue_faults(fault, None, fault, fault)
    summary = fetch(make_requests(4), timeout_s=0.4 if fault.delay else 5.0, concurrency=2)
    assert summary.new == 4 and summary.message is None
    assert len(fake_server.received) == 7


def test_waits_as_long_as_the_server_demands(fetch: Fetch, fake_server: FakeServer) -> None:
    fake_server.queue_faults(Fault(429, headers={"Retry-After": "1"}))
    start = time.monotonic()
    assert fetch(make_requests(1)).new == 1
    assert time.monotonic() - start >= 1


def test_retry_after_may_be_a_date() -> None:
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=30)
    assert (
        25
        < HTTPResponse(429, {"retry-after": email.utils.format_datetime(soon, usegmt=True)}, b"").retry_after_s()
        <= 30
    )
    for value in ("Wed, 21 Oct 2015 07:28:00 GMT", "soon", "", "-5", "1e9", "nan"):
        assert HTTPResponse(429, {"retry-after": value}, b"").retry_after_s() == 0


def test_a_withheld_response_is_empty_and_not_requested_again(fetch: Fetch, fake_server: FakeServer) -> None:
    fake_server.queue_faults(
        Fault(body=b'{"choices": [{"message": {"content": null}, "finish_reason": "content_filter"}]}')
    )
    assert fetch(make_requests(1)).responses == ("",)


def test_a_lone_surrogate_in_a_response_becomes_a_question_mark(fetch: Fetch, fake_server: FakeServer) -> None:
    fake_server.answer = lambda prompt: "a\ud83d"
    assert fetch(make_requests(1)).responses == ("a?",)


@pytest.mark.parametrize("usage", [None, 5, {"prompt_tokens": -1, "completion_tokens": 2}, {"prompt_tokens": "x"}])
def test_an_invalid_token_count_is_ignored(fetch: Fetch, fake_server: FakeServer, usage: object) -> None:
    fake_server.queue_faults(
        Fault(body=json.dumps({"choices": [{"message": {"content": "a"}}], "usage": usage}).encode())
    )
    assert fetch(make_requests(1)).tokens == Server(fake_server.url, "m").max_request_tokens(make_requests(1)[0])


def test_a_wrong_key_ends_the_run_with_an_error_that_does_not_quote_it(
    fetch: Fetch, fake_server: FakeServer, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    fake_server.api_key = "right"
    with (
        caplog.at_level(logging.DEBUG),
        pytest.raises(UserError, match=r"refuses the key \(HTTP 401: a message of 401\); check") as error,
    ):
        fetch(make_requests(9), api_key="sekret-key", concurrency=2)
    assert len(fake_server.received) <= 2
    assert "sekret" not in str(error.value) + caplog.text + ledger.path.read_text()
    assert fetch(make_requests(9), api_key="right").new == 9


def test_an_error_message_with_the_key_is_not_quoted(fake_server: FakeServer) -> None:
    body = json.dumps({"error": {"message": "what is sekret-key?"}}).encode()
    with pytest.raises(UserError) as error:
        Server(fake_server.url, "m", api_key="sekret-key").parse_response(HTTPResponse(400, {}, body))
    assert "sekret" not in str(error.value)


@pytest.mark.parametrize(
    ("status", "words"),
    [(404, "check the URL"), (400, "a message of 400"), (302, "has moved"), (403, "requires a key")],
)
def test_a_refused_request_is_not_retried(fetch: Fetch, fake_server: FakeServer, status: int, words: str) -> None:
    fake_server.queue_faults(Fault(status))
    with pytest.raises(UserError, match=words) as error:
        fetch(make_requests(1))
    assert len(fake_server.received) == 1 and "\n" not in str(error.value)


def test_a_wrong_address_is_quoted(fetch: Fetch, fake_server: FakeServer) -> None:
    with pytest.raises(
        UserError, match=r"/v2/chat/completions: the server has no such page or model \(HTTP 404: a message of 404\)"
    ):
        fetch(make_requests(1), url=fake_server.url.replace("v1", "v2"))


def test_responses_in_progress_are_stored_when_another_request_is_refused(
    fetch: Fetch, fake_server: FakeServer, cache: ResponseCache
) -> None:
    fake_server.queue_faults(Fault(delay=0.1), Fault(400))
    with pytest.raises(UserError):
        fetch(make_requests(20), concurrency=2)
    assert len(fake_server.answered_prompts) == 1
    assert fetch(make_requests(20)).cached == 1


def test_a_dead_server_is_given_up_soon(fetch: Fetch, fake_server: FakeServer, ledger: Ledger) -> None:
    fake_server.kill()
    summary = fetch(make_requests(50), concurrency=2, max_attempts=2)
    assert summary.new == 0 and 3 <= summary.failed <= 4 and summary.remaining == 50 - summary.failed
    assert summary.message is not None
    assert "does not respond (" in summary.message and "run it again to continue" in summary.message
    assert summary.tokens == 0  # nothing arrived at a server that could bill it
    assert ledger.totals().unanswered == ledger.totals().attempts >= 6


def test_a_request_that_always_fails_does_not_stop_the_others(fetch: Fetch, fake_server: FakeServer) -> None:
    fake_server.queue_faults(*[Fault(500)] * 4)
    summary = fetch(make_requests(10), concurrency=1)
    assert (summary.new, summary.failed, summary.remaining) == (9, 1, 0)
    assert summary.responses[0] is None and summary.message is not None
    assert (
        "did not answer all requests (it returned HTTP 500: a message of 500): 9 answered, 1 failed" in summary.message
    )


def test_only_missing_requests_are_sent_after_the_server_was_killed(
    fetch: Fetch, fake_server: FakeServer, ledger: Ledger
) -> None:
    dead = threading.Event()

    def die(received: ReceivedRequest) -> None:
        if len(fake_server.received) == 12 and not dead.is_set():
            dead.set()
            fake_server.kill()

    fake_server.on_request, fake_server.default_fault = die, Fault(delay=0.01)
    first = fetch(make_requests(40), concurrency=3)
    assert 0 < first.new < 12 and first.failed >= 3 and first.remaining > 0
    assert first.message is not None
    assert first.message.startswith(f"the server at {fake_server.url} does not respond")
    assert f"{first.new} answered, {first.failed} failed, {first.remaining} remaining" in first.message
    before = set(fake_server.answered_prompts)
    fake_server.received.clear()
    fake_server.start()
    again = fetch(make_requests(40), concurrency=3)
    assert again.cached == first.new and again.new == 40 - first.new and again.message is None
    assert again.responses == tuple(f"answer to prompt {i} of ann" for i in range(40))
    answered = {
        request.prompt for request, text in zip(make_requests(40), first.responses, strict=True) if text is not None
    }
    assert not answered & {received.prompt for received in fake_server.received}
    assert answered <= before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_the_responses_in_progress(
    fetch: Fetch, fake_server: FakeServer, number: signal.Signals
) -> None:
    fake_server.default_fault = Fault(delay=0.1)
    before = signal.getsignal(number)

    def stop_at_third_request(received: ReceivedRequest) -> None:
        if len(fake_server.received) == 3:
            os.kill(os.getpid(), number)

    fake_server.on_request = stop_at_third_request
    with pytest.raises(StoppedError, match=r"stopped; \d+ of 50 responses are stored; run it again") as error:
        fetch(make_requests(50), concurrency=2)
    assert error.value.signal == number and signal.getsignal(number) is before
    stored = len(fake_server.answered_prompts)
    assert 2 < stored == len(fake_server.received) < 10
    fake_server.default_fault, fake_server.on_request = None, lambda received: None
    assert fetch(make_requests(50)).cached == stored


def test_a_signal_does_not_wait_for_a_long_backoff(fetch: Fetch, fake_server: FakeServer) -> None:
    fake_server.default_fault = Fault(500)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
    start = time.monotonic()
    with pytest.raises(StoppedError):
        fetch(make_requests(2), backoff_s=60.0)
    assert time.monotonic() - start < 5


# The ledger


def test_the_ledger_has_every_body_before_the_server_gets_it(
    fetch: Fetch, fake_server: FakeServer, ledger: Ledger
) -> None:
    unrecorded: list[ReceivedRequest] = []

    def look(received: ReceivedRequest) -> None:
        bodies = [line["body"].encode() for line in read_lines(ledger) if "attempt" in line]
        if received.body not in bodies:
            unrecorded.append(received)

    fake_server.on_request = look
    fake_server.queue_faults(Fault(500), Fault(truncated=True), None, Fault(reset=True))
    fetch(make_requests(5) + make_requests(5, "Zoë"), api_key="sekret", concurrency=3)
    assert not unrecorded
    sent = sorted(line["body"].encode() for line in read_lines(ledger) if "attempt" in line)
    assert sent == sorted(received.body for received in fake_server.received)
    assert ledger.totals().attempts == 13 and ledger.totals().bytes == sum(len(r.body) for r in fake_server.received)
    assert ledger.totals().unanswered == 1
    assert {line["url"] for line in read_lines(ledger) if "attempt" in line} == {f"{fake_server.url}/chat/completions"}
    assert "sekret" not in ledger.path.read_text()


def test_nothing_is_sent_that_the_ledger_cannot_record(
    fetch: Fetch, fake_server: FakeServer, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(user: str, url: str, body: bytes) -> None:
        raise UserError("the disk is full", ledger.path)

    monkeypatch.setattr(ledger, "begin_attempt", fail)
    with pytest.raises(UserError, match="the disk is full"):
        fetch(make_requests(5))
    assert not fake_server.received


# Settings and the cache


@pytest.mark.parametrize(
    "change",
    [
        {"api_key": ""},
        {"api_key": "abc\n"},
        {"api_key": "abc "},
        {"api_key": "schlüssel"},
        {"model": " "},
        {"model": "m\udcff"},
        {"temperature": 3},
        {"max_tokens": 0},
        {"max_attempts": 0},
        {"timeout_s": 0},
        {"timeout_s": float("nan")},
        {"backoff_s": -1},
        {"url": "https://example.org/v1?key=1"},
    ],
    ids=str,
)
def test_invalid_settings_are_refused_without_quoting_the_key(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError) as error:
        Server(**{"url": "https://example.org/v1", "model": "m", **change})
    assert "abc" not in str(error.value) and "schl" not in str(error.value)


def test_repr_does_not_contain_the_key() -> None:
    assert "sekret" not in repr(Server("https://example.org", "m", api_key="sekret"))


def test_a_concurrency_of_0_is_refused(fetch: Fetch) -> None:
    with pytest.raises(ValueError, match="concurrency"):
        fetch(make_requests(1), concurrency=0)


def test_responses_are_read_by_the_next_run_and_never_overwritten(folder: Path) -> None:
    response = Response("text", "length", 3, 4)
    database = Database(folder, write=True, schema=SCHEMA)
    cache = ResponseCache(database)
    cache.store(cache.begin_attempt("k", 50), "k", response, 7)
    cache.store(cache.begin_attempt("k", 50), "k", Response("other"), 9)
    cache.begin_attempt("k", 5)
    cache.discard_attempt(cache.begin_attempt("k", 60))
    database.close()
    database = Database(folder, write=False, schema=SCHEMA)
    assert ResponseCache(database).get("k") == response
    assert ResponseCache(database).get("l") is None
    assert ResponseCache(database).tokens_of(["k", "l"]) == 12
    database.close()
