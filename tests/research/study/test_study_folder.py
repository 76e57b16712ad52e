"""A study's folder: cells of this and of other versions, damaged ones, and shared embeddings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_personal import UserError
from mlx_personal.research.study import StudyFolder
from mlx_personal.research.study.study_folder import CELLS
from tests.support.study_cells import finished_grid

FINISHED = finished_grid(["quality"], ["alpaca"], seeds=2)


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    folder = StudyFolder(tmp_path / "study")
    for cell, result in FINISHED:
        folder.add_cell(cell, result)
    return folder


def change_first(folder: StudyFolder, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the first stored cell, as another version may have written it."""
    file = folder.path / CELLS
    first, *others = file.read_text().splitlines()
    row = json.loads(first)
    change(row)
    file.write_text("\n".join([json.dumps(row), *others]) + "\n")


def test_stored_cells_are_read_again(folder: StudyFolder) -> None:
    assert [(cell.key, result) for cell, result in folder.finished_cells()] == [(c.key, r) for c, r in FINISHED]
    assert folder.finished_keys() == {cell.key for cell, _ in FINISHED}
    assert StudyFolder(folder.path / "new").finished_keys() == set()


def test_cells_of_another_version_are_counted_and_computed_again(folder: StudyFolder) -> None:
    change_first(folder, lambda row: row["cell"].update(protocol=0))
    assert (len(folder.finished_cells()), folder.outdated_count()) == (len(FINISHED) - 1, 1)
    assert FINISHED[0][0].key not in folder.finished_keys()


@pytest.mark.parametrize(
    "change",
    [
        lambda row: row["cell"].update(color="red"),
        lambda row: row["cell"].update(evaluation="many"),
        lambda row: row["cell"].update(policy="best"),
        lambda row: row["cell"].pop("policy"),
        lambda row: row.update(cell=["a", "list"]),
        lambda row: row.pop("result"),
    ],
    ids=["unknown setting", "of another type", "of another value", "missing", "no settings", "no result"],
)
def test_an_unreadable_cell_is_one_line_that_names_it(folder: StudyFolder, change: Callable[[Any], Any]) -> None:
    change_first(folder, change)
    with pytest.raises(UserError, match="line 1 is not a cell that this version of mlx-personal can read") as raised:
        folder.finished_cells()
    assert "\n" not in raised.value.line() and CELLS in raised.value.line()


def test_embeddings_are_shared_and_computed_again_if_they_are_damaged(folder: StudyFolder) -> None:
    vectors = np.arange(6, dtype=np.float32).reshape(2, 3)
    folder.add_embeddings("m", ["a", "b"], vectors, [0.5, 1.5])
    folder.add_embeddings("m", ["c"], vectors[:1], [2.5])
    folder.add_embeddings("other", ["a"], vectors[:1], [9.0])
    stored = StudyFolder(folder.path).embeddings("m")
    assert {key: (vector.tolist(), entropy) for key, (vector, entropy) in stored.items()} == {
        "a": ([0.0, 1.0, 2.0], 0.5),
        "b": ([3.0, 4.0, 5.0], 1.5),
        "c": ([0.0, 1.0, 2.0], 2.5),
    }
    for file in (folder.path / "embeddings").iterdir():
        file.write_bytes(file.read_bytes()[:40])
    assert folder.embeddings("m") == {}


def test_only_one_process_writes_to_a_study(folder: StudyFolder) -> None:
    with (
        folder.lock(),
        pytest.raises(UserError, match="the folder is in use by another process; wait for it to finish"),
        folder.lock(),
    ):
        pass


def test_what_is_no_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no study here"):
        StudyFolder(tmp_path).finished_cells()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file; a study is a folder; name a folder"):
        StudyFolder(tmp_path / "file")
    (tmp_path / "study.db").write_text("")
    with pytest.raises(UserError, match=r"is a study of version 0\.1, whose cells were computed in another way"):
        StudyFolder(tmp_path)
