"""Read the energy counters of the machine's components without administrator rights.

There are three sources, each used only if it is available: `zeus-apple-silicon` on Apple silicon, NVML for an NVIDIA
GPU (both in the extra `energy`), and RAPL on Linux if its files are readable. The energy of a component without a
counter is None, never 0, and `EnergyMeter.reason` says why.

Apple's counters are estimates by Apple's own model. All counters advance in steps, so a measurement of less than 10 ms
is mostly noise.
"""

from __future__ import annotations

import importlib
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

POWERCAP = Path("/sys/class/powercap")

# Time between two readings for a live display; more frequent ones would show the steps of the counters.
_LIVE_INTERVAL_S = 0.5

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Energy:
    """Energy by component of the machine; None for a component without a counter.

    Attributes:
        cpu_joules: Energy of the processor.
        gpu_joules: Energy of the GPU.
        dram_joules: Energy of the memory.
        ane_joules: Energy of the Apple Neural Engine.
    """

    cpu_joules: float | None = None
    gpu_joules: float | None = None
    dram_joules: float | None = None
    ane_joules: float | None = None

    @property
    def total_joules(self) -> float | None:
        """The sum over the components that have a counter; None if none has."""
        return _total(self.by_component())

    def by_component(self) -> dict[str, float | None]:
        """Return the joules of each component: `cpu`, `gpu`, `dram` and `ane`."""
        return {name.removesuffix("_joules"): joules for name, joules in asdict(self).items()}

    def average_power(self, elapsed_s: float) -> Power:
        """Return the mean power.

        Args:
            elapsed_s: Duration of the measurement in seconds.
        """
        return Power(*(None if joules is None else joules / elapsed_s for joules in self.by_component().values()))

    def __sub__(self, other: Energy) -> Energy:
        """Subtract component by component.

        If `other` has a component that this one lacks, a counter has failed in between, and all components are None:
        the sum of the others would look like a lower energy.
        """
        pairs = list(zip(self.by_component().values(), other.by_component().values(), strict=True))
        if any(mine is None and theirs is not None for mine, theirs in pairs):
            return Energy()
        return Energy(*(None if a is None or b is None else a - b for a, b in pairs))


@dataclass(frozen=True)
class Power:
    """Power by component of the machine; None for a component without a counter.

    Attributes:
        cpu_watts: Power of the processor.
        gpu_watts: Power of the GPU.
        dram_watts: Power of the memory.
        ane_watts: Power of the Apple Neural Engine.
    """

    cpu_watts: float | None = None
    gpu_watts: float | None = None
    dram_watts: float | None = None
    ane_watts: float | None = None

    @property
    def total_watts(self) -> float | None:
        """The sum over the components that have a counter; None if none has."""
        return _total(self.by_component())

    def by_component(self) -> dict[str, float | None]:
        """Return the watts of each component: `cpu`, `gpu`, `dram` and `ane`."""
        return {name.removesuffix("_watts"): watts for name, watts in asdict(self).items()}

    def energy(self, elapsed_s: float) -> Energy:
        """Return the energy used at this power.

        Args:
            elapsed_s: Duration in seconds.
        """
        return Energy(*(None if watts is None else watts * elapsed_s for watts in self.by_component().values()))


def _total(components: dict[str, float | None]) -> float | None:
    known = [value for value in components.values() if value is not None]
    return sum(known) if known else None


class EnergyMeter:
    """The energy counters of this machine.

    Args:
        powercap: Folder of Linux's RAPL counters.

    Attributes:
        sources: Names of the counters that were found.
        reason: Why an expected counter is missing or has failed; None if none is.
    """

    def __init__(self, powercap: Path = POWERCAP):
        self._sources: list[_Source] = []
        reasons = []
        candidates: list[tuple[bool, Callable[[], _Source]]] = [
            (sys.platform == "darwin", _Apple),
            (sys.platform == "linux", lambda: _Rapl(powercap)),
            (_computes_on_cuda(), _Nvidia),
        ]
        # All sources are tried, since a machine may have unexpected counters; only missing expected ones are reported.
        for expected, open_source in candidates:
            try:
                source = open_source()
                source.read()
                self._sources.append(source)
            except Exception as error:  # drivers and their bindings raise errors of any class
                if expected:
                    reasons.append(str(error))
                    logger.debug("no energy counter: %s", error)
        self.sources = tuple(source.name for source in self._sources)
        self.reason = "; ".join(reasons) or None
        self._last_reading: tuple[float, Energy] = (time.perf_counter(), self.read())
        self._power_watts: float | None = None

    def read(self) -> Energy:
        """Return the energy since a fixed moment; the difference of two readings is the energy between them.

        A counter that fails is None from then on. RAPL's counters wrap around after about ten minutes of heavy load and
        have to be read more often than that.
        """
        joules: dict[str, float | None] = {}
        for source in list(self._sources):
            try:
                by_component = source.read()
            except Exception as error:  # as above
                self._sources.remove(source)
                failure = f"the counter {source.name} failed: {error}"
                logger.info("%s", failure)
                self.reason = failure if self.reason is None else f"{self.reason}; {failure}"
                continue
            for component, amount in by_component.items():
                if amount is not None:
                    joules[component] = (joules.get(component) or 0.0) + amount
        return Energy(**{f"{component}_joules": amount for component, amount in joules.items()})

    def power_watts(self) -> float | None:
        """Return the mean power of all components since the last call, for a live display.

        A call within half a second of the last one returns the same value again.

        Returns:
            Watts, or None without a counter.
        """
        now = time.perf_counter()
        then, before = self._last_reading
        if now - then >= _LIVE_INTERVAL_S:
            energy = self.read()
            used = (energy - before).total_joules
            self._power_watts = None if used is None else used / (now - then)
            self._last_reading = (now, energy)
        return self._power_watts


