"""Read and write LaMP's form for gold answers and predictions.

A file has the form `{"task": ..., "golds": [{"id": ..., "output": ...}, ...]}`. The list alone is read, too, and so are
other fields in its entries, as in questions that were merged with their outputs. LaMP's own script scores the files
that are written here, given gold answers with the same identifiers and the same task name.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlx_personal.errors import UserError, quoted
from mlx_personal.research.lamp.json_stream import json_items
from mlx_personal.research.lamp.tasks import LampTask, field_text
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
    by_id: dict[str, str] = {}
    has_outputs = False
    for entry in itertools.chain(json_items(path, "golds.item"), json_items(path, "item")):
        name = field_text(entry, "id") if isinstance(entry, dict) else ""
        if not name:
            raise UserError(f"output {len(by_id) + 1} has no id", path, "correct it, or download it again")
        if name in by_id:
            raise UserError(f"the id {quoted(name)} occurs twice", path, "remove one of the two")
        by_id[name] = field_text(entry, "output")
        has_outputs |= "output" in entry
    if not has_outputs:
        form = 'name a file of the form {"task": ..., "golds": [{"id": ..., "output": ...}]}'
        raise UserError("no outputs of a LaMP task", path, form)
    # A list alone has no task.
    task_name = next(json_items(path, "task"), task.file_names[0])
    if task_name not in task.file_names:
        what = f"these are outputs of {quoted(str(task_name))}, not of {task.file_names[0]}"
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
