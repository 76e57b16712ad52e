"""What a measurement was made on: the machine's facts, and how hot it is.

All without administrator rights; None where the machine does not tell.
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
from mlx_personal.runtime.memory import physical_memory

SYS = Path("/sys")
_PACKAGES = ("mlx-personal", "mlx", "mlx-lm", "numpy")

# Bits of NVML's answer to why the clock is not higher that mean the GPU is held back; others say idle, or as asked.
_NVML_REASONS = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "thermal slowdown by the driver",
    0x40: "thermal slowdown by the hardware",
    0x80: "power brake",
}


@dataclass(frozen=True)
class Machine:
    """A machine and what is installed on it.

    Args:
        device: `metal`, `cuda` or `cpu`.
        cores: physical cores; the two kinds that a Mac has apart where it has them.
        memory_bytes: of the whole machine; of a GPU with its own, that is not this.
        os: system and version.
        blas: the library that multiplies where the device is the CPU.
        threads: what OPENBLAS_NUM_THREADS was set to; None if it was left alone.
        versions: of Python and of the packages that take part.
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
class Heat:
    """How hot the machine is now, and whether it holds itself back.

    Args:
        celsius: of the hottest sensor that may be read.
        throttled: whether it is slowed down now; None where nothing tells.
        throttle_count: how often a core was slowed down since the start of the system (Linux).
        reasons: what holds it back, in the system's words.
    """

    celsius: float | None = None
    throttled: bool | None = None
    throttle_count: int | None = None
    reasons: tuple[str, ...] = ()


def machine() -> Machine:
    """This machine's facts."""
    mac = sys.platform == "darwin"
    threads = os.environ.get("OPENBLAS_NUM_THREADS", "")
    return Machine(
        chip=device.chip_name(),
        device=device.device_name(),
        cores=_sysctl("hw.physicalcpu") if mac else linux_cores(Path("/proc/cpuinfo")),
        performance_cores=_sysctl("hw.perflevel0.physicalcpu") if mac else None,
        efficiency_cores=_sysctl("hw.perflevel1.physicalcpu") if mac else None,
        memory_bytes=physical_memory(),
        os=f"macOS {platform.mac_ver()[0]}" if mac else f"{platform.system()} {platform.release()}",
        blas=blas.preload().name,
        threads=int(threads) if threads.isdigit() else None,
        versions={"python": platform.python_version(), **{name: metadata.version(name) for name in _PACKAGES}},
    )


def heat(root: Path = SYS) -> Heat:
    """The state now: of the GPU where MLX computes on an NVIDIA one, else of the whole machine."""
    if device.device_name() == "cuda":
        return _nvidia_heat()
    return parse_therm(_output("pmset", "-g", "therm")) if sys.platform == "darwin" else _linux_heat(root)


def parse_therm(text: str) -> Heat:
    """From what `pmset -g therm` prints. Its limits are percents, 100 when nothing is held back.

    Apple silicon often tells of no limit at all: that is not knowing, not coolness.
    """
    limits = {name: int(value) for name, value in re.findall(r"(CPU_\w*Limit)\s*=\s*(\d+)", text)}
    held = tuple(f"{name} {value} %" for name, value in sorted(limits.items()) if value < 100)
    return Heat(throttled=bool(held) if limits else None, reasons=held)


def linux_cores(cpuinfo: Path) -> int | None:
    """Different pairs of package and core in /proc/cpuinfo; where it has none, as on ARM, None."""
    try:
        text = cpuinfo.read_text()
    except OSError:
        return None
    found = re.findall(r"^physical id\s*:\s*(\d+)$.*?^core id\s*:\s*(\d+)$", text, re.MULTILINE | re.DOTALL)
    return len(set(found)) or None


def nvml_reasons(bits: int) -> tuple[str, ...]:
    """What holds an NVIDIA GPU's clock back, out of NVML's reasons for its clock."""
    return tuple(words for bit, words in _NVML_REASONS.items() if bits & bit)


def _nvidia_heat() -> Heat:
    try:
        nvml, handle = open_nvml()
        celsius = float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
        reasons = nvml_reasons(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
    except Exception:  # no bindings, no driver, no right: NVML has a class of error for each
        return Heat()
    return Heat(celsius=celsius, throttled=bool(reasons), reasons=reasons)


def _linux_heat(root: Path) -> Heat:
    millidegrees = _numbers(root, "class/thermal/thermal_zone*/temp")
    counts = _numbers(root, "devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count")
    return Heat(
        celsius=max(millidegrees) / 1000 if millidegrees else None, throttle_count=sum(counts) if counts else None
    )


def _numbers(root: Path, pattern: str) -> list[int]:
    """The whole numbers in the files that match; a sensor that is off answers with an error and is passed over."""
    found = []
    for file in root.glob(pattern):
        try:
            found.append(int(file.read_text()))
        except (OSError, ValueError):
            continue
    return found


def _sysctl(name: str) -> int | None:
    text = _output("sysctl", "-n", name).strip()
    return int(text) if text.isdigit() else None


def _output(*command: str) -> str:
    """What a command of the system prints; nothing where it fails or does not exist."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
