"""Results: the values that are computed, the schema, and files of this version and of version 0.1."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlx_personal import UserError
from mlx_personal.benchmark import harness, results, schema
from mlx_personal.benchmark.training_run import worse_thermal_state
from mlx_personal.progress import ignore_progress
from mlx_personal.runtime.energy import Energy, Power
from mlx_personal.runtime.machine import ThermalState
from tests.benchmark.example_runs import TINY, KeyPath, Result, build, training_run, with_value
from tests.support.paths import FIXTURES, ROOT

# Values


def test_ratios_are_medians_of_the_ratios_within_rounds() -> None:
    ours = [
        training_run(elapsed_s, peak_memory_bytes=memory) for elapsed_s, memory in ((2.0, 50), (6.0, 50), (4.0, 70))
    ]
    mlx_lm = [training_run(8.0), training_run(12.0), training_run(40.0)]
    result = build(ours, mlx_lm)
    assert result["time_ratio"] == pytest.approx(0.25)  # of 1/4, 1/2 and 1/10
    assert result["memory_ratio"] == 0.5
    assert result["sides"]["ours"]["seconds"] == {"median": 4.0, "low": 2.0, "high": 6.0}
    assert result["sides"]["ours"]["rows_per_second"]["median"] == 16 / 4
    assert result["max_loss_difference"] == 0


def test_the_largest_difference_is_over_all_steps_and_rounds() -> None:
    mlx_lm = [training_run(), training_run(losses=[4.0, 4.25, 2.0, 2.0])]
    assert build([training_run(), training_run()], mlx_lm)["max_loss_difference"] == 0.25


def test_the_time_to_the_same_loss_ends_when_both_have_reached_it() -> None:
    fast = training_run(losses=[1.0, 1.0, 0.5, 0.5])  # its first epoch is below the last one of mlx-lm
    result = build([fast], [training_run(loss=2.0)])
    assert result["sides"]["ours"]["seconds_to_loss"]["median"] == 4.0
    assert result["sides"]["mlx-lm"]["seconds_to_loss"]["median"] == 8.0
    assert result["time_ratio"] == 0.5


def test_values_that_were_not_measured_are_null() -> None:
    result = build([training_run()])
    ours = result["sides"]["ours"]
    for name in ("joules", "joules_per_row", "watts"):
        assert ours[name] is None
    for name in ("time_ratio", "memory_ratio", "energy_ratio", "max_loss_difference"):
        assert result[name] is None
    assert result["energy"] == {"sources": [], "missing": "no counter", "idle_seconds": None, "idle_watts": None}


def test_idle_power_is_reported_and_subtracted() -> None:
    idle = harness.IdlePower(Power(cpu_watts=1.0, gpu_watts=2.0), 5.0, ("zeus-apple-silicon",), None)
    ours = [training_run(2.0, energy=Energy(cpu_joules=10.0, gpu_joules=26.0))]
    mlx_lm = [training_run(8.0, energy=Energy(cpu_joules=40.0, gpu_joules=44.0))]
    result = build(ours, mlx_lm, idle)
    of_ours = result["sides"]["ours"]
    assert result["energy"]["idle_watts"]["total"] == 3.0
    (round_,) = of_ours["rounds"]
    assert round_["joules"]["total"] == 36.0
    assert round_["joules_without_idle"] == {"cpu": 8.0, "gpu": 22.0, "dram": None, "ane": None, "total": 30}
    assert of_ours["joules"]["median"] == 30.0
    assert of_ours["joules_per_row"]["median"] == 30.0 / 16
    assert of_ours["watts"]["median"] == 18.0
    assert result["energy_ratio"] == 0.5


def test_a_counter_that_failed_in_one_round_leaves_no_median() -> None:
    idle = harness.IdlePower(Power(cpu_watts=1.0), 5.0, ("RAPL",), None)
    result = build([training_run(energy=Energy(cpu_joules=20.0)), training_run()], None, idle)
    assert result["sides"]["ours"]["joules"] is None
    assert result["sides"]["ours"]["rounds"][0]["joules"]["cpu"] == 20.0


def test_unplanned_batches_end_the_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    unplanned = training_run(batches=[[0, 1, 2, 3]] * 4)
    monkeypatch.setattr(harness, "train_in_child_process", lambda *_: unplanned)
    with pytest.raises(UserError, match="trained other batches than planned"):
        harness.measure_workload(TINY, None, 1, 0.0, ignore_progress)


def test_the_worse_thermal_state_is_kept() -> None:
    hot, cool = ThermalState(70.0, True, 3, ("a",)), ThermalState(60.0, False, 3, ("b",))
    assert worse_thermal_state(hot, cool) == ThermalState(70.0, True, 3, ("a", "b"))
    assert worse_thermal_state(ThermalState(throttle_count=3), ThermalState(throttle_count=4)).throttled is True
    assert worse_thermal_state(ThermalState(throttle_count=3), ThermalState(throttle_count=3)).throttled is False
    assert worse_thermal_state(ThermalState(), ThermalState()) == ThermalState()


# The schema and files

DEFECTS: list[tuple[KeyPath, object, str]] = [
    (("schema_version",), 2, "schema_version is not 1"),
    (("time_ratio",), "fast", "time_ratio is not of type number or null"),
    (("time_ratio",), -1.0, "time_ratio is below 0"),
    (("machine", "chip"), None, "machine lacks chip"),
    (("machine", "user"), "me", "machine.'user' is not known"),
    (("workload", "rows"), True, "workload.rows is not of type integer"),
    (("workload", "rows"), 8.5, "workload.rows is not of type integer"),
    (("sides", "ours"), None, "sides lacks ours"),
    (("sides", "ours", "losses"), [], "sides.ours.losses has fewer than 1 items"),
    (("sides", "ours", "losses"), [1.0, "x"], r"sides.ours.losses\[1\] is not of type number"),
    (("sides", "ours", "seconds", "low"), float("nan"), "NaN|not finite"),
    (("sides", "ours", "rounds"), [{}], r"sides.ours.rounds\[0\] lacks seconds"),
    (("machine", "versions", "mlx"), 3, "machine.versions.'mlx' is not of type string"),
]


@pytest.mark.parametrize(("path", "value", "message"), DEFECTS)
def test_the_first_defect_is_named(result: Result, path: KeyPath, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        schema.validate(with_value(result, path, value))


def test_the_schema_is_valid_and_jsonschema_agrees_with_the_validation(result: Result) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(schema.load_schema())
    validator = jsonschema.Draft202012Validator(schema.load_schema())
    validator.validate(result)
    for path, value, _ in DEFECTS:
        if value == value:  # JSON has no NaN
            assert not validator.is_valid(with_value(result, path, value))


def test_a_keyword_that_is_not_validated_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="pattern"):
        schema._validate("x", {"pattern": "y"}, {}, "")


def test_every_stored_result_is_valid() -> None:
    files = list((ROOT / "benchmarks" / "results" / "fine_tune").glob("*.json"))
    assert files
    for file in files:
        results.read_result(file)


def test_a_result_of_version_0_1_is_read() -> None:
    (file,) = (FIXTURES / "v0_1" / "benchmark").glob("*.json")
    result = results.read_result(file)
    assert result == json.loads(file.read_text())
    assert (result["schema_version"], result["workload"]["lora_layers"]) == (results.SCHEMA_VERSION, 4)
    assert result["sides"]["ours"]["way"] == "packed"


def test_a_new_result_has_the_keys_of_version_0_1(result: Result) -> None:
    (file,) = (FIXTURES / "v0_1" / "benchmark").glob("*.json")
    old = json.loads(file.read_text())
    assert result.keys() == old.keys()
    for section in ("machine", "workload", "energy"):
        assert result[section].keys() == old[section].keys()
    assert result["sides"]["ours"].keys() == old["sides"]["ours"].keys()
    assert result["sides"]["ours"]["rounds"][0].keys() == old["sides"]["ours"]["rounds"][0].keys()


def test_a_missing_file_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        results.read_result(tmp_path / "nowhere.json")
