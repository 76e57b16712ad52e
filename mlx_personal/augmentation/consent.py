"""The owner's consent, on record: for which server and model, given or withdrawn, and when.

`consent.jsonl` in a folder has a line for each time; the newest for a server and model counts. Nothing is ever taken
out. Who needs it asks `require` and knows no more, so that more than one yes may be asked for some day.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from mlx_personal.errors import UserError, from_os_error
from mlx_personal.storage.database import now
from mlx_personal.storage.files import atomic_write


class Consent:
    """What is on record in `folder`, whose file is made with the first word that is given."""

    def __init__(self, folder: Path):
        self.path = folder / "consent.jsonl"

    def grant(self, server: str, model: str) -> None:
        """From now on, text may be sent to this model of this server (its URL)."""
        self._record(server, model, True)

    def withdraw(self, server: str, model: str) -> None:
        """From now on nothing may be sent there; what has left before is in the ledger."""
        self._record(server, model, False)

    def granted(self, server: str, model: str) -> bool:
        """Whether the last word was yes; UserError for a damaged file, whose last word nobody knows."""
        last = False
        for number, line in enumerate(self._text().splitlines(), start=1):
            try:
                word = json.loads(line)
                of, granted = (word["server"], word["model"]), word["granted"]
                if not isinstance(granted, bool):
                    raise ValueError("neither yes nor no")
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"line {number} is damaged", self.path, "mend or delete that line") from error
            if of == (_plain(server), model):
                last = granted
        return last

    def require(self, server: str, model: str, out: Path | None = None) -> None:
        """UserError that names the command to run, where the owner has not consented; `out`: the folder that the
        command must name, where it is not the profile's."""
        if not self.granted(server, model):
            where = [] if out is None else ["--out", str(out)]
            command = shlex.join(
                ["mlx-personal", "augment", "consent", "--server", server, "--server-model", model, *where]
            )
            raise UserError(f"nothing is sent to {server} without your consent", hint=f"give it by `{command}`")

    def _record(self, server: str, model: str, granted: bool) -> None:
        self.granted(server, model)  # a damaged file is mended first
        line = json.dumps({"time": now(), "granted": granted, "server": _plain(server), "model": model})
        atomic_write(self.path, "".join(f"{kept}\n" for kept in (*self._text().splitlines(), line)))

    def _text(self) -> str:
        try:
            return self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise from_os_error(error, self.path) from error
        except UnicodeDecodeError as error:
            raise UserError("is not UTF-8 text", self.path, "restore it from a backup") from error


def _plain(server: str) -> str:
    """A server's URL, the same with and without a slash at its end."""
    return server.rstrip("/")
