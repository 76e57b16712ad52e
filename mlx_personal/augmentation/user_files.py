"""A folder of users: one JSON Lines file of dialogues for each user, and the task they share.

The files have the format of imported dialogues. A single-turn dialogue becomes a record: its question is the text, its
answer the answer. An optional file `task.json` says how the device model is asked and which answers exist, as in
`{"question": "What genre is it? {text}", "labels": ["comedy", "drama"]}`. Without it a record's text is the question,
and the answer is free text.
"""

from __future__ import annotations

import difflib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mlx_personal.augmentation.task import Record, Task
from mlx_personal.dialogue import Dialogue
from mlx_personal.errors import UserError, escape_surrogates, from_os_error
from mlx_personal.importers import Skipped, read_dialogues

TASK_FILE: Final = "task.json"
_KEYS: Final = ("question", "labels")
# A prompt shows what several records have in common, and a filter compares a candidate with the other records.
_MIN_RECORDS: Final = 2


@dataclass(frozen=True)
class UserRecords:
    """The contents of a user's file.

    Attributes:
        records: The records, without repeated ones.
        skipped: Number of dialogues and lines that cannot be made into records, by reason.
    """

    records: tuple[Record, ...]
    skipped: dict[str, int]


@dataclass(frozen=True)
class UserFolder:
    """The contents of a folder of users.

    Attributes:
        task: The task of all users.
        users: Records of the users with enough of them, sorted by name.
        excluded: The other users, with the reason.
        invalid_lines: Lines of all files that contain no dialogue.
    """

    task: Task
    users: dict[str, UserRecords]
    excluded: dict[str, str]
    invalid_lines: tuple[Skipped, ...]


def read_users(folder: Path) -> UserFolder:
    """Read the users of a folder.

    Invalid lines, dialogues that cannot be made into records, and users with fewer than 2 records are skipped and
    counted.

    Args:
        folder: Folder with a file `NAME.jsonl` for each user.

    Raises:
        UserError: If the folder does not exist or has no user with enough records, or `task.json` is invalid.
    """
    try:
        # Hidden files belong to editors and file systems.
        files = sorted(file for file in folder.iterdir() if file.suffix == ".jsonl" and not file.name.startswith("."))
    except OSError as error:
        raise from_os_error(error, folder, "choose another folder") from error
    if not files:
        raise UserError("no user in this folder", folder, "it needs a file NAME.jsonl for each user")
    task = _read_task(folder / TASK_FILE)
    users: dict[str, UserRecords] = {}
    excluded: dict[str, str] = {}
    invalid_lines: list[Skipped] = []
    for file in files:
        name = escape_surrogates(file.stem)
        user, invalid = _read_user(file, task)
        invalid_lines += invalid
        if len(user.records) < _MIN_RECORDS:
            count = "one record" if len(user.records) == 1 else "no record"
            excluded[name] = ", ".join([count, *(f"{n} skipped: {reason}" for reason, n in user.skipped.items())])
        else:
            users[name] = user
    if not users:
        name, reason = next(iter(excluded.items()))
        raise UserError(f"no user has {_MIN_RECORDS} records or more ({name} has {reason})", folder, "add dialogues")
    return UserFolder(task, users, excluded, tuple(invalid_lines))


def record_from_dialogue(dialogue: Dialogue, task: Task) -> Record:
    """Return a dialogue as a record.

    Args:
        dialogue: The dialogue, whose thoughts are removed.
        task: The task, whose labels the answer must be among, if it has any.

    Raises:
        ValueError: If the dialogue cannot be made into a record. The message is a short reason that can be counted.
    """
    try:
        messages = dialogue.without_thoughts().messages
    except ValueError as error:
        raise ValueError("nothing but thoughts") from error
    if messages[0].role == "system":
        raise ValueError("has a system message")
    if len(messages) > 2:
        raise ValueError("has several turns")
    record = Record(messages[0].content, messages[1].content)
    if task.labels and record.answer not in task.labels:
        raise ValueError("the answer is not a label")
    return record


def _read_user(file: Path, task: Task) -> tuple[UserRecords, list[Skipped]]:
    records: list[Record] = []
    skipped: Counter[str] = Counter()
    invalid_lines: list[Skipped] = []
    for line in read_dialogues(file):
        if isinstance(line, Skipped):
            if not line.is_turn:
                invalid_lines.append(line)
                skipped[line.reason] += 1
            continue
        try:
            record = record_from_dialogue(line, task)
        except ValueError as error:
            skipped[str(error)] += 1
            continue
        if record in records:
            skipped["duplicate"] += 1
        else:
            records.append(record)
    return UserRecords(tuple(records), dict(skipped)), invalid_lines


def _read_task(path: Path) -> Task:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Task()
    except OSError as error:
        raise from_os_error(error, path) from error
    except UnicodeDecodeError as error:
        raise UserError("not UTF-8 text", path, "save it as UTF-8") from error
    try:
        values: Any = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("not an object")
    except (ValueError, RecursionError) as error:
        hint = 'it should look like {"question": "{text}", "labels": []}'
        raise UserError(f"not a JSON object ({error})", path, hint) from error
    for key in values:
        if key not in _KEYS:
            [nearest] = difflib.get_close_matches(key, _KEYS, n=1, cutoff=0)
            raise UserError(f"unknown key {key!r}", path, f"did you mean {nearest!r}?")
    question, labels = values.get("question", Task().question), values.get("labels", [])
    if not isinstance(question, str):
        raise UserError("the question is not a string", path)
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise UserError("the labels are not a list of strings", path)
    try:
        return Task(question, tuple(labels))
    except ValueError as error:
        raise UserError(str(error), path) from error
