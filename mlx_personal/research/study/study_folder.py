"""A study's folder: the finished cells as JSON Lines, and the embeddings that cells share.

`cells.jsonl` has one line for each finished cell, with its settings and its result, and is all that a report needs. The
folder `embeddings` can be deleted; it is computed again.
"""

from __future__ import annotations

import contextlib
import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from mlx_personal.errors import Action, Remedy, UserError
from mlx_personal.research.hashing import digest
from mlx_personal.research.results_file import append_result, read_results
from mlx_personal.research.study.cell import PROTOCOL, Cell
from mlx_personal.storage.files import atomic_write, exclusive_lock

CELLS: Final = "cells.jsonl"

FinishedCell = tuple[Cell, dict[str, Any]]

Embedded = tuple[np.ndarray, float]
"""The vector of a dialogue, float32 [D], and its EOE."""


class StudyFolder:
    """The folder of a study.

    Args:
        path: The folder; it is created by the first result.

    Raises:
        UserError: If it is a file, or a study of version 0.1.
    """

    def __init__(self, path: Path):
        if path.is_file():
            raise UserError("is a file; a study is a folder", path, "name a folder")
        if (path / "study.db").exists():
            what = "is a study of version 0.1, whose cells were computed in another way"
            raise UserError(what, path, "name another folder")
        self.path = path
        self._embeddings = path / "embeddings"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from writing inside the `with` block.

        Raises:
            UserError: If another process does so.
        """
        with exclusive_lock(self.path / ".lock", wait=False):
            yield

    def finished_cells(self) -> list[FinishedCell]:
        """Return the finished cells of this protocol and their results, in the order in which they finished.

        Raises:
            UserError: If there is no study, or this version cannot read it.
        """
        if not (self.path / CELLS).exists():
            remedy = Remedy(Action.RUN_STUDY, {"folder": str(self.path)})
            raise UserError("there is no study here", self.path, remedy=remedy)
        return self._cells()[0]

    def outdated_count(self) -> int:
        """Return the number of finished cells that another version computed in another way."""
        return self._cells()[1]

    def add_cell(self, cell: Cell, result: Mapping[str, Any]) -> None:
        """Store a finished cell.

        Args:
            cell: The cell.
            result: Its result.
        """
        append_result(self.path / CELLS, {"cell": cell.to_json(), "result": result})

    def finished_keys(self) -> set[str]:
        """Return the keys of the finished cells; none if there is no study yet."""
        return {cell.key for cell, _ in self._cells()[0]}

    def _cells(self) -> tuple[list[FinishedCell], int]:
        cells: dict[str, FinishedCell] = {}
        outdated = 0
        for number, row in enumerate(read_results(self.path / CELLS), 1):
            try:
                if row["cell"]["protocol"] != PROTOCOL:
                    outdated += 1
                    continue
                cell = Cell.from_json(row["cell"])
                cells[cell.key] = (cell, row["result"])
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                what = f"line {number} is not a cell that this version of mlx-personal can read ({error})"
                raise UserError(what, self.path / CELLS, "upgrade mlx-personal, or name another folder") from error
        return list(cells.values()), outdated

    def embeddings(self, model: str) -> dict[str, Embedded]:
        """Return the stored embeddings of a model by the keys of their dialogues.

        Args:
            model: Fingerprint of the model.
        """
        embedded: dict[str, Embedded] = {}
        for file in sorted(self._embeddings.glob(f"{_name(model)}-*.npz")):
            try:
                with np.load(io.BytesIO(file.read_bytes())) as arrays:
                    keys, vectors, entropies = (arrays[name] for name in ("keys", "vectors", "entropies"))
                embedded |= {
                    str(key): (vector, float(entropy))
                    for key, vector, entropy in zip(keys, vectors, entropies, strict=True)
                }
            except (KeyError, ValueError, zipfile.BadZipFile):
                file.unlink(missing_ok=True)  # it is computed again
        return embedded

    def add_embeddings(self, model: str, keys: Sequence[str], vectors: np.ndarray, entropies: Sequence[float]) -> None:
        """Store the embeddings of N dialogues.

        Args:
            model: Fingerprint of the model.
            keys: The keys of the dialogues.
            vectors: Their vectors, float32 [N, D].
            entropies: Their EOE.
        """
        stream = io.BytesIO()
        np.savez(stream, keys=np.array(keys), vectors=vectors, entropies=np.array(entropies, np.float64))
        atomic_write(self._embeddings / f"{_name(model)}-{digest(list(keys))[:16]}.npz", stream.getvalue())


def _name(model: str) -> str:
    return digest({"model": model, "protocol": PROTOCOL})[:16]
