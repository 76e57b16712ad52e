"""Change settings in a profile's `config.toml`, and keep the other settings and the comments of the user."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from mlx_personal.config import Config, to_toml_value
from mlx_personal.errors import UserError, from_os_error
from mlx_personal.storage.files import atomic_write

# How the comment begins that says where the settings come from; the next one replaces it.
_COMMENT: Final = "# Tuned: "
_TABLE: Final = re.compile(r"\s*\[")
# The part of a line before its remark: a `#` in quotes begins none.
_BEFORE_REMARK: Final = re.compile(r"""(?:"(?:\\.|[^"\\])*"|'[^']*'|[^"'#])*(?=#)""")


def change_settings(path: Path, settings: Mapping[str, Mapping[str, Any]], expected: Config, comment: str) -> None:
    """Change settings in a settings file.

    Args:
        path: The file; one that does not exist is created.
        settings: The new values by table and key.
        expected: All settings as they have to be read from the changed file.
        comment: Where the values come from, which is written above each changed table's keys.

    Raises:
        UserError: If the file cannot be read or written, or has a form in which the settings cannot be changed; it is
            unchanged then.
    """
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError:
        text = ""
    except OSError as error:
        raise from_os_error(error, path) from error
    changed = with_settings(text, settings, comment)
    if _parse(changed, path) != expected:
        lines = [f"{t}.{key} = {to_toml_value(v)}" for t, values in settings.items() for key, v in values.items()]
        raise UserError("the settings cannot be changed in this file", path, f"write them yourself: {', '.join(lines)}")
    atomic_write(path, changed)


def with_settings(text: str, settings: Mapping[str, Mapping[str, Any]], comment: str) -> str:
    """Return a settings file with some values changed.

    A key that is commented out is written in its place; other missing keys are added at the top of their table.

    Args:
        text: The file.
        settings: The new values by table and key.
        comment: Where the values come from.
    """
    end = "\r\n" if "\r\n" in text else "\n"
    lines = [line for line in text.splitlines() if not line.startswith(_COMMENT)]
    for table, values in settings.items():
        if not values:
            continue
        start = _find(lines, rf"\s*\[\s*{re.escape(table)}\s*\]\s*(#.*)?$", 0, len(lines))
        if start is None:
            lines += ["", f"[{table}]"]
            start = len(lines) - 1
        lines.insert(start + 1, f"{_COMMENT}{comment}")
        for key, value in values.items():
            stop = next((i for i in range(start + 1, len(lines)) if _TABLE.match(lines[i])), len(lines))
            line = f"{key} = {to_toml_value(value)}"
            active = _find(lines, rf"\s*{re.escape(key)}\s*=", start + 1, stop)
            # A single word: a remark of the user's such as `# rank = what I tried` stays.
            commented = _find(lines, rf"\s*#\s*{re.escape(key)}\s*=\s*\S+\s*$", start + 1, stop)
            if active is not None:
                lines[active] = line + _remark(lines[active])
            elif commented is not None:
                lines[commented] = line
            else:
                lines.insert(start + 2, line)
    return end.join(lines) + end


def _find(lines: list[str], pattern: str, start: int, stop: int) -> int | None:
    return next((i for i in range(start, stop) if re.match(pattern, lines[i])), None)


def _remark(line: str) -> str:
    """Return the remark at the end of a line with the spaces before it; empty if it has none."""
    match = _BEFORE_REMARK.match(line)
    return line[len(match.group().rstrip()) :] if match else ""


def _parse(text: str, path: Path) -> Config | None:
    """Return the settings of a file's text, or None if it is not one."""
    try:
        return Config.parse(text, path)
    except UserError:
        return None
