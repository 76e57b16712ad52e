"""Replies of servers that are no plain answer: parts, reasoning, limits, unsupported fields, and errors of any form."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_personal.augmentation.client import RequestSummary, fetch_responses
from mlx_personal.augmentation.completion import parse_completion
from mlx_personal.augmentation.database import SCHEMA
from mlx_personal.augmentation.error_body import MAX_REASON_CHARS, read_error
from mlx_personal.augmentation.ledger import Ledger
from mlx_personal.augmentation.prompting import PromptRequest
from mlx_personal.augmentation.response_cache import ResponseCache
from mlx_personal.augmentation.server import RequestRefusedError, Server
from mlx_personal.cli.remedies import error_line, remedy_sentence
from mlx_personal.errors import UserError
from mlx_personal.http_client import HTTPResponse
from mlx_personal.storage.database import Database, DatabaseSchema
from tests.support.fake_server import FakeServer, Fault, ReceivedRequest

THOUGHT = "First I look at what was asked for"


class Fetch(Protocol):
    """The fixture `fetch`."""

    def __call__(self, count: int, **changes: Any) -> RequestSummary: ...


@pytest.fixture
def fake_server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[ResponseCache]:
    database = Database(tmp_path / "run", write=True, schema=SCHEMA)
    yield ResponseCache(database)
    database.close()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "run") as ledger:
        yield ledger


@pytest.fixture
def fetch(fake_server: FakeServer, cache: ResponseCache, ledger: Ledger) -> Fetch:
    """Return a function that sends a number of requests, one after the other, with short waits."""

    def fetch(count: int, **changes: Any) -> RequestSummary:
        requests = [PromptRequest("ann", i, f"prompt {i}", i, (0,)) for i in range(count)]
        budget = changes.pop("token_budget", None)
        server = Server(**{"url": fake_server.url, "model": "m", "timeout_s": 5.0, "backoff_s": 0.001, **changes})
        return fetch_responses(requests, server, cache, ledger, concurrency=1, token_budget=budget)

    return fetch


def completion(message: dict[str, Any], finish_reason: str | None = "stop", tokens: int | None = None) -> bytes:
    """Return a chat completion with this message; with usage if the completion's tokens are given."""
    body: dict[str, Any] = {"choices": [{"message": {"role": "assistant", **message}, "finish_reason": finish_reason}]}
    if tokens is not None:
        body["usage"] = {"prompt_tokens": 30, "completion_tokens": tokens}
    return json.dumps(body).encode()


def sent(fake_server: FakeServer, name: str) -> list[Any]:
    """Return the value of a field in each request that the server received; None where a request has none."""
    return [json.loads(received.body).get(name) for received in fake_server.received]


def think_for(fake_server: FakeServer, tokens: int, message: dict[str, Any], finish_reason: str = "length") -> None:
    """Let the server send `message` to each request that allows fewer tokens, and answer the others."""

    def decide(received: ReceivedRequest) -> None:
        allowed = json.loads(received.body).get("max_tokens", 0)
        cut = Fault(body=completion(message, finish_reason, allowed))
        fake_server.default_fault = cut if allowed < tokens else None

    fake_server.on_request = decide


# Content


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": "Soak the "}, {"type": "text", "text": "peas."}], "Soak the peas."),
        (["Soak ", "them."], "Soak them."),
        ([{"type": "output_text", "text": {"value": "Soak."}}], "Soak."),
        ({"type": "text", "text": "Soak."}, "Soak."),
        ([{"type": "thinking", "thinking": [{"text": THOUGHT}]}, {"type": "text", "text": "Soak."}], "Soak."),
        ([{"type": "reasoning", "text": THOUGHT}, {"type": "image_url"}, {"type": "text", "text": "Soak."}], "Soak."),
    ],
    ids=range(6),
)
def test_the_parts_of_a_content_are_joined_without_thoughts(
    fetch: Fetch, fake_server: FakeServer, content: object, text: str
) -> None:
    fake_server.queue_faults(Fault(body=completion({"content": content})))
    assert fetch(1).responses == (text,) and len(fake_server.received) == 1


