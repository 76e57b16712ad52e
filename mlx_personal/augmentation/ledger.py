"""What has left this machine, byte by byte: `ledger.jsonl`, for its owner's eyes.

A line is on the disk before an attempt to send begins: time, user, URL, the body's length, its SHA-256 and the body
itself. When the attempt is over another line says how it ended. Headers, and with them the key, are never written.
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

from mlx_personal.errors import UserError, encodable, from_os_error
from mlx_personal.storage.database import now
from mlx_personal.storage.files import atomic_write


@dataclass(frozen=True)
class Totals:
    """Attempts to send, the bytes of their bodies, and how many never got a reply (of which some still may)."""

    attempts: int
    bytes: int
    unanswered: int


class Ledger:
    """The ledger in `folder`, to be written by one process at a time; UserError where the disk refuses.

    A line that a crash has torn stands for nothing that was sent; the next line takes its place.
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

    def sending(self, user: str, url: str, body: bytes) -> int:
        """Puts on record what is about to leave; returns the attempt's number. The line is on the disk afterwards."""
        self._open()
        self._attempts += 1
        line = {"attempt": self._attempts, "time": now(), "user": encodable(user), "url": url, "bytes": len(body)}
        self._append(line | {"sha256": hashlib.sha256(body).hexdigest(), "body": body.decode()})
        return self._attempts

    def ended(
        self, attempt: int, status: int | None, received: int, tokens: int | None = None, failure: str | None = None
    ) -> None:
        """Puts on record how an attempt ended: its HTTP status (None where no whole reply came), the bytes of the
        reply's body, the tokens it counts, and what was wrong with it."""
        line = {"ended": attempt, "time": now(), "status": status, "received": received, "tokens": tokens}
        self._append(line | ({} if failure is None else {"failure": encodable(failure)}))

    def totals(self) -> Totals:
        """What has been sent in all; UserError for a damaged line before the last."""
        attempts = left = answered = 0
        for line, _ in self._lines():
            if "attempt" in line:
                attempts, left = attempts + 1, left + line["bytes"]
            elif line["status"] is not None:
                answered += 1
        return Totals(attempts, left, attempts - answered)

    def _open(self) -> None:
        """Finds the end of what is whole and the last attempt's number."""
        if self._file is not None:
            return
        self._attempts = self._end = 0
        for line, end in self._lines():
            self._attempts, self._end = line.get("attempt", self._attempts), end
        try:
            if not self.path.exists():
                self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                atomic_write(self.path, b"")  # so that its name is on the disk as well
            # Unbuffered: what a full disk refuses must not come out later.
            self._file = FileIO(self.path, "r+")
            os.fchmod(self._file.fileno(), 0o600)
        except OSError as error:
            raise from_os_error(error, self.path) from error

    def _append(self, line: dict[str, Any]) -> None:
        assert self._file is not None
        rest = memoryview(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        length = len(rest)
        try:
            self._file.truncate(self._end)  # of what was torn, by a crash or by a full disk
            self._file.seek(self._end)
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise from_os_error(error, self.path) from error
        self._end += length

    def _lines(self) -> Iterator[tuple[dict[str, Any], int]]:
        """Every whole line and where it ends."""
        try:
            with self.path.open("rb") as file:
                for number, text in enumerate(file, start=1):
                    if not text.endswith(b"\n"):
                        return
                    try:
                        line = json.loads(text)
                        if not all(isinstance(line[name], int) for name in _numbers(line)):
                            raise ValueError("no number where one belongs")
                    except (KeyError, TypeError, ValueError) as error:
                        hint = "restore it from a backup, or put it aside"
                        raise UserError(f"line {number} is damaged", self.path, hint) from error
                    yield line, file.tell()
        except FileNotFoundError:
            return
        except OSError as error:
            raise from_os_error(error, self.path) from error


def _numbers(line: dict[str, Any]) -> tuple[str, ...]:
    """The fields that are read again, which are all numbers; KeyError for what is no line of a ledger."""
    if "attempt" in line:
        return ("attempt", "bytes")
    return ("ended",) if line["status"] is None else ("ended", "status")
