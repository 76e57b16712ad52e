"""A server as hosted models have it, on 127.0.0.1 in a thread, that misbehaves on request."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PROMPT_TOKENS, ANSWER_TOKENS = 10, 5


@dataclass(frozen=True)
class Fault:
    """What happens to one request: it waits `delay` s, then gets `status`, or half a body, or a connection that breaks.

    `body`: sent with status 200 in place of an answer.
    """

    status: int = 200
    delay: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    half: bool = False
    reset: bool = False


@dataclass(frozen=True)
class Received:
    """One request as the server got it."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def prompt(self) -> str:
        return json.loads(self.body)["messages"][0]["content"]


class FakeServer:
    """Answers `answer(prompt)` to every chat completion that no fault of `faults`, first come, first served, is for.

    `received` is every request whose body arrived whole, `most_at_once` how many were in work together, `connections`
    how many there have been, `tokens` what the answers that it has sent cost. `key`: what it wants as the bearer's
    token. `look`: called before a request is worked on.
    """

    def __init__(self, answer: Callable[[str], str] = lambda prompt: f"answer to {prompt}", port: int = 0) -> None:
        self.answer, self.port = answer, port
        self.faults: Iterator[Fault | None] = iter(())
        self.always: Fault | None = None
        self.key: str | None = None
        self.look: Callable[[Received], None] = lambda received: None
        self.usage = True
        self.received: list[Received] = []
        self.answered: list[str] = []
        self.most_at_once = self._at_once = self.tokens = self.connections = 0
        self.lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._http: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def misbehave(self, *faults: Fault | None) -> None:
        """The next requests get these, None for a good answer; later ones are answered."""
        self.faults = iter(faults)

    def start(self) -> FakeServer:
        fake = self

        class Handler(_Handler):
            server_of_test = fake

        class Http(ThreadingHTTPServer):
            daemon_threads, allow_reuse_address = True, True
            request_queue_size = 64

            def handle_error(self, request: object, client_address: object) -> None:
                pass  # broken connections are what is tested

        self._http = Http(("127.0.0.1", self.port), Handler)
        self.port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def kill(self) -> None:
        """As a process dies: nobody listens any more, and every connection breaks."""
        assert self._http is not None
        self._http.socket.close()
        threading.Thread(target=self._http.shutdown, daemon=True).start()
        with self.lock:
            connections, self._connections = self._connections, set()
        for connection in connections:
            broken(connection)

    def __enter__(self) -> FakeServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()

    def fault(self) -> Fault:
        with self.lock:
            return next(self.faults, self.always) or Fault()

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        with self.lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            yield
        finally:
            with self.lock:
                self._at_once -= 1


def broken(connection: socket.socket) -> None:
    """Resets a connection instead of closing it."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(OSError):
        connection.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_of_test: FakeServer

    def setup(self) -> None:
        super().setup()
        with self.server_of_test.lock:
            self.server_of_test._connections.add(self.connection)
            self.server_of_test.connections += 1

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        fake, body = self.server_of_test, self.rfile.read(int(self.headers["Content-Length"]))
        received = Received(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
        with fake.at_work():
            with fake.lock:
                fake.received.append(received)
            fake.look(received)
            fault = fake.fault()
            time.sleep(fault.delay)
        if fault.reset:
            self.close_connection = True
            broken(self.connection)
            return
        status = fault.status
        if fake.key is not None and received.headers.get("authorization") != f"Bearer {fake.key}":
            status = 401
        if self.path != "/v1/chat/completions":
            status = 404
        if status != 200:
            self.send({"error": {"message": f"a message of {status}"}}, status, fault.headers)
            return
        if fault.body is not None:
            self.send_bytes([fault.body])
            return
        answer = {"choices": [{"message": {"role": "assistant", "content": fake.answer(received.prompt)}}]}
        answer["choices"][0]["finish_reason"] = "stop"  # type: ignore[assignment]
        if fake.usage:
            answer["usage"] = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": ANSWER_TOKENS}  # type: ignore[assignment]
        with fake.lock:
            fake.tokens += PROMPT_TOKENS + ANSWER_TOKENS
        whole = json.dumps(answer).encode()
        if fault.half:
            self.send_bytes([whole[: len(whole) // 2]])
            return
        self.send_bytes([whole])
        with fake.lock:
            fake.answered.append(received.prompt)

    def send(self, content: object, status: int, headers: dict[str, str]) -> None:
        self.send_bytes([json.dumps(content).encode()], status, headers)

    def send_bytes(self, pieces: Iterable[bytes], status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = b"".join(pieces)
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
