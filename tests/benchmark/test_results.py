"""What a benchmark reports: figures that were measured, files that hold them, and tables of many files."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import re
import xml.etree.ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mlx_personal import UserError
from mlx_personal.benchmark import WORKLOADS, harness, report, results, schema, workloads
from mlx_personal.benchmark.training_run import OURS, PLAIN, Trained, hotter, train_side
from mlx_personal.benchmark.workloads import mlx_lm_order
from mlx_personal.cli.benchmark import _WORKLOADS
from mlx_personal.cli.benchmark import benchmark as command
from mlx_personal.cli.context import Cli
from mlx_personal.profile import Home
from mlx_personal.runtime.energy import Energy
from mlx_personal.runtime.machine import Heat
from mlx_personal.storage.files import check_writable
from tests.support.paths import ROOT

TINY = WORKLOADS["small"].changed(rows=8, epochs=2, lora_layers=1)


def trained(seconds: Any = 8.0, loss: Any = 2.0, memory: Any = 100, joules: Any = None, **changes: Any) -> Any:
    """A training of `TINY`: four steps, two epochs."""
    made = Trained(
        seconds=seconds,
        losses=[loss + 2, loss + 2, loss, loss],
        times=[seconds / 4 * n for n in (1, 2, 3, 4)],
        order=[step for epoch in mlx_lm_order(TINY) for step in epoch],
        processed_tokens=2048,
        peak_memory_bytes=memory,
        joules=joules or Energy(),
        before=Heat(),
        after=Heat(),
        way=None,
        fallback_reason=None,
        model={"layers": 5, "parameters": 10, "dtype": "float32"},
    )
    return dataclasses.replace(made, **changes)


def measured(ours: Any, other: Any = None, idle: Any = None) -> Any:
    sides = {OURS: ours} | ({} if other is None else {PLAIN: other})
    idle = idle or harness.Idle(Energy(), None, (), "no counter")
    return harness.Measured(TINY, workloads.model_folder(TINY.model), idle, sides)


# Figures


def test_ratios_are_ours_by_theirs_within_each_round() -> None:
    ours = [trained(2.0, memory=50), trained(6.0, memory=50), trained(4.0, memory=70)]
    other = [trained(8.0), trained(12.0), trained(40.0)]
    result = results.result_of(measured(ours, other))
    assert result["time_ratio"] == pytest.approx(0.25)  # of 1/4, 1/2 and 1/10
    assert result["memory_ratio"] == 0.5
    assert result["sides"]["ours"]["seconds"] == {"median": 4.0, "low": 2.0, "high": 6.0}
    assert result["sides"]["ours"]["rows_per_second"]["median"] == 16 / 4
    assert result["max_loss_difference"] == 0


def test_the_largest_difference_is_over_all_steps_and_rounds() -> None:
    other = [trained(), trained(losses=[4.0, 4.25, 2.0, 2.0])]
    assert results.result_of(measured([trained(), trained()], other))["max_loss_difference"] == 0.25


def test_the_time_to_the_same_loss_ends_where_both_have_reached_it() -> None:
    fast = trained(losses=[1.0, 1.0, 0.5, 0.5])  # its first epoch is below the other's last
    result = results.result_of(measured([fast], [trained(loss=2.0)]))
    assert result["sides"]["ours"]["seconds_to_loss"]["median"] == 4.0
    assert result["sides"]["mlx-lm"]["seconds_to_loss"]["median"] == 8.0
    assert result["time_ratio"] == 0.5


def test_without_a_counter_and_without_another_side_there_are_no_such_figures() -> None:
    result = results.result_of(measured([trained()]))
    ours = result["sides"]["ours"]
    for name in ("joules", "joules_per_row", "watts"):
        assert ours[name] is None
    for name in ("time_ratio", "memory_ratio", "energy_ratio", "max_loss_difference"):
        assert result[name] is None
    assert result["energy"] == {"sources": [], "missing": "no counter", "idle_seconds": None, "idle_watts": None}


def test_idle_power_is_shown_and_taken_off() -> None:
    idle = harness.Idle(Energy(cpu=1.0, gpu=2.0), 5.0, ("zeus-apple-silicon",), None)
    ours = [trained(2.0, joules=Energy(cpu=10.0, gpu=26.0))]
    other = [trained(8.0, joules=Energy(cpu=40.0, gpu=44.0))]
    result = results.result_of(measured(ours, other, idle))
    side = result["sides"]["ours"]
    assert result["energy"]["idle_watts"]["total"] == 3.0
    assert side["rounds"][0]["joules"]["total"] == 36.0
    assert side["rounds"][0]["joules_without_idle"] == {"cpu": 8.0, "gpu": 22.0, "dram": None, "ane": None, "total": 30}
    assert side["joules"]["median"] == 30.0
    assert side["joules_per_row"]["median"] == 30.0 / 16
    assert side["watts"]["median"] == 18.0
    assert result["energy_ratio"] == 0.5


def test_a_counter_that_failed_in_one_round_leaves_no_median() -> None:
    idle = harness.Idle(Energy(cpu=1.0), 5.0, ("RAPL",), None)
    result = results.result_of(measured([trained(joules=Energy(cpu=20.0)), trained()], None, idle))
    assert result["sides"]["ours"]["joules"] is None
    assert result["sides"]["ours"]["rounds"][0]["joules"]["cpu"] == 20.0


def test_other_rows_than_planned_end_the_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    strange = trained(order=[[0, 1, 2, 3]] * 4)
    monkeypatch.setattr(harness, "run_child", lambda *_: strange)
    with pytest.raises(UserError, match="took other rows than planned"):
        harness.measure(TINY, None, 1, 0.0, lambda *_: None)


def test_the_heat_of_a_round_is_its_worst() -> None:
    assert hotter(Heat(70.0, True, 3, ("a",)), Heat(60.0, False, 3, ("b",))) == Heat(70.0, True, 3, ("a", "b"))
    assert hotter(Heat(throttle_count=3), Heat(throttle_count=4)).throttled is True
    assert hotter(Heat(throttle_count=3), Heat(throttle_count=3)).throttled is False
    assert hotter(Heat(), Heat()) == Heat()


# Files


@pytest.fixture(scope="module")
def good() -> Any:
    ours = [trained(2.0, memory=2e9, joules=Energy(cpu=30.0)), trained(3.0, memory=2e9, joules=Energy(cpu=40.0))]
    ours = [dataclasses.replace(t, peak_memory_bytes=2_000_000_000) for t in ours]
    idle = harness.Idle(Energy(cpu=1.0), 5.0, ("RAPL",), None)
    other = [trained(8.0, joules=Energy(cpu=90.0)), trained(9.0, joules=Energy(cpu=80.0))]
    return results.result_of(measured(ours, other, idle))


def put(result: Any, place: Any, value: Any) -> Any:
    changed = copy.deepcopy(result)
    inner = changed
    for name in place[:-1]:
        inner = inner[name]
    if value is None and place[-1] in inner and place != ("time_ratio",):
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return changed


BROKEN = [
    (("schema_version",), 2, "schema_version is not 1"),
    (("time_ratio",), "fast", "time_ratio is no number or null"),
    (("time_ratio",), -1.0, "time_ratio is below 0"),
    (("machine", "chip"), None, "machine lacks chip"),
    (("machine", "user"), "me", "machine.'user' is not known"),
    (("workload", "rows"), True, "workload.rows is no integer"),
    (("workload", "rows"), 8.5, "workload.rows is no integer"),
    (("sides", "ours"), None, "sides lacks ours"),
    (("sides", "ours", "losses"), [], "sides.ours.losses has fewer than 1 items"),
    (("sides", "ours", "losses"), [1.0, "x"], r"sides.ours.losses\[1\] is no number"),
    (("sides", "ours", "seconds", "low"), float("nan"), "NaN|not finite"),
    (("sides", "ours", "rounds"), [{}], r"sides.ours.rounds\[0\] lacks seconds"),
    (("machine", "versions", "mlx"), 3, "machine.versions.'mlx' is no string"),
]


@pytest.mark.parametrize(("place", "value", "words"), BROKEN)
def test_the_schema_names_what_is_wrong(good: Any, place: Any, value: Any, words: Any) -> None:
    with pytest.raises(ValueError, match=words):
        schema.check(put(good, place, value))


def test_the_schema_is_a_json_schema_and_agrees_with_a_validator_of_that(good: Any) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(schema.schema())
    validator = jsonschema.Draft202012Validator(schema.schema())
    validator.validate(good)
    for place, value, _ in BROKEN:
        if value == value:  # NaN is no JSON at all
            assert not validator.is_valid(put(good, place, value))


def test_a_word_of_json_schema_that_is_not_checked_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="pattern"):
        schema._check("x", {"pattern": "y"}, {}, "")


def test_every_stored_result_is_what_the_schema_says() -> None:
    for file in (ROOT / "benchmarks" / "results" / "fine_tune").glob("*.json"):
        results.read_result(file)


DEEP = b'{"sides": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b'{"schema_version": NaN}', b"null", DEEP])
def test_a_malformed_file_is_named_and_passed_over(good: Any, tmp_path: Path, content: Any) -> None:
    (tmp_path / "good.json").write_text(json.dumps(good))
    (tmp_path / "bad.json").write_bytes(content)
    lines = []
    assert report.read_folder(tmp_path, lines.append) == [good]
    (line,) = lines
    assert "bad.json" in line and "\n" not in line and len(line) < 400


@pytest.mark.parametrize(
    ("place", "written"),
    [
        (("machine", "memory_bytes"), "1" * 400),  # above what a float holds
        (("machine", "memory_bytes"), "1" * 5000),  # above what Python reads
        (("workload", "parameters"), "1" * 400),
        (("sides", "ours", "peak_memory_bytes", "median"), "1" * 400),
        (("sides", "ours", "seconds", "median"), "1e300"),
        (("sides", "ours", "seconds", "low"), "100.0"),  # above the median
        (("machine", "chip"), '"' + "x" * 10_000 + '"'),
        (("machine", "x" * 10_000), "1"),
        (("machine", "versions", "x" * 10_000), "1"),
    ],
)
def test_a_figure_that_cannot_be_is_named_with_its_file(good: Any, tmp_path: Path, place: Any, written: Any) -> None:
    (tmp_path / "bad.json").write_text(json.dumps(put(good, place, "HERE")).replace('"HERE"', written))
    lines = []
    with pytest.raises(UserError, match="no benchmark result here"):
        report.read_folder(tmp_path, lines.append)
    (line,) = lines
    assert "bad.json" in line and "\n" not in line and len(line) < 400


def places(inner: Any, *above: Any) -> Iterator[Any]:
    """Of everything in a result, from the outside in."""
    yield above
    for name, value in inner.items() if isinstance(inner, dict) else enumerate(inner):
        if isinstance(value, dict | list):
            yield from places(value, *above, name)
        else:
            yield (*above, name)


def test_whatever_a_file_holds_in_a_place_it_is_shown_or_named(good: Any, tmp_path: Path) -> None:
    values = [None, True, -1, 0, 10**300, 1e308, 5e-324, "x" * 1000, "$x_{$ |", [], {}, [[[]]], {"median": None}]
    shown = 0
    for place in places(good):
        for value in values:
            changed = copy.deepcopy(good)
            inner = changed
            for name in place[:-1]:
                inner = inner[name]
            if place:
                inner[place[-1]] = value
            (tmp_path / "a.json").write_text(json.dumps(changed if place else value))
            lines = []
            try:
                table = report.results_table(report.read_folder(tmp_path, lines.append))
            except UserError:
                (line,) = lines
                assert "a.json" in line and "\n" not in line and len(line) < 400
            else:
                assert table.count("\n") == 5
                shown += 1
    assert shown > 100


def test_every_broken_file_is_named_even_where_no_other_is_there(tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text("{")
    done = run_command("report", tmp_path, catch=True)
    assert isinstance(done.exception, UserError)
    assert "a.json" in done.stderr and "b.json" in done.stderr


def test_a_folder_without_a_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no benchmark result here"):
        report.read_folder(tmp_path, print)
    with pytest.raises(UserError, match="no such folder"):
        report.read_folder(tmp_path / "none", print)


def test_the_table_shows_what_was_measured_and_a_dash_for_what_was_not(good: Any) -> None:
    lines = report.markdown([good, put(good, ("time_ratio",), None)]).splitlines()
    assert lines[0].startswith("| chip | workload |")
    assert "| 8.50 (8.00-9.00) | 2.50 (2.00-3.00) |" in lines[2]
    assert "| 2.00 |" in lines[2]  # GB
    assert lines[2].endswith("| - |")  # whether it was throttled is not known
    assert all(line.count("|") == lines[0].count("|") for line in lines[:4])


HOSTILE = "$x_{$ | a\nb <b>*c*</b> `d` [e](f) \x1b\ud800"


def test_names_from_outside_are_shown_as_they_are(good: Any, tmp_path: Path) -> None:
    hostile = put(put(good, ("machine", "chip"), HOSTILE), ("workload", "name"), HOSTILE)
    line = report.results_table([hostile]).splitlines()[2]
    # Every `|` that is not escaped parts two cells.
    assert len(re.findall(r"(?<!\\)\|", line)) == report.results_table([good]).splitlines()[2].count("|")
    assert r"\$x\_{\$ \| a b \<b\>\*c\*\</b\> \`d\` \[e\](f)" in line
    for written in report.write_report([hostile], tmp_path / "table.md"):
        assert "\x1b" not in written.read_text("utf-8")
        if written.suffix == ".svg":
            xml.etree.ElementTree.parse(written)


@pytest.mark.parametrize(
    "figure", ["peak_memory_bytes", "seconds", "seconds_to_loss", "rows_per_second", "target_tokens_per_second"]
)
def test_a_figure_that_was_not_measured_is_a_dash(good: Any, tmp_path: Path, figure: str) -> None:
    unknown = copy.deepcopy(good)
    for side in unknown["sides"].values():
        side[figure] = None
    (tmp_path / "a.json").write_text(json.dumps(unknown))
    done = run_command("report", tmp_path, "--out", tmp_path / "table.md")
    assert done.exit_code == 0, done.output
    assert "| - |" in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize("figure", [0.0, 5e-324, 1e18, -1e18])
def test_any_figure_that_can_be_is_drawn(good: Any, tmp_path: Path, figure: float) -> None:
    pytest.importorskip("matplotlib")
    changed = put(good, ("sides", "ours", "seconds_to_loss"), {"median": figure, "low": figure, "high": figure})
    picture = report.draw([good, changed], "seconds_to_loss", "title")
    assert xml.etree.ElementTree.fromstring(picture).tag.endswith("svg")


def test_the_table_says_which_model_was_trained(good: Any) -> None:
    def title(**changes: Any) -> Any:
        result = {**good, "workload": {**good["workload"], **changes}}
        return report.results_table([result]).splitlines()[2].split(" | ")[1]

    assert title(name="paper", model="Qwen3-0.6B", rows=896, epochs=3) == "paper (Qwen3-0.6B), 896 rows x 3"
    assert title(name="135m", model="135m", rows=32, epochs=8) == "135m, 32 rows x 8"


def test_other_projects_figures_are_marked_as_theirs() -> None:
    text = report.published_tables()
    assert text.startswith("Published by other projects")
    assert "not measured here" in text
    training, generation = text.split("\n\n| source ")[1:]
    assert training.startswith("| chip | job | speed | memory |")
    assert "| mlx-lm, LORA.md | M1 Max 32 GB |" in training
    # Reading a prompt and writing are two speeds, and neither is that of training.
    assert generation.startswith("| chip | job | prompt, tokens/s | writing, tokens/s | memory |")
    assert "| M4 Max 64 GB | Qwen3-4B-2507 bf16, 2,048 + 128 tokens | 1,780 | 52.5 | 9.0 GB |" in generation
    assert "Apple" in generation and "Qwen3-4B" not in training


def test_plots_are_drawn_by_chip_and_the_same_each_time(good: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    unmeasured = put(good, ("sides", "ours", "joules"), 0)
    unmeasured["sides"]["ours"]["joules"] = None
    unmeasured["sides"]["mlx-lm"]["joules"] = None
    files = report.write_report([good, unmeasured], tmp_path / "table.md")
    assert [file.name for file in files] == ["table.md", "table-seconds.svg", "table-joules.svg"]
    for file in files[1:]:
        assert xml.etree.ElementTree.parse(file).getroot().tag.endswith("svg")
        assert f"]({file.name})" in files[0].read_text()
    assert report.draw([good], "joules", "x") == report.draw([good], "joules", "x")
    assert report.draw([unmeasured], "joules", "") is None


def test_without_matplotlib_there_is_the_table_alone(
    good: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "can_draw", lambda: False)
    assert report.write_report([good], tmp_path / "table.md") == [tmp_path / "table.md"]


# Commands


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "run_child", train_side)


def run_command(*arguments: Any, catch: Any = False) -> Any:
    home = Cli(Home(Path("unused")), "default")
    return CliRunner().invoke(command, [str(a) for a in arguments], obj=home, catch_exceptions=catch)


def test_benchmark_runs_where_no_command_is_named_and_keeps_its_result(in_this_process: Any, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    done = run_command("--rows", 8, "--epochs", 1, "--rounds", 1, "--quick", "--out", out, "--json")
    assert done.exit_code == 0, done.output
    assert results.read_result(out) == json.loads(done.stdout)


@pytest.fixture
def not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A benchmark that would be measured fails the test."""

    def run(*_: Any, **__: Any) -> None:
        raise AssertionError("the benchmark began")

    monkeypatch.setattr("mlx_personal.benchmark.benchmark", run)


