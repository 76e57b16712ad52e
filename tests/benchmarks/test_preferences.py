"""The benchmark of preference objectives: its pairs, its report, and too short a stream."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from mlx_personal import Dialogue, LanguageModel
from tests.support.paths import ROOT

DIALOGUES = [Dialogue.of(f"What is thing number {n} of box {n * n} made of?", f"Of sand {n}.") for n in range(8)]


@pytest.fixture
def preferences(monkeypatch: pytest.MonkeyPatch, tiny_model: LanguageModel) -> Iterator[ModuleType]:
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    module = importlib.import_module("benchmarks.preferences")
    monkeypatch.setattr(module, "load_language_model", lambda _: tiny_model)
    yield module


@pytest.fixture
def stream(tmp_path: Path) -> Path:
    path = tmp_path / "things.jsonl"
    path.write_text("".join(json.dumps({"messages": dialogue.to_messages()}) + "\n" for dialogue in DIALOGUES))
    return path


def test_held_out_pairs_are_no_near_duplicates_of_trained_ones(
    preferences: ModuleType, tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialogues = [Dialogue.of(f"{word} {word}s are for {word}ing", word) for word in ("red", "blue", "green", "gray")]
    doubled = [*dialogues, *dialogues]
    answers = ["", "second", "third"]
    monkeypatch.setattr(preferences, "generate_answers", lambda lm, drawn, _: [[a] for a in answers[: len(drawn)]])
    options = argparse.Namespace(pairs=2, held_out=1, max_tokens=4, file=Path("stream"))
    for seed in range(4):
        trained, held_out = preferences.draw_pairs(tiny_model, doubled, seed, options)
        # The pair whose answer is empty is left out, and takes no place of the held-out one.
        assert [pair.rejected.answer for pair in trained] == ["second"]
        assert [pair.rejected.answer for pair in held_out] == ["third"]
        assert held_out[0].chosen not in [pair.chosen for pair in trained]


def test_too_short_a_stream_is_one_line(
    preferences: ModuleType, stream: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert preferences.main([str(stream), "--pairs", "8", "--held-out", "4"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "has not the 12 different dialogues that are needed; lower --pairs" in printed.err


@pytest.mark.slow
def test_the_report_has_a_row_for_each_objective(
    preferences: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, stream = tmp_path / "report.md", ROOT / "mlx_personal/demo/stream.jsonl"
    assert preferences.main([str(stream), "--quick", "--json", "--out", str(out)]) == 0
    values = json.loads(capsys.readouterr().out)
    assert list(values) == ["sft", "dpo", "orpo", "sft+dpo"]
    assert all(of_objective["pairs"] == 2 and of_objective["seconds"] > 0 for of_objective in values.values())
    report = out.read_text()
    assert all(f"| `{objective}` |" in report for objective in values)
