"""Train once in a process of its own: `python -m mlx_personal.benchmark.child_process SPEC.json RESULT.json`.

In a new process the peak memory, the caches and the compiled code are those of one trainer only.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlx_personal.benchmark.training_run import train_once
from mlx_personal.benchmark.workloads import Workload
from mlx_personal.errors import Action, Remedy, UserError


def main(arguments: Sequence[str]) -> None:
    """Read what to train, train it, and write the result, or the user error that ended the run.

    Args:
        arguments: Paths of the file to read and of the file to write.
    """
    spec_file, result_file = map(Path, arguments)
    spec = json.loads(spec_file.read_text())
    try:
        run = train_once(spec["trainer"], Workload(**spec["workload"]), Path(spec["model_dir"]))
        data = run.to_json()
    except UserError as error:
        data = {"error": error_to_json(error)}
    result_file.write_text(json.dumps(data))


def error_to_json(error: UserError) -> dict[str, Any]:
    """Return a user error as JSON, for the parent process."""
    remedy = error.remedy
    return {
        "what": error.what,
        "where": error.where,
        "hint": error.hint,
        "remedy": None if remedy is None else {"action": remedy.action.name, "arguments": dict(remedy.arguments)},
    }


def error_from_json(data: Mapping[str, Any]) -> UserError:
    """Return the user error that `error_to_json` wrote."""
    remedy = data["remedy"]
    return UserError(
        data["what"],
        data["where"],
        data["hint"],
        remedy=None if remedy is None else Remedy(Action[remedy["action"]], remedy["arguments"]),
    )


if __name__ == "__main__":
    main(sys.argv[1:])