@pytest.mark.parametrize(
    "message",
    [
        {"reasoning": THOUGHT},
        {"content": None, "reasoning_content": THOUGHT},
        {"content": ""},
        {"content": f"<think>{THOUGHT}"},
        {"content": [{"type": "thinking", "thinking": THOUGHT}]},
        {"content": " ", "reasoning_details": [{"text": THOUGHT}]},
    ],
    ids=str,
)
def test_a_response_that_thoughts_used_up_is_requested_with_more_tokens(
    fetch: Fetch, fake_server: FakeServer, ledger: Ledger, message: dict[str, Any]
) -> None:
    think_for(fake_server, 600, message)
    summary = fetch(2)
    assert summary.responses == ("answer to prompt 0", "answer to prompt 1") and summary.message is None
    # The second request begins with what the first one needed.
    assert sent(fake_server, "max_tokens") == [512, 2048, 2048]
    assert summary.tokens == (30 + 512) + 2 * 15
    ends = [line for line in map(json.loads, ledger.path.read_text().splitlines()) if "ended" in line]
    assert [end["tokens"] for end in ends] == [542, 15, 15]
    assert ends[0]["failure"] == "the response was cut off after 512 tokens, before an answer"
    # Another body may not have the same key, or a server would send the first response again.
    assert len({received.headers["idempotency-key"] for received in fake_server.received}) == 3


def test_responses_without_an_answer_are_failures_that_are_charged_as_reported_and_not_stored(
    fetch: Fetch, fake_server: FakeServer, cache: ResponseCache
) -> None:
    think_for(fake_server, 10**9, {"content": None, "reasoning": THOUGHT})
    summary = fetch(9)
    assert (summary.new, summary.failed, summary.remaining) == (0, 3, 6) and set(summary.responses) == {None}
    assert sent(fake_server, "max_tokens") == [512, 2048, 2048, 2048]
    assert summary.tokens == cache.total_tokens() == 4 * 30 + 512 + 3 * 2048
    assert summary.message is not None and summary.remedy is not None
    assert summary.message.endswith(
        "did not answer all requests (the response was cut off after 2,048 tokens, before an answer): "
        "0 answered, 3 failed, 6 remaining"
    )
    assert remedy_sentence(summary.remedy) == "raise --max-tokens, or let the server answer without reasoning"
    assert summary.to_json()["message"] == f"{summary.message}; allow more tokens for a response of the server"
    think_for(fake_server, 10**9, {"content": None})
    assert fetch(1, max_tokens=3000).failed == 1
    think_for(fake_server, 3000, {"content": None})
    assert fetch(1, max_tokens=3000).new == 1


@pytest.mark.parametrize("finish_reason", ["stop", None])
def test_an_answer_in_the_reasoning_is_none(fetch: Fetch, fake_server: FakeServer, finish_reason: str | None) -> None:
    message = {"content": None, "reasoning_content": '{"text": "How long do peas soak?", "answer": "A night."}'}
    fake_server.default_fault = Fault(body=completion(message, finish_reason, 40))
    summary = fetch(1)
    assert (summary.responses, summary.failed, summary.tokens) == ((None,), 1, 2 * 70)
    assert summary.message is not None and "has reasoning and no answer" in summary.message


def test_without_usage_the_upper_bound_of_each_attempt_is_charged_once(fetch: Fetch, fake_server: FakeServer) -> None:
    fake_server.default_fault = Fault(body=completion({"content": None, "reasoning": THOUGHT}, "length"))
    bound = Server(fake_server.url, "m").max_request_tokens(PromptRequest("ann", 0, "prompt 0", 0, (0,)))
    assert fetch(1).tokens == bound + (bound + 3 * 512)


def test_more_tokens_than_the_context_holds_are_not_the_end_of_the_run(fetch: Fetch, fake_server: FakeServer) -> None:
    context = Fault(400, body=b'{"message": "the context of 1,000 tokens is too short for this request"}')

    def decide(received: ReceivedRequest) -> None:
        cut = Fault(body=completion({"content": None}, "length", 512))
        is_long = json.loads(received.body)["max_tokens"] > 512
        fake_server.default_fault = context if is_long else cut if received.prompt == "prompt 0" else None

    fake_server.on_request = decide
    summary = fetch(3)
    assert (summary.new, summary.failed, summary.tokens) == (2, 1, 542 + 2 * 15)
    assert sent(fake_server, "max_tokens") == [512, 2048, 512, 512]
    assert (
        summary.message is not None
        and "with 2,048 tokens, the server refuses the request (HTTP 400: the context" in (summary.message)
    )


