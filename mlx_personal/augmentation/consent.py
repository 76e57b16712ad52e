"""The user's consent to sending records: recorded per server and model, with the time it was given or withdrawn.

`consent.jsonl` in a folder has one line for each decision; the newest one for a server and model counts, and no line is
ever removed.
"""

from __future__ import annotations

import json
from pathlib import Path

from mlx_personal.errors import Action, Remedy, UserError, from_os_error
from mlx_personal.storage.database import utc_now
from mlx_personal.storage.files import atomic_write


class Consent:
    """The consent recorded in a folder.

    Args:
        folder: Folder of `consent.jsonl`, which is created with the first decision.
    """

    def __init__(self, folder: Path):
        self.path = folder / "consent.jsonl"

    def grant(self, server: str, model: str) -> None:
        """Record that text may be sent to a model of a server from now on.

        Args:
            server: The server's URL.
            model: The model's name on that server.
        """
        self._record(server, model, True)

    def withdraw(self, server: str, model: str) -> None:
        """Record that nothing may be sent to a model of a server from now on."""
        self._record(server, model, False)

    def is_granted(self, server: str, model: str) -> bool:
        """Check whether the newest decision for a server and model is consent.

        Raises:
            UserError: If the file is damaged, so that the newest decision is unknown.
        """
        is_granted = False
        for number, line in enumerate(self._read().splitlines(), start=1):
            try:
                decision = json.loads(line)
                target, granted = (decision["server"], decision["model"]), decision["granted"]
                if not isinstance(granted, bool):
                    raise ValueError("neither true nor false")
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"line {number} is damaged", self.path, "repair or delete that line") from error
            if target == (_normalize_url(server), model):
                is_granted = granted
        return is_granted

    def require(self, server: str, model: str, out: Path | None = None) -> None:
        """Check that the user has consented.

        Args:
            server: The server's URL.
            model: The model's name on that server.
            out: Output folder that consent has to be given for, where the records are not a profile's.

        Raises:
            UserError: If consent is missing.
        """
        if not self.is_granted(server, model):
            arguments = {"server": server, "model": model, **({} if out is None else {"out": str(out)})}
            remedy = Remedy(Action.GRANT_CONSENT, arguments)
            raise UserError(f"nothing is sent to {server} without your consent", remedy=remedy)

    def _record(self, server: str, model: str, granted: bool) -> None:
        self.is_granted(server, model)  # raises an error if the file is damaged
        line = json.dumps({"time": utc_now(), "granted": granted, "server": _normalize_url(server), "model": model})
        atomic_write(self.path, "".join(f"{text}\n" for text in (*self._read().splitlines(), line)))

    def _read(self) -> str:
        try:
            return self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise from_os_error(error, self.path) from error
        except UnicodeDecodeError as error:
            raise UserError("is not UTF-8 text", self.path, "restore it from a backup") from error


def _normalize_url(server: str) -> str:
    """Return a server's URL without the slash at its end."""
    return server.rstrip("/")
