"""What a benchmark reports: figures that were measured, files that hold them, and tables of many files."""

from __future__ import annotations

import copy
import dataclasses
import json
import xml.etree.ElementTree
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlx_personal import UserError
from mlx_personal.backend.energy import Energy
from mlx_personal.backend.machine import Heat
from mlx_personal.benchmark import WORKLOADS, report, results, run, schema, workloads
from mlx_personal.benchmark.side import OURS, PLAIN, Trained, hotter, train_side
from mlx_personal.benchmark.workloads import mlx_lm_order
from mlx_personal.cli.answer import Cli
from mlx_personal.cli.benchmark import benchmark as command
from mlx_personal.store import Home

ROOT = Path(__file__).parent.parent
TINY = WORKLOADS["small"].changed(rows=8, epochs=2, lora_layers=1)


def trained(seconds=8.0, loss=2.0, memory=100, joules=None, **changes):
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
        way_reason=None,
        model={"layers": 5, "parameters": 10, "dtype": "float32"},
    )
    return dataclasses.replace(made, **changes)


def measured(ours, other=None, idle=None):
    sides = {OURS: ours} | ({} if other is None else {PLAIN: other})
    idle = idle or run.Idle(Energy(), None, (), "no counter")
    return run.Measured(TINY, workloads.model_folder(TINY), idle, sides)


# Figures


def test_ratios_are_ours_by_theirs_within_each_round():
    ours = [trained(2.0, memory=50), trained(6.0, memory=50), trained(4.0, memory=70)]
    other = [trained(8.0), trained(12.0), trained(40.0)]
    result = results.result_of(measured(ours, other))
    assert result["time_ratio"] == pytest.approx(0.25)  # of 1/4, 1/2 and 1/10
    assert result["memory_ratio"] == 0.5
    assert result["sides"]["ours"]["seconds"] == {"median": 4.0, "low": 2.0, "high": 6.0}
    assert result["sides"]["ours"]["rows_per_second"]["median"] == 16 / 4
    assert result["max_loss_difference"] == 0


def test_the_largest_difference_is_over_all_steps_and_rounds():
    other = [trained(), trained(losses=[4.0, 4.25, 2.0, 2.0])]
    assert results.result_of(measured([trained(), trained()], other))["max_loss_difference"] == 0.25


def test_the_time_to_the_same_loss_ends_where_both_have_reached_it():
    fast = trained(losses=[1.0, 1.0, 0.5, 0.5])  # its first epoch is below the other's last
    result = results.result_of(measured([fast], [trained(loss=2.0)]))
    assert result["sides"]["ours"]["seconds_to_loss"]["median"] == 4.0
    assert result["sides"]["mlx-lm"]["seconds_to_loss"]["median"] == 8.0
    assert result["time_ratio"] == 0.5


def test_without_a_counter_and_without_another_side_there_are_no_such_figures():
    result = results.result_of(measured([trained()]))
    ours = result["sides"]["ours"]
    for name in ("joules", "joules_per_row", "watts"):
        assert ours[name] is None
    for name in ("time_ratio", "memory_ratio", "energy_ratio", "max_loss_difference"):
        assert result[name] is None
    assert result["energy"] == {"sources": [], "missing": "no counter", "idle_seconds": None, "idle_watts": None}


def test_idle_power_is_shown_and_taken_off():
    idle = run.Idle(Energy(cpu=1.0, gpu=2.0), 5.0, ("zeus-apple-silicon",), None)
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


def test_a_counter_that_failed_in_one_round_leaves_no_median():
    idle = run.Idle(Energy(cpu=1.0), 5.0, ("RAPL",), None)
    result = results.result_of(measured([trained(joules=Energy(cpu=20.0)), trained()], None, idle))
    assert result["sides"]["ours"]["joules"] is None
    assert result["sides"]["ours"]["rounds"][0]["joules"]["cpu"] == 20.0


def test_other_rows_than_planned_end_the_comparison(monkeypatch):
    strange = trained(order=[[0, 1, 2, 3]] * 4)
    monkeypatch.setattr(run, "run_child", lambda *_: strange)
    with pytest.raises(UserError, match="took other rows than planned"):
        run.measure(TINY, None, 1, 0.0, lambda *_: None)


def test_the_heat_of_a_round_is_its_worst():
    assert hotter(Heat(70.0, True, 3, ("a",)), Heat(60.0, False, 3, ("b",))) == Heat(70.0, True, 3, ("a", "b"))
    assert hotter(Heat(throttle_count=3), Heat(throttle_count=4)).throttled is True
    assert hotter(Heat(throttle_count=3), Heat(throttle_count=3)).throttled is False
    assert hotter(Heat(), Heat()) == Heat()


# Files


@pytest.fixture(scope="module")
def good():
    ours = [trained(2.0, memory=2e9, joules=Energy(cpu=30.0)), trained(3.0, memory=2e9, joules=Energy(cpu=40.0))]
    ours = [dataclasses.replace(t, peak_memory_bytes=2_000_000_000) for t in ours]
    idle = run.Idle(Energy(cpu=1.0), 5.0, ("RAPL",), None)
    other = [trained(8.0, joules=Energy(cpu=90.0)), trained(9.0, joules=Energy(cpu=80.0))]
    return results.result_of(measured(ours, other, idle))


