"""Asking a server: whatever it does, nothing is lost, nothing is asked twice, and the bounds hold."""

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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlx_personal.augmentation.client import Budget, ask
from mlx_personal.augmentation.ledger import Ledger
from mlx_personal.augmentation.prompting import Request, parse, read_prompt, requests
from mlx_personal.augmentation.response_cache import SCHEMA, Answer, Answers
from mlx_personal.augmentation.server import Server
from mlx_personal.augmentation.task import Record, Task
from mlx_personal.errors import StoppedError, UserError
from mlx_personal.storage.database import Database
from tests.support.fake_server import ANSWER_TOKENS, PROMPT_TOKENS, FakeServer, Fault

COST = PROMPT_TOKENS + ANSWER_TOKENS
MOVIES = [Record(f"film {i}", answer) for i, answer in enumerate(["comedy", "action", "comedy", "classic"])]


def some(count: Any, user: Any = "ann") -> Any:
    return [Request(user, i, f"prompt {i} of {user}", i, (0,)) for i in range(count)]


@pytest.fixture
def fake() -> Iterator[Any]:
    with FakeServer() as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Any:
    return tmp_path / "run"


@pytest.fixture
def answers(folder: Any) -> Iterator[Any]:
    database = Database(folder, write=True, schema=SCHEMA)
    yield Answers(database)
    database.close()


@pytest.fixture
def ledger(folder: Any) -> Iterator[Any]:
    with Ledger(folder) as ledger:
        yield ledger


@pytest.fixture
def put(fake: Any, answers: Any, ledger: Any) -> Any:
    """Asks with waits too short to notice; keywords change the server's settings or are `ask`'s own."""

    def ask_them(wanted: Any, **changes: Any) -> Any:
        own = {k: changes.pop(k) for k in ("concurrency", "token_budget", "on_progress") if k in changes}
        server = Server(**{"url": fake.url, "model": "m", "timeout": 5.0, "tries": 4, "backoff": 0.001, **changes})
        return ask(wanted, server, answers, ledger, **own)

    return ask_them


def lines(ledger: Any) -> Any:
    return [json.loads(line) for line in ledger.path.read_text().splitlines()]


# Plain


def test_every_request_gets_its_own_answer_in_order(put: Any, fake: Any) -> None:
    seen = []
    asked = put(some(20), concurrency=4, on_progress=lambda done, total: seen.append((done, total)))
    assert asked.answers == tuple(f"answer to prompt {i} of ann" for i in range(20))
    assert (asked.new, asked.known, asked.failed, asked.left, asked.message) == (20, 0, 0, 0, None)
    assert asked.tokens == 20 * COST == fake.tokens
    assert seen == [(i, 20) for i in range(21)]


def test_what_is_sent_is_a_chat_completion_with_a_seed_and_the_key(put: Any, fake: Any) -> None:
    put([Request("ann", 0, "Grüße", 77, (0,))], api_key="abc", temperature=0.5, max_tokens=9)
    (received,) = fake.received
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


def test_what_was_answered_is_never_asked_again(put: Any, fake: Any) -> None:
    first = put(some(3))
    again = put(some(5))
    assert (again.known, again.new) == (3, 2) and again.answers[:3] == first.answers
    assert len(fake.received) == 5
    fake.kill()
    assert put(some(5)).answers == again.answers


@pytest.mark.parametrize("change", [{"model": "n"}, {"temperature": 0.1}, {"max_tokens": 3}])
def test_another_setting_of_the_server_is_another_question(put: Any, fake: Any, change: Any) -> None:
    put(some(2))
    assert put(some(2), **change).new == 2


def test_requests_that_are_alike_are_asked_once(put: Any, fake: Any) -> None:
    alike = [dataclasses.replace(some(1)[0], user=user) for user in ("ann", "bob")]
    assert put(alike).answers == ("answer to prompt 0 of ann",) * 2
    assert len(fake.received) == 1


def test_no_requests_need_no_server(put: Any, fake: Any) -> None:
    fake.kill()
    assert put([]).answers == ()


# Bounds


