"""Errors that users can fix, and what they can do about them.

Everything that a user can cause or fix (a broken file, a full disk, a missing model) is raised as `UserError`. The
command line prints it as one line and exits with status 2, or with 128 plus the signal's number if a signal stopped the
work. Any other exception that escapes is a defect of this package.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from signal import Signals

DISK_HINT = "free some space and run the same command again; nothing stored was lost"


def escape_surrogates(text: object) -> str:
    """Return text that can be encoded as UTF-8: bytes of a file name that are not UTF-8 are escaped.

    Args:
        text: A text or a path.
    """
    return str(text).encode("utf-8", "backslashreplace").decode()


def quoted(text: str) -> str:
    """Return an untrusted value for an error message: quoted, escaped, and at most 40 characters long.

    Args:
        text: The value.
    """
    quotation = repr(text[:40])
    return quotation if len(text) <= 40 and len(quotation) <= 40 else f"{quotation[:37]}..."


class Action(Enum):
    """What the user can do about an error. The application knows how: it names a command or a button."""

    CREATE_PROFILE = "create a profile"
    SET_BASE_MODEL = "set the profile's base model"
    CHOOSE_PROFILE = "use another profile"
    CHOOSE_HOME = "use another home folder"
    IMPORT_DIALOGUES = "import dialogues"
    RUN_PENDING_STEPS = "run the pending steps"
    ANNOTATE = "annotate some dialogues"
    LIST_QUESTIONS = "list the open questions"
    TRAIN = "train an adapter"
    RESTART_TRAINING = "discard the interrupted training run and start again"
    LIST_ADAPTERS = "list the adapters"
    LIST_IMPORTS = "list the imports"
    GRANT_CONSENT = "consent to sending records to this server"
    RAISE_MAX_TOKENS = "allow more tokens for a response of the server"
    OMIT_REQUEST_FIELD = "leave that field out of the requests"
    RUN_BENCHMARK = "run the benchmark"
    RUN_STUDY = "run the study"
    RUN_LAMP = "run the LaMP benchmark"


@dataclass(frozen=True)
class Remedy:
    """An action and its arguments.

    Attributes:
        action: What to do.
        arguments: Values by name, such as `model` for `SET_BASE_MODEL`.
    """

    action: Action
    arguments: Mapping[str, str] = field(default_factory=dict)


class UserError(Exception):
    """A failure that the user can fix.

    Args:
        what: What happened.
        where: The file, folder or name it happened with.
        hint: What to do about it, in words that fit every application.
        remedy: What to do about it, where the application decides on the words.

    Attributes:
        what: What happened.
        where: Where it happened, or None.
        hint: What to do about it in words, or None.
        remedy: What to do about it as an action, or None.
    """

    def __init__(
        self, what: str, where: object = None, hint: str | None = None, *, remedy: Remedy | Action | None = None
    ):
        self.what = what
        self.where = None if where is None else escape_surrogates(where)
        self.hint = hint
        self.remedy = Remedy(remedy) if isinstance(remedy, Action) else remedy
        super().__init__(self.line())

    def line(self, hint: str | None = None) -> str:
        """Return the whole message on one line: `where: what; hint`.

        Args:
            hint: Replaces the error's own hint, for an application that names its own commands.
        """
        hint = hint if hint is not None else self.hint
        if hint is None and self.remedy is not None:
            hint = self.remedy.action.value
        text = self.what if self.where is None else f"{self.where}: {self.what}"
        text = text if hint is None else f"{text}; {hint}"
        return " ".join(text.split())


class StorageError(UserError):
    """A file or a database cannot be read or written, whatever the input is: a full disk, a missing permission, damage.

    A function that skips invalid input and continues with the rest must let this error pass, because the rest would
    fail in the same way and valid input would be reported as invalid.
    """


class StoppedError(UserError):
    """The work was stopped by a signal; nothing is wrong with the input.

    Args:
        what: What was stopped.
        signal: The signal that stopped it.
        hint: How to continue.

    Attributes:
        signal: The signal that stopped it.
    """

    def __init__(self, what: str, signal: Signals, hint: str | None = None):
        self.signal = signal
        super().__init__(what, hint=hint)


_HOME_HINT = "set MLX_PERSONAL_HOME elsewhere"
# Errors of a name, which another name would not have.
_NAME_ERRORS = {
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENOTEMPTY,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EINVAL,
}


def from_os_error(error: OSError, where: object = None, access_hint: str = _HOME_HINT) -> UserError:
    """Return the `UserError` that explains an `OSError`: a `StorageError`, unless another file name or host may work.

    Args:
        error: The error.
        where: The file or folder; None for the error's own file name.
        access_hint: What to do instead of changing permissions if the files cannot be written or read.
    """
    where = where or error.filename
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError("the disk is full", where, DISK_HINT)
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return StorageError("cannot write or read here", where, f"check its permissions, or {access_hint}")
    if error.errno == errno.ENOENT:
        return UserError("no such file or folder", where, "check the name")
    # Errors without a number come from libraries, such as one of a damaged gzip file.
    of_input = error.errno is None or error.errno in _NAME_ERRORS or isinstance(error, ConnectionError | TimeoutError)
    return (UserError if of_input else StorageError)((error.strerror or str(error)).lower(), where)


def from_sqlite_error(
    error: sqlite3.Error, where: object = None, kind: str = "profile", access_hint: str = _HOME_HINT
) -> StorageError:
    """Return the `StorageError` that explains an SQLite failure.

    Args:
        error: The error.
        where: The database file.
        kind: What the database belongs to, such as `profile`.
        access_hint: What to do instead of changing permissions if the database cannot be written or read.
    """
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL or code == sqlite3.SQLITE_IOERR:
        return StorageError("the disk is full or failing", where, DISK_HINT)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StorageError(f"the {kind} is in use by another process", where, "wait for it to finish")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return StorageError(f"the {kind} cannot be written or read", where, f"check its permissions, or {access_hint}")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StorageError(
            f"the {kind}'s database is damaged", where, f"restore it from a backup, or use another {kind}"
        )
    return StorageError(f"the {kind}'s database failed ({error})", where)
