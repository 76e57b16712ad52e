"""Tables and plots of many results, some of which may be damaged or have unusual names."""

from __future__ import annotations

import copy
import json
import re
import xml.etree.ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlx_personal import UserError
from mlx_personal.benchmark import report
from mlx_personal.errors import Action, Remedy
from tests.benchmark.example_runs import KeyPath, Result, with_value
from tests.support.cases import slow_cases

# Reading a folder

DEEP = b'{"sides": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b'{"schema_version": NaN}', b"null", DEEP])
def test_a_malformed_file_is_reported_and_skipped(result: Result, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "good.json").write_text(json.dumps(result))
    (tmp_path / "bad.json").write_bytes(content)
    lines: list[str] = []
    assert report.read_folder(tmp_path, lines.append) == [result]
    (line,) = lines
    assert "bad.json" in line and "\n" not in line and len(line) < 400


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (("machine", "memory_bytes"), "1" * 400),  # more than a float holds
        (("machine", "memory_bytes"), "1" * 5000),  # more digits than Python reads
        (("workload", "parameters"), "1" * 400),
        (("sides", "ours", "peak_memory_bytes", "median"), "1" * 400),
        (("sides", "ours", "seconds", "median"), "1e300"),
        (("sides", "ours", "seconds", "low"), "100.0"),  # above the median
        (("machine", "chip"), '"' + "x" * 10_000 + '"'),
        (("machine", "x" * 10_000), "1"),
        (("machine", "versions", "x" * 10_000), "1"),
    ],
)
def test_an_impossible_value_is_reported_with_its_file(
    result: Result, tmp_path: Path, path: KeyPath, text: str
) -> None:
    (tmp_path / "bad.json").write_text(json.dumps(with_value(result, path, "HERE")).replace('"HERE"', text))
    lines: list[str] = []
    with pytest.raises(UserError, match="no benchmark result here"):
        report.read_folder(tmp_path, lines.append)
    (line,) = lines
    assert "bad.json" in line and "\n" not in line and len(line) < 400


def key_paths(inner: Any, *parents: str | int) -> Iterator[KeyPath]:
    """Yield the path of everything in a result, from the outside in."""
    yield parents
    for key, value in inner.items() if isinstance(inner, dict) else enumerate(inner):
        if isinstance(value, dict | list):
            yield from key_paths(value, *parents, key)
        else:
            yield (*parents, key)


@pytest.mark.parametrize("stride", [4, *slow_cases(1)])  # of the values at each place
def test_a_file_with_any_value_anywhere_is_shown_or_reported(result: Result, tmp_path: Path, stride: int) -> None:
    values: list[object] = [
        None,
        True,
        -1,
        0,
        10**300,
        1e308,
        5e-324,
        "x" * 1000,
        "$x_{$ |",
        [],
        {},
        [[[]]],
        {"median": None},
    ]
    num_shown = 0
    changed: Any = copy.deepcopy(result)
    for number, path in enumerate(key_paths(result)):
        inner = changed
        for key in path[:-1]:
            inner = inner[key]
        original = inner[path[-1]] if path else None
        for value in values[number % stride :: stride]:
            if path:
                inner[path[-1]] = value
            # A new file, because to shorten one takes milliseconds.
            (tmp_path / "a.json").unlink(missing_ok=True)
            (tmp_path / "a.json").write_text(json.dumps(changed if path else value))
            lines: list[str] = []
            try:
                table = report.results_table(report.read_folder(tmp_path, lines.append))
            except UserError:
                (line,) = lines
                assert "a.json" in line and "\n" not in line and len(line) < 400
            else:
                assert table.count("\n") == 5
                num_shown += 1
        if path:
            inner[path[-1]] = original
    assert num_shown > 100 // stride


def test_a_folder_without_a_result_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no benchmark result here") as raised:
        report.read_folder(tmp_path, print)
    assert raised.value.remedy == Remedy(Action.RUN_BENCHMARK)
    with pytest.raises(UserError, match="no such folder"):
        report.read_folder(tmp_path / "none", print)


# Tables


