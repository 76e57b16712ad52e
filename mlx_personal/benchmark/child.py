"""One training in a process of its own: `python -m mlx_personal.benchmark.child SPEC.json RESULT.json`.

A process of its own, so that peak memory, caches and compiled code are this side's and no other's.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from mlx_personal.benchmark.training_run import train_side
from mlx_personal.benchmark.workloads import Workload
from mlx_personal.errors import UserError


def main(arguments: Sequence[str]) -> None:
    """Reads what to train, trains it, and writes what it took; a user's error is written in its place."""
    spec, result = map(Path, arguments)
    wanted = json.loads(spec.read_text())
    try:
        trained = train_side(wanted["side"], Workload(**wanted["workload"]), Path(wanted["folder"]))
        answer = dataclasses.asdict(trained)
    except UserError as error:
        answer = {"error": {"what": error.what, "where": error.where, "hint": error.hint}}
    result.write_text(json.dumps(answer))


if __name__ == "__main__":
    main(sys.argv[1:])
