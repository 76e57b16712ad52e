"""Read and write LaMP's form for gold answers and predictions.

A file has the form `{"task": ..., "golds": [{"id": ..., "output": ...}, ...]}`. The list alone is read, too, and so are
other fields in its entries, as in questions that were merged with their outputs. LaMP's own script scores the files
that are written here, given gold answers with the same identifiers and the same task name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import ijson

from mlx_personal.errors import UserError, quoted
from mlx_personal.research.lamp.json_stream import open_json_stream
from mlx_personal.research.lamp.tasks import LampTask
from mlx_personal.storage.files import atomic_write


@dataclass(frozen=True)
class Outputs:
    """The content of an outputs file.

    Attributes:
        task_name: Name of the task in this file.
        by_id: Output of each question, by the question's identifier; empty where the file has none for it.
    """

    task_name: str
    by_id: Mapping[str, str]


def read_outputs(task: LampTask, path: Path) -> Outputs:
    """Read gold answers or predictions; the file may be large, since only the outputs are kept in memory.

    Args:
        task: Task that the file must belong to.
        path: File to read.

    Raises:
        UserError: If the file is not JSON or not of this form, is of another task, has no outputs, or has an identifier
            twice or none.
    """
    task_name: str | None = None
    by_id: dict[str, str] = {}
    has_outputs = False
    with open_json_stream(path) as file:
        entry: dict[str, str] = {}
        # Not `ijson.items`, which would need one pass for `task` and one for `golds`: either may come first.
        for prefix, event, value in ijson.parse(file, use_float=True):
            name = prefix.removeprefix("golds.")
            if prefix == "task" and event == "string":
                task_name = value
            elif name == "item" and event == "start_map":
                entry = {}
            elif name in ("item.id", "item.output") and event in ("string", "number"):
                entry[name.removeprefix("item.")] = str(value)
                has_outputs |= name == "item.output"
            elif name == "item" and event == "end_map":
                if "id" not in entry:
                    raise UserError(f"output {len(by_id) + 1} has no id", path, "correct it, or download it again")
                if entry["id"] in by_id:
                    raise UserError(f"the id {quoted(entry['id'])} occurs twice", path, "remove one of the two")
                by_id[entry["id"]] = entry.get("output", "")
    if not has_outputs:
        form = 'name a file of the form {"task": ..., "golds": [{"id": ..., "output": ...}]}'
        raise UserError("no outputs of a LaMP task", path, form)
    if task_name is None:  # a list alone
        task_name = task.file_names[0]
    if task_name not in task.file_names:
        what = f"these are outputs of {quoted(task_name)}, not of {task.file_names[0]}"
        raise UserError(what, path, "name a file of the same task")
    return Outputs(task_name, by_id)


def write_outputs(path: Path, outputs: Outputs) -> None:
    """Write predictions atomically, in their order.

    Args:
        path: File to write.
        outputs: Predictions; LaMP's script requires the same task name as in the file of gold answers.

    Raises:
        UserError: If the file cannot be written.
    """
    golds = [{"id": key, "output": output} for key, output in outputs.by_id.items()]
    atomic_write(path, json.dumps({"task": outputs.task_name, "golds": golds}, indent=1) + "\n")