class _Source:
    """One library or file tree with counters. The constructor raises an error if there is none."""

    name: str

    def read(self) -> dict[str, float | None]:
        """Return joules by component since a fixed moment, such as the opening of the source."""
        raise NotImplementedError


class _Apple(_Source):
    name = "zeus-apple-silicon"

    def __init__(self) -> None:
        module = _import("zeus_apple_silicon", "zeus-apple-silicon")
        # Tried in another process first: if the system lacks these channels, as a virtual machine does, the library
        # crashes.
        trial = "import zeus_apple_silicon as z; z.AppleEnergyMonitor().get_cumulative_energy()"
        completed = subprocess.run([sys.executable, "-c", trial], capture_output=True, timeout=60)
        if completed.returncode:
            raise RuntimeError("this Mac does not report its energy (it may be a virtual machine)")
        self._monitor = module.AppleEnergyMonitor()

    def read(self) -> dict[str, float | None]:
        total = self._monitor.get_cumulative_energy()
        millijoules = {"cpu": total.cpu_total_mj, "gpu": total.gpu_mj, "dram": total.dram_mj, "ane": total.ane_mj}
        return {component: None if amount is None else amount / 1000 for component, amount in millijoules.items()}


class _Nvidia(_Source):
    name = "NVML"

    def __init__(self) -> None:
        self._nvml, self._handle = open_nvml()
        self._start_joules = self._joules()

    def read(self) -> dict[str, float | None]:
        joules = self._joules()
        if joules < self._start_joules:
            raise RuntimeError("it restarted from zero because the driver was reloaded")
        return {"gpu": joules}

    def _joules(self) -> float:
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1000


class _Rapl(_Source):
    """Intel's and AMD's counters of whole processor packages and, on some servers, of the memory.

    The domains `core` and `uncore` are parts of a package, `psys` contains it, and `intel-rapl-mmio` lists the packages
    again, so reading all of them would count energy twice.
    """

    name = "RAPL"

    def __init__(self, powercap: Path) -> None:
        self._domains = []
        for folder in sorted(powercap.glob("intel-rapl:*")):
            domain = (folder / "name").read_text().strip()
            component = "cpu" if domain.startswith("package") else domain
            if component in ("cpu", "dram"):
                self._domains.append(_RaplDomain(component, folder))
        if not self._domains:
            raise RuntimeError(f"no energy counter of the processor in {powercap}")

    def read(self) -> dict[str, float | None]:
        joules: dict[str, float | None] = {}
        for domain in self._domains:
            joules[domain.component] = (joules.get(domain.component) or 0.0) + domain.joules()
        return joules


class _RaplDomain:
    """A counter of microjoules that wraps around to 0 at the end of its range."""

    def __init__(self, component: str, folder: Path):
        self.component = component
        self._file = folder / "energy_uj"
        self._range_uj = int((folder / "max_energy_range_uj").read_text())
        self._last_uj = self._read_uj()
        self._sum_uj = 0

    def joules(self) -> float:
        now_uj = self._read_uj()
        self._sum_uj += now_uj - self._last_uj + (self._range_uj if now_uj < self._last_uj else 0)
        self._last_uj = now_uj
        return self._sum_uj / 1e6

    def _read_uj(self) -> int:
        try:
            return int(self._file.read_text())
        except PermissionError:
            raise RuntimeError(f"reading the processor's energy counter {self._file} is not permitted") from None


def open_nvml() -> tuple[Any, Any]:
    """Open NVML for the GPU that MLX computes on.

    Returns:
        NVML's Python module and the GPU's handle.

    Raises:
        Exception: If there is no such library, driver or GPU; NVML has an error class for each.
    """
    nvml = _import("pynvml", "nvidia-ml-py")
    nvml.nvmlInit()
    # NVML counts all GPUs of the machine; CUDA counts those that this variable lists, by number or UUID.
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    if first.startswith("GPU-"):
        return nvml, nvml.nvmlDeviceGetHandleByUUID(first)
    return nvml, nvml.nvmlDeviceGetHandleByIndex(int(first) if first.isdigit() else 0)


def _import(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise RuntimeError(f"{package} is not installed: pip install 'mlx-personal[energy]'") from None


def _computes_on_cuda() -> bool:
    # Imported here because it imports MLX, which must be imported after `runtime.blas`.
    from mlx_personal.runtime.device import device_name

    return device_name() == "cuda"
