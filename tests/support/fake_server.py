"""A server with the API of hosted models, on 127.0.0.1 in a thread, that fails on request."""

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
from typing import Any

PROMPT_TOKENS, ANSWER_TOKENS = 10, 5


@dataclass(frozen=True)
class Fault:
    """What happens to one request.

    Attributes:
        status: HTTP status of the response.
        delay: Seconds before the response.
        headers: Headers of an error response.
        body: Sent in place of an answer, or of the usual error message.
        truncated: Whether half of the answer's body is sent.
        reset: Whether the connection is reset without a response.
    """

    status: int = 200
    delay: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    truncated: bool = False
    reset: bool = False


@dataclass(frozen=True)
class ReceivedRequest:
    """A request as the server received it."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def prompt(self) -> str:
        """The content of the first message."""
        return str(json.loads(self.body)["messages"][0]["content"])


class FakeServer:
    """Answers chat completions, except those for which a fault is queued, first come, first served.

    Args:
        answer: Returns the answer to a prompt.
        port: The port; 0 for a free one.

    Attributes:
        answer: Returns the answer to a prompt.
        port: The port.
        default_fault: What happens to requests without a queued fault; None for an answer.
        api_key: The bearer token that requests need; None for none.
        on_request: Called before a request is handled.
        reports_usage: Whether answers come with their number of tokens.
        received: Every request whose body arrived completely.
        answered_prompts: The prompts of all answers that were sent.
        max_concurrent: The most requests that were handled at the same time.
        num_connections: The number of connections so far.
        billed_tokens: The tokens of all answers that were sent.
    """

    def __init__(self, answer: Callable[[str], str] = lambda prompt: f"answer to {prompt}", port: int = 0) -> None:
        self.answer, self.port = answer, port
        self.default_fault: Fault | None = None
        self.api_key: str | None = None
        self.on_request: Callable[[ReceivedRequest], None] = lambda request: None
        self.reports_usage = True
        self.received: list[ReceivedRequest] = []
        self.answered_prompts: list[str] = []
        self.max_concurrent = self.num_connections = self.billed_tokens = 0
        self.lock = threading.Lock()
        self._concurrent = 0
        self._faults: Iterator[Fault | None] = iter(())
        self._connections: set[socket.socket] = set()
        self._http: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        """The URL up to and including `/v1`."""
        return f"http://127.0.0.1:{self.port}/v1"

    def queue_faults(self, *faults: Fault | None) -> None:
        """Let these happen to the next requests, None for an answer."""
        self._faults = iter(faults)

    def start(self) -> FakeServer:
        """Start listening."""
        fake_server = self

        class Handler(_Handler):
            server_of_test = fake_server

        class Http(ThreadingHTTPServer):
            daemon_threads, allow_reuse_address = True, True
            request_queue_size = 64

            def handle_error(self, request: object, client_address: object) -> None:
                pass  # Broken connections are part of the tests.

        self._http = Http(("127.0.0.1", self.port), Handler)
        self.port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def kill(self) -> None:
        """Stop like a process that dies: nobody listens any more, and every connection breaks."""
        assert self._http is not None
        self._http.socket.close()
        threading.Thread(target=self._http.shutdown, daemon=True).start()
        with self.lock:
            connections, self._connections = self._connections, set()
        for connection in connections:
            reset(connection)

    def __enter__(self) -> FakeServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()

    def next_fault(self) -> Fault:
        """Return what happens to the next request."""
        with self.lock:
            return next(self._faults, self.default_fault) or Fault()

    def add_connection(self, connection: socket.socket) -> None:
        """Register a new connection."""
        with self.lock:
            self._connections.add(connection)
            self.num_connections += 1

    @contextlib.contextmanager
    def count_concurrent(self) -> Iterator[None]:
        """Count a request as being handled inside the `with` block."""
        with self.lock:
            self._concurrent += 1
            self.max_concurrent = max(self.max_concurrent, self._concurrent)
        try:
            yield
        finally:
            with self.lock:
                self._concurrent -= 1


def reset(connection: socket.socket) -> None:
    """Reset a connection instead of closing it."""
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
        self.server_of_test.add_connection(self.connection)

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        fake_server, body = self.server_of_test, self.rfile.read(int(self.headers["Content-Length"]))
        request = ReceivedRequest(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
        with fake_server.count_concurrent():
            with fake_server.lock:
                fake_server.received.append(request)
            fake_server.on_request(request)
            fault = fake_server.next_fault()
            time.sleep(fault.delay)
        if fault.reset:
            self.close_connection = True
            reset(self.connection)
            return
        status = fault.status
        expected_token = f"Bearer {fake_server.api_key}"
        if fake_server.api_key is not None and request.headers.get("authorization") != expected_token:
            status = 401
        if self.path != "/v1/chat/completions":
            status = 404
        if status != 200 and fault.body is not None:
            self.send_bytes([fault.body], status, fault.headers)
            return
        if status != 200:
            self.send({"error": {"message": f"a message of {status}"}}, status, fault.headers)
            return
        if fault.body is not None:
            self.send_bytes([fault.body])
            return
        message = {"role": "assistant", "content": fake_server.answer(request.prompt)}
        response: dict[str, Any] = {"choices": [{"message": message, "finish_reason": "stop"}]}
        if fake_server.reports_usage:
            response["usage"] = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": ANSWER_TOKENS}
        with fake_server.lock:
            fake_server.billed_tokens += PROMPT_TOKENS + ANSWER_TOKENS
        content = json.dumps(response).encode()
        if fault.truncated:
            self.send_bytes([content[: len(content) // 2]])
            return
        self.send_bytes([content])
        with fake_server.lock:
            fake_server.answered_prompts.append(request.prompt)

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
