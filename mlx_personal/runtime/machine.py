"""Describe the machine of a measurement: the hardware, the installed versions and the thermal state.

Everything is read without administrator rights. Values that the machine does not report are None.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from mlx_personal.runtime import blas, device
from mlx_personal.runtime.energy import open_nvml
from mlx_personal.runtime.memory import physical_memory_bytes

SYSFS = Path("/sys")
_PACKAGES = ("mlx-personal", "mlx", "mlx-lm", "numpy")

# Bits of NVML's clock throttle reasons that mean that the GPU is slowed down; others mean idle or a user's setting.
_NVML_THROTTLE_REASONS = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "thermal slowdown by the driver",
    0x40: "thermal slowdown by the hardware",
    0x80: "power brake",
}


@dataclass(frozen=True)
class MachineInfo:
    """A machine and the versions installed on it. The fields' names are keys of stored benchmark results.

    Attributes:
        chip: Manufacturer's name of the chip.
        device: `metal`, `cuda` or `cpu`.
        cores: Number of physical cores.
        performance_cores: Number of fast cores, on a Mac that has two kinds.
        efficiency_cores: Number of economical cores, on a Mac that has two kinds.
        memory_bytes: Memory of the whole machine, without a GPU's own.
        os: Operating system and its version.
        blas: Library that multiplies matrices where the device is the CPU.
        threads: Value of OPENBLAS_NUM_THREADS; None if it is not set.
        versions: Versions of Python and of the packages that determine the results.
    """

    chip: str
    device: str
    cores: int | None
    performance_cores: int | None
    efficiency_cores: int | None
    memory_bytes: int | None
    os: str
    blas: str
    threads: int | None
    versions: dict[str, str]


@dataclass(frozen=True)
class ThermalState:
    """The temperature of the machine, and whether it is throttled.

    Attributes:
        temperature_celsius: Temperature of the hottest readable sensor.
        throttled: Whether the machine is slowed down now; None if that is not known.
        throttle_count: Number of times that a core was slowed down since the system started (Linux).
        reasons: Why it is slowed down, in the system's words.
    """

    temperature_celsius: float | None = None
    throttled: bool | None = None
    throttle_count: int | None = None
    reasons: tuple[str, ...] = ()


def machine_info() -> MachineInfo:
    """Return the hardware and the versions of this machine."""
    is_mac = sys.platform == "darwin"
    threads = os.environ.get("OPENBLAS_NUM_THREADS", "")
    return MachineInfo(
        chip=device.chip_name(),
        device=device.device_name(),
        cores=_sysctl("hw.physicalcpu") if is_mac else linux_core_count(Path("/proc/cpuinfo")),
        performance_cores=_sysctl("hw.perflevel0.physicalcpu") if is_mac else None,
        efficiency_cores=_sysctl("hw.perflevel1.physicalcpu") if is_mac else None,
        memory_bytes=physical_memory_bytes(),
        os=f"macOS {platform.mac_ver()[0]}" if is_mac else f"{platform.system()} {platform.release()}",
        blas=blas.preload().name,
        threads=int(threads) if threads.isdigit() else None,
        versions={"python": platform.python_version(), **{name: metadata.version(name) for name in _PACKAGES}},
    )


def thermal_state(sys_folder: Path = SYSFS) -> ThermalState:
    """Return the current thermal state: of the NVIDIA GPU if MLX computes on one, else of the whole machine.

    Args:
        sys_folder: Root of Linux's sysfs.
    """
    if device.device_name() == "cuda":
        return _nvidia_thermal_state()
    if sys.platform == "darwin":
        return parse_pmset_therm(_command_output("pmset", "-g", "therm"))
    return _linux_thermal_state(sys_folder)


def parse_pmset_therm(text: str) -> ThermalState:
    """Parse the output of `pmset -g therm`, whose limits are in percent: 100 means that nothing is slowed down.

    Apple silicon often reports no limit at all; then `throttled` is None.

    Args:
        text: The output.
    """
    limits = {name: int(value) for name, value in re.findall(r"(CPU_\w*Limit)\s*=\s*(\d+)", text)}
    reasons = tuple(f"{name} {value} %" for name, value in sorted(limits.items()) if value < 100)
    return ThermalState(throttled=bool(reasons) if limits else None, reasons=reasons)


def linux_core_count(cpuinfo: Path) -> int | None:
    """Count the distinct pairs of package and core in /proc/cpuinfo.

    Args:
        cpuinfo: The file.

    Returns:
        The number of cores; None if the file does not list them, as on ARM.
    """
    try:
        text = cpuinfo.read_text()
    except OSError:
        return None
    cores = re.findall(r"^physical id\s*:\s*(\d+)$.*?^core id\s*:\s*(\d+)$", text, re.MULTILINE | re.DOTALL)
    return len(set(cores)) or None


def nvml_throttle_reasons(bits: int) -> tuple[str, ...]:
    """Return why an NVIDIA GPU is slowed down.

    Args:
        bits: NVML's bits of clock throttle reasons.
    """
    return tuple(reason for bit, reason in _NVML_THROTTLE_REASONS.items() if bits & bit)


def _nvidia_thermal_state() -> ThermalState:
    try:
        nvml, handle = open_nvml()
        celsius = float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
        reasons = nvml_throttle_reasons(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
    except Exception:  # NVML raises errors of different classes without bindings, driver or permission
        return ThermalState()
    return ThermalState(temperature_celsius=celsius, throttled=bool(reasons), reasons=reasons)


def _linux_thermal_state(sys_folder: Path) -> ThermalState:
    millidegrees = _read_integers(sys_folder, "class/thermal/thermal_zone*/temp")
    counts = _read_integers(sys_folder, "devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count")
    return ThermalState(
        temperature_celsius=max(millidegrees) / 1000 if millidegrees else None,
        throttle_count=sum(counts) if counts else None,
    )


def _read_integers(folder: Path, pattern: str) -> list[int]:
    """Read an integer from each matching file; a disabled sensor raises an error and is skipped."""
    values = []
    for file in folder.glob(pattern):
        try:
            values.append(int(file.read_text()))
        except (OSError, ValueError):
            continue
    return values


def _sysctl(name: str) -> int | None:
    text = _command_output("sysctl", "-n", name).strip()
    return int(text) if text.isdigit() else None


def _command_output(*command: str) -> str:
    """Return what a system command prints, or nothing if it fails or does not exist."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
