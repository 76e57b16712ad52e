"""Checkpoint files of an unfinished training run: written atomically and exact to the bit.

A checkpoint is one safetensors file. The newest two are kept, so that a damaged file loses only the steps since the
previous one. MLX does not detect flipped bits; a checksum over names, types, shapes, bytes and metadata does. File
names, keys and layout are those of version 0.1, whose checkpoints can still be resumed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import mlx.core as mx

from mlx_personal.errors import Action, UserError, from_os_error
from mlx_personal.storage.files import atomic_file, remove_partials

logger = logging.getLogger(__name__)

_MAX_CHECKPOINTS: Final = 2
# Version of the checkpoint format, to be increased with every change of the arrays or the metadata.
_LAYOUT: Final = 3
_FILE_NAME: Final = re.compile(r"state-(\d{7,})\.safetensors")
_METADATA_KEY: Final = "facts"
# Errors that MLX and the standard library raise for files that are not a checkpoint, such as bad JSON or offsets.
_DAMAGE_ERRORS: Final = (RuntimeError, ValueError, KeyError, TypeError)


@dataclass(frozen=True)
class Checkpoint:
    """Everything that the rest of a training run depends on.

    Attributes:
        arrays: Arrays of any type and shape by name.
        metadata: JSON values by name, including `step`, the number of completed steps. Tuples are read back as lists.
    """

    arrays: Mapping[str, mx.array]
    metadata: Mapping[str, Any]

    @property
    def step(self) -> int:
        """Number of completed optimizer steps."""
        return int(self.metadata["step"])


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint, and remove those that are no longer needed.

    All but the newest two are removed, and those of later steps, which a damaged or abandoned run has left.

    Args:
        folder: Folder of the training run's checkpoints.
        checkpoint: The checkpoint.

    Returns:
        The path of the file.

    Raises:
        UserError: If the disk fails; earlier checkpoints remain unchanged.
    """
    path = folder / f"state-{checkpoint.step:07d}.safetensors"
    metadata = json.dumps({**checkpoint.metadata, "layout": _LAYOUT})
    header = {"format": "mlx", _METADATA_KEY: metadata, "checksum": _checksum(checkpoint.arrays, metadata)}
    with atomic_file(path) as file:
        # Through a Python file, because MLX does not detect a full disk when it writes to a path.
        mx.save_safetensors(file, dict(checkpoint.arrays), header)
    saved = _paths_by_step(folder)
    earlier = sorted(step for step in saved if step <= checkpoint.step)
    for step in saved.keys() - set(earlier[-_MAX_CHECKPOINTS:]):
        saved[step].unlink(missing_ok=True)
    remove_partials(folder)
    logger.debug("saved the checkpoint of step %d", checkpoint.step)
    return path


def load_latest(folder: Path) -> tuple[Checkpoint | None, str | None]:
    """Read the newest undamaged checkpoint.

    Args:
        folder: Folder of the training run's checkpoints.

    Returns:
        The checkpoint, or None if there is none; and a note on damaged ones that were skipped, or None.

    Raises:
        UserError: If all checkpoints are damaged, or if one cannot be read or has another layout.
    """
    damaged: list[str] = []
    for _, path in sorted(_paths_by_step(folder).items(), reverse=True):
        try:
            checkpoint = _load(path)
        except OSError as error:
            raise from_os_error(error, path) from error
        except _DAMAGE_ERRORS:
            damaged.append(path.name)
            continue
        note = f"{' and '.join(damaged)} damaged: resuming from step {checkpoint.step}" if damaged else None
        return checkpoint, note
    if damaged:
        what = f"damaged: {' and '.join(damaged)}, and there is no other checkpoint"
        raise UserError(what, folder, remedy=Action.RESTART_TRAINING)
    return None, None


def discard(folder: Path) -> None:
    """Remove all checkpoints of a folder, and the folder if nothing else is in it.

    Args:
        folder: Folder of the training run's checkpoints.
    """
    for path in _paths_by_step(folder).values():
        path.unlink(missing_ok=True)
    remove_partials(folder)
    with contextlib.suppress(OSError):
        folder.rmdir()


def _load(path: Path) -> Checkpoint:
    with path.open("rb") as file:
        loaded: Any = mx.load(file, format="safetensors", return_metadata=True)
        arrays, header = loaded
        # MLX reads the file when it evaluates; by then it may have been replaced or removed.
        mx.eval(arrays)
    if header["checksum"] != _checksum(arrays, header[_METADATA_KEY]):
        raise ValueError("checksum differs")
    metadata = json.loads(header[_METADATA_KEY])
    if metadata.pop("layout", None) != _LAYOUT:
        what = "cannot resume: another version of mlx-personal started this training run"
        raise UserError(what, path, remedy=Action.RESTART_TRAINING)
    return Checkpoint(arrays, metadata)


def _checksum(arrays: Mapping[str, mx.array], metadata: str) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(json.dumps([name, str(array.dtype), array.shape]).encode())
        # As bytes, because the buffer protocol does not support bfloat16.
        as_bytes: Any = array.reshape(-1).view(mx.uint8)
        digest.update(memoryview(as_bytes))
    digest.update(metadata.encode())
    return digest.hexdigest()


def _paths_by_step(folder: Path) -> dict[int, Path]:
    matches = ((_FILE_NAME.fullmatch(path.name), path) for path in folder.glob("state-*.safetensors"))
    return {int(match[1]): path for match, path in matches if match}
