"""A server on 127.0.0.1 that answers every request with given bytes, whether they are HTTP or not."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections.abc import Callable, Iterable, Iterator

Reply = Callable[[], Iterable[bytes]]


@contextlib.contextmanager
def raw_server(reply: Reply) -> Iterator[str]:
    """Serve inside the `with` block.

    Args:
        reply: Returns the pieces that are sent in reply to a request; the connection is closed after the last one.

    Yields:
        The URL of the server, without a path.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

        def answer(connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError):
                read_request(connection)
                for piece in reply():
                    connection.sendall(piece)

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def read_request(connection: socket.socket) -> None:
    """Read a request with a Content-Length to its end."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65536)
    head, _, body = received.partition(b"\r\n\r\n")
    (length,) = (int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
    while len(body) < length:
        body += connection.recv(65536)


def http_reply(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """Return a response with a Content-Length.

    Args:
        body: The body.
        headers: Header lines.
        status: Status code and reason.
    """
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def endless(head: bytes, piece: bytes) -> Reply:
    """Return a reply that begins with `head` and repeats `piece` until the client closes the connection."""
    return lambda: itertools.chain([head], itertools.repeat(piece))
