"""Energy counters and thermal state, with fake counters: files, and modules on the path of a process."""

from __future__ import annotations

import re
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from mlx_personal.runtime import device, energy
from mlx_personal.runtime.energy import Energy, EnergyMeter, Power
from mlx_personal.runtime.machine import (
    ThermalState,
    linux_core_count,
    machine_info,
    nvml_throttle_reasons,
    parse_pmset_therm,
    thermal_state,
)
from mlx_personal.runtime.memory import physical_memory_bytes

RANGE_UJ = 1_000_000


def fake_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: Any, source: Any) -> None:
    """Put a module on the path of this process and of its children."""
    folder = tmp_path / "modules"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(textwrap.dedent(source))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, name, raising=False)


APPLE = """
    class Metrics:
        cpu_total_mj, gpu_mj, dram_mj, ane_mj = 1500, 20000, None, 0

    class AppleEnergyMonitor:
        def get_cumulative_energy(self):
            Metrics.cpu_total_mj += 1000
            Metrics.gpu_mj += 3000
            return Metrics
"""
NVML = """
    NVML_TEMPERATURE_GPU = 0
    energy = [5_000]

    class NVMLError(Exception): ...

    def nvmlInit(): ...
    def nvmlDeviceGetHandleByIndex(index): return f"gpu {index}"
    def nvmlDeviceGetHandleByUUID(uuid): return uuid
    def nvmlDeviceGetTotalEnergyConsumption(handle): return energy[-1]
    def nvmlDeviceGetTemperature(handle, sensor): return 71
    def nvmlDeviceGetCurrentClocksThrottleReasons(handle): return 0x44
"""


