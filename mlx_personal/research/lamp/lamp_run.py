"""Run the LaMP benchmark: check a specification, read its users, prepare its base model, and compute all results."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mlx_personal.augmentation.server import Server
from mlx_personal.errors import UserError
from mlx_personal.finetune import LoRAConfig
from mlx_personal.models.loading import fingerprint, resolve_model
from mlx_personal.progress import Progress, ignore_progress
from mlx_personal.research.hashing import file_hash
from mlx_personal.research.lamp.lamp_config import OPPU_TRAINING, LampConfig
from mlx_personal.research.lamp.lamp_database import LampDatabase
from mlx_personal.research.lamp.lamp_scheduler import LampPlan, LampResult, run_plan
from mlx_personal.research.lamp.lamp_users import FileCounts, LampUser, read_users
from mlx_personal.research.lamp.methods import NON_PERSONALIZED, Method, parse_method
from mlx_personal.research.lamp.predictions import Outputs, read_outputs
from mlx_personal.research.lamp.task_adapter import fuse_task_adapter, other_users_dialogues
from mlx_personal.research.lamp.tasks import LampTask, get_task

# OPPU's first stage trains three epochs on other users' queries.
TASK_ADAPTER_TRAINING: Final = dataclasses.replace(OPPU_TRAINING, epochs=3)


@dataclass(frozen=True)
class LampSpec:
    """What to run.

    Attributes:
        task: Name of the task, such as `2M`.
        methods: Names of the methods, see `methods`.
        model: Base model: a folder, or a repository of the Hugging Face hub.
        questions: LaMP's questions, alone or merged with their outputs, or OPPU's history.
        outputs: Gold answers of LaMP's questions; None where `questions` contains them.
        num_users: Number of users, from the first in the file; None for all.
        others: Questions or history of other users. An adapter is trained on their queries and fused with the base
            model before everything else (OPPU's first stage); None for the base model as it is.
        others_outputs: Gold answers of the other users' questions.
        others_training: Training settings of that adapter.
        server: Writes synthetic records and answers for `cloud`; None if the base model writes the records itself.
        token_budget: Maximum tokens that the server may cost; None for no limit.
        server_answer_tokens: Maximum tokens of the server's answers for `cloud`, its reasoning included; None for those
            of `config`.
        config: Settings that decide the results.
    """

    task: str
    methods: Sequence[str]
    model: str
    questions: Path
    outputs: Path | None = None
    num_users: int | None = None
    others: Path | None = None
    others_outputs: Path | None = None
    others_training: LoRAConfig = TASK_ADAPTER_TRAINING
    server: Server | None = None
    token_budget: int | None = None
    server_answer_tokens: int | None = None
    config: LampConfig = field(default_factory=LampConfig)


def run_lamp(
    folder: Path,
    spec: LampSpec,
    workers: int | None = None,
    ray_address: str | None = None,
    on_progress: Progress = ignore_progress,
) -> LampResult:
    """Compute the results of a specification that a run's folder lacks; see `run_plan`.

    All questions are read and checked before anything is computed.

    Args:
        folder: Folder of the run; created if it is missing.
        spec: What to run.
        workers: Number of worker processes; see `jobs.run_jobs`.
        ray_address: Address of a Ray cluster; see `jobs.run_jobs`.
        on_progress: Called with the progress.

    Returns:
        What the run did. The results are in the `LampDatabase` of the folder.

    Raises:
        UserError: If the specification is not valid, a file is damaged or of another task, the model cannot be loaded,
            or consent for the server is missing.
    """
    task = get_task(spec.task)
    methods = tuple(dict.fromkeys(map(parse_method, spec.methods)))
    _check(spec, methods)
    golds = None if spec.outputs is None else read_outputs(task, spec.outputs)
    counts = FileCounts()
    run_ids: set[str] = set()
    for user in _read_users(task, spec, golds, counts):
        run_ids |= {user.id, *(query.id for query in user.queries)}
    if counts.unscorable_queries == counts.queries:
        what = "no question has an answer to score"
        raise UserError(what, spec.outputs or spec.questions, "name a file with the answers of its users")
    model_dir = resolve_model(spec.model)
    model_fingerprint = fingerprint(model_dir)
    with LampDatabase(folder, write=True) as database:
        if spec.others is not None:
            others_golds = None if spec.others_outputs is None else read_outputs(task, spec.others_outputs)
            others = read_users(task, spec.others, others_golds, FileCounts())
            dialogues = other_users_dialogues(others, run_ids, spec.others)
            model_dir = fuse_task_adapter(
                model_dir, model_fingerprint, dialogues, spec.others_training, folder / "base", on_progress
            )
            model_fingerprint = fingerprint(model_dir)
        plan = LampPlan(
            task=task,
            file_task=task.file_names[0] if golds is None else golds.task_name,
            read_users=lambda: _read_users(task, spec, golds, FileCounts()),
            file_hashes=[file_hash(file) for file in (spec.questions, spec.outputs) if file is not None],
            counts=counts,
            model_dir=str(model_dir),
            model_fingerprint=model_fingerprint,
            model_name=Path(spec.model).name,
            methods=methods,
            config=spec.config,
            server=spec.server,
            token_budget=spec.token_budget,
            server_answer_tokens=spec.server_answer_tokens,
        )
        return run_plan(database, plan, workers=workers, ray_address=ray_address, on_progress=on_progress)


def _check(spec: LampSpec, methods: Sequence[Method]) -> None:
    if not methods:
        raise UserError("no method is named", hint=f"name some, such as {NON_PERSONALIZED}")
    if spec.server is None and any(method.on_server for method in methods):
        raise UserError("the method cloud needs a server", hint="name one, with its model")
    if spec.num_users is not None and spec.num_users < 1:
        raise UserError(f"the number of users is {spec.num_users}", hint="at least 1 is needed")
    if spec.others_outputs is not None and spec.others is None:
        raise UserError("outputs of other users, but no questions", spec.others_outputs, "name both")


def _read_users(task: LampTask, spec: LampSpec, golds: Outputs | None, counts: FileCounts) -> Iterator[LampUser]:
    """Yield the users of the run from the file, which is read again at each call and never held in memory."""
    return itertools.islice(read_users(task, spec.questions, golds, counts), spec.num_users)
