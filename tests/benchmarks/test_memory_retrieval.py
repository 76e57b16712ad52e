"""The benchmark of the memory: what is timed finds dialogues, and a missed target gives exit code 1."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from mlx_personal import LanguageModel
from tests.support.paths import ROOT


@pytest.fixture(scope="module")
def memory_retrieval() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT))
    yield importlib.import_module("benchmarks.memory_retrieval")
    sys.path.remove(str(ROOT))


@pytest.mark.parametrize("retrieval", ["bm25", "hidden-states", "both"])
def test_each_question_is_timed_once(
    memory_retrieval: ModuleType, monkeypatch: pytest.MonkeyPatch, tiny_model: LanguageModel, retrieval: str
) -> None:
    monkeypatch.setattr(memory_retrieval, "QUERIES", 5)
    build_s, milliseconds = memory_retrieval.measure_retrieval(tiny_model, 40, retrieval)
    assert build_s > 0 and len(milliseconds) == 5 and all(0 < value < 1000 for value in milliseconds)


@pytest.mark.slow
def test_a_missed_target_gives_exit_code_1(
    memory_retrieval: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["--dialogues", "30", "--conversations", "1", "--out", str(tmp_path / "report.md")]
    assert memory_retrieval.main(arguments) == 0
    monkeypatch.setitem(memory_retrieval.TARGETS_MS, 30, 0.0)
    assert memory_retrieval.main(arguments) == 1
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("| 30 |", "| 3 |"))]
    assert len(rows) == 2 * (3 + 2)
