"""The state of an unfinished training on disk: whole or not at all, and exact to the bit.

One safetensors file a state, the newest two kept, so that a damaged file costs the steps since the one before. MLX
reads a file with flipped bits without a word; a checksum over names, types, shapes, bytes and facts notices them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import mlx.core as mx

from mlx_personal.errors import UserError, from_os_error
from mlx_personal.storage.files import atomic_file, remove_partials

RESTART_HINT: Final = "to drop that training and begin anew: mlx-personal train --restart, with the same --profile"

_KEPT: Final = 2
# What arrays and facts a training saves; to be raised with every change of them.
_LAYOUT: Final = 3
_NAME: Final = re.compile(r"state-(\d{7,})\.safetensors")
# What MLX and the standard library raise over bytes that are not a state; MLX reports bad JSON and bad offsets so.
_DAMAGE: Final = (RuntimeError, ValueError, KeyError, TypeError)


@dataclass(frozen=True)
class Checkpoint:
    """All that the rest of a training depends on.

    Args:
        arrays: by name; of any type and shape.
        facts: what JSON can hold, `step` among it, the optimizer steps done; tuples come back as lists.
    """

    arrays: Mapping[str, mx.array]
    facts: Mapping[str, Any]

    @property
    def step(self) -> int:
        return int(self.facts["step"])


def save(folder: Path, state: Checkpoint) -> Path:
    """Writes `state-<step>.safetensors` and returns its path; then removes what is no longer of use.

    That is all but the newest two, and states of later steps, which a damaged or abandoned training left. UserError if
    the disk refuses; what was saved before stays then.
    """
    path = folder / f"state-{state.step:07d}.safetensors"
    facts = json.dumps({**state.facts, "layout": _LAYOUT})
    metadata = {"format": "mlx", "facts": facts, "checksum": _checksum(state.arrays, facts)}
    with atomic_file(path) as file:
        # Through a file of Python's: MLX's own writing by path does not notice a full disk.
        mx.save_safetensors(file, dict(state.arrays), metadata)
    saved = _steps(folder)
    earlier = sorted(step for step in saved if step <= state.step)
    for step in saved.keys() - set(earlier[-_KEPT:]):
        saved[step].unlink(missing_ok=True)
    remove_partials(folder)
    return path


def load_latest(folder: Path) -> tuple[Checkpoint | None, str | None]:
    """The newest state that is undamaged, if any was saved, and a note on damaged ones that were passed over.

    UserError if there are states and all are damaged, or if one cannot be read or is of another version of the package.
    """
    damaged: list[str] = []
    for _, path in sorted(_steps(folder).items(), reverse=True):
        try:
            state = _load(path)
        except OSError as error:
            raise from_os_error(error, path) from error
        except _DAMAGE:
            damaged.append(path.name)
            continue
        note = f"{' and '.join(damaged)} damaged: going on from step {state.step}" if damaged else None
        return state, note
    if damaged:
        raise UserError(f"damaged: {' and '.join(damaged)}, and there is no other state", folder, RESTART_HINT)
    return None, None


def discard(folder: Path) -> None:
    """Removes all states in `folder`, as after a training has ended, and the folder if it holds nothing else."""
    for path in _steps(folder).values():
        path.unlink(missing_ok=True)
    remove_partials(folder)
    with contextlib.suppress(OSError):
        folder.rmdir()


def _load(path: Path) -> Checkpoint:
    with path.open("rb") as file:
        loaded: Any = mx.load(file, format="safetensors", return_metadata=True)
        arrays, metadata = loaded
        # Now, as MLX reads when it computes: the file may be replaced or removed by then.
        mx.eval(arrays)
    if metadata["checksum"] != _checksum(arrays, metadata["facts"]):
        raise ValueError("checksum differs")
    facts = json.loads(metadata["facts"])
    if facts.pop("layout", None) != _LAYOUT:
        raise UserError("cannot resume: another version of mlx-personal began this training", path, RESTART_HINT)
    return Checkpoint(arrays, facts)


def _checksum(arrays: Mapping[str, mx.array], facts: str) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(json.dumps([name, str(array.dtype), array.shape]).encode())
        # As bytes: the buffer protocol has no bfloat16.
        as_bytes: Any = array.reshape(-1).view(mx.uint8)
        digest.update(memoryview(as_bytes))
    digest.update(facts.encode())
    return digest.hexdigest()


def _steps(folder: Path) -> dict[int, Path]:
    """The states in a folder, by step."""
    found = ((_NAME.fullmatch(path.name), path) for path in folder.glob("state-*.safetensors"))
    return {int(match[1]): path for match, path in found if match}


@dataclass(frozen=True)
class CheckpointIdentity:
    """What a resumed training must share with the one that was interrupted.

    Args:
        base: the base model's fingerprint.
        rows: a hash of the training rows and their weights, in order.
        settings: those that decide the result, by name.
        environment: what only the last bits depend on: versions, thread count, device.
    """

    base: str
    rows: str
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]


def check_identity(saved: Mapping[str, Any], present: CheckpointIdentity) -> str | None:
    """Compares with `dataclasses.asdict(Identity)` as the facts of a state hold it.

    None, or a note if the rest of the training will not be bit-identical. UserError naming what differs.
    """
    if saved["base"] != present.base:
        raise UserError("cannot resume: the base model is another one than when this training began", hint=RESTART_HINT)
    if different := _different(saved["settings"], present.settings):
        raise UserError(f"cannot resume: changed settings: {different}", hint=RESTART_HINT)
    if saved["rows"] != present.rows:
        raise UserError("cannot resume: the training rows have changed since it began", hint=RESTART_HINT)
    if different := _different(saved["environment"], present.environment):
        return f"resumed under other conditions ({different}): the result will not be bit-identical"
    return None


def _different(saved: Mapping[str, Any], present: Mapping[str, Any]) -> str:
    """Which entries differ and how, as `name was 1, is 2`; empty if none does."""
    now = json.loads(json.dumps(dict(present)))
    names = sorted(name for name in saved.keys() | now.keys() if saved.get(name) != now.get(name))
    return ", ".join(f"{name} was {saved.get(name)}, is {now.get(name)}" for name in names)
