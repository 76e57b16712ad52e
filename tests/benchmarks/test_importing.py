"""The benchmark of imports."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from mlx_personal.importers import ImportedDialogue, read_imports
from tests.support.paths import ROOT


@pytest.fixture(scope="module")
def importing() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT))
    yield importlib.import_module("benchmarks.importing")
    sys.path.remove(str(ROOT))


def test_the_written_export_is_one_of_chatgpt_with_branches(importing: ModuleType, tmp_path: Path) -> None:
    export = tmp_path / "conversations.json"
    count = importing.write_export(export, 200_000)
    items = [item for item in read_imports(export) if isinstance(item, ImportedDialogue)]
    assert len(items) == count > 10
    assert {item.conversation.app for item in items} == {"chatgpt"}
    assert len({item.dialogue.key for item in items}) == count
    assert any(turn.alternatives for item in items for turn in item.conversation.turns)


@pytest.mark.slow
def test_the_command_prints_its_measurements(
    importing: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--quick", "--bytes", "100000", "--dialogues", "200", "--json", "--out", str(tmp_path / "x.md")]
    assert importing.main(options) == 1, "so little is not read at 20 MB/s, because of the start of the process"
    values = json.loads(capsys.readouterr().out)
    assert set(values["commands"]) == {"status", "buffer list", "imports list", "imports show 1"}
    assert all(usage["peak_mb"] > 10 for usage in values["stages"].values())
    assert "| reading and storing |" in (tmp_path / "x.md").read_text()
