"""Energy counters, faked where they enter the package: as files, and as the modules that a process imports."""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from mlx_personal.runtime import energy, machine
from mlx_personal.runtime.energy import Energy, EnergyMeter
from mlx_personal.runtime.machine import Heat, heat, linux_cores, nvml_reasons, parse_therm
from mlx_personal.runtime.memory import physical_memory

RANGE = 1_000_000


def fake_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: Any, source: Any) -> None:
    """A module on the path of this process and of its children."""
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
    """A powercap tree; each domain is (name, microjoules)."""
    for entry, (name, count) in domains.items():
        place = folder / entry.replace("_", ":")
        place.mkdir(parents=True, exist_ok=True)
        (place / "name").write_text(name + "\n")
        (place / "energy_uj").write_text(f"{count}\n")
        (place / "max_energy_range_uj").write_text(f"{RANGE}\n")
    return folder


@pytest.fixture
def no_counters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Neither modules nor files, whatever this machine has."""
    for name in ("zeus_apple_silicon", "pynvml"):
        monkeypatch.setitem(sys.modules, name, None)
    return tmp_path / "no-powercap"


@pytest.fixture
def linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")


def test_without_a_counter_nothing_is_known_and_the_reason_is_said(no_counters: Any, linux: Any) -> None:
    meter = EnergyMeter(no_counters)
    assert meter.read() == Energy()
    assert meter.read().total is None
    assert meter.watts() is None
    assert meter.sources == ()
    assert str(no_counters) in meter.reason


def test_a_mac_without_the_extra_is_told_how_to_get_it(no_counters: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "mlx-personal[energy]" in EnergyMeter(no_counters).reason


def test_apples_counters_are_millijoules_and_absent_ones_stay_unknown(
    no_counters: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_module(tmp_path, monkeypatch, "zeus_apple_silicon", APPLE)
    meter = EnergyMeter(no_counters)
    assert meter.sources == ("zeus-apple-silicon",)
    before = meter.read()
    assert meter.read() - before == Energy(cpu=1.0, gpu=3.0, dram=None, ane=0.0)
    assert (meter.read() - before).total == 8.0


def test_a_library_that_takes_its_process_down_is_not_called_here(
    no_counters: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash = "import os\nclass AppleEnergyMonitor:\n    def __init__(self): os.abort()\n"
    fake_module(tmp_path, monkeypatch, "zeus_apple_silicon", crash)
    monkeypatch.setattr(sys, "platform", "darwin")
    meter = EnergyMeter(no_counters)
    assert meter.read() == Energy()
    assert "virtual machine" in meter.reason


def test_nvml_counts_the_gpu_that_mlx_sees(no_counters: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_module(tmp_path, monkeypatch, "pynvml", NVML)
    meter = EnergyMeter(no_counters)
    before = meter.read()
    sys.modules["pynvml"].energy.append(12_500)
    assert meter.read() - before == Energy(gpu=7.5)
    for visible, handle in (("3,1", "gpu 3"), ("GPU-9f,1", "GPU-9f"), ("", "gpu 0")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert energy.open_nvml()[1] == handle


def test_a_gpu_without_an_energy_counter_is_named(
    no_counters: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linux: Any
) -> None:
    unsupported = NVML.replace("return energy[-1]", "raise NVMLError('Not Supported')")
    fake_module(tmp_path, monkeypatch, "pynvml", unsupported)
    monkeypatch.setattr(energy, "_computes_on_cuda", lambda: True)
    meter = EnergyMeter(no_counters)
    assert meter.read() == Energy()
    assert "Not Supported" in meter.reason


def test_rapl_adds_packages_and_memory_and_counts_nothing_twice(no_counters: Any) -> None:
    tree = {"intel-rapl_0": ("package-0", 0), "intel-rapl_1": ("package-1", 0), "intel-rapl_0_0": ("core", 0)}
    more = {"intel-rapl_0_1": ("dram", 0), "intel-rapl_2": ("psys", 0), "intel-rapl-mmio_0": ("package-0", 0)}
    folder = rapl(no_counters, **tree, **more)
    meter = EnergyMeter(folder)
    before = meter.read()
    rapl(folder, **{entry: (name, 400_000) for entry, (name, _) in {**tree, **more}.items()})
    assert meter.read() - before == Energy(cpu=0.8, dram=0.4)


def test_rapl_goes_on_beyond_the_counters_range(no_counters: Any) -> None:
    folder = rapl(no_counters, **{"intel-rapl_0": ("package-0", 900_000)})
    meter = EnergyMeter(folder)
    before = meter.read()
    for count in (100_000, 950_000, 50_000):
        rapl(folder, **{"intel-rapl_0": ("package-0", count)})
        now = meter.read()
    assert (now - before).cpu == pytest.approx(1.15)


def test_a_counter_that_fails_half_way_leaves_nothing_known_of_that_stretch(
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
    assert after - before == Energy()  # the GPU's share alone would pass for little energy
    assert meter.reason.count("RAPL") == 1
    assert "failed" in meter.reason
    meter.read()
    assert meter.reason.count("RAPL") == 1
    sys.modules["pynvml"].energy.append(10_000)
    assert meter.read() - after == Energy(gpu=1.0)


def test_nvml_that_begins_anew_has_failed(no_counters: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_module(tmp_path, monkeypatch, "pynvml", NVML)
    meter = EnergyMeter(no_counters)
    sys.modules["pynvml"].energy.append(3)
    assert meter.read() == Energy()
    assert "anew" in meter.reason


def test_watts_are_a_mean_since_the_last_look_and_looks_in_quick_succession_repeat(
    no_counters: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(energy.time, "perf_counter", lambda: clock[0])
    folder = rapl(no_counters, **{"intel-rapl_0": ("package-0", 0)})
    meter = EnergyMeter(folder)
    assert meter.watts() is None
    rapl(folder, **{"intel-rapl_0": ("package-0", 600_000)})
    clock[0] += 0.6
    assert meter.watts() == pytest.approx(1.0)
    rapl(folder, **{"intel-rapl_0": ("package-0", 700_000)})
    clock[0] += 0.1
    assert meter.watts() == pytest.approx(1.0)
    clock[0] += 0.4
    assert meter.watts() == pytest.approx(0.2)


def test_idle_power_is_taken_off_part_by_part() -> None:
    raw, idle = Energy(cpu=30.0, gpu=50.0), Energy(cpu=2.0, gpu=3.0)
    net = raw - idle.times(10)
    assert net == Energy(cpu=10.0, gpu=20.0)
    assert net.total == 30.0
    assert raw - Energy(cpu=1.0) == Energy(cpu=29.0)


WITHOUT_LIMITS = """Note: No thermal warning level has been recorded
Note: No performance warning level has been recorded
Note: No CPU power status has been recorded
"""
LIMITED = """2026-11-01 10:00:00 +0000 CPU Power notify
\tCPU_Scheduler_Limit \t= 100
\tCPU_Available_CPUs \t= 8
\tCPU_Speed_Limit \t= {}
"""


def test_pmset_tells_a_held_back_processor_and_its_silence_tells_nothing() -> None:
    assert parse_therm(WITHOUT_LIMITS) == Heat()
    assert parse_therm("") == Heat()
    assert parse_therm(LIMITED.format(100)) == Heat(throttled=False)
    assert parse_therm(LIMITED.format(62)) == Heat(throttled=True, reasons=("CPU_Speed_Limit 62 %",))


def test_linux_tells_its_hottest_sensor_and_its_throttle_counts(tmp_path: Path, linux: Any) -> None:
    zones = tmp_path / "class" / "thermal"
    for number, text in enumerate(["47500\n", "61000\n", "off\n"]):
        (zones / f"thermal_zone{number}").mkdir(parents=True)
        (zones / f"thermal_zone{number}" / "temp").write_text(text)
    for core, count in enumerate([3, 4]):
        folder = tmp_path / "devices/system/cpu" / f"cpu{core}" / "thermal_throttle"
        folder.mkdir(parents=True)
        (folder / "core_throttle_count").write_text(str(count))
    assert heat(tmp_path) == Heat(celsius=61.0, throttled=None, throttle_count=7)
    assert heat(tmp_path / "nothing") == Heat()


def test_an_nvidia_gpu_tells_its_temperature_and_what_holds_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_module(tmp_path, monkeypatch, "pynvml", NVML)
    monkeypatch.setattr(machine.device, "device_name", lambda: "cuda")
    assert heat() == Heat(71.0, True, None, ("power cap", "thermal slowdown by the hardware"))
    assert nvml_reasons(0x1) == ()
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert heat() == Heat()


def test_cores_are_counted_without_their_second_threads(tmp_path: Path) -> None:
    lines = "".join(
        f"processor\t: {n}\nphysical id\t: {n // 4}\nsiblings\t: 4\ncore id\t\t: {n % 2}\n\n" for n in range(8)
    )
    (tmp_path / "cpuinfo").write_text(lines)
    assert linux_cores(tmp_path / "cpuinfo") == 4
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nBogoMIPS\t: 48\n")
    assert linux_cores(tmp_path / "cpuinfo") is None
    assert linux_cores(tmp_path / "none") is None


def test_a_mac_tells_both_kinds_of_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sysctl = tmp_path / "sysctl"
    sysctl.write_text(
        '#!/bin/sh\ncase "$2" in hw.physicalcpu) echo 8;; hw.perflevel0.physicalcpu) echo 4;; '
        "*) echo unknown oid >&2; exit 1;; esac\n"
    )
    sysctl.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(sys, "platform", "darwin")
    facts = machine.machine()
    assert (facts.cores, facts.performance_cores, facts.efficiency_cores) == (8, 4, None)
    assert facts.versions["mlx-personal"]


def test_this_machine_tells_what_it_is() -> None:
    facts = machine.machine()
    assert facts.chip and facts.os
    assert facts.device in ("cpu", "metal", "cuda")
    assert facts.memory_bytes == physical_memory()
    assert isinstance(heat(), Heat)


@pytest.mark.skipif(sys.platform != "linux", reason="where the system says it in another way too")
def test_the_machines_memory_is_what_the_system_says() -> None:
    total = re.search(r"MemTotal: +(\d+) kB", Path("/proc/meminfo").read_text())
    assert total is not None and physical_memory() == 1024 * int(total[1])