def put(result, place, value):
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
    (("machine", "user"), "me", "machine.user is not known"),
    (("workload", "rows"), True, "workload.rows is no integer"),
    (("workload", "rows"), 8.5, "workload.rows is no integer"),
    (("sides", "ours"), None, "sides lacks ours"),
    (("sides", "ours", "losses"), [], "sides.ours.losses has fewer than 1 items"),
    (("sides", "ours", "losses"), [1.0, "x"], r"sides.ours.losses\[1\] is no number"),
    (("sides", "ours", "seconds", "low"), float("nan"), "NaN|not finite"),
    (("sides", "ours", "rounds"), [{}], r"sides.ours.rounds\[0\] lacks seconds"),
    (("machine", "versions", "mlx"), 3, "machine.versions.mlx is no string"),
]


@pytest.mark.parametrize(("place", "value", "words"), BROKEN)
def test_the_schema_names_what_is_wrong(good, place, value, words):
    with pytest.raises(ValueError, match=words):
        schema.check(put(good, place, value))


def test_the_schema_is_a_json_schema_and_agrees_with_a_validator_of_that(good):
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(schema.schema())
    validator = jsonschema.Draft202012Validator(schema.schema())
    validator.validate(good)
    for place, value, _ in BROKEN:
        if value == value:  # NaN is no JSON at all
            assert not validator.is_valid(put(good, place, value))


def test_a_word_of_json_schema_that_is_not_checked_is_refused():
    with pytest.raises(NotImplementedError, match="pattern"):
        schema._check("x", {"pattern": "y"}, {}, "")


def test_every_stored_result_is_what_the_schema_says():
    for file in (ROOT / "benchmarks" / "results" / "fine_tune").glob("*.json"):
        results.read_result(file)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b'{"schema_version": NaN}', b"null"])
def test_a_malformed_file_is_named_and_passed_over(good, tmp_path, content):
    (tmp_path / "good.json").write_text(json.dumps(good))
    (tmp_path / "bad.json").write_bytes(content)
    read = report.read_folder(tmp_path)
    assert len(read.results) == 1
    (line,) = read.skipped
    assert "bad.json" in line and "\n" not in line


def test_a_folder_without_a_result_is_refused(tmp_path):
    with pytest.raises(UserError, match="no benchmark result here"):
        report.read_folder(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        report.read_folder(tmp_path / "none")


def test_the_table_shows_what_was_measured_and_a_dash_for_what_was_not(good):
    lines = report.markdown([good, put(good, ("time_ratio",), None)]).splitlines()
    assert lines[0].startswith("| chip | workload |")
    assert "| 8.50 (8.00-9.00) | 2.50 (2.00-3.00) |" in lines[2]
    assert "| 2.00 |" in lines[2]  # GB
    assert lines[2].endswith("| - |")  # whether it was throttled is not known
    assert all(line.count("|") == lines[0].count("|") for line in lines[:4])


def test_other_projects_figures_are_marked_as_theirs(good):
    text = report.markdown([good])
    theirs = text[text.index("Published by other projects") :]
    assert "| mlx-lm, LORA.md | M1 Max 32 GB |" in theirs
    assert "not measured here" in theirs


def test_plots_are_drawn_by_chip_and_the_same_each_time(good, tmp_path):
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


def test_without_matplotlib_there_is_the_table_alone(good, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "can_draw", lambda: False)
    assert report.write_report([good], tmp_path / "table.md") == [tmp_path / "table.md"]


# Commands


@pytest.fixture
def in_this_process(monkeypatch):
    monkeypatch.setattr(run, "run_child", train_side)


def run_command(*arguments):
    home = Cli(Home(Path("unused")), "default")
    return CliRunner().invoke(command, [str(a) for a in arguments], obj=home, catch_exceptions=False)


def test_benchmark_runs_where_no_command_is_named_and_keeps_its_result(in_this_process, tmp_path):
    out = tmp_path / "result.json"
    done = run_command("--rows", 8, "--epochs", 1, "--rounds", 1, "--quick", "--out", out, "--json")
    assert done.exit_code == 0, done.output
    assert results.read_result(out) == json.loads(done.stdout)


def test_benchmark_shows_both_sides(monkeypatch, good):
    monkeypatch.setattr("mlx_personal.benchmark.benchmark", lambda *_, **__: good)
    done = run_command("run")
    for words in ("target tokens/s", "mlx-lm", "largest difference of the losses", "idle power"):
        assert words in done.stdout


def test_a_report_with_a_malformed_file_ends_with_status_1(good, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(good))
    assert run_command("report", tmp_path).exit_code == 0
    (tmp_path / "b.json").write_text("{}")
    done = run_command("report", tmp_path, "--json")
    assert done.exit_code == 1
    assert "b.json" in done.stderr
    data = json.loads(done.stdout)
    assert data["results"] == 1 and len(data["skipped"]) == 1