def test_more_tokens_than_the_budget_has_are_not_requested(fetch: Fetch, fake_server: FakeServer) -> None:
    think_for(fake_server, 10**9, {"content": None})
    summary = fetch(1, token_budget=1500)
    assert (summary.failed, summary.unaffordable, summary.tokens) == (1, 0, 542)
    assert sent(fake_server, "max_tokens") == [512]


@pytest.mark.parametrize(
    "message", [{"content": None, "refusal": "I cannot help."}, {"content": [{"type": "refusal", "refusal": "No."}]}]
)
def test_a_refusal_of_the_model_is_a_withheld_response(
    fetch: Fetch, fake_server: FakeServer, message: dict[str, Any]
) -> None:
    fake_server.queue_faults(Fault(body=completion(message)))
    assert fetch(1).responses == ("",) and len(fake_server.received) == 1


def test_a_missing_content_without_a_cause_is_retried_and_charged_as_reported(
    fetch: Fetch, fake_server: FakeServer
) -> None:
    fake_server.queue_faults(Fault(body=completion({}, tokens=3)), Fault(body=completion({"content": None}, tokens=4)))
    assert fetch(1).tokens == 33 + 34 + 15 and len(fake_server.received) == 3


def test_responses_that_were_cut_off_are_counted(fetch: Fetch, fake_server: FakeServer) -> None:
    fake_server.queue_faults(Fault(body=completion({"content": '{"text": "How lo'}, "length")))
    assert (fetch(2).cut_off, fetch(2).cut_off) == (1, 1)


def test_empty_responses_of_earlier_versions_are_requested_again_and_stay_charged(tmp_path: Path) -> None:
    old = DatabaseSchema("run", SCHEMA.file_name, SCHEMA.migrations[:2], "", "")
    database = Database(tmp_path, write=True, schema=old)
    with database.transaction() as connection:
        for key, text, reason in (("a", "", "length"), ("b", "", "content_filter"), ("c", "x", "length")):
            connection.execute("INSERT INTO answers VALUES (?, ?, ?, 1, 2, 7, 'now')", (key, text, reason))
    database.close()
    database = Database(tmp_path, write=False, schema=SCHEMA)
    cache = ResponseCache(database)
    assert [cache.get(key) is None for key in "abc"] == [True, False, False]
    assert (cache.total_tokens(), cache.tokens_of(["a"])) == (21, 7)
    database.close()


# Fields of a request

UNSUPPORTED = [
    {"error": {"message": "Unsupported parameter: 'max_tokens' is unknown here.", "param": "max_tokens"}},
    {"error": "max_tokens is deprecated, use max_completion_tokens instead"},
    {"detail": [{"type": "extra_forbidden", "loc": ["body", "max_tokens"], "msg": "Extra inputs are not permitted"}]},
]


@pytest.mark.parametrize("body", UNSUPPORTED, ids=range(3))
def test_a_server_without_max_tokens_gets_the_newer_field_until_the_end_of_the_run(
    fetch: Fetch, fake_server: FakeServer, body: object
) -> None:
    fake_server.queue_faults(Fault(422, body=json.dumps(body).encode()))
    summary = fetch(3, max_tokens=99)
    assert summary.new == 3 and summary.tokens == 3 * 15
    assert sent(fake_server, "max_tokens") == [99, None, None, None]
    assert sent(fake_server, "max_completion_tokens") == [None, 99, 99, 99]


