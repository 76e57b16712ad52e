"""What somebody asks a LaMP run to do, and how it becomes users and a base model."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mlx_personal.augmentation.server import Server
from mlx_personal.dialogue import Dialogue
from mlx_personal.errors import UserError, from_os_error
from mlx_personal.finetune import LoRAConfig, finetune, fuse
from mlx_personal.models.cached_model import cached_model
from mlx_personal.models.language_model import fingerprint, resolve
from mlx_personal.progress import Progress, ProgressEvent, ignore_progress
from mlx_personal.research.lamp.lamp_database import Records
from mlx_personal.research.lamp.methods import Method, method_named
from mlx_personal.research.lamp.predictions import Outputs, read_outputs
from mlx_personal.research.lamp.run_config import OPPU, RunConfig, digest
from mlx_personal.research.lamp.scheduler import Outcome, Source, run
from mlx_personal.research.lamp.tasks import LampTask, task_named
from mlx_personal.research.lamp.user_profiles import Counts, User, official_users, oppu_users

# OPPU's first stage: three epochs over other users' queries.
TASK_ADAPTER = dataclasses.replace(OPPU, epochs=3)


@dataclass(frozen=True)
class Request:
    """A run's settings.

    Args:
        task: a name in `tasks.TASKS`.
        methods: names that `methods.method_named` knows.
        model: the base: a folder, or a repository of the Hugging Face hub.
        questions, outputs: LaMP's files; `questions` may be OPPU's history, which needs no outputs.
        users: how many of the file's first; None for all.
        others, others_outputs: the same of other users. A task adapter is trained on their queries and fused with the
            base before anything else (OPPU's first stage); None for the base as it is.
        others_training: of that adapter.
        server: writes synthetic records and answers for `cloud`; without one the base itself writes.
        token_budget: most tokens that the server may cost; None for no limit.
    """

    task: str
    methods: Sequence[str]
    model: str
    questions: Path
    outputs: Path | None = None
    users: int | None = None
    others: Path | None = None
    others_outputs: Path | None = None
    others_training: LoRAConfig = TASK_ADAPTER
    server: Server | None = None
    token_budget: int | None = None
    config: RunConfig = field(default_factory=RunConfig)


def run_lamp(
    folder: Path,
    request: Request,
    workers: int | None = None,
    ray: str | None = None,
    on_progress: Progress = ignore_progress,
) -> Outcome:
    """Does what the run in `folder` lacks of what is asked; see `run.run`.

    UserError for settings that make no sense, files that are not what they should be (all of the questions are looked
    at before anything is computed), and a model that cannot be loaded.
    """
    task = task_named(request.task)
    methods = tuple(dict.fromkeys(map(method_named, request.methods)))
    _check(request, methods)
    golds = None if request.outputs is None else read_outputs(task, request.outputs)
    counts = Counts()
    ids: set[str] = set()
    for user in _users(task, request, golds, counts):
        ids |= {user.id, *(query.id for query in user.queries)}
    path = resolve(request.model)
    base = fingerprint(path)
    with Records(folder, write=True) as records:
        if request.others is not None:
            path = _task_base(folder, task, request, path, base, ids, on_progress)
        source = Source(
            task=task,
            name=task.files[0] if golds is None else golds.name,
            users=lambda: _users(task, request, golds, Counts()),
            files=[_hash(file) for file in (request.questions, request.outputs) if file is not None],
            counts=counts,
            model=str(path),
            fingerprint=fingerprint(path),
            model_name=Path(request.model).name,
        )
        return run(
            records,
            source,
            methods,
            request.config,
            request.server,
            token_budget=request.token_budget,
            workers=workers,
            ray=ray,
            on_progress=on_progress,
        )


def _check(request: Request, methods: Sequence[Method]) -> None:
    if not methods:
        raise UserError("no method is named", hint="name some, such as non-personalised")
    if request.server is None and any(method.cloud for method in methods):
        raise UserError("the method cloud needs a server", hint="name one, with its model")
    if request.users is not None and request.users < 1:
        raise UserError(f"{request.users} users are asked for", hint="at least 1 is needed")
    if request.others_outputs is not None and request.others is None:
        raise UserError("outputs of other users, but no questions", request.others_outputs, "name both")


def _users(task: LampTask, request: Request, golds: Outputs | None, counts: Counts) -> Iterator[User]:
    """The users of the run, read anew each time: what a file holds beside one user stays on the disk."""
    if golds is None:
        found = oppu_users(task, request.questions, counts)
    else:
        found = official_users(task, request.questions, golds, counts)
    return itertools.islice(found, request.users)


def _hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise from_os_error(error, path) from error


def _task_base(
    folder: Path,
    task: LampTask,
    request: Request,
    base: Path,
    base_fingerprint: str,
    ids: set[str],
    on_progress: Progress,
) -> Path:
    """The base with the task adapter of other users in it, made once for the same users, settings and base.

    UserError where one of the others is among the run's users, or asks one of their questions, or one that no adapter
    can learn.
    """
    assert request.others is not None
    golds = None if request.others_outputs is None else read_outputs(task, request.others_outputs)
    if golds is None:
        others = oppu_users(task, request.others, Counts())
    else:
        others = official_users(task, request.others, golds, Counts())
    dialogues: list[Dialogue] = []
    for user in others:
        shared = ids & {user.id, *(query.id for query in user.queries)}
        if shared:
            what = f"{min(shared)!r} is among the other users and among those of the run"
            raise UserError(what, request.others, "name users who are not in both")
        try:
            dialogues += [Dialogue.of(query.input, query.gold) for query in user.queries]
        except ValueError as error:
            raise UserError(f"a query of {user.id!r} cannot be learnt: {error}", request.others, "mend it") from error
    settings = dataclasses.asdict(request.others_training)
    name = digest([base_fingerprint, settings, [dialogue.key for dialogue in dialogues]])
    fused, adapter, states = (folder / "base" / f"{name}{end}" for end in ("", ".adapter", ".states"))
    if fused.exists():
        return fused
    on_progress(ProgressEvent("task adapter", 0, 1, None))
    lm = cached_model(str(base))
    shutil.rmtree(adapter, ignore_errors=True)  # of a run that was killed before it had fused it
    finetune(lm, dialogues, request.others_training, adapter, states=states)
    fuse(lm, adapter, fused)
    shutil.rmtree(adapter)
    on_progress(ProgressEvent("task adapter", 1, 1, None))
    return fused
