"""The comparison of adapter and memory: its values, its report, its stored cells, and wrong input."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from unittest.mock import Mock

import pytest

from benchmarks import memory
from benchmarks.arguments import DEMO_STREAM


@pytest.mark.slow
def test_the_memory_benchmark_prints_its_values_and_computes_no_method_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cells, out = tmp_path / "cells", tmp_path / "memory.md"
    arguments = ["--quick", "--seeds", "2", "--cells", str(cells), "--json", "--out", str(out), str(DEMO_STREAM)]
    assert memory.main(arguments) == 0
    printed = capsys.readouterr().out
    values = json.loads(printed)["stream"]
    assert (values["seeds"], values["questions"]) == (2, 8)
    stored = [json.loads((cells / f"stream-{seed}.json").read_text())["methods"] for seed in range(2)]
    pooled = {
        method: [value for cell in stored for value in cell[method]["log_likelihood"]] for method in memory.METHODS
    }
    for method, likelihoods in pooled.items():
        assert values["means"][method]["log_likelihood"] == pytest.approx(statistics.fmean(likelihoods))
    trained, base = pooled["adapter, memory"], pooled["base"]
    gain = values["gains"]["adapter, memory - base: log_likelihood"]
    assert gain["mean"] == pytest.approx(statistics.fmean(trained) - statistics.fmean(base))
    assert gain["interval"][0] <= gain["mean"] <= gain["interval"][1]
    assert statistics.fmean(gain["seeds"]) == pytest.approx(gain["mean"])
    # Memory changes the prompts, and how it is trained changes the adapter.
    assert len({tuple(likelihoods) for likelihoods in pooled.values()}) == len(memory.METHODS)
    assert "| one answer for all |" in out.read_text()

    # Only what is missing is computed again, and with the same result.
    file = cells / "stream-1.json"
    cell = json.loads(file.read_text())
    del cell["methods"]["adapter, memory"]
    file.write_text(json.dumps(cell))
    measure = Mock(wraps=memory.measure)
    monkeypatch.setattr(memory, "measure", measure)
    assert memory.main(arguments) == 0
    again = json.loads(capsys.readouterr().out)["stream"]
    assert (measure.call_count, again["means"], again["gains"]) == (1, values["means"], values["gains"])

    # What is stored can be reported before the rest is computed.
    (cells / "stream-0.json").unlink()
    del cell["methods"]["adapter trained with negatives"]
    file.write_text(json.dumps(cell))
    assert memory.main([*arguments, "--stored"]) == 0
    part = json.loads(capsys.readouterr().out)["stream"]
    assert part["seeds"] == 1 and measure.call_count == 1
    assert part["means"].keys() == cell["methods"].keys()
    assert not any("adapter trained with negatives -" in gain for gain in part["gains"])


def test_a_report_without_stored_cells_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored = ["--quick", "--stored", str(DEMO_STREAM)]
    assert memory.main(stored) == 2
    assert capsys.readouterr().err == "benchmarks.memory: --stored needs --cells; name the folder of the cells\n"
    assert memory.main([*stored, "--cells", str(tmp_path)]) == 2
    assert "has no cell of these sizes; run without --stored" in capsys.readouterr().err


def test_too_few_dialogues_are_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "short.jsonl"
    file.write_text(DEMO_STREAM.read_text().split("\n")[0] + "\n")
    assert memory.main(["--quick", str(file)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "has 1 dialogues, and 16 are needed" in line and str(file) in line


def test_a_choice_of_one_answer_is_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert memory.main(["--quick", "--choices", "1", str(tmp_path / "stream.jsonl")]) == 2
    assert capsys.readouterr().err == "benchmarks.memory: --choices is 1; choose a number from 2 to 100\n"