def test_a_server_with_neither_field_is_a_user_error_that_names_the_option(
    fetch: Fetch, fake_server: FakeServer
) -> None:
    def refuse(received: ReceivedRequest) -> None:
        name = next(name for name in json.loads(received.body) if name.endswith("_tokens"))
        fake_server.default_fault = Fault(400, body=json.dumps({"error": f"unknown field {name}"}).encode())

    fake_server.on_request = refuse
    with pytest.raises(UserError) as error:
        fetch(5)
    assert len(fake_server.received) == 2
    assert error_line(error.value).endswith(
        "(HTTP 400: unknown field max_completion_tokens); leave it out with --without-field max_tokens"
    )


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"error": {"message": "Unsupported value: 'temperature' must be 1.", "param": "temperature"}}, "temperature"),
        ({"message": "seed is not supported by this model"}, "seed"),
        ({"detail": "this model is not supported"}, None),
        ({"error": "temperature must be at most 1"}, None),
        ({"error": "max_tokens is too large: 512"}, None),
    ],
)
def test_the_refusal_of_a_field_says_how_to_leave_it_out(body: object, field: str | None) -> None:
    with pytest.raises(RequestRefusedError) as error:
        Server("http://localhost/v1", "m").parse_response(HTTPResponse(400, {}, json.dumps(body).encode()))
    hint = "check the settings" if field is None else f"leave it out with --without-field {field}"
    assert error.value.field == field and error_line(error.value).endswith(f"); {hint}")


@pytest.mark.parametrize("name", ["model", "temperature", "max_tokens", "seed"])
def test_each_optional_field_can_be_left_out(fetch: Fetch, fake_server: FakeServer, name: str) -> None:
    fetch(1)
    assert fetch(1, omitted_fields=frozenset({name})).new == 1  # Another request than with the field.
    complete, reduced = (json.loads(received.body) for received in fake_server.received)
    assert complete.pop(name) is not None and reduced == complete


def test_a_budget_without_a_limit_of_the_length_is_refused_before_anything_is_sent(
    fetch: Fetch, fake_server: FakeServer
) -> None:
    with pytest.raises(UserError, match="a token budget needs the request field max_tokens"):
        fetch(1, omitted_fields=frozenset({"max_tokens"}), token_budget=10**6)
    think_for(fake_server, 1, {"reasoning": THOUGHT})
    summary = fetch(1, omitted_fields=frozenset({"max_tokens"}))
    # No limit that could be raised.
    assert (summary.failed, summary.remedy, len(fake_server.received)) == (1, None, 1)


@pytest.mark.parametrize("name", ["messages", "stream", ""])
def test_a_field_that_cannot_be_left_out_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be left out; only model, temperature, max_tokens, seed can"):
        Server("http://localhost/v1", "m", omitted_fields=frozenset({name}))


# Errors

PAGE = (
    b"<!DOCTYPE html><html><head><title>502 Bad Gateway</title><style>h1 {color: red}</style></head>"
    b"<body><h1>502 Bad Gateway</h1><p>nginx &amp; co</p><script>track()</script></body></html>"
)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"error": {"message": "the prompt is too long", "code": 7}}', "the prompt is too long"),
        (b'{"error": "the weights need 40 GB"}', "the weights need 40 GB"),
        (b'{"object": "error", "message": "over 512 tokens", "code": 400}', "over 512 tokens"),
        (b'{"detail": "no such deployment"}', "no such deployment"),
        (b'{"detail": [{"loc": ["body", "n"], "msg": "too big"}, {"msg": "late"}]}', "body.n: too big; late"),
        (b'{"detail": {"error": "busy"}}', "busy"),
        (b'[{"error": {"message": "a bad key", "status": "INVALID_ARGUMENT"}}]', "a bad key"),
        (b'{"errors": ["one", {"message": "two"}]}', "one; two"),
        (b'{"error": "invalid_request", "error_description": "no scope"}', "invalid_request; no scope"),
        (b'{"error": {"message": "upstream", "metadata": {"raw": "{\\"error\\": \\"full\\"}"}}}', "upstream; full"),
        (b'{"message": "{not JSON"}', "{not JSON"),
        (b'"only\\na text"', "only a text"),
        (b"upstream\r\n timed \x1b[31mout", "upstream timed [31mout"),
        (PAGE, "502 Bad Gateway; nginx & co"),
        (b'{"trace": 5}', '{"trace": 5}'),
        (b"caf\xe9", "caf\ufffd"),
        (b"{}", ""),
        (b"null", ""),
        (b"", ""),
    ],
    ids=range(19),
)
def test_the_reason_of_an_error_is_found_whatever_its_form(body: bytes, reason: str) -> None:
    assert read_error(body).reason == reason


