"""HTTP: what is sent, which URLs are refused, and atomic downloads."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import mlx_personal
from mlx_personal import http_client
from mlx_personal.errors import UserError
from mlx_personal.http_client import HTTPResponse, Session, TransportError, check_url, download
from mlx_personal.progress import ProgressEvent
from tests.support.fake_server import FakeServer, Fault

BeforeSending = Callable[[str, bytes], None]
Respond = Callable[[BaseHTTPRequestHandler], None]


@pytest.fixture
def fake_server() -> Iterator[FakeServer]:
    """A server that answers every prompt."""
    with FakeServer() as server:
        yield server


def post(
    url: str,
    payload: object,
    timeout_s: float = 5.0,
    times: int = 1,
    before_sending: BeforeSending = lambda url, body: None,
    session_header: str = "yes",
) -> list[HTTPResponse]:
    """Post the payload some times in one session."""

    async def post_all() -> list[HTTPResponse]:
        async with Session(url, timeout_s, 1, {"X-Session": session_header}) as session:
            return [await session.post(payload, {"X-Request": "1"}, before_sending) for _ in range(times)]

    return asyncio.run(post_all())


def chat(text: str) -> dict[str, list[dict[str, str]]]:
    """A chat completion request."""
    return {"messages": [{"role": "user", "content": text}]}


# Posting


def test_the_exact_bytes_and_the_address_are_seen_before_they_leave(fake_server: FakeServer) -> None:
    seen: list[tuple[str, bytes, int]] = []

    def record(url: str, body: bytes) -> None:
        seen.append((url, body, len(fake_server.received)))

    url = f"{fake_server.url}/chat/completions"
    (response,) = post(url, chat("Grüße"), before_sending=record)
    (received,) = fake_server.received
    assert seen == [(url, received.body, 0)]
    assert json.loads(received.body) == chat("Grüße")
    assert (received.headers["x-session"], received.headers["x-request"]) == ("yes", "1")
    assert response.status == 200 and response.headers["content-type"] == "application/json"
    assert response.json()["choices"][0]["message"]["content"] == "answer to Grüße"


def test_an_error_before_sending_prevents_sending(fake_server: FakeServer) -> None:
    def refuse(url: str, body: bytes) -> None:
        raise UserError("the disk is full")

    with pytest.raises(UserError, match="the disk is full"):
        post(fake_server.url, chat("a"), before_sending=refuse)
    assert not fake_server.received


def test_connections_are_reused(fake_server: FakeServer) -> None:
    post(f"{fake_server.url}/chat/completions", chat("a"), times=5)
    assert len(fake_server.received) == 5
    assert fake_server.num_connections == 1


def test_every_status_is_a_response(fake_server: FakeServer) -> None:
    fake_server.default_fault = Fault(503, headers={"Retry-After": "7"})
    (response,) = post(f"{fake_server.url}/chat/completions", chat("a"))
    assert (response.status, response.retry_after_s()) == (503, 7.0)


def test_a_redirect_is_not_followed_with_what_was_sent(fake_server: FakeServer) -> None:
    with FakeServer() as other:
        fake_server.default_fault = Fault(307, headers={"Location": f"{other.url}/chat/completions"})
        (response,) = post(f"{fake_server.url}/chat/completions", chat("a"))
        assert response.status == 307 and not other.received


@pytest.mark.parametrize("fault", [Fault(delay=0.5), Fault(reset=True)], ids=["slow", "reset"])
def test_a_missing_response_may_have_been_billed(fake_server: FakeServer, fault: Fault) -> None:
    fake_server.default_fault = fault
    with pytest.raises(TransportError) as error:
        post(f"{fake_server.url}/chat/completions", chat("a"), timeout_s=0.1)
    assert error.value.sent and str(error.value)


def test_a_server_that_never_ends_its_response_is_abandoned(
    fake_server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_client, "_MAX_RESPONSE_BYTES", 1000)
    fake_server.answer = lambda prompt: "a" * 2000
    with pytest.raises(TransportError, match="does not end"):
        post(f"{fake_server.url}/chat/completions", chat("a"))


def test_nothing_was_sent_if_nobody_listens(fake_server: FakeServer) -> None:
    fake_server.kill()
    with pytest.raises(TransportError) as error:
        post(fake_server.url, chat("a"))
    assert not error.value.sent and str(error.value)


def test_requests_to_this_machine_use_no_proxy(fake_server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert post(f"{fake_server.url}/chat/completions", chat("a"))[0].status == 200


def test_an_unusable_proxy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "ftp://proxy")
    with pytest.raises(UserError, match="check HTTPS_PROXY"):
        Session("https://example.org", 1.0, 1)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000], ids=["empty", "half", "not text", "deep"])
def test_invalid_json_is_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError):
        HTTPResponse(200, {}, body).json()


def test_a_header_that_cannot_be_sent_is_not_quoted(fake_server: FakeServer) -> None:
    with pytest.raises(TransportError) as error:
        post(f"{fake_server.url}/chat/completions", chat("hi"), session_header="Bearer sekret ")
    assert "sekret" not in str(error.value) and error.value.__cause__ is None and not error.value.sent
    assert not fake_server.received


# Addresses


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/v1",
        "http://localhost:8080/v1",
        "http://127.0.0.1/v1",
        "http://127.8.9.1/",
        "http://[::1]:80/v1",
    ],
)
def test_https_goes_anywhere_and_plain_http_to_this_machine(url: str) -> None:
    check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/v1",
        "http://192.168.1.5:8000/v1",
        "http://localhost.example.org/",
        "http://127.0.0.1.nip.io/",
    ],
)
def test_personal_text_does_not_go_over_plain_http_elsewhere(url: str) -> None:
    with pytest.raises(UserError, match="plain http to another machine; use https") as error:
        check_url(url)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.org",
        "ftp://example.org",
        "https://",
        "http://[::1",
        "https://a:b/",
        "/v1",
        "https://☃.net/",
        "https://a b.org/",
        "https://a\udcff.org/",
        "https://a/\x01",
    ],
)
def test_an_invalid_address_is_refused(url: str) -> None:
    with pytest.raises(UserError, match="is not an http or https URL"):
        check_url(url)


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(UserError) as error:
        check_url("https://ann:sekret@example.org/v1")
    assert "sekret" not in str(error.value)


def test_certificates_are_always_checked_and_sockets_opened_here_alone() -> None:
    package = Path(mlx_personal.__file__).parent
    text = {f.relative_to(package).as_posix(): f.read_text() for f in package.glob("**/*.py")}
    assert not [name for name, source in text.items() if "verify=" in source or "CERT_NONE" in source]
    for name in ("httpx2", "urllib.request", "http.client"):
        assert {file for file, source in text.items() if f"import {name}" in source} <= {"http_client.py"}


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(UserError, match=r"pip install 'mlx-personal\[augment\]'"):
        Session("https://example.org", 1.0, 1)


# Downloads


@contextlib.contextmanager
def serving(respond: Respond) -> Iterator[str]:
    """Serve GET requests on this machine with `respond(handler)`; yield the URL of a file."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            respond(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/file.json"
    finally:
        server.shutdown()
        server.server_close()


