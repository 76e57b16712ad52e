"""The one place of the package that opens a socket, the download of models aside: JSON to a server, a file from one.

Plain http is for this machine only: whatever goes anywhere else goes by https, whose certificates are always checked.
`HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`, `SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured for other hosts; for this
machine no proxy ever is. Redirects are followed for downloads alone: what is sent reaches the host that was named, or
none.
"""

from __future__ import annotations

import asyncio
import datetime
import email.utils
import ipaddress
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

from mlx_personal.errors import UserError, from_os_error, quoted
from mlx_personal.progress import Progress, ProgressEvent
from mlx_personal.storage.files import atomic_file

if TYPE_CHECKING:
    import httpx2

# Seconds to reach a host, and between two pieces of a download.
_CONNECT: Final = 10.0
_PIECE: Final = 60.0
# The longest body of a reply that is read; an answer of a language model is a thousandth of it.
_LONGEST: Final = 64 * 2**20


class WebError(Exception):
    """No reply came, or none that is whole. `sent`: whether the server may have got the body all the same."""

    def __init__(self, what: str, sent: bool):
        self.sent = sent
        super().__init__(what)


@dataclass(frozen=True)
class Reply:
    """What a server said: `headers` by their names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body's JSON; ValueError where it is not whole, or nested beyond reason."""
        try:
            return json.loads(self.body)
        except RecursionError as error:
            raise ValueError("the JSON is nested too deep") from error

    def retry_after(self) -> float:
        """Seconds to wait before asking again, as the server says in seconds or as a date; 0 where it says nothing."""
        value = self.headers.get("retry-after", "")
        try:
            return max(0.0, float(int(value)))
        except ValueError:
            pass
        try:
            until = email.utils.parsedate_to_datetime(value)
            return max(0.0, (until - datetime.datetime.now(datetime.UTC)).total_seconds())
        except (TypeError, ValueError):  # no date, or one without a zone
            return 0.0


class Session:
    """Requests to one URL over connections that are kept; `async with`.

    UserError for a URL that `check_url` refuses, and for a proxy or a certificate in the environment that is no good.

    Args:
        url: where everything is posted.
        timeout: seconds that a request may take from its first byte to the reply's last.
        connections: how many there may be at once.
        headers: of every request. They are in no error and no log.
    """

    def __init__(self, url: str, timeout: float, connections: int, headers: Mapping[str, str] | None = None):
        check_url(url)
        self.url = url
        self._timeout = timeout
        client = _client_library()
        self._client: httpx2.AsyncClient = _made(
            client.AsyncClient,
            url,
            limits=client.Limits(max_connections=connections, max_keepalive_connections=connections),
            timeout=client.Timeout(None, connect=min(_CONNECT, timeout)),
            headers={"Accept-Encoding": "identity", "Content-Type": "application/json", **(headers or {})},
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def post(
        self, payload: object, headers: Mapping[str, str], before_sending: Callable[[str, bytes], None]
    ) -> Reply:
        """Sends `payload` as JSON; WebError where no whole reply comes back in time, whatever its status.

        `before_sending(url, body)` sees the exact bytes before any of them leaves; what it raises keeps them here.
        """
        errors = _client_library()
        body = json.dumps(payload, ensure_ascii=False).encode()
        before_sending(self.url, body)
        received = bytearray()
        try:
            async with (
                asyncio.timeout(self._timeout),
                self._client.stream("POST", self.url, content=body, headers=dict(headers)) as response,
            ):
                async for piece in response.aiter_bytes():
                    received += piece
                    if len(received) > _LONGEST:
                        raise WebError("the reply does not end", sent=True)
        except TimeoutError:
            raise WebError(f"no reply within {self._timeout:g} s", sent=True) from None
        except errors.LocalProtocolError:
            # Its text, which quotes a header, and the error itself go no further.
            raise WebError("it cannot be sent as it is", sent=False) from None
        except errors.HTTPError as error:
            unsent = (errors.ConnectError, errors.ConnectTimeout, errors.ProxyError)
            raise WebError(_reason(error), sent=not isinstance(error, unsent)) from error
        return Reply(response.status_code, {k.lower(): v for k, v in response.headers.items()}, bytes(received))


def check_url(url: str) -> None:
    """UserError for what is no http(s) URL, for plain http to another machine, and for a password in the URL."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    # Other characters must be escaped: a host's as `xn--...`, a path's as `%..`.
    if not host or parts.scheme not in ("http", "https") or not re.fullmatch("[!-~]+", url):
        raise UserError(f"{quoted(url)} is no http or https address", hint="give one like https://example.org/v1")
    if parts.username is not None or parts.password is not None:
        raise UserError("there is a name or a password in the address", host, "take it out")
    if parts.scheme == "http" and not _is_here(host):
        what = "personal text does not go over plain http to another machine"
        raise UserError(what, url, "use https, or a tunnel to localhost")


def download(url: str, path: Path, on_progress: Progress | None = None) -> None:
    """Puts what is at `url` at `path`, whole or not at all.

    `on_progress(bytes so far, bytes in all)` is called for every piece, with None where the server does not say how
    many there will be. UserError for a URL that `check_url` refuses (a redirect's too), where there is no network,
    nothing at the URL or the file breaks off, and where the disk refuses.
    """
    check_url(url)
    client = _client_library()
    options: dict[str, Any] = {
        "follow_redirects": True,
        "timeout": client.Timeout(_PIECE, connect=_CONNECT),
        "headers": {"Accept-Encoding": "identity"},
        "event_hooks": {"request": [lambda request: check_url(str(request.url))]},
    }
    try:
        with _made(client.Client, url, **options) as session, session.stream("GET", url) as response:
            if response.status_code != 200:
                raise UserError(f"the server has nothing here (HTTP {response.status_code})", url, "check the address")
            length = response.headers.get("content-length", "")
            total = int(length) if length.isdecimal() else None
            done = 0
            with atomic_file(path) as file:
                for piece in response.iter_raw():
                    file.write(piece)
                    done += len(piece)
                    if on_progress is not None:
                        on_progress(ProgressEvent("download", done, total))
                if total is not None and done != total:
                    raise UserError(f"only {done:,} of {total:,} bytes came", url, "run the same command again")
    except client.HTTPError as error:
        hint = "check the network and run the same command again"
        raise UserError(f"the download failed ({_reason(error)})", url, hint) from error


def _is_here(host: str) -> bool:
    """Whether a host's name or number is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _made(kind: Callable[..., Any], url: str, **options: Any) -> Any:
    """A client for `url`; UserError where it cannot be made by the environment's proxy or certificates."""
    try:
        return kind(trust_env=not _is_here(urlsplit(url).hostname or ""), **options)
    except OSError as error:
        raise from_os_error(error, "SSL_CERT_FILE", "name another file") from error
    except (ValueError, ImportError) as error:
        raise UserError("the proxy that the environment names cannot be used", hint="check HTTPS_PROXY") from error


def _reason(error: Exception) -> str:
    """What went wrong with a connection, in a few words; some errors of the library have no text."""
    return str(error) or type(error).__name__


def _client_library() -> ModuleType:
    try:
        import httpx2
    except ImportError as error:
        raise UserError("httpx2 is not installed", hint="pip install 'mlx-personal[augment]'") from error
    return httpx2