@pytest.mark.parametrize("name", ["no such folder/out.json", "file/out.json", "fifo", "x" * 300])
def test_a_result_that_could_not_be_kept_is_not_measured(not_run: Any, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    done = run_command("--quick", "--out", tmp_path / name, catch=True)
    assert isinstance(done.exception, UserError)
    assert "\n" not in done.exception.line()
    assert not list(tmp_path.glob(".*.partial"))


def test_checking_a_place_leaves_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "out.json").write_text("old")
    check_writable(tmp_path / "out.json")
    assert [file.name for file in tmp_path.iterdir()] == ["out.json"]
    assert (tmp_path / "out.json").read_text() == "old"
    with pytest.raises(UserError, match="is a folder"):
        check_writable(tmp_path)


def test_a_report_that_cannot_be_kept_is_one_line(good: Any, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(good))
    for out in (tmp_path, tmp_path / "nowhere" / "table.md"):
        done = run_command("report", tmp_path, "--out", out, catch=True)
        assert isinstance(done.exception, UserError)


def test_quick_keeps_the_sizes_that_are_asked_for(monkeypatch: pytest.MonkeyPatch, good: Any) -> None:
    asked = []
    monkeypatch.setattr("mlx_personal.benchmark.benchmark", lambda workload, *_, **__: asked.append(workload) or good)
    sizes = (["--rows", 4, "--epochs", 3, "--lora-layers", 1], ["--rows", 320], ["--lora-layers", 5], [])
    for arguments in sizes:
        assert run_command("--quick", *arguments).exit_code == 0
    assert [(w.rows, w.epochs, w.lora_layers) for w in asked] == [(4, 3, 1), (320, 2, 2), (16, 2, 5), (16, 2, 2)]
    assert {w.model for w in asked} == {"demo"}


