"""Record every byte that leaves this machine in a file for the user to inspect, the ledger `ledger.jsonl`.

Before an attempt to send, a line with time, user, URL and body is written and flushed to the disk. After the attempt a
second line records how it ended. Headers, and with them the API key, are never written.

The keys of a line are part of the file format: `attempt`, `time`, `user`, `url`, `bytes`, `sha256` and `body` when an
attempt starts; `ended` (the attempt's number), `time`, `status`, `received` (bytes), `tokens` and `failure` when it
ends.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Self

from mlx_personal.errors import UserError, escape_surrogates, from_os_error
from mlx_personal.storage.database import utc_now
from mlx_personal.storage.files import atomic_write


@dataclass(frozen=True)
class LedgerTotals:
    """Totals over a whole ledger.

    Attributes:
        attempts: Attempts to send.
        bytes: Bytes of their bodies.
        unanswered: Attempts without a complete response, including those still in progress.
    """

    attempts: int
    bytes: int
    unanswered: int


class Ledger:
    """The ledger in a folder, a context manager. Only one process at a time may write to it.

    An incomplete last line, as left by a crash, was not sent; the next line replaces it.

    Args:
        folder: Folder of `ledger.jsonl`, which is created with the first attempt.
    """

    def __init__(self, folder: Path):
        self.path = folder / "ledger.jsonl"
        self._file: FileIO | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def begin_attempt(self, user: str, url: str, body: bytes) -> int:
        """Record what is about to be sent. The line is on the disk when this returns.

        Args:
            user: Whose records the body shows.
            url: Where it is sent.
            body: The exact bytes.

        Returns:
            The number of the attempt.

        Raises:
            UserError: If the file is damaged or cannot be written.
        """
        self._open()
        self._attempts += 1
        line = {
            "attempt": self._attempts,
            "time": utc_now(),
            "user": escape_surrogates(user),
            "url": url,
            "bytes": len(body),
        }
        self._append(line | {"sha256": hashlib.sha256(body).hexdigest(), "body": body.decode()})
        return self._attempts

    def end_attempt(
        self, attempt: int, status: int | None, received: int, tokens: int | None = None, failure: str | None = None
    ) -> None:
        """Record how an attempt ended.

        Args:
            attempt: Number of the attempt.
            status: HTTP status; None if no complete response came.
            received: Bytes of the response's body.
            tokens: Tokens charged for it; None if none are.
            failure: What went wrong; None if nothing did.

        Raises:
            UserError: If the file cannot be written.
        """
        line = {"ended": attempt, "time": utc_now(), "status": status, "received": received, "tokens": tokens}
        self._append(line | ({} if failure is None else {"failure": escape_surrogates(failure)}))

    def totals(self) -> LedgerTotals:
        """Return the totals over all attempts.

        Raises:
            UserError: If a line other than the last is damaged.
        """
        attempts = sent_bytes = answered = 0
        for line, _ in self._lines():
            if "attempt" in line:
                attempts, sent_bytes = attempts + 1, sent_bytes + line["bytes"]
            elif line["status"] is not None:
                answered += 1
        return LedgerTotals(attempts, sent_bytes, attempts - answered)

    def _open(self) -> None:
        """Open the file for writing, and find the end of its last complete line and the number of the last attempt."""
        if self._file is not None:
            return
        self._attempts = self._end = 0
        for line, end in self._lines():
            self._attempts, self._end = line.get("attempt", self._attempts), end
        try:
            if not self.path.exists():
                self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                atomic_write(self.path, b"")  # makes the directory entry durable too
            # Unbuffered, so that bytes a full disk refuses are not written later.
            self._file = FileIO(self.path, "r+")
            os.fchmod(self._file.fileno(), 0o600)
        except OSError as error:
            raise from_os_error(error, self.path) from error

    def _append(self, line: dict[str, Any]) -> None:
        assert self._file is not None
        rest = memoryview(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        length = len(rest)
        try:
            self._file.truncate(self._end)  # removes an incomplete line, left by a crash or a full disk
            self._file.seek(self._end)
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise from_os_error(error, self.path) from error
        self._end += length

    def _lines(self) -> Iterator[tuple[dict[str, Any], int]]:
        """Yield every complete line with the offset of its end."""
        try:
            end = 0
            with self.path.open("rb") as file:
                for number, text in enumerate(file, start=1):
                    if not text.endswith(b"\n"):
                        return
                    try:
                        line = json.loads(text)
                        if not all(isinstance(line[key], int) for key in _number_keys(line)):
                            raise ValueError("not a number where one is expected")
                    except (KeyError, TypeError, ValueError) as error:
                        hint = "restore it from a backup, or move it away"
                        raise UserError(f"line {number} is damaged", self.path, hint) from error
                    end += len(text)
                    yield line, end
        except FileNotFoundError:
            return
        except OSError as error:
            raise from_os_error(error, self.path) from error


def _number_keys(line: dict[str, Any]) -> tuple[str, ...]:
    """Return the keys of a line that are read back, all of them numbers; KeyError for what is not a ledger line."""
    if "attempt" in line:
        return ("attempt", "bytes")
    return ("ended",) if line["status"] is None else ("ended", "status")
