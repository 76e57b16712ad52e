"""The prompts that ask a server for records like a user's, and the reading of what it answers.

The prompt is a file, `prompts/augment.txt` unless another is named. Each synthetic record has a prompt of its own, with
its own sample of the user's records, so that k of them differ (this project's design; paper 2 has no public prompt).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

from mlx_personal.augmentation.task import Record, Task
from mlx_personal.dialogue import strip_thoughts
from mlx_personal.errors import UserError, from_os_error

BUNDLED: Final = Path(__file__).with_name("prompts") / "augment.txt"
_SLOTS: Final = ("{labels}", "{records}")


@dataclass(frozen=True)
class Request:
    """One prompt for one synthetic record.

    Args:
        user: whose records it shows; number: which of the user's k it is, from 0.
        seed: of the server's sampling, another for each.
        demonstrations: indices of the records it shows, in the prompt's order.
    """

    user: str
    number: int
    prompt: str
    seed: int
    demonstrations: tuple[int, ...]


def read_prompt(path: Path = BUNDLED) -> str:
    """A prompt's file; UserError where it cannot be read or lacks a slot."""
    try:
        text = path.read_text(encoding="utf-8").strip("\n")
    except OSError as error:
        raise from_os_error(error, path, "name another file") from error
    except UnicodeDecodeError as error:
        raise UserError("is not UTF-8 text", path, "name another file") from error
    for slot in _SLOTS:
        if slot not in text:
            raise UserError(f"this prompt has no {slot}", path, "write it where that belongs")
    return text


def requests(
    user: str,
    task: Task,
    records: Sequence[Record],
    k: int,
    demonstrations: int,
    seed: int,
    prompt: str | None = None,
) -> list[Request]:
    """k requests, each with its own `demonstrations` of the records (all, where there are fewer) in random order.

    No two show the same records in the same order while there is another choice. The first of many are those of few: a
    larger k asks for what is new alone. `prompt` is what `read_prompt` gives, by default the bundled one's. ValueError
    for a user without records.
    """
    if not records:
        raise ValueError("a user without records has nothing to show")
    template = read_prompt() if prompt is None else prompt
    # A text as the seed of Random is hashed by SHA-512: the same on every machine.
    random = Random(f"{seed} {user}")
    shown = min(demonstrations, len(records))
    choices = math.perm(len(records), shown)
    seen: set[tuple[int, ...]] = set()
    found = []
    for number in range(k):
        sample = tuple(random.sample(range(len(records)), shown))
        while sample in seen and len(seen) < choices:
            sample = tuple(random.sample(range(len(records)), shown))
        seen.add(sample)
        text = fill(template, task, [records[i] for i in sample])
        found.append(Request(user, number, text, random.randrange(2**31), sample))
    return found


def record_line(record: Record) -> str:
    """A record as a prompt shows it, and as an answer should be."""
    return json.dumps({"text": record.text, "answer": record.answer}, ensure_ascii=False)


def parse(answer: str, task: Task) -> Record:
    """The one record of an answer; ValueError says why there is none.

    There may be thoughts, chatter and a code fence around the JSON object, and other fields beside `text` and
    `answer`, but these two are texts; an answer may be a number. An answer that is a label but for its case becomes
    that label; one that is none is left for the filters.
    """
    objects = _objects(strip_thoughts(answer))
    if len(objects) != 1:
        raise ValueError(f"{len(objects)} JSON objects instead of one")
    text, said = objects[0].get("text"), objects[0].get("answer")
    if isinstance(said, int | float) and not isinstance(said, bool):
        said = str(said)  # a score, which most models write as a number
    if not isinstance(text, str) or not isinstance(said, str):
        raise ValueError("no text, or no answer that is a text")
    try:
        (text + said).encode()
    except UnicodeEncodeError as error:
        raise ValueError("half a character") from error
    return Record(text.strip(), _as_label(said.strip(), task))


def fill(template: str, task: Task, records: Sequence[Record]) -> str:
    """The prompt that shows these records."""
    labels = f"The answer is one of: {', '.join(task.labels)}.\n" if task.labels else ""
    values = {"{labels}": labels, "{records}": "\n".join(map(record_line, records))}
    # In one go: what is put into a slot may itself look like one.
    filled = re.sub("|".join(map(re.escape, _SLOTS)), lambda slot: values[slot.group()], template)
    # Half a character, as JSON may hold it, can be neither sent nor kept.
    return filled.encode("utf-8", "replace").decode()


def _objects(text: str) -> list[dict[str, Any]]:
    """All JSON objects in a text that are inside no other, in order."""
    decoder = json.JSONDecoder(strict=False)  # models break lines inside a string
    found: list[dict[str, Any]] = []
    start = text.find("{")
    while start >= 0:
        end = start + 1
        try:
            value, end = decoder.raw_decode(text, start)
            found.append(value)
        except RecursionError as error:
            raise ValueError("the JSON is nested too deep") from error
        except json.JSONDecodeError:
            pass
        start = text.find("{", end)
    return found


def _as_label(said: str, task: Task) -> str:
    for same in (str, str.casefold):
        labels = [label for label in task.labels if same(label.strip()) == same(said)]
        if len(labels) == 1:
            return labels[0]
    return said
