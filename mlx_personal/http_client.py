"""HTTP client: the only module that opens sockets, except for the download of models.

Plain http is allowed to this machine only; everything else uses https, and certificates are always verified.
`HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`, `SSL_CERT_FILE` and `SSL_CERT_DIR` are honored for other hosts; requests to this
machine never use a proxy. Redirects are followed for downloads only, so that a POST never reaches another host.
"""

from __future__ import annotations

import asyncio
import datetime
import email.utils
import ipaddress
import json
import logging
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.cookiejar import CookieJar
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

from mlx_personal.errors import UserError, from_os_error, quoted
from mlx_personal.progress import Progress, ProgressEvent
from mlx_personal.storage.files import atomic_file

if TYPE_CHECKING:
    import httpx2

logger = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S: Final = 10.0
# Maximum time between two chunks of a download.
_READ_TIMEOUT_S: Final = 60.0
# A language model's answer is a thousandth of this. Parsed JSON may take a hundred times as much memory.
_MAX_RESPONSE_BYTES: Final = 4 * 2**20
# Longest part of a library's or a server's message that is repeated in an error.
_MAX_REASON_CHARS: Final = 200
# A Content-Length of more digits is no length of a file.
_MAX_LENGTH_DIGITS: Final = 18
# A Retry-After header is a number of seconds or a date; a longer one is neither.
_MAX_RETRY_AFTER_CHARS: Final = 64


class TransportError(Exception):
    """A request got no response, or no complete one.

    Args:
        what: What happened.
        sent: Whether the server may have received the request body.

    Attributes:
        sent: Whether the server may have received the request body.
    """

    def __init__(self, what: str, sent: bool):
        self.sent = sent
        super().__init__(what)


@dataclass(frozen=True)
class HTTPResponse:
    """A server's response.

    Attributes:
        status: The HTTP status.
        headers: The headers by lowercase name.
        body: The body.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the parsed JSON of the body.

        Raises:
            ValueError: If it is not valid JSON, or nested too deeply.
        """
        try:
            return json.loads(self.body)
        except RecursionError as error:
            raise ValueError("the JSON is nested too deeply") from error

    def retry_after_s(self) -> float:
        """Return the seconds to wait before a retry, from the Retry-After header; 0 if there is none."""
        value = self.headers.get("retry-after", "").strip()
        if len(value) > _MAX_RETRY_AFTER_CHARS:
            return 0.0
        if value.isascii() and value.isdecimal():
            return float(value)
        try:
            retry_at = email.utils.parsedate_to_datetime(value)
            return max(0.0, (retry_at - datetime.datetime.now(datetime.UTC)).total_seconds())
        except (TypeError, ValueError, OverflowError):  # Not a date, one without a time zone, or one beyond all years.
            return 0.0


class Session:
    """A session of POST requests to one URL over persistent connections, for use with `async with`.

    Args:
        url: The URL.
        timeout_s: Seconds that a request may take from its first byte to the last byte of the response.
        max_connections: Maximum number of simultaneous connections.
        headers: Headers of every request. They never appear in errors or logs.

    Attributes:
        url: The URL.

    Raises:
        UserError: If `check_url` refuses the URL, or a proxy or a certificate in the environment cannot be used.
    """

    def __init__(self, url: str, timeout_s: float, max_connections: int, headers: Mapping[str, str] | None = None):
        check_url(url)
        self.url = url
        self._timeout_s = timeout_s
        httpx = _import_httpx()
        self._client: httpx2.AsyncClient = _make_client(
            httpx.AsyncClient,
            url,
            limits=httpx.Limits(max_connections=max_connections, max_keepalive_connections=max_connections),
            timeout=httpx.Timeout(None, connect=min(_CONNECT_TIMEOUT_S, timeout_s)),
            headers={"Accept-Encoding": "identity", "Content-Type": "application/json", **(headers or {})},
            cookies=_NoCookies(),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def post(
        self, payload: object, headers: Mapping[str, str], before_sending: Callable[[str, bytes], None]
    ) -> HTTPResponse:
        """Send `payload` as JSON and return the response, even if its status is an error.

        Args:
            payload: The value to send.
            headers: Headers of this request.
            before_sending: Called with the URL and the exact body before anything is sent; if it raises, nothing is.

        Raises:
            TransportError: If no complete response arrives in time.
        """
        httpx = _import_httpx()
        body = json.dumps(payload, ensure_ascii=False).encode()
        before_sending(self.url, body)
        received = _Body()
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._client.stream("POST", self.url, content=body, headers=dict(headers)) as response,
            ):
                received.set_encoding(response.headers.get("content-encoding", ""))
                # Not `aiter_bytes`, which decompresses each chunk to any size.
                async for chunk in response.aiter_raw():
                    received.add(chunk)
        except TimeoutError:
            raise TransportError(f"no response within {self._timeout_s:g} s", sent=True) from None
        except httpx.LocalProtocolError:
            # Neither the error nor its text, which quotes a header, may be passed on.
            raise TransportError("the request cannot be sent as it is", sent=False) from None
        except httpx.HTTPError as error:
            not_sent = (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError)
            raise TransportError(_reason(error), sent=not isinstance(error, not_sent)) from error
        body = received.content()
        logger.debug("POST %s: HTTP %d, %d bytes", _without_query(self.url), response.status_code, len(body))
        return HTTPResponse(response.status_code, {k.lower(): v for k, v in response.headers.items()}, body)


