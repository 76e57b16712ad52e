"""LaMP's form for golds and predictions, `{"task": ..., "golds": [{"id": ..., "output": ...}, ...]}`: read and written.

What is written here, LaMP's own script scores, given golds of the same ids and the same task name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_personal.errors import UserError, quoted
from mlx_personal.research.lamp.json_stream import json_stream
from mlx_personal.research.lamp.tasks import LampTask
from mlx_personal.storage.files import atomic_write


@dataclass(frozen=True)
class Outputs:
    """An outputs file: the name it gives its task, and each question's output, by the question's id."""

    name: str
    by_id: Mapping[str, str]


def read_outputs(task: LampTask, path: Path) -> Outputs:
    """The outputs in a file, golds or predictions. Only they are kept of it, so it may be large.

    UserError where the file is not JSON or not of this form, is of another task, has no outputs, or one id twice.
    """
    name: str | None = None
    by_id: dict[str, str] = {}
    with json_stream(path) as (ijson, file):
        entry: dict[str, Any] = {}
        # Not by `ijson.items`, which would need a pass for `task` and one for `golds`, as either may come first.
        for prefix, event, value in ijson.parse(file, use_float=True):
            if prefix == "task" and event == "string":
                name = value
            elif prefix == "golds.item" and event == "start_map":
                entry = {}
            elif prefix in ("golds.item.id", "golds.item.output") and event in ("string", "number"):
                entry[prefix.rpartition(".")[2]] = str(value)
            elif prefix == "golds.item" and event == "end_map":
                if len(entry) < 2:
                    raise UserError(f"output {len(by_id) + 1} lacks its id or its text", path, "download it again")
                if entry["id"] in by_id:
                    raise UserError(f"the id {quoted(entry['id'])} is there twice", path, "leave one of the two")
                by_id[entry["id"]] = entry["output"]
    if name is None or not by_id:
        form = 'name a file of the form {"task": ..., "golds": [{"id": ..., "output": ...}]}'
        raise UserError("no outputs of a LaMP task", path, form)
    if name not in task.files:
        raise UserError(
            f"these are outputs of {quoted(name)}, not of {task.files[0]}", path, "name the task's own file"
        )
    return Outputs(name, by_id)


def write_outputs(path: Path, outputs: Outputs) -> None:
    """Writes predictions, in their order, whole or not at all; UserError if the disk refuses.

    Args:
        outputs: named as the file of golds is, which LaMP's script asks for.
    """
    golds = [{"id": key, "output": output} for key, output in outputs.by_id.items()]
    atomic_write(path, json.dumps({"task": outputs.name, "golds": golds}, indent=1) + "\n")