def test_a_long_reason_is_kept_up_to_a_limit_that_is_stated() -> None:
    assert read_error(b"y" * MAX_REASON_CHARS).reason == "y" * MAX_REASON_CHARS
    cut = read_error(json.dumps({"error": "y" * (MAX_REASON_CHARS + 1234)}).encode()).reason
    assert cut == "y" * MAX_REASON_CHARS + "... (1,234 more characters)"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=20)
    | st.sampled_from(["sekret", "x" * 3000, "\x1b[0m"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "message", "detail", "code", "loc", "param", "raw"]), inner, max_size=3
        )
    ),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(
    JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60).map(lambda body: b"<p sekret " + body)
)
def test_any_body_gives_one_printable_line_without_the_key(body: bytes) -> None:
    reason = read_error(body, "sekret").reason
    assert "sekret" not in reason and reason.isprintable() and len(reason) <= MAX_REASON_CHARS + 40


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (401, {"error": {"message": "no such key"}}, "refuses the key (HTTP 401: no such key)"),
        (403, {"message": "not in your region"}, "denies access with this key (HTTP 403: not in your region)"),
        (402, {"detail": "top up first"}, "the account has no quota or credit left (HTTP 402: top up first)"),
        (429, {"error": {"message": "all used", "type": "insufficient_quota"}}, "no quota or credit left (HTTP 429"),
        (429, {"error": "see your plan and billing page"}, "no quota or credit left"),
        (400, {"error": {"message": "Your credit balance is too low."}}, "no quota or credit left"),
        (500, {"error": {"message": "wrong", "code": "invalid_api_key"}}, "refuses the key"),
        (200, {"error": {"message": "not enough credits", "code": 402}}, "no quota or credit left (HTTP 200"),
    ],
)
def test_errors_of_billing_and_permission_are_not_retried(
    fetch: Fetch, fake_server: FakeServer, ledger: Ledger, cache: ResponseCache, status: int, body: object, words: str
) -> None:
    fake_server.default_fault = Fault(status, body=json.dumps(body).encode())
    with pytest.raises(UserError) as error:
        fetch(9, api_key="k")
    assert words in str(error.value) and len(fake_server.received) == ledger.totals().attempts == 1
    assert cache.total_tokens() == 0


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (
            429,
            b'{"error": {"message": "Rate limit reached, see your plan and billing", "code": "rate_limit_exceeded"}}',
        ),
        (429, b'{"error": {"message": "Quota of 5 requests per minute used", "status": "RESOURCE_EXHAUSTED"}}'),
        (429, b""),
        (503, b"<p>come back later</p>"),
        (200, b'{"error": {"message": "the provider is overloaded", "code": 529}}'),
    ],
)
def test_a_limit_of_the_rate_is_retried(fetch: Fetch, fake_server: FakeServer, status: int, body: bytes) -> None:
    fake_server.queue_faults(Fault(status, body=body), Fault(status, body=body))
    summary = fetch(1)
    assert summary.new == 1 and summary.tokens == 15 and len(fake_server.received) == 3


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"error": {"message": "the provider is overloaded"}}', "the provider is overloaded"),
        (b'{"code": 1234, "msg": "no machine is free"}', "no machine is free"),
        (b'{"choices": [{"error": {"message": "lost"}, "message": {"content": ""}}], "usage": 5}', "lost"),
        (b'{"choices": [{"finish_reason": "error", "message": {"content": ""}}]}', "the generation failed"),
    ],
)
def test_the_reason_of_an_error_with_the_status_of_a_success_is_in_the_message(
    fetch: Fetch, fake_server: FakeServer, body: bytes, reason: str
) -> None:
    fake_server.default_fault = Fault(body=body)
    summary = fetch(1, max_attempts=2)
    assert (summary.failed, summary.tokens) == (1, 0)
    assert summary.message is not None and f"(it returned HTTP 200: {reason})" in summary.message


@pytest.mark.parametrize(
    "body", [{}, [], 5, {"choices": []}, {"choices": [{"message": "text"}]}, {"choices": "ab"}], ids=str
)
def test_what_is_no_completion_is_refused(body: object) -> None:
    with pytest.raises(ValueError, match="not a chat completion"):
        parse_completion(body)
