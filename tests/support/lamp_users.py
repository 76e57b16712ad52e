"""Users of the LaMP world for the tests: written by the project's script, read as any file of LaMP's, run on a tiny
model."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

from mlx_personal.research.lamp import Outcome, Request, run_lamp
from mlx_personal.research.lamp.lamp_database import Records
from mlx_personal.research.lamp.predictions import read_outputs
from mlx_personal.research.lamp.run_config import RunConfig
from mlx_personal.research.lamp.tasks import TASKS
from mlx_personal.research.lamp.user_profiles import Counts, User, official_users
from tests.support.augmentation import CONFIG, new_record
from tests.support.paths import SCRIPTS

RUN = RunConfig(answer_tokens=3, augment=CONFIG)
# What a clock says, or a counter of energy.
MEASURED = ("seconds", "joules")


def script(name: str) -> ModuleType:
    """A module of scripts/; they import one another as a script's own folder lets them."""
    folder = str(SCRIPTS)
    sys.path.insert(0, folder)
    try:
        return import_module(name)
    finally:
        sys.path.remove(folder)


def files(folder: Path, task: str = "3", users: int = 3, records: int = 4, queries: int = 2, seed: int = 1) -> Path:
    """The folder, with the files of so many users in it."""
    script("write_lamp_world").write_users(folder, task, users, records, queries, seed)
    return folder


def world_users(folder: Path, task: str, **sizes: int) -> list[User]:
    """Users as they are read from their files."""
    name = TASKS[task].files[0]
    outputs = read_outputs(TASKS[task], files(folder, task, **sizes) / f"{name}_outputs.json")
    return list(official_users(TASKS[task], folder / f"{name}_questions.json", outputs, Counts()))


def request(folder: Path, model: Path, *methods: str, task: str = "3", **changes: object) -> Request:
    """A run on the users in a folder."""
    name = TASKS[task].files[0]
    asked = {
        "questions": folder / f"{name}_questions.json",
        "outputs": folder / f"{name}_outputs.json",
        "config": RUN,
        **changes,
    }
    return Request(task, methods, str(model), **asked)  # type: ignore[arg-type]


def results(folder: Path, done: Outcome) -> dict[tuple[str, str], dict[str, object]]:
    """What came of each user and method, but for what is measured."""
    with Records(folder) as records:
        return {
            (found.user, found.method): {k: v for k, v in found.result.items() if k not in MEASURED}
            for found in records.results(done.setting)
        }


def ran(folder: Path, asked: Request, **settings: object) -> dict[tuple[str, str], dict[str, object]]:
    """The same of a run that must succeed."""
    done = run_lamp(folder, asked, **settings)  # type: ignore[arg-type]
    assert not done.failed and not done.unanswered, (done.failed, done.message)
    return results(folder, done)


def as_the_cloud(prompt: str) -> str:
    """A server's answer: a record where one is asked for, else the prompt's end."""
    return new_record(prompt) if '\n{"text"' in prompt else prompt[-40:]


def changed(path: Path, change: object) -> None:
    """Rewrites a JSON file by a function of its content."""
    content = json.loads(path.read_text())
    path.write_text(json.dumps(change(content) or content))  # type: ignore[operator]
