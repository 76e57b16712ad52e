"""A folder of users: one JSON Lines file of dialogues for each, as `import` takes them, and what they have in common.

A single-turn dialogue becomes a record: its question the text, its answer the answer. A file `task.json` says how the
device model is asked and which answers there are, as in `{"question": "What genre is it? {text}", "labels": ["comedy",
"drama"]}`; without it a record's text is itself the question, and the answer is free text.
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
from mlx_personal.dialogue.readers import InvalidLine, read_dialogues
from mlx_personal.errors import UserError, encodable, from_os_error

TASK: Final = "task.json"
_KEYS: Final = ("question", "labels")
# A prompt shows what one record has in common with another, and a filter measures a candidate by the others.
_FEWEST: Final = 2


@dataclass(frozen=True)
class Of:
    """What a user's file holds: the `records`, and how many of its dialogues and lines were `skipped` for which
    reason."""

    records: tuple[Record, ...]
    skipped: dict[str, int]


@dataclass(frozen=True)
class Users:
    """A folder, read.

    Args:
        task: of all of them.
        users: by name, sorted: those with records enough.
        left_out: the others, and why.
        bad: lines that hold no dialogue, in all files.
    """

    task: Task
    users: dict[str, Of]
    left_out: dict[str, str]
    bad: tuple[InvalidLine, ...]


def read_users(folder: Path) -> Users:
    """Reads `folder/*.jsonl`, each file's name without its ending being the user's.

    A line that is no dialogue, a dialogue that is no record and a user with fewer than 2 records are passed over and
    counted. UserError for no folder, one without a user to go on with, and a `task.json` that is none.
    """
    try:
        # Hidden files are editors' and file systems' own.
        files = sorted(file for file in folder.iterdir() if file.suffix == ".jsonl" and not file.name.startswith("."))
    except OSError as error:
        raise from_os_error(error, folder, "name another folder") from error
    if not files:
        raise UserError("no user in this folder", folder, "it needs a file NAME.jsonl for each")
    task = _read_task(folder / TASK)
    users: dict[str, Of] = {}
    left_out: dict[str, str] = {}
    bad: list[InvalidLine] = []
    for file in files:
        name = encodable(file.stem)
        records, counts = [], Counter[str]()
        for line in read_dialogues(file):
            if isinstance(line, InvalidLine):
                bad.append(line)
                counts["a bad line"] += 1
                continue
            try:
                record = record_of(line, task)
            except ValueError as error:
                counts[str(error)] += 1
                continue
            if record in records:
                counts["there already"] += 1
            else:
                records.append(record)
        if len(records) < _FEWEST:
            left_out[name] = ", ".join([_number(len(records)), *(f"{n} skipped: {why}" for why, n in counts.items())])
        else:
            users[name] = Of(tuple(records), dict(counts))
    if not users:
        name, why = next(iter(left_out.items()))
        raise UserError(f"no user has {_FEWEST} records or more ({name} has {why})", folder, "add dialogues")
    return Users(task, users, left_out, tuple(bad))


def record_of(dialogue: Dialogue, task: Task) -> Record:
    """A dialogue as a record; ValueError names why it is none, in words that can be counted."""
    try:
        messages = dialogue.without_thoughts().messages
    except ValueError as error:
        raise ValueError("nothing but thoughts") from error
    if messages[0].role == "system":
        raise ValueError("a system turn")
    if len(messages) > 2:
        raise ValueError("several turns")
    record = Record(messages[0].content, messages[1].content)
    if task.labels and record.answer not in task.labels:
        raise ValueError("an answer that is no label")
    return record


def _number(records: int) -> str:
    return "one record" if records == 1 else "no record"


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
        given: Any = json.loads(text)
        if not isinstance(given, dict):
            raise ValueError("not an object")
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"not a JSON object ({error})", path, 'it is like {"question": "{text}", "labels": []}'
        ) from error
    for key in given:
        if key not in _KEYS:
            [nearest] = difflib.get_close_matches(key, _KEYS, n=1, cutoff=0)
            raise UserError(f"unknown key {key!r}", path, f"did you mean {nearest!r}?")
    question, labels = given.get("question", Task().question), given.get("labels", [])
    if not isinstance(question, str):
        raise UserError("the question is not a text", path)
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise UserError("the labels are not a list of texts", path)
    try:
        return Task(question, tuple(labels))
    except ValueError as error:
        raise UserError(str(error), path) from error