def test_the_table_has_the_measured_values_and_a_dash_for_the_others(result: Result) -> None:
    lines = report.all_tables([result, with_value(result, ("time_ratio",), None)]).splitlines()
    assert lines[0].startswith("| chip | workload |")
    assert "| 8.50 (8.00-9.00) | 2.50 (2.00-3.00) |" in lines[2]
    assert "| 2.00 |" in lines[2]  # GB
    assert lines[2].endswith("| - |")  # whether the machine was throttled is not known
    assert all(line.count("|") == lines[0].count("|") for line in lines[:4])


UNUSUAL_NAME = "$x_{$ | a\nb <b>*c*</b> `d` [e](f) \x1b\ud800"


def test_unusual_names_are_shown_unchanged(result: Result, tmp_path: Path) -> None:
    unusual = with_value(result, ("machine", "chip"), UNUSUAL_NAME)
    unusual = with_value(unusual, ("workload", "name"), UNUSUAL_NAME)
    line = report.results_table([unusual]).splitlines()[2]
    # Every `|` that is not escaped separates two cells.
    assert len(re.findall(r"(?<!\\)\|", line)) == report.results_table([result]).splitlines()[2].count("|")
    assert r"\$x\_{\$ \| a b \<b\>\*c\*\</b\> \`d\` \[e\](f)" in line
    for file in report.write_report([unusual], tmp_path / "table.md"):
        assert "\x1b" not in file.read_text("utf-8")
        if file.suffix == ".svg":
            xml.etree.ElementTree.parse(file)


def test_the_table_names_the_model_that_was_trained(result: Result) -> None:
    def workload_cell(**changes: object) -> str:
        changed = {**result, "workload": {**result["workload"], **changes}}
        return report.results_table([changed]).splitlines()[2].split(" | ")[1]

    cell = workload_cell(name="paper", model="Qwen3-0.6B", rows=896, epochs=3)
    assert cell == "paper (Qwen3-0.6B), 896 samples x 3"
    assert workload_cell(name="135m", model="135m", rows=32, epochs=8) == "135m, 32 samples x 8"


def test_the_values_of_other_projects_are_marked_as_published_by_them() -> None:
    text = report.published_tables()
    assert text.startswith("Published by other projects")
    assert "not measured here" in text
    training, generation = text.split("\n\n| source ")[1:]
    assert training.startswith("| chip | job | speed | memory |")
    assert "| mlx-lm, LORA.md | M1 Max 32 GB |" in training
    # Reading a prompt and generating have different speeds, and neither is that of training.
    assert generation.startswith("| chip | job | prompt, tokens/s | writing, tokens/s | memory |")
    assert "| M4 Max 64 GB | Qwen3-4B-2507 bf16, 2,048 + 128 tokens | 1,780 | 52.5 | 9.0 GB |" in generation
    assert "Apple" in generation and "Qwen3-4B" not in training


# Plots


@pytest.mark.parametrize("value", [0.0, 5e-324, 1e18, -1e18])
def test_every_possible_value_is_plotted(result: Result, value: float) -> None:
    pytest.importorskip("matplotlib")
    spread = {"median": value, "low": value, "high": value}
    changed = with_value(result, ("sides", "ours", "seconds_to_loss"), spread)
    svg = report.plot_bars([result, changed], "seconds_to_loss", "title")
    assert svg is not None and xml.etree.ElementTree.fromstring(svg).tag.endswith("svg")


def test_plots_are_by_chip_and_reproducible(result: Result, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    unmeasured = copy.deepcopy(result)
    unmeasured["sides"]["ours"]["joules"] = None
    unmeasured["sides"]["mlx-lm"]["joules"] = None
    files = report.write_report([result, unmeasured], tmp_path / "table.md")
    assert [file.name for file in files] == ["table.md", "table-seconds.svg", "table-joules.svg"]
    for file in files[1:]:
        assert xml.etree.ElementTree.parse(file).getroot().tag.endswith("svg")
        assert f"]({file.name})" in files[0].read_text()
    assert report.plot_bars([result], "joules", "x") == report.plot_bars([result], "joules", "x")
    assert report.plot_bars([unmeasured], "joules", "") is None


def test_without_matplotlib_only_the_table_is_written(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "can_plot", lambda: False)
    assert report.write_report([result], tmp_path / "table.md") == [tmp_path / "table.md"]
