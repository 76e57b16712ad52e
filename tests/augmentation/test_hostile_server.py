"""Whatever a server replies: a response, an error that is retried or a user error, within a time limit."""

from __future__ import annotations

import contextlib
import gzip
import json
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlx_personal.augmentation.client import fetch_responses
from mlx_personal.augmentation.database import SCHEMA, open_database
from mlx_personal.augmentation.error_body import MAX_REASON_CHARS
from mlx_personal.augmentation.ledger import Ledger
from mlx_personal.augmentation.prompting import PromptRequest, parse_record
from mlx_personal.augmentation.response_cache import Response, ResponseCache
from mlx_personal.augmentation.server import NoAnswerError, RetryableError, Server
from mlx_personal.augmentation.task import Record, Task
from mlx_personal.errors import UserError
from mlx_personal.http_client import HTTPResponse
from mlx_personal.storage.database import Database
from tests.support.cases import quick_cases
from tests.support.raw_server import Reply, endless, http_reply, raw_server

SERVER = Server("http://localhost:1/v1", "model", api_key="sekret")
REQUEST = PromptRequest("ann", 0, "prompt", 0, (0,))


def completion(content: object = "text", **changes: object) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    return {"choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 2}, **changes}


VALID = json.dumps(completion()).encode()
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(st.characters(), max_size=5)
    | st.sampled_from(["\ud800", "\0", 10**400, "x" * 3000])
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
)
PATHS = [
    *([], ["choices"], ["choices", 0], ["choices", 0, "message"], ["choices", 0, "message", "content"]),
    *(["choices", 0, "finish_reason"], ["usage"], ["usage", "prompt_tokens"], ["usage", "completion_tokens"]),
]


@st.composite
def changed_completions(draw: st.DrawFn) -> bytes:
    """A completion with any JSON value in one place, encoded as Python's own `json` accepts it."""
    path, value = draw(st.sampled_from(PATHS)), draw(VALUES)
    if not path:
        return json.dumps(value).encode()
    root: Any = completion()
    parent: Any = root
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    return json.dumps(root).encode()