def test_no_more_requests_than_allowed_are_on_their_way(put: Any, fake: Any) -> None:
    fake.always = Fault(delay=0.02)
    put(some(20), concurrency=3)
    assert fake.most_at_once == 3


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize("usage", [True, False])
def test_the_token_budget_is_never_exceeded_and_what_is_not_asked_is_counted(
    put: Any, fake: Any, concurrency: int, usage: bool
) -> None:
    fake.always, fake.usage = Fault(delay=0.005), usage
    one = Server(fake.url, "m", max_tokens=20).most_tokens(some(1)[0])
    budget = 6 * one
    asked = put(some(60), max_tokens=20, token_budget=budget, concurrency=concurrency)
    assert fake.tokens <= asked.tokens <= budget
    # The last that is sent needs room for the most it may cost.
    assert asked.tokens > budget - one - COST
    assert asked.new == len(fake.received) and asked.unaffordable == 60 - asked.new > 0
    assert f"{asked.unaffordable} over the token budget" in asked.message
    assert put(some(60), max_tokens=20, token_budget=budget).new == 0
    assert put(some(60), max_tokens=20).unaffordable == 0


def test_an_attempt_that_may_be_billed_counts_against_the_budget(put: Any, fake: Any) -> None:
    fake.always = Fault(half=True)
    most = Server(fake.url, "m").most_tokens(some(1)[0])
    asked = put(some(1), token_budget=2 * most + 5)
    assert len(fake.received) == 2
    assert asked.unaffordable == 1 and asked.tokens == 2 * most
    fake.always = None
    assert put(some(1), token_budget=2 * most + 5).unaffordable == 1
    assert put(some(1), token_budget=3 * most).new == 1


def test_an_attempt_that_a_killed_process_waited_for_counts_against_the_budget(
    put: Any, fake: Any, answers: Any
) -> None:
    (request,), server = some(1), Server(fake.url, "m")
    seen = []
    fake.look = lambda received: seen.append(answers.charged([server.key(request)]))
    assert put([request]).tokens == COST
    assert seen == [server.most_tokens(request)]


@pytest.mark.parametrize("status", [500, 401])
def test_an_attempt_that_is_not_billed_costs_nothing(put: Any, fake: Any, answers: Any, status: int) -> None:
    fake.always = Fault(status)
    with contextlib.suppress(UserError):
        put(some(1))
    assert fake.received and answers.charged([Server(fake.url, "m").key(some(1)[0])]) == 0


