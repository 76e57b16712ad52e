"""The one place that opens a socket: what it sends, what it refuses, and files that are there whole or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import mlx_personal
from mlx_personal import http_client
from mlx_personal.errors import UserError
from mlx_personal.http_client import Reply, Session, WebError, check_url, download
from tests.support.fake_server import FakeServer, Fault


@pytest.fixture
def fake() -> Iterator[Any]:
    with FakeServer() as server:
        yield server


def post(
    url: Any, payload: Any, timeout: Any = 5.0, times: Any = 1, before: Any = lambda url, body: None, own: Any = "yes"
) -> Any:
    async def story() -> Any:
        async with Session(url, timeout, 1, {"X-Own": own}) as session:
            return [await session.post(payload, {"X-Once": "1"}, before) for _ in range(times)]

    return asyncio.run(story())


def chat(text: Any) -> Any:
    return {"messages": [{"role": "user", "content": text}]}


# Posting


def test_the_exact_bytes_and_the_address_are_seen_before_they_leave(fake: Any) -> None:
    seen = []
    url = f"{fake.url}/chat/completions"
    (reply,) = post(url, chat("Grüße"), before=lambda url, body: seen.append((url, body, len(fake.received))))
    (received,) = fake.received
    assert seen == [(url, received.body, 0)]
    assert json.loads(received.body) == chat("Grüße")
    assert (received.headers["x-own"], received.headers["x-once"]) == ("yes", "1")
    assert reply.status == 200 and reply.headers["content-type"] == "application/json"
    assert reply.json()["choices"][0]["message"]["content"] == "answer to Grüße"


def test_what_is_raised_before_sending_keeps_everything_here(fake: Any) -> None:
    def refuse(url: Any, body: Any) -> None:
        raise UserError("the disk is full")

    with pytest.raises(UserError, match="the disk is full"):
        post(fake.url, chat("a"), before=refuse)
    assert not fake.received


def test_a_connection_is_used_again(fake: Any) -> None:
    post(f"{fake.url}/chat/completions", chat("a"), times=5)
    assert len(fake.received) == 5
    assert fake.connections == 1


def test_every_status_is_a_reply(fake: Any) -> None:
    fake.always = Fault(503, headers={"Retry-After": "7"})
    (reply,) = post(f"{fake.url}/chat/completions", chat("a"))
    assert (reply.status, reply.retry_after()) == (503, 7.0)


def test_a_redirect_is_not_followed_with_what_was_sent(fake: Any) -> None:
    with FakeServer() as other:
        fake.always = Fault(307, headers={"Location": f"{other.url}/chat/completions"})
        (reply,) = post(f"{fake.url}/chat/completions", chat("a"))
        assert reply.status == 307 and not other.received


@pytest.mark.parametrize("fault", [Fault(delay=0.5), Fault(reset=True)], ids=["slow", "reset"])
def test_a_reply_that_does_not_come_may_have_been_billed(fake: Any, fault: Any) -> None:
    fake.always = fault
    with pytest.raises(WebError) as error:
        post(f"{fake.url}/chat/completions", chat("a"), timeout=0.1)
    assert error.value.sent and str(error.value)


def test_a_server_that_never_ends_its_reply_is_left(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "_LONGEST", 1000)
    fake.answer = lambda prompt: "a" * 2000
    with pytest.raises(WebError, match="does not end"):
        post(f"{fake.url}/chat/completions", chat("a"))


def test_where_nobody_listens_nothing_was_sent(fake: Any) -> None:
    fake.kill()
    with pytest.raises(WebError) as error:
        post(fake.url, chat("a"))
    assert not error.value.sent and str(error.value)


def test_no_proxy_sees_what_goes_to_this_machine(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert post(f"{fake.url}/chat/completions", chat("a"))[0].status == 200


def test_a_proxy_that_cannot_be_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "ftp://proxy")
    with pytest.raises(UserError, match="check HTTPS_PROXY"):
        Session("https://example.org", 1.0, 1)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000], ids=["empty", "half", "no text", "deep"])
def test_what_is_no_json_is_a_value_error(body: Any) -> None:
    with pytest.raises(ValueError):
        Reply(200, {}, body).json()


def test_a_header_that_cannot_be_sent_is_not_quoted(fake: Any) -> None:
    with pytest.raises(WebError) as error:
        post(f"{fake.url}/chat/completions", chat("hi"), own="Bearer sekret ")
    assert "sekret" not in str(error.value) and error.value.__cause__ is None and not error.value.sent
    assert not fake.received


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
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UserError, match="no http or https address"):
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
def serving(respond: Any) -> Iterator[Any]:
    """A web server on this machine whose GET requests are `respond(handler)`'s."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            respond(self)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/file.json"
    finally:
        server.shutdown()
        server.server_close()


def sending(content: Any, length: Any = None, status: Any = 200, **headers: Any) -> Any:
    def respond(handler: Any) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        if length != "unknown":
            handler.send_header("Content-Length", str(len(content) if length is None else length))
        handler.end_headers()
        handler.wfile.write(content)

    return respond


@pytest.mark.parametrize("length", [None, "unknown"])
def test_a_file_is_downloaded_whole(tmp_path: Path, length: str | None) -> None:
    content, seen = os.urandom(300_000), []
    with serving(sending(content, length)) as url:
        download(url, tmp_path / "new" / "file.json", lambda done, total: seen.append((done, total)))
    assert (tmp_path / "new" / "file.json").read_bytes() == content
    assert seen[-1] == (300_000, 300_000 if length is None else None)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_a_download_that_breaks_off_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text("old")
    with serving(sending(b"half", 100)) as url, pytest.raises(UserError, match="run the same command again"):
        download(url, path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_nothing_at_an_address_is_one_line(tmp_path: Path) -> None:
    with serving(sending(b"no", status=404)) as url, pytest.raises(UserError, match=r"nothing here \(HTTP 404\)"):
        download(url, tmp_path / "file.json")
    assert not list(tmp_path.iterdir())


def test_no_network_is_one_line(tmp_path: Path) -> None:
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


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with serving(sending(b"there")) as url, pytest.raises(UserError, match="the disk is full"):
        download(url, tmp_path / "file.json")
    assert not list(tmp_path.iterdir())
