"""Run the LaMP benchmark: check a specification, read its users, and prepare its base model."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mlx_personal.errors import UserError
from mlx_personal.models.loading import fingerprint, resolve_model
from mlx_personal.progress import Progress, ignore_progress
from mlx_personal.research.hashing import digest, file_hash
from mlx_personal.research.lamp.lamp_config import PROTOCOL, LampSpec
from mlx_personal.research.lamp.lamp_folder import REPORT, writable_folder
from mlx_personal.research.lamp.lamp_report import write_report
from mlx_personal.research.lamp.lamp_scheduler import LampResult, LampScheduler
from mlx_personal.research.lamp.lamp_users import FileCounts, LampUser, read_users
from mlx_personal.research.lamp.methods import MAJORITY, NON_PERSONALIZED, Method, parse_method
from mlx_personal.research.lamp.predictions import Outputs, read_outputs, write_outputs
from mlx_personal.research.lamp.task_adapter import fuse_task_adapter, other_users_dialogues
from mlx_personal.research.lamp.tasks import LampTask, get_task


def run_lamp(
    folder: Path,
    spec: LampSpec,
    workers: int | None = None,
    ray_address: str | None = None,
    on_progress: Progress = ignore_progress,
) -> LampResult:
    """Compute the results of a specification that a run's folder lacks, and write a report and the predictions.

    All questions are read and checked before anything is computed. A user whose job fails does not stop the others. The
    predictions of each method go to `predictions/` in LaMP's form, and replace those of other settings.

    Args:
        folder: Folder of the run; created if it is missing.
        spec: What to run.
        workers: Number of worker processes; see `jobs.run_jobs`.
        ray_address: Address of a Ray cluster; see `jobs.run_jobs`.
        on_progress: Called with the progress.

    Returns:
        What the run did. The results are in the `LampFolder`.

    Raises:
        UserError: If the specification is not valid, a file is damaged or of another task, the model cannot be loaded,
            or consent for the server is missing.
    """
    task = get_task(spec.task)
    methods = tuple(dict.fromkeys(map(parse_method, spec.methods)))
    _check(task, spec, methods)
    outputs = None if spec.outputs is None else read_outputs(task, spec.outputs)
    counts = FileCounts()
    run_ids: set[str] = set()
    golds: set[str] = set()
    for user in _read_users(task, spec, outputs, counts):
        run_ids |= {user.id, *(query.id for query in user.queries)}
        golds |= {query.gold for query in user.queries if query.gold}
    if not golds:
        what = "no question has an answer to score"
        raise UserError(what, spec.outputs or spec.questions, "name a file with the answers of its users")
    counts.distinct_golds = len(golds)
    model_dir = resolve_model(spec.model)
    model_fingerprint = fingerprint(model_dir)
    with writable_folder(folder) as results:
        if spec.others is not None:
            others_outputs = None if spec.others_outputs is None else read_outputs(task, spec.others_outputs)
            others = read_users(task, spec.others, others_outputs, FileCounts())
            dialogues = other_users_dialogues(others, run_ids, spec.others)
            model_dir = fuse_task_adapter(
                model_dir, model_fingerprint, dialogues, spec.others_training, folder / "base", on_progress
            )
            model_fingerprint = fingerprint(model_dir)
        metadata = _setting_metadata(spec, task, model_fingerprint)
        setting = digest(metadata)
        results.add_setting(setting, metadata, counts)
        scheduler = LampScheduler(
            results,
            setting,
            spec,
            task,
            methods,
            model_dir,
            read_users=lambda: _read_users(task, spec, outputs, FileCounts()),
            counts=counts,
        )
        result = scheduler.run(workers, ray_address, on_progress)
        task_name = task.file_names[0] if outputs is None else outputs.task_name
        for method, of_method in results.predictions(setting).items():
            by_query = {query: text for of_user in of_method.values() for query, text in of_user.items()}
            write_outputs(folder / "predictions" / f"{method.replace(':', '-')}.json", Outputs(task_name, by_query))
        if results.has_results:
            write_report(results, folder / REPORT)
        return result


def _check(task: LampTask, spec: LampSpec, methods: Sequence[Method]) -> None:
    if not methods:
        raise UserError("no method is named", hint=f"name some, such as {NON_PERSONALIZED}")
    if any(method.is_majority for method in methods) and not task.has_labelled_items:
        what = f"the items of LaMP-{task.name} have no labels, so there is no {MAJORITY}"
        raise UserError(what, hint="leave it out")
    if spec.server is None and any(method.on_server for method in methods):
        raise UserError("the method cloud needs a server", hint="name one, with its model")
    if spec.num_users is not None and spec.num_users < 1:
        raise UserError(f"the number of users is {spec.num_users}", hint="at least 1 is needed")
    if spec.others_outputs is not None and spec.others is None:
        raise UserError("outputs of other users, but no questions", spec.others_outputs, "name both")


def _setting_metadata(spec: LampSpec, task: LampTask, model_fingerprint: str) -> dict[str, Any]:
    """Return what all users of a table have in common; users of other files get another table."""
    server = spec.server
    return {
        "protocol": PROTOCOL,
        "task": task.name,
        "files": [file_hash(file) for file in (spec.questions, spec.outputs) if file is not None],
        "model": model_fingerprint,
        "model_name": Path(spec.model).name,
        "config": spec.config.to_json(),
        "server": server
        and {
            "model": server.model,
            "temperature": server.temperature,
            "max_tokens": server.max_tokens,
            "omitted_fields": sorted(server.omitted_fields),
            "answer_tokens": spec.server_answer_tokens,
        },
    }


def _read_users(task: LampTask, spec: LampSpec, golds: Outputs | None, counts: FileCounts) -> Iterator[LampUser]:
    """Yield the users of the run from the file, which is read again at each call and never held in memory."""
    return itertools.islice(read_users(task, spec.questions, golds, counts), spec.num_users)
