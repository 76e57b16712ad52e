"""OPPU's first stage: fuse an adapter that is trained on other users' queries with the base model [Tan24]."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Iterable
from pathlib import Path

from mlx_personal.dialogue import Dialogue
from mlx_personal.errors import UserError
from mlx_personal.finetune import Example, LoRAConfig, finetune
from mlx_personal.finetune.fuse import fuse
from mlx_personal.models.loading import cached_model
from mlx_personal.progress import Progress, ProgressEvent
from mlx_personal.research.hashing import digest
from mlx_personal.research.lamp.lamp_users import LampUser

logger = logging.getLogger(__name__)


def other_users_dialogues(others: Iterable[LampUser], run_ids: Collection[str], file: Path) -> list[Dialogue]:
    """Return the queries of other users that have a gold answer, with that answer, as training data.

    Args:
        others: The other users.
        run_ids: Identifiers of the users and queries of the run.
        file: File of the other users, for error messages.

    Raises:
        UserError: If a user or query is in the run too, or a query cannot be trained on.
    """
    dialogues: list[Dialogue] = []
    for user in others:
        shared = {user.id, *(query.id for query in user.queries)}.intersection(run_ids)
        if shared:
            what = f"{min(shared)!r} is among the other users and among those of the run"
            raise UserError(what, file, "name users who are not in both")
        try:
            dialogues += [Dialogue.of(query.input, query.gold) for query in user.queries if query.gold]
        except ValueError as error:
            what = f"a query of {user.id!r} cannot be trained on: {error}"
            raise UserError(what, file, "correct the file") from error
    return dialogues


def fuse_task_adapter(
    model_dir: Path,
    fingerprint: str,
    dialogues: list[Dialogue],
    training: LoRAConfig,
    folder: Path,
    on_progress: Progress,
) -> Path:
    """Return a model with a task adapter fused into it, trained once for the same base, settings and dialogues.

    Args:
        model_dir: Folder of the base model.
        fingerprint: Fingerprint of the base model.
        dialogues: Training data of the adapter.
        training: Settings of the adapter.
        folder: Folder for the fused models.
        on_progress: Called before and after the training run.

    Returns:
        The folder of the fused model.
    """
    name = digest([fingerprint, training.to_json(), [dialogue.key for dialogue in dialogues]])
    fused, adapter, checkpoints = (folder / f"{name}{end}" for end in ("", ".adapter", ".states"))
    if fused.exists():
        logger.info("the task adapter %s is fused already", name)
        _remove(adapter, checkpoints)  # of a run that was killed after it had fused the adapter
        return fused
    on_progress(ProgressEvent("task adapter", 0, 1, None))
    lm = cached_model(str(model_dir))
    # Of a run that was killed before it fused the adapter, which is written again from the last checkpoint.
    _remove(adapter)
    finetune(
        lm,
        list(map(Example, dialogues)),
        training,
        adapter,
        checkpoint_folder=checkpoints,
        keep_checkpoints=True,
    )
    fuse(lm, adapter, fused)
    _remove(adapter, checkpoints)
    on_progress(ProgressEvent("task adapter", 1, 1, None))
    return fused


def _remove(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
