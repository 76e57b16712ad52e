"""Read dialogues from JSON Lines files. Invalid lines are yielded, not raised, so that valid ones are still read.

A line is `{"messages": [...]}` (mlx-lm's chat data, OpenAI's fine-tuning files), a list of messages, or
`{"prompt": ..., "completion": ...}`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_personal.dialogue.types import Dialogue
from mlx_personal.errors import UserError, escape_surrogates, from_os_error

# Far above any dialogue within the message limit; longer lines are skipped instead of filling the memory.
MAX_LINE_BYTES = 16_000_000


@dataclass(frozen=True)
class InvalidLine:
    """A line that contains no dialogue.

    Attributes:
        where: File and line number.
        reason: Why it contains no dialogue, on one line.
    """

    where: str
    reason: str


def read_dialogues(path: Path | str) -> Iterator[Dialogue | InvalidLine]:
    """Yield each line of a JSON Lines file as a dialogue; blank lines are skipped.

    Args:
        path: The file.

    Yields:
        The dialogue of a line, or why it contains none.

    Raises:
        UserError: If the file cannot be opened or is a folder.
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


def load_dialogues(path: Path | str, min_count: int = 1) -> list[Dialogue]:
    """Return all dialogues of a file in which every line must be valid.

    Args:
        path: The file; `~` is expanded.
        min_count: Minimum number of dialogues.

    Raises:
        UserError: If the file cannot be read, a line is invalid, or there are too few dialogues.
    """
    dialogues = []
    for line in read_dialogues(Path(path).expanduser()):
        if isinstance(line, InvalidLine):
            raise UserError(f"not a dialogue ({line.reason})", line.where, "fix that line, or name another file")
        dialogues.append(line)
    if len(dialogues) < min_count:
        what = f"{len(dialogues)} dialogues; at least {min_count} are needed"
        raise UserError(what, path, "name a file with more")
    return dialogues


def read_json_lines(path: Path | str) -> Iterator[tuple[str, Any] | InvalidLine]:
    r"""Yield the JSON value of each line of a file; blank lines are skipped.

    Lines end with `\n` only, because JSON texts may contain U+2028 and similar characters.

    Args:
        path: The file.

    Yields:
        File and line number with the value, or why the line is invalid.

    Raises:
        UserError: If the file cannot be opened or is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError("is a folder, not a file", path, "name the JSONL files in it")
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES):
                number += 1
                where = f"{escape_surrogates(path)}:{number}"
                if not line.endswith(b"\n") and len(line) == MAX_LINE_BYTES:
                    while line and not line.endswith(b"\n"):
                        line = file.readline(MAX_LINE_BYTES)
                    yield InvalidLine(where, f"a line of over {MAX_LINE_BYTES // 1_000_000} MB")
                elif line.strip():
                    yield _parse(line, where)
    except OSError as error:
        raise from_os_error(error, path) from error


def dialogue_from_json(value: Any) -> Dialogue:
    """Return the dialogue that a parsed line contains.

    Args:
        value: The parsed JSON of the line.

    Raises:
        ValueError: If it contains none; the message gives the reason on one line.
    """
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


def _parse(line: bytes, where: str) -> tuple[str, Any] | InvalidLine:
    try:
        return where, json.loads(line.decode("utf-8-sig").rstrip())
    except UnicodeDecodeError as error:
        return InvalidLine(where, f"not UTF-8 text (byte {error.start + 1})")
    except json.JSONDecodeError as error:
        return InvalidLine(where, f"not JSON ({error.msg.lower()} at column {error.colno})")
    except RecursionError:
        return InvalidLine(where, "JSON nested too deeply")
    except ValueError:  # Python reads no integer of more than 4300 digits.
        return InvalidLine(where, "a number with too many digits")