def rapl(folder: Any, **domains: Any) -> Any:
    """Write a powercap tree; each domain is (name, microjoules)."""
    for entry, (name, count) in domains.items():
        domain = folder / entry.replace("_", ":")
        domain.mkdir(parents=True, exist_ok=True)
        (domain / "name").write_text(name + "\n")
        (domain / "energy_uj").write_text(f"{count}\n")
        (domain / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
    return folder


def reason_of(meter: EnergyMeter) -> str:
    assert meter.reason is not None
    return meter.reason


@pytest.fixture
def no_counters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine without counters: neither modules nor files."""
    for name in ("zeus_apple_silicon", "pynvml"):
        monkeypatch.setitem(sys.modules, name, None)
    return tmp_path / "no-powercap"


@pytest.fixture
def linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")


def test_without_a_counter_the_energy_is_unknown_and_the_reason_is_given(no_counters: Any, linux: Any) -> None:
    meter = EnergyMeter(no_counters)
    assert meter.read() == Energy()
    assert meter.read().total_joules is None
    assert meter.power_watts() is None
    assert meter.sources == ()
    assert str(no_counters) in reason_of(meter)


def test_a_mac_without_the_extra_gets_the_command_to_install_it(
    no_counters: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "mlx-personal[energy]" in reason_of(EnergyMeter(no_counters))


def test_apple_counters_are_millijoules_and_missing_ones_stay_unknown(
    no_counters: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_module(tmp_path, monkeypatch, "zeus_apple_silicon", APPLE)
    meter = EnergyMeter(no_counters)
    assert meter.sources == ("zeus-apple-silicon",)
    before = meter.read()
    assert meter.read() - before == Energy(cpu_joules=1.0, gpu_joules=3.0, dram_joules=None, ane_joules=0.0)
    assert (meter.read() - before).total_joules == 8.0


def test_a_library_that_crashes_is_not_called_in_this_process(
    no_counters: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash = "import os\nclass AppleEnergyMonitor:\n    def __init__(self): os.abort()\n"
    fake_module(tmp_path, monkeypatch, "zeus_apple_silicon", crash)
    monkeypatch.setattr(sys, "platform", "darwin")
    meter = EnergyMeter(no_counters)
    assert meter.read() == Energy()
    assert "virtual machine" in reason_of(meter)


def test_nvml_reads_the_gpu_that_mlx_uses(no_counters: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_module(tmp_path, monkeypatch, "pynvml", NVML)
    meter = EnergyMeter(no_counters)
    before = meter.read()
    sys.modules["pynvml"].energy.append(12_500)
    assert meter.read() - before == Energy(gpu_joules=7.5)
    for visible, handle in (("3,1", "gpu 3"), ("GPU-9f,1", "GPU-9f"), ("", "gpu 0")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert energy.open_nvml()[1] == handle


def test_a_gpu_without_an_energy_counter_is_reported(
    no_counters: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linux: Any
) -> None:
    unsupported = NVML.replace("return energy[-1]", "raise NVMLError('Not Supported')")
    fake_module(tmp_path, monkeypatch, "pynvml", unsupported)
    monkeypatch.setattr(energy, "_computes_on_cuda", lambda: True)
    meter = EnergyMeter(no_counters)
    assert meter.read() == Energy()
    assert "Not Supported" in reason_of(meter)


def test_rapl_adds_packages_and_memory_and_counts_nothing_twice(no_counters: Any) -> None:
    tree = {"intel-rapl_0": ("package-0", 0), "intel-rapl_1": ("package-1", 0), "intel-rapl_0_0": ("core", 0)}
    more = {"intel-rapl_0_1": ("dram", 0), "intel-rapl_2": ("psys", 0), "intel-rapl-mmio_0": ("package-0", 0)}
    folder = rapl(no_counters, **tree, **more)
    meter = EnergyMeter(folder)
    before = meter.read()
    rapl(folder, **{entry: (name, 400_000) for entry, (name, _) in {**tree, **more}.items()})
    assert meter.read() - before == Energy(cpu_joules=0.8, dram_joules=0.4)


def test_rapl_counters_wrap_around(no_counters: Any) -> None:
    folder = rapl(no_counters, **{"intel-rapl_0": ("package-0", 900_000)})
    meter = EnergyMeter(folder)
    before = meter.read()
    for count in (100_000, 950_000, 50_000):
        rapl(folder, **{"intel-rapl_0": ("package-0", count)})
        now = meter.read()
    assert (now - before).cpu_joules == pytest.approx(1.15)


def test_a_counter_that_fails_makes_the_measurement_unknown(
    no_counters: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linux: Any
) -> None:
    fake_module(tmp_path, monkeypatch, "pynvml", NVML)
    folder = rapl(no_counters, **{"intel-rapl_0": ("package-0", 0)})
    meter = EnergyMeter(folder)
    assert meter.sources == ("RAPL", "NVML")
    before = meter.read()
    (folder / "intel-rapl:0" / "energy_uj").unlink()
    sys.modules["pynvml"].energy.append(9_000)
    after = meter.read()
    assert after - before == Energy()  # the GPU alone would look like low energy
    assert reason_of(meter).count("RAPL") == 1
    assert "failed" in reason_of(meter)
    meter.read()
    assert reason_of(meter).count("RAPL") == 1
    sys.modules["pynvml"].energy.append(10_000)
    assert meter.read() - after == Energy(gpu_joules=1.0)


def test_an_nvml_counter_that_restarts_has_failed(
    no_counters: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_module(tmp_path, monkeypatch, "pynvml", NVML)
    meter = EnergyMeter(no_counters)
    sys.modules["pynvml"].energy.append(3)
    assert meter.read() == Energy()
    assert "restarted" in reason_of(meter)


def test_power_is_a_mean_since_the_last_reading_and_is_repeated_within_half_a_second(
    no_counters: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    folder = rapl(no_counters, **{"intel-rapl_0": ("package-0", 0)})
    meter = EnergyMeter(folder)
    assert meter.power_watts() is None
    rapl(folder, **{"intel-rapl_0": ("package-0", 600_000)})
    clock[0] += 0.6
    assert meter.power_watts() == pytest.approx(1.0)
    rapl(folder, **{"intel-rapl_0": ("package-0", 700_000)})
    clock[0] += 0.1
    assert meter.power_watts() == pytest.approx(1.0)
    clock[0] += 0.4
    assert meter.power_watts() == pytest.approx(0.2)


def test_idle_power_is_subtracted_by_component() -> None:
    raw, idle = Energy(cpu_joules=30.0, gpu_joules=50.0), Power(cpu_watts=2.0, gpu_watts=3.0)
    net = raw - idle.energy(10)
    assert net == Energy(cpu_joules=10.0, gpu_joules=20.0)
    assert net.total_joules == 30.0
    assert raw - Energy(cpu_joules=1.0) == Energy(cpu_joules=29.0)


WITHOUT_LIMITS = """Note: No thermal warning level has been recorded
Note: No performance warning level has been recorded
Note: No CPU power status has been recorded
"""
LIMITED = """2026-11-01 10:00:00 +0000 CPU Power notify
\tCPU_Scheduler_Limit \t= 100
\tCPU_Available_CPUs \t= 8
\tCPU_Speed_Limit \t= {}
"""


def test_pmset_reports_throttling_and_no_output_means_unknown() -> None:
    assert parse_pmset_therm(WITHOUT_LIMITS) == ThermalState()
    assert parse_pmset_therm("") == ThermalState()
    assert parse_pmset_therm(LIMITED.format(100)) == ThermalState(throttled=False)
    assert parse_pmset_therm(LIMITED.format(62)) == ThermalState(throttled=True, reasons=("CPU_Speed_Limit 62 %",))


def test_linux_reports_the_hottest_sensor_and_throttle_counts(tmp_path: Path, linux: Any) -> None:
    zones = tmp_path / "class" / "thermal"
    for number, text in enumerate(["47500\n", "61000\n", "off\n"]):
        (zones / f"thermal_zone{number}").mkdir(parents=True)
        (zones / f"thermal_zone{number}" / "temp").write_text(text)
    for core, count in enumerate([3, 4]):
        folder = tmp_path / "devices/system/cpu" / f"cpu{core}" / "thermal_throttle"
        folder.mkdir(parents=True)
        (folder / "core_throttle_count").write_text(str(count))
    assert thermal_state(tmp_path) == ThermalState(temperature_celsius=61.0, throttled=None, throttle_count=7)
    assert thermal_state(tmp_path / "nothing") == ThermalState()


def test_an_nvidia_gpu_reports_its_temperature_and_throttle_reasons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_module(tmp_path, monkeypatch, "pynvml", NVML)
    monkeypatch.setattr(device, "device_name", lambda: "cuda")
    assert thermal_state() == ThermalState(71.0, True, None, ("power cap", "thermal slowdown by the hardware"))
    assert nvml_throttle_reasons(0x1) == ()
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert thermal_state() == ThermalState()


def test_physical_cores_are_counted_without_hyperthreads(tmp_path: Path) -> None:
    lines = "".join(
        f"processor\t: {n}\nphysical id\t: {n // 4}\nsiblings\t: 4\ncore id\t\t: {n % 2}\n\n" for n in range(8)
    )
    (tmp_path / "cpuinfo").write_text(lines)
    assert linux_core_count(tmp_path / "cpuinfo") == 4
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nBogoMIPS\t: 48\n")
    assert linux_core_count(tmp_path / "cpuinfo") is None
    assert linux_core_count(tmp_path / "none") is None


def test_a_mac_reports_both_kinds_of_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sysctl = tmp_path / "sysctl"
    sysctl.write_text(
        '#!/bin/sh\ncase "$2" in hw.physicalcpu) echo 8;; hw.perflevel0.physicalcpu) echo 4;; '
        "*) echo unknown oid >&2; exit 1;; esac\n"
    )
    sysctl.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(sys, "platform", "darwin")
    info = machine_info()
    assert (info.cores, info.performance_cores, info.efficiency_cores) == (8, 4, None)
    assert info.versions["mlx-personal"]


def test_the_info_of_this_machine_is_complete() -> None:
    info = machine_info()
    assert info.chip and info.os
    assert info.device in ("cpu", "metal", "cuda")
    assert info.memory_bytes == physical_memory_bytes()
    assert isinstance(thermal_state(), ThermalState)


@pytest.mark.skipif(sys.platform != "linux", reason="compares with /proc/meminfo")
def test_physical_memory_is_the_systems_total() -> None:
    total = re.search(r"MemTotal: +(\d+) kB", Path("/proc/meminfo").read_text())
    assert total is not None and physical_memory_bytes() == 1024 * int(total[1])