def test_a_budget_waits_for_what_is_set_aside() -> None:
    async def story() -> Any:
        budget = Budget(10)
        assert await budget.set_aside(8)
        waiting = [asyncio.create_task(budget.set_aside(n)) for n in (5, 5)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        budget.settle(8, 1)
        await asyncio.sleep(0.01)
        assert [task.done() for task in waiting] == [True, False]
        budget.settle(5, 5)
        return await waiting[1]

    assert asyncio.run(asyncio.wait_for(story(), 2)) is False


# Faults


@pytest.mark.parametrize(
    "fault",
    [
        Fault(500),
        Fault(503),
        Fault(429),
        Fault(half=True),
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
def test_a_fault_that_passes_is_got_over(put: Any, fake: Any, fault: Any) -> None:
    fake.misbehave(fault, None, fault, fault)
    asked = put(some(4), timeout=0.4 if fault.delay else 5.0, concurrency=2)
    assert asked.new == 4 and asked.message is None
    assert len(fake.received) == 7


def test_the_server_says_when_to_come_back(put: Any, fake: Any) -> None:
    fake.misbehave(Fault(429, headers={"Retry-After": "1"}))
    start = time.monotonic()
    assert put(some(1)).new == 1
    assert time.monotonic() - start >= 1


def test_a_date_to_come_back_is_understood() -> None:
    from mlx_personal.http_client import Reply

    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=30)
    assert 25 < Reply(429, {"retry-after": email.utils.format_datetime(soon, usegmt=True)}, b"").retry_after() <= 30
    for value in ("Wed, 21 Oct 2015 07:28:00 GMT", "soon", "", "-5", "1e9", "nan"):
        assert Reply(429, {"retry-after": value}, b"").retry_after() == 0


def test_an_answer_that_the_server_withholds_is_empty_and_not_asked_again(put: Any, fake: Any) -> None:
    fake.misbehave(Fault(body=b'{"choices": [{"message": {"content": null}, "finish_reason": "content_filter"}]}'))
    assert put(some(1)).answers == ("",)


def test_half_a_character_in_an_answer_is_kept_as_a_question_mark(put: Any, fake: Any) -> None:
    fake.answer = lambda prompt: "a\ud83d"
    assert put(some(1)).answers == ("a?",)


@pytest.mark.parametrize("usage", [None, 5, {"prompt_tokens": -1, "completion_tokens": 2}, {"prompt_tokens": "x"}])
def test_a_senseless_count_of_tokens_is_none(put: Any, fake: Any, usage: Any) -> None:
    fake.misbehave(Fault(body=json.dumps({"choices": [{"message": {"content": "a"}}], "usage": usage}).encode()))
    assert put(some(1)).tokens == Server(fake.url, "m").most_tokens(some(1)[0])


def test_a_wrong_key_ends_the_run_in_one_line_that_does_not_name_it(
    put: Any, fake: Any, ledger: Any, caplog: pytest.LogCaptureFixture
) -> None:
    fake.key = "right"
    with (
        caplog.at_level(logging.DEBUG),
        pytest.raises(UserError, match=r"refuses the key \(HTTP 401\); check") as error,
    ):
        put(some(9), api_key="sekret-key", concurrency=2)
    assert len(fake.received) <= 2
    assert "sekret" not in str(error.value) + caplog.text + ledger.path.read_text()
    assert put(some(9), api_key="right").new == 9


def test_a_server_that_quotes_the_key_is_not_quoted(fake: Any) -> None:
    from mlx_personal.http_client import Reply

    body = json.dumps({"error": {"message": "what is sekret-key?"}}).encode()
    with pytest.raises(UserError) as error:
        Server(fake.url, "m", api_key="sekret-key").read(Reply(400, {}, body))
    assert "sekret" not in str(error.value)


@pytest.mark.parametrize(
    ("status", "words"),
    [(404, "check the address"), (400, "a message of 400"), (302, "is elsewhere"), (403, "wants a key")],
)
def test_what_never_helps_is_not_tried_again(put: Any, fake: Any, status: int, words: str) -> None:
    fake.misbehave(Fault(status))
    with pytest.raises(UserError, match=words) as error:
        put(some(1))
    assert len(fake.received) == 1 and "\n" not in str(error.value)


def test_a_wrong_address_is_named(put: Any, fake: Any) -> None:
    with pytest.raises(UserError, match=r"/v2/chat/completions: the server has no such page or model \(HTTP 404\)"):
        put(some(1), url=fake.url.replace("v1", "v2"))


def test_answers_on_their_way_are_kept_when_another_request_is_refused(put: Any, fake: Any, answers: Any) -> None:
    fake.misbehave(Fault(delay=0.1), Fault(400))
    with pytest.raises(UserError):
        put(some(20), concurrency=2)
    assert len(fake.answered) == 1
    assert put(some(20)).known == 1


def test_a_server_that_is_dead_is_given_up_soon(put: Any, fake: Any, ledger: Any) -> None:
    fake.kill()
    asked = put(some(50), concurrency=2, tries=2)
    assert asked.new == 0 and 3 <= asked.failed <= 4 and asked.left == 50 - asked.failed
    assert "does not answer (" in asked.message and "run the same command again to go on" in asked.message
    assert asked.tokens == 0  # nothing arrived that could be billed
    assert ledger.totals().unanswered == ledger.totals().attempts >= 6


def test_one_request_that_always_fails_does_not_hold_up_the_others(put: Any, fake: Any) -> None:
    fake.misbehave(*[Fault(500)] * 4)
    asked = put(some(10), concurrency=1)
    assert (asked.new, asked.failed, asked.left) == (9, 1, 0)
    assert asked.answers[0] is None
    assert "did not answer all (it says HTTP 500): 9 answered, 1 failed" in asked.message


def test_a_server_killed_in_mid_run_is_asked_only_the_rest_when_it_is_back(put: Any, fake: Any, ledger: Any) -> None:
    dead = threading.Event()

    def die(received: Any) -> None:
        if len(fake.received) == 12 and not dead.is_set():
            dead.set()
            fake.kill()

    fake.look, fake.always = die, Fault(delay=0.01)
    first = put(some(40), concurrency=3)
    assert 0 < first.new < 12 and first.failed >= 3 and first.left > 0
    assert first.message.startswith(f"the server at {fake.url} does not answer")
    assert f"{first.new} answered, {first.failed} failed, {first.left} left" in first.message
    before = set(fake.answered)
    fake.received.clear()
    fake.start()
    again = put(some(40), concurrency=3)
    assert again.known == first.new and again.new == 40 - first.new and again.message is None
    assert again.answers == tuple(f"answer to prompt {i} of ann" for i in range(40))
    kept = {request for request, answer in zip(some(40), first.answers, strict=True) if answer is not None}
    assert not {r.prompt for r in kept} & {r.prompt for r in fake.received}
    assert {r.prompt for r in kept} <= before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_the_answers_on_their_way(put: Any, fake: Any, number: Any) -> None:
    fake.always = Fault(delay=0.1)
    before = signal.getsignal(number)
    fake.look = lambda received: len(fake.received) == 3 and os.kill(os.getpid(), number)
    with pytest.raises(StoppedError, match=r"stopped; \d+ of 50 answers are kept; run the same command") as error:
        put(some(50), concurrency=2)
    assert error.value.signal == number and signal.getsignal(number) is before
    kept = len(fake.answered)
    assert 2 < kept == len(fake.received) < 10
    fake.always, fake.look = None, lambda received: None
    assert put(some(50)).known == kept


def test_a_signal_does_not_wait_for_a_long_back_off(put: Any, fake: Any) -> None:
    fake.always = Fault(500)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
    start = time.monotonic()
    with pytest.raises(StoppedError):
        put(some(2), backoff=60.0)
    assert time.monotonic() - start < 5


# The ledger


def test_the_ledger_holds_the_bytes_that_the_server_got_before_it_got_them(put: Any, fake: Any, ledger: Any) -> None:
    unrecorded = []

    def look(received: Any) -> None:
        bodies = [line["body"].encode() for line in lines(ledger) if "attempt" in line]
        if received.body not in bodies:
            unrecorded.append(received)

    fake.look = look
    fake.misbehave(Fault(500), Fault(half=True), None, Fault(reset=True))
    put(some(5) + some(5, "Zoë"), api_key="sekret", concurrency=3)
    assert not unrecorded
    sent = sorted(line["body"].encode() for line in lines(ledger) if "attempt" in line)
    assert sent == sorted(received.body for received in fake.received)
    assert ledger.totals().attempts == 13 and ledger.totals().bytes == sum(len(r.body) for r in fake.received)
    assert ledger.totals().unanswered == 1
    assert {line["url"] for line in lines(ledger) if "attempt" in line} == {f"{fake.url}/chat/completions"}
    assert "sekret" not in ledger.path.read_text()


def test_nothing_is_sent_that_the_ledger_cannot_take(
    put: Any, fake: Any, ledger: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(user: Any, url: Any, body: Any) -> None:
        raise UserError("the disk is full", ledger.path)

    monkeypatch.setattr(ledger, "sending", full)
    with pytest.raises(UserError, match="the disk is full"):
        put(some(5))
    assert not fake.received


# Settings and answers


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
        {"tries": 0},
        {"timeout": 0},
        {"timeout": float("nan")},
        {"backoff": -1},
        {"url": "https://example.org/v1?key=1"},
    ],
    ids=str,
)
def test_senseless_settings_are_refused_without_the_key(change: Any) -> None:
    with pytest.raises(ValueError) as error:
        Server(**{"url": "https://example.org/v1", "model": "m", **change})
    assert "abc" not in str(error.value) and "schl" not in str(error.value)


def test_a_server_does_not_show_its_key() -> None:
    assert "sekret" not in repr(Server("https://example.org", "m", api_key="sekret"))


def test_no_concurrency_is_refused(put: Any) -> None:
    with pytest.raises(ValueError, match="concurrency"):
        put(some(1), concurrency=0)


def test_answers_are_read_back_by_the_next_run_and_none_is_overwritten(folder: Any) -> None:
    answer = Answer("text", "length", 3, 4)
    database = Database(folder, write=True, schema=SCHEMA)
    answers = Answers(database)
    answers.add(answers.begin("k", 50), "k", answer, 7)
    answers.add(answers.begin("k", 50), "k", Answer("other"), 9)
    answers.begin("k", 5)
    answers.not_billed(answers.begin("k", 60))
    database.close()
    database = Database(folder, write=False, schema=SCHEMA)
    assert Answers(database).get("k") == answer
    assert Answers(database).get("l") is None
    assert Answers(database).charged(["k", "l"]) == 12
    database.close()


# Prompts


def test_the_prompt_is_as_the_file_says() -> None:
    (request,) = requests("ann", Task(labels=("comedy", "action")), MOVIES[:1], 1, 4, seed=0)
    assert request.prompt == (
        "The answer is one of: comedy, action.\nRecords of one person:\n"
        '{"text": "film 0", "answer": "comedy"}\n'
        'Write one more record of this person as JSON with "text" and "answer", and nothing else.'
    )
    (free,) = requests("ann", Task(), [Record("{labels} ü", "{records}")], 1, 1, seed=0)
    assert free.prompt.startswith('Records of one person:\n{"text": "{labels} ü", "answer": "{records}"}\nWrite')


@pytest.mark.parametrize(("count", "shown", "k"), [(4, 2, 12), (3, 3, 6), (1, 4, 1), (10, 4, 100), (2, 9, 2)])
def test_no_two_prompts_are_alike_while_there_is_a_choice(count: int, shown: int, k: int) -> None:
    records = [Record(f"film {i}", "comedy") for i in range(count)]
    found = requests("ann", Task(), records, k, shown, seed=3)
    assert len({r.prompt for r in found}) == len({r.seed for r in found}) == k
    assert [r.number for r in found] == list(range(k))
    for r in found:
        assert len(set(r.demonstrations)) == len(r.demonstrations) == min(count, shown)
        assert [json.loads(line)["text"] for line in r.prompt.splitlines()[1:-1]] == [
            f"film {i}" for i in r.demonstrations
        ]


def test_more_prompts_than_choices_differ_by_their_seeds() -> None:
    found = requests("ann", Task(), MOVIES[:1], 5, 4, seed=0)
    assert len({r.prompt for r in found}) == 1 and len({r.seed for r in found}) == 5


def test_a_larger_k_asks_only_for_what_is_new_and_each_user_gets_others() -> None:
    few, many = (requests("ann", Task(), MOVIES, k, 2, seed=1) for k in (5, 9))
    assert many[:5] == few
    assert [r.demonstrations for r in requests("bob", Task(), MOVIES, 9, 2, seed=1)] != [r.demonstrations for r in many]
    with pytest.raises(ValueError):
        requests("ann", Task(), [], 1, 1, seed=0)


def test_half_a_character_in_a_record_is_not_sent() -> None:
    (request,) = requests("ann", Task(), [Record("a\ud83d", "b")], 1, 1, seed=0)
    assert '"a?"' in request.prompt


def test_another_prompt_is_read_and_one_without_a_slot_refused(tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text("{labels}More like\n{records}\nplease\n")
    (request,) = requests("ann", Task(), MOVIES[:1], 1, 1, seed=0, prompt=read_prompt(own))
    assert request.prompt == 'More like\n{"text": "film 0", "answer": "comedy"}\nplease'
    own.write_text("{records}")
    with pytest.raises(UserError, match=r"this prompt has no \{labels\}"):
        read_prompt(own)
    own.write_bytes(b"\xff{labels}{records}")
    with pytest.raises(UserError, match="not UTF-8"):
        read_prompt(own)
    with pytest.raises(UserError, match="no such file"):
        read_prompt(tmp_path / "none.txt")


@pytest.mark.parametrize(
    "answer",
    [
        '{"text": "a {b}", "answer": "Comedy"}',
        '\n{"answer": " comedy ", "text": "a {b}", "why": 1}\n',
        'Sure {here}:\n```json\n{"text": "a {b}",\n "answer": "COMEDY"}\n```\nMore?',
        '<think>{"text": "x", "answer": "y"}</think>{"text": "a {b}", "answer": "comedy"}',
    ],
)
def test_one_record_is_found_among_chatter_and_its_label_is_written_as_the_task_does(answer: str) -> None:
    assert parse(answer, Task(labels=("comedy", "action"))) == Record("a {b}", "comedy")


def test_a_label_that_only_its_case_tells_from_another_is_taken_as_it_is() -> None:
    task = Task(labels=("US", "us"))
    assert parse('{"text": "a", "answer": "us"}', task).answer == "us"
    assert parse('{"text": "a", "answer": "Us"}', task).answer == "Us"
    assert parse('{"text": "a", "answer": "none"}', task).answer == "none"


def test_a_line_break_inside_a_string_is_forgiven() -> None:
    assert parse('{"text": "a\nb", "answer": "c"}', Task()) == Record("a\nb", "c")


def test_a_score_may_be_a_number() -> None:
    assert parse('{"text": "a", "answer": 5}', Task(labels=("4", "5"))) == Record("a", "5")
    with pytest.raises(ValueError):
        parse('{"text": "a", "answer": true}', Task())


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "a story",
        '{"text": "a", "answer": "b"',
        '{"text": "a"}',
        '{"text": 5, "answer": "b"}',
        '{"text": "a", "answer": null}',
        '{"text": " ", "answer": "b"}',
        '{"text": "a", "answer": "b"} {"text": "c", "answer": "d"}',
        '["text", "answer"]',
        '{"text": "\\ud83d", "answer": "b"}',
        '{"a":' * 50_000,
        '{"text": ' + "1" * 5000 + ', "answer": "b"}',
    ],
    ids=range(12),
)
def test_what_is_no_record_is_refused_with_a_reason(answer: Any) -> None:
    with pytest.raises(ValueError) as error:
        parse(answer, Task())
    assert str(error.value)