def cut_and_mixed(bodies: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Bodies that end early or have other bytes in the middle."""
    return st.builds(
        lambda body, at, inserted: body[: at % (len(body) + 1)] + inserted, bodies, st.integers(0), st.binary()
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ResponseCache]:
    database = Database(tmp_path_factory.mktemp("run"), True, SCHEMA)
    yield ResponseCache(database)
    database.close()


@settings(max_examples=60, deadline=None)
@given(
    status=st.sampled_from([200, 200, 200, 204, 301, 400, 401, 404, 429, 500, 999]),
    retry_after=st.text(st.characters(max_codepoint=255), max_size=20) | st.sampled_from(["9" * 400, "-1", "1e9"]),
    body=changed_completions() | cut_and_mixed(changed_completions()) | st.binary(max_size=50),
)
@example(status=200, retry_after="", body=b'{"a":' * 900)
@example(status=200, retry_after="", body=b"[" * 100_000)
@example(status=200, retry_after="", body=b"\xff\xfe" + VALID)
@example(status=200, retry_after="", body=b'{"choices": ' + b"9" * 5000 + b"}")
@example(
    status=200,
    retry_after="",
    body=json.dumps(completion(choices=[{"message": {"content": ""}, "finish_reason": "\ud800"}])).encode(),
)
@example(status=429, retry_after="Fri, 31 Dec 1999 23:59:59 +99999999999999", body=b"")
@example(status=503, retry_after="9" * 400, body=b"")
@example(status=503, retry_after="Fri, 31 Dec 9999 23:59:59 -2359", body=b"")
@example(status=400, retry_after="", body=b'{"error": ["sekret"]}')
def test_a_reply_is_a_response_or_a_known_error(
    status: int, retry_after: str, body: bytes, cache: ResponseCache
) -> None:
    try:
        response = SERVER.parse_response(HTTPResponse(status, {"retry-after": retry_after}, body))
    except RetryableError as error:
        assert error.wait_s >= 0
        return
    except NoAnswerError as error:
        assert error.billed
        return
    except UserError as error:
        assert "\n" not in error.line() and len(error.line()) < MAX_REASON_CHARS + 400 and "sekret" not in error.line()
        return
    attempt = cache.begin_attempt("key", 1)
    cache.store(attempt, "key", response, SERVER.response_tokens(REQUEST, response))
    with contextlib.suppress(ValueError):
        parse_record(response.text, Task())


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("9" * 30, 1e30),
        ("9" * 400, 0.0),
        ("-3", 0.0),
        ("٣", 0.0),
        ("nan", 0.0),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0.0),
        ("Fri, 31 Dec 1999 23:59:59 +99999999999999", 0.0),
        ("Fri, 31 Dec 99999 23:59:59 GMT", 0.0),
        ("Mon, 1 Jan 2024 00:00:00", 0.0),
    ],
)
def test_odd_waiting_times_are_bounded(header: str, seconds: float) -> None:
    assert HTTPResponse(503, {"retry-after": header}, b"").retry_after_s() == pytest.approx(seconds)


# Records


RECORD = '{"text": "a", "answer": "b"}'


@pytest.mark.parametrize(
    "text",
    [
        '{"a":' * 900,
        ('{"a":' * 900 + " x ") * 20,
        "{" * 200_000,
        '{"' * 100_000,
        '{"a":' + "[" * 900,
        '{"a": ' + "1" * 150_000 + ".5}",
        '{"a": ' + "1" * 5000 + "}",
        '{"text": "a", "answer": "' + "x" * 1_000_000,
        "<think>" * 100_000,
        "</think>" * 100_000,
        "{}" * 100_000,
        '{"text": NaN, "answer": Infinity}',
        '{"text": "a", "answer": NaN}',
        '{"text": "a", "answer": -1e999}',
        '{"text": "a", "answer": "\\ud800"}',
    ],
    ids=range(15),
)
def test_a_hostile_text_is_refused_in_little_time(text: str) -> None:
    start = time.process_time()
    with pytest.raises(ValueError):
        parse_record(text, Task())
    assert time.process_time() - start < 0.5


@settings(max_examples=100, deadline=None)
@given(st.text(st.sampled_from('{}[]":,\\a1 \n') | st.characters(), max_size=60))
def test_any_text_is_a_record_or_refused(text: str) -> None:
    for response in (text, text + RECORD, '{"text": ' + text + ', "answer": "b"}'):
        with contextlib.suppress(ValueError):
            record = parse_record(response, Task())
            assert isinstance(record, Record) and record.text.strip()


def test_braces_in_chatter_do_not_hide_the_record() -> None:
    chatter = "a set {x | x > 0} and {y}, " * 20
    assert parse_record(chatter + RECORD, Task()) == Record("a", "b")


# Connections


def fetch(url: str, folder: Path, **changes: Any) -> Any:
    server = Server(url + "/v1", "m", timeout_s=0.5, max_attempts=1, backoff_s=0.0, **changes)
    with open_database(folder) as database, Ledger(folder) as ledger:
        return fetch_responses([REQUEST], server, ResponseCache(database), ledger, concurrency=1)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
REPLIES: dict[str, Reply] = {
    "nothing": lambda: [],
    "no HTTP": lambda: [b"\x16\x03\x01" * 9],
    "a status of five digits": lambda: [b"HTTP/1.1 99999 x\r\n\r\n"],
    "another protocol": lambda: [b"HTTP/1.1 101 x\r\nUpgrade: foo\r\nConnection: upgrade\r\n\r\nx"],
    "a long header": lambda: [b"HTTP/1.1 200 OK\r\nX: " + b"y" * 10**6 + b"\r\n\r\n"],
    "a negative length": lambda: [b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}"],
    "a control character": lambda: [http_reply(VALID, "X: \0")],
    "an unknown encoding": lambda: [http_reply(VALID, "Content-Encoding: br")],
    "no gzip": lambda: [http_reply(VALID, "Content-Encoding: gzip")],
    "half a gzip": lambda: [http_reply(gzip.compress(VALID)[:-9], "Content-Encoding: gzip")],
    "a gzip bomb": lambda: [http_reply(gzip.compress(b"a" * 10**7, 1), "Content-Encoding: gzip")],
    "a bad chunk": lambda: [CHUNKED, b"zzz\r\n"],
    "an endless body": endless(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536),
    "endless chunks": endless(CHUNKED, b"1\r\nx\r\n" * 100),
    "an endless head": endless(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 1000),
    "endless informational responses": endless(b"", b"HTTP/1.1 100 c\r\n\r\n" * 100),
}


@pytest.mark.parametrize("name", quick_cases(REPLIES, *list(REPLIES)[::3]))
def test_a_connection_fails_in_time_and_is_retried(name: str, tmp_path: Path) -> None:
    start = time.monotonic()
    with raw_server(REPLIES[name]) as url:
        summary = fetch(url, tmp_path)
    assert summary.failed == 1 and summary.message is not None and len(summary.message) < 400
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("location", ["http://[::1", "http://a:99999999/"])
def test_a_redirect_is_refused_wherever_it_leads(location: str, tmp_path: Path) -> None:
    with (
        raw_server(lambda: [http_reply(b"", f"Location: {location}", status="301 Moved")]) as url,
        pytest.raises(UserError, match=r"the server has moved \(HTTP 301\)"),
    ):
        fetch(url, tmp_path)


@pytest.mark.parametrize(
    ("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("identity", bytes)]
)
def test_compression_that_was_not_requested_is_undone(encoding: str, compress: Any, tmp_path: Path) -> None:
    with raw_server(lambda: [http_reply(compress(VALID), f"Content-Encoding: {encoding}")]) as url:
        assert fetch(url, tmp_path).responses == ("text",)


def test_cookies_are_ignored(tmp_path: Path) -> None:
    # Python's parser of cookies warns about this one, and warnings are errors here.
    with raw_server(lambda: [http_reply(VALID, f"Set-Cookie: a=b; Max-Age={'9' * 500}")]) as url:
        assert fetch(url, tmp_path).new == 1


def test_a_text_of_any_kind_is_stored(tmp_path: Path) -> None:
    body = json.dumps(completion("\ud800\0", choices=[{"message": {"content": "\ud800\0"}, "finish_reason": "\udfff"}]))
    with raw_server(lambda: [http_reply(body.encode())]) as url:
        assert fetch(url, tmp_path / "run").responses == ("?\0",)
    with open_database(tmp_path / "run", write=False) as database:
        stored = database.fetch_all("SELECT * FROM answers")
    assert Response(stored[0]["text"], stored[0]["finish_reason"]) == Response("?\0", "?")
