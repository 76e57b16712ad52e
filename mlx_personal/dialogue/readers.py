"""Reads dialogues from files. A bad line is a value, not an exception, so that the good ones around it still go in.

Formats: JSON Lines where a line is `{"messages": [...]}` (mlx-lm's chat data, OpenAI's fine-tune files), a bare list of
messages, or `{"prompt": ..., "completion": ...}`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_personal.dialogue.types import Dialogue
from mlx_personal.errors import UserError, encodable, from_os_error

# No dialogue within the message limit comes near this; reading stops here instead of filling the memory.
MAX_LINE_BYTES = 16_000_000


@dataclass(frozen=True)
class InvalidLine:
    """A line that holds no dialogue: where (file and line number) and why."""

    where: str
    reason: str


def read_dialogues(path: Path | str) -> Iterator[Dialogue | InvalidLine]:
    """Each line of a JSONL file as a `Dialogue` or a `InvalidLine`; blank lines are passed over.

    UserError if the file cannot be opened or is a folder.
    """
    for line in read_json_lines(path):
        if isinstance(line, InvalidLine):
            yield line
            continue
        where, value = line
        try:
            yield dialogue_from_json(value)
        except ValueError as error:
            yield InvalidLine(where, str(error))


def read_json_lines(path: Path | str) -> Iterator[tuple[str, Any] | InvalidLine]:
    """Each line of a JSONL file as (where, value) or a `InvalidLine`; blank lines are passed over. Lines end with \\n only:
    U+2028 and its like may stand in JSON texts.

    UserError if the file cannot be opened or is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError("is a folder, not a file", path, "name the JSONL files in it")
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES):
                number += 1
                where = f"{encodable(path)}:{number}"
                if not line.endswith(b"\n") and len(line) == MAX_LINE_BYTES:
                    while line and not line.endswith(b"\n"):
                        line = file.readline(MAX_LINE_BYTES)
                    yield InvalidLine(where, f"a line of over {MAX_LINE_BYTES // 1_000_000} MB")
                elif line.strip():
                    yield _parsed(line, where)
    except OSError as error:
        raise from_os_error(error, path) from error


def _parsed(line: bytes, where: str) -> tuple[str, Any] | InvalidLine:
    try:
        return where, json.loads(line.decode("utf-8-sig").rstrip())
    except UnicodeDecodeError as error:
        return InvalidLine(where, f"not UTF-8 text (byte {error.start + 1})")
    except json.JSONDecodeError as error:
        return InvalidLine(where, f"not JSON ({error.msg.lower()} at column {error.colno})")
    except RecursionError:
        return InvalidLine(where, "JSON nested too deeply")
    except ValueError:  # Python reads no whole number of more than 4300 digits
        return InvalidLine(where, "a number of too many digits")


def dialogue_from_json(value: Any) -> Dialogue:
    """The dialogue that one parsed line holds; ValueError says in one line why it holds none."""
    if isinstance(value, dict):
        if "messages" in value:
            value = value["messages"]
        elif isinstance(value.get("prompt"), str) and isinstance(value.get("completion"), str):
            return Dialogue.of(value["prompt"], value["completion"])
        else:
            raise ValueError('no "messages" in this line')
    if not isinstance(value, list):
        raise ValueError("the messages are not a list")
    return Dialogue.from_messages(value)