def sending(content: bytes, length: str | int | None = None, status: int = 200, **headers: str) -> Respond:
    """Return a handler that sends this content, with any Content-Length or (`unknown`) none."""

    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        if length != "unknown":
            handler.send_header("Content-Length", str(len(content) if length is None else length))
        handler.end_headers()
        handler.wfile.write(content)

    return respond


@pytest.mark.parametrize("length", [None, "unknown"])
def test_a_file_is_downloaded_completely(tmp_path: Path, length: str | None) -> None:
    content = os.urandom(300_000)
    events: list[ProgressEvent] = []
    with serving(sending(content, length)) as url:
        download(url, tmp_path / "new" / "file.json", events.append)
    assert (tmp_path / "new" / "file.json").read_bytes() == content
    assert (events[-1].done, events[-1].total) == (300_000, 300_000 if length is None else None)
    done = [event.done for event in events]
    assert done == sorted(set(done))


def test_an_interrupted_download_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text("old")
    with serving(sending(b"half", 100)) as url, pytest.raises(UserError, match="run the same command again"):
        download(url, path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_missing_file_is_a_user_error(tmp_path: Path) -> None:
    with serving(sending(b"no", status=404)) as url, pytest.raises(UserError, match=r"not send the file \(HTTP 404\)"):
        download(url, tmp_path / "file.json")
    assert not list(tmp_path.iterdir())


def test_a_missing_network_is_a_user_error(tmp_path: Path) -> None:
    with serving(sending(b"")) as url:
        pass
    with pytest.raises(UserError, match=r"the download failed .*check the network"):
        download(url, tmp_path / "file.json")


def test_a_redirect_is_followed_but_not_to_plain_http_elsewhere(tmp_path: Path) -> None:
    with serving(sending(b"there")) as there:
        with serving(sending(b"", status=302, Location=there)) as url:
            download(url, tmp_path / "file.json")
        elsewhere = serving(sending(b"", status=302, Location="http://example.org/"))
        with elsewhere as url, pytest.raises(UserError, match="plain http"):
            download(url, tmp_path / "other.json")
    assert [f.name for f in tmp_path.iterdir()] == ["file.json"]
    assert (tmp_path / "file.json").read_bytes() == b"there"


def test_a_full_disk_is_a_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with serving(sending(b"there")) as url, pytest.raises(UserError, match="the disk is full"):
        download(url, tmp_path / "file.json")
    assert not list(tmp_path.iterdir())