class _NoCookies(CookieJar):
    """Stores and sends no cookies: they would let a server recognize its user."""

    def extract_cookies(self, response: object, request: object) -> None:
        """Ignore the cookies of a response, which Python's parser warns about if they are malformed."""


class _Body:
    """The body of a response, decompressed while it arrives: at most `_MAX_RESPONSE_BYTES`, however small it was sent.

    Compression is not requested, but some servers and proxies compress regardless.
    """

    def __init__(self) -> None:
        self._content = bytearray()
        self._decompressor: zlib._Decompress | None = None

    def set_encoding(self, encoding: str) -> None:
        """Set the Content-Encoding of the chunks; TransportError for one that cannot be decoded."""
        encoding = encoding.strip().lower()
        if encoding in ("gzip", "x-gzip", "deflate"):
            self._decompressor = zlib.decompressobj(zlib.MAX_WBITS | 32)  # detects both formats
        elif encoding not in ("", "identity"):
            raise TransportError("the response has an encoding that was not requested", sent=True)

    def add(self, chunk: bytes) -> None:
        """Add a chunk; TransportError if the body becomes too long or cannot be decompressed."""
        if self._decompressor is not None:
            try:
                chunk = self._decompressor.decompress(chunk, _MAX_RESPONSE_BYTES + 1 - len(self._content))
            except zlib.error:
                raise TransportError("the response cannot be decompressed", sent=True) from None
        self._content += chunk
        if len(self._content) > _MAX_RESPONSE_BYTES:
            raise TransportError("the response does not end", sent=True)

    def content(self) -> bytes:
        """Return the whole body; TransportError if its compressed form is not complete."""
        if self._decompressor is not None and self._content and not self._decompressor.eof:
            raise TransportError("the response is not complete", sent=True)
        return bytes(self._content)


def check_url(url: str) -> None:
    """Check that a URL may be used.

    Args:
        url: The URL.

    Raises:
        UserError: If it is not an http or https URL, uses plain http to another machine, or contains a password.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    # Other characters must be escaped: a host's as `xn--...`, a path's as `%..`.
    if not host or parts.scheme not in ("http", "https") or not re.fullmatch("[!-~]+", url):
        raise UserError(f"{quoted(url)} is not an http or https URL", hint="use one like https://example.org/v1")
    if parts.username is not None or parts.password is not None:
        raise UserError("the URL contains a user name or a password", host, "remove it")
    if parts.scheme == "http" and not _is_this_machine(host):
        what = "personal text must not be sent over plain http to another machine"
        raise UserError(what, url, "use https, or a tunnel to localhost")


def download(url: str, path: Path, on_progress: Progress | None = None) -> None:
    """Download a file atomically.

    Args:
        url: The URL.
        path: Where to write the file.
        on_progress: Receives an event of stage `download` for every chunk, in bytes; the total is None if the server
            does not report it.

    Raises:
        UserError: If `check_url` refuses the URL or a redirect, the network or the server fails, the file is
            incomplete, or it cannot be written.
    """
    check_url(url)
    httpx = _import_httpx()
    options: dict[str, Any] = {
        "follow_redirects": True,
        "timeout": httpx.Timeout(_READ_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S),
        "headers": {"Accept-Encoding": "identity"},
        "event_hooks": {"request": [lambda request: check_url(str(request.url))]},
    }
    try:
        with _make_client(httpx.Client, url, **options) as client, client.stream("GET", url) as response:
            logger.debug("GET %s: HTTP %d", _without_query(url), response.status_code)
            if response.status_code != 200:
                raise UserError(f"the server did not send the file (HTTP {response.status_code})", url, "check the URL")
            length = response.headers.get("content-length", "")
            total = int(length) if length.isdecimal() and len(length) <= _MAX_LENGTH_DIGITS else None
            done = 0
            with atomic_file(path) as file:
                for chunk in response.iter_raw():
                    file.write(chunk)
                    done += len(chunk)
                    if on_progress is not None:
                        on_progress(ProgressEvent("download", done, total))
                if total is not None and done != total:
                    what = f"only {done:,} of {total:,} bytes were received"
                    raise UserError(what, url, "run the same command again")
    except httpx.HTTPError as error:
        hint = "check the network and run the same command again"
        raise UserError(f"the download failed ({_reason(error)})", url, hint) from error


def _is_this_machine(host: str) -> bool:
    """Return whether a host name or address is that of this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _without_query(url: str) -> str:
    """Return a URL without its query, which may contain secrets, for a log line."""
    return urlsplit(url)._replace(query="", fragment="").geturl()


def _make_client(client_class: Callable[..., Any], url: str, **options: Any) -> Any:
    """Return an HTTP client; raise UserError if the environment's proxy or certificates cannot be used."""
    try:
        return client_class(trust_env=not _is_this_machine(urlsplit(url).hostname or ""), **options)
    except OSError as error:
        raise from_os_error(error, "SSL_CERT_FILE", "name another file") from error
    except (ValueError, ImportError) as error:
        raise UserError("the proxy that the environment sets cannot be used", hint="check HTTPS_PROXY") from error


def _reason(error: Exception) -> str:
    """Return the beginning of a connection error's text, or its type if it has no text."""
    return " ".join(str(error).split())[:_MAX_REASON_CHARS] or type(error).__name__


def _import_httpx() -> ModuleType:
    try:
        import httpx2
    except ImportError as error:
        raise UserError("httpx2 is not installed", hint="pip install 'mlx-personal[augment]'") from error
    return httpx2
