"""The one exception that a user is meant to read.

Whatever the owner can cause or mend (a broken file, a full disk, a missing model) is raised as `UserError`; the
command line prints it as one line and leaves with status 2, or with 128 and a signal's number where that stopped the
work, as shells count. Anything else that escapes is a defect of this package.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from signal import Signals

DISK_HINT = "free some space and run the same command again; nothing stored was lost"


def encodable(text: object) -> str:
    """`text`, mostly a path, as any UTF-8 file or terminal takes it: a name's bytes that are not UTF-8 are escaped."""
    return str(text).encode("utf-8", "backslashreplace").decode()


def quoted(text: str) -> str:
    """A value from outside as an error may quote it: on one line, encodable, at most 40 characters long."""
    quotation = repr(text[:40])
    return quotation if len(text) <= 40 and len(quotation) <= 40 else f"{quotation[:37]}..."


class Action(Enum):
    """What the user can do about an error; the caller knows how: the command line names a command, an app a button."""

    CREATE_PROFILE = "create a profile"
    SET_BASE_MODEL = "set the profile's base model"
    CHOOSE_PROFILE = "use another profile"
    CHOOSE_HOME = "use another home folder"
    IMPORT_DIALOGUES = "import dialogues"
    RUN_PENDING_STEPS = "run the pending steps"
    ANNOTATE = "annotate some dialogues"
    LIST_QUESTIONS = "list the open questions"
    TRAIN = "train an adapter"
    RESTART_TRAINING = "drop the interrupted training and start again"
    LIST_ADAPTERS = "list the adapters"
    GRANT_CONSENT = "consent to sending records to this server"
    RUN_BENCHMARK = "run the benchmark"
    RUN_STUDY = "run the study"
    RUN_LAMP = "run the LaMP benchmark"


@dataclass(frozen=True)
class Remedy:
    """An action with what it applies to.

    Attributes:
        action: What to do.
        arguments: What to do it with, by name, such as `model` for `SET_BASE_MODEL`.
    """

    action: Action
    arguments: Mapping[str, str] = field(default_factory=dict)


class UserError(Exception):
    """A failure that the user can act on.

    Args:
        what: What happened.
        where: The file, folder or name it happened with.
        hint: What to do about it, in words that hold for every caller.
        remedy: What to do about it, where that depends on how the caller runs this package.
    """

    def __init__(
        self, what: str, where: object = None, hint: str | None = None, *, remedy: Remedy | Action | None = None
    ):
        self.what = what
        self.where = None if where is None else encodable(where)
        self.hint = hint
        self.remedy = Remedy(remedy) if isinstance(remedy, Action) else remedy
        super().__init__(self.line())

    def line(self, hint: str | None = None) -> str:
        """Return the whole message on one line: `where: what; hint`.

        Args:
            hint: Replaces the error's own hint, for a caller that can name its own commands.
        """
        hint = hint if hint is not None else self.hint
        if hint is None and self.remedy is not None:
            hint = self.remedy.action.value
        text = self.what if self.where is None else f"{self.where}: {self.what}"
        text = text if hint is None else f"{text}; {hint}"
        return " ".join(text.split())


class StoppedError(UserError):
    """Somebody stopped the work by `signal`; nothing is wrong with the input."""

    def __init__(self, what: str, signal: Signals, hint: str | None = None):
        self.signal = signal
        super().__init__(what, hint=hint)


_ELSEWHERE = "set MLX_PERSONAL_HOME elsewhere"


def from_os_error(error: OSError, where: object = None, elsewhere: str = _ELSEWHERE) -> UserError:
    """The `UserError` that says what an `OSError` means for the owner of the files; `elsewhere`: what to do where they
    cannot be written or read, besides giving permission."""
    where = where or error.filename
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError("the disk is full", where, DISK_HINT)
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return UserError("cannot write or read here", where, f"check its permissions, or {elsewhere}")
    if error.errno == errno.ENOENT:
        return UserError("no such file or folder", where, "check the name")
    return UserError((error.strerror or str(error)).lower(), where)


def from_sqlite_error(
    error: sqlite3.Error, where: object = None, what: str = "profile", elsewhere: str = _ELSEWHERE
) -> UserError:
    """The `UserError` that says what an SQLite failure means for the owner of the database, a profile's or another."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL or code == sqlite3.SQLITE_IOERR:
        return UserError("the disk is full or failing", where, DISK_HINT)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return UserError(f"the {what} is in use by another process", where, "wait for it to finish")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return UserError(f"the {what} cannot be written or read", where, f"check its permissions, or {elsewhere}")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return UserError(f"the {what}'s database is damaged", where, f"restore it from a backup, or use another {what}")
    return UserError(f"the {what}'s database failed ({error})", where)
