"""Users of the LaMP world: written by the project's script, read like any LaMP file, and run on a tiny model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlx_personal.research.lamp import LampResult, LampSpec, run_lamp
from mlx_personal.research.lamp.lamp_config import LampConfig
from mlx_personal.research.lamp.lamp_folder import LampFolder
from mlx_personal.research.lamp.lamp_results import MethodAnswers
from mlx_personal.research.lamp.lamp_users import FileCounts, LampUser, read_users
from mlx_personal.research.lamp.predictions import read_outputs
from mlx_personal.research.lamp.tasks import TASKS
from tests.support.augmentation import CONFIG, similar_record
from tests.support.scripts import import_script

SHORT_RUN = LampConfig(answer_tokens=3, augment=CONFIG)

# The answers by the number of the user and the name of the method.
ResultsByUserAndMethod = dict[tuple[int, str], MethodAnswers]


def write_lamp_files(
    folder: Path, task: str = "3", users: int = 3, records: int = 4, queries: int = 2, seed: int = 1
) -> Path:
    """Write the files of some users into a folder and return it."""
    import_script("write_lamp_world").write_users(folder, task, users, records, queries, seed)
    return folder


def read_world_users(folder: Path, task: str, **sizes: int) -> list[LampUser]:
    """Write the files of some users and read them again."""
    name = TASKS[task].file_names[0]
    outputs = read_outputs(TASKS[task], write_lamp_files(folder, task, **sizes) / f"{name}_outputs.json")
    return list(read_users(TASKS[task], folder / f"{name}_questions.json", outputs, FileCounts()))


def lamp_spec(folder: Path, model: Path, *methods: str, task: str = "3", **changes: Any) -> LampSpec:
    """Return a short run on the users in a folder."""
    name = TASKS[task].file_names[0]
    settings = {
        "questions": folder / f"{name}_questions.json",
        "outputs": folder / f"{name}_outputs.json",
        "config": SHORT_RUN,
        **changes,
    }
    return LampSpec(task, methods, str(model), **settings)


def read_results(folder: Path, result: LampResult) -> ResultsByUserAndMethod:
    """Return the results of a run, without times and energy."""
    stored = LampFolder(folder)
    predictions = stored.predictions(result.setting)
    return {
        (user, method): MethodAnswers(
            predictions[method][user],
            dataclasses.replace(of_user, train_s=0.0, answer_s=None, energy_joules=None),
        )
        for method, of_method in stored.settings[result.setting].results.items()
        for user, of_user in of_method.items()
    }


def run_and_read(folder: Path, spec: LampSpec, **settings: Any) -> ResultsByUserAndMethod:
    """Return the results of a run that must succeed."""
    result = run_lamp(folder, spec, **settings)
    assert not result.failed and not result.num_unanswered, (result.failed, result.message)
    return read_results(folder, result)


def cloud_response(prompt: str) -> str:
    """Return a server's response: a record if one is asked for, else the end of the prompt."""
    return similar_record(prompt) if '\n{"text"' in prompt else prompt[-40:]


def edit_json(path: Path, change: Callable[[Any], Any]) -> None:
    """Rewrite a JSON file with a function of its content, which may also change it in place."""
    content = json.loads(path.read_text())
    path.write_text(json.dumps(change(content) or content))