def test_quick_refuses_another_model(not_run: Any) -> None:
    done = run_command("--quick", "--model", "owner/name", catch=True)
    assert isinstance(done.exception, UserError)
    assert "leave out --quick" in done.exception.line()


def test_quick_says_what_is_not_as_asked(monkeypatch: pytest.MonkeyPatch, good: Any) -> None:
    asked = []
    monkeypatch.setattr("mlx_personal.benchmark.benchmark", lambda workload, *_, **__: asked.append(workload) or good)
    done = run_command("--quick", "--workload", "135m", "--lora-layers", 8)
    assert [line.removeprefix("mlx-personal: ") for line in done.stderr.splitlines()] == [
        "--quick trains the embedded model in place of 135m",
        "--quick adapts all of the embedded model's 5 layers in place of 8",
    ]
    assert (asked[0].model, asked[0].lora_layers) == ("demo", -1)
    assert run_command("--quick").stderr == ""


def test_the_workloads_to_choose_from_are_those_that_there_are() -> None:
    assert {*_WORKLOADS} == {*WORKLOADS}


def test_benchmark_shows_both_sides(monkeypatch: pytest.MonkeyPatch, good: Any) -> None:
    monkeypatch.setattr("mlx_personal.benchmark.benchmark", lambda *_, **__: good)
    done = run_command("run")
    for words in ("target tokens/s", "mlx-lm", "largest difference of the losses", "idle power"):
        assert words in done.stdout


def test_a_report_with_a_malformed_file_ends_with_status_1(good: Any, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(good))
    assert run_command("report", tmp_path).exit_code == 0
    (tmp_path / "b.json").write_text("{}")
    done = run_command("report", tmp_path, "--json")
    assert done.exit_code == 1
    assert "b.json" in done.stderr
    data = json.loads(done.stdout)
    assert data["results"] == 1 and len(data["skipped"]) == 1
