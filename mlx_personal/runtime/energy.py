"""Energy counters, without administrator rights: what a stretch of work took, in joules by part of the machine.

Three sources, each optional and only loaded where it is there: `zeus-apple-silicon` on Apple silicon and NVML for an
NVIDIA GPU (both in the extra `energy`), RAPL on Linux where its files may be read. What no counter tells is None, never
0, and `EnergyMeter.reason` says once why.

Apple's figures are its own model's estimates, and all counters move in steps: a stretch under 10 ms is mostly noise.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

POWERCAP = Path("/sys/class/powercap")

# Seconds between two looks at the counters for a live display: a finer one would show the steps they move in.
_LIVE = 0.5


@dataclass(frozen=True)
class Energy:
    """Joules by part of the machine; None where no counter tells. Divided by seconds, the same holds watts."""

    cpu: float | None = None
    gpu: float | None = None
    dram: float | None = None
    ane: float | None = None

    @property
    def total(self) -> float | None:
        """The sum over the parts that have a counter; None if none has."""
        known = [part for part in self._parts() if part is not None]
        return sum(known) if known else None

    def __sub__(self, other: Energy) -> Energy:
        """Part by part. Nothing is known where `other` knows a part that this does not.

        Its counter has failed in between, and what is left of the sum would pass for less energy.
        """
        pairs = list(zip(self._parts(), other._parts(), strict=True))
        if any(mine is None and theirs is not None for mine, theirs in pairs):
            return Energy()
        return Energy(*(None if a is None or b is None else a - b for a, b in pairs))

    def times(self, factor: float) -> Energy:
        """Every part so many times."""
        return Energy(*(None if part is None else part * factor for part in self._parts()))

    def _parts(self) -> list[float | None]:
        return [getattr(self, field.name) for field in fields(self)]


class EnergyMeter:
    """This machine's energy counters.

    Attributes:
        sources: the names of the counters that were found.
        reason: why a counter that this machine should have is missing, or has failed since; None if none is.
    """

    def __init__(self, powercap: Path = POWERCAP):
        self._sources: list[_Source] = []
        reasons = []
        makers: list[tuple[bool, Callable[[], _Source]]] = [
            (sys.platform == "darwin", _Apple),
            (sys.platform == "linux", lambda: _Rapl(powercap)),
            (_computes_on_cuda(), _Nvidia),
        ]
        # All are tried: a machine has counters that nobody expects. Only the absence of an expected one is said.
        for expected, make in makers:
            try:
                source = make()
                source.read()
                self._sources.append(source)
            except Exception as error:  # drivers and their bindings raise what they like
                if expected:
                    reasons.append(str(error))
        self.sources = tuple(source.name for source in self._sources)
        self.reason = "; ".join(reasons) or None
        self._last: tuple[float, Energy] = (time.perf_counter(), self.read())
        self._watts: float | None = None

    def read(self) -> Energy:
        """Joules since a moment that is the same for every reading of this meter: subtract two of them.

        A counter that fails is None from then on. RAPL's run over after some ten minutes of hard work: read more often.
        """
        joules: dict[str, float | None] = {}
        for source in list(self._sources):
            try:
                found = source.read()
            except Exception as error:  # as above
                self._sources.remove(source)
                failed = f"the counter {source.name} failed: {error}"
                self.reason = failed if self.reason is None else f"{self.reason}; {failed}"
                continue
            for part, amount in found.items():
                if amount is not None:
                    joules[part] = (joules.get(part) or 0.0) + amount
        return Energy(**joules)

    def watts(self) -> float | None:
        """The mean power of all parts since the last look, for a live display; None where no counter tells.

        A look within half a second of the last repeats what that one found.
        """
        now = time.perf_counter()
        then, before = self._last
        if now - then >= _LIVE:
            energy = self.read()
            used = (energy - before).total
            self._watts = None if used is None else used / (now - then)
            self._last = (now, energy)
        return self._watts


class _Source:
    """One library or file tree with counters. Its constructor raises where there is none, and says why."""

    name: str

    def read(self) -> dict[str, float | None]:
        """Joules by the name of an `Energy` part, since the source's own beginning."""
        raise NotImplementedError


class _Apple(_Source):
    name = "zeus-apple-silicon"

    def __init__(self) -> None:
        module = _import("zeus_apple_silicon", "zeus-apple-silicon")
        # Tried in a process of its own: where the system has none of these channels, as on a virtual machine, the
        # library reads through a null pointer and takes its process down.
        trial = "import zeus_apple_silicon as z; z.AppleEnergyMonitor().get_cumulative_energy()"
        done = subprocess.run([sys.executable, "-c", trial], capture_output=True, timeout=60)
        if done.returncode:
            raise RuntimeError("this Mac does not tell its energy (it may be a virtual machine)")
        self._monitor = module.AppleEnergyMonitor()

    def read(self) -> dict[str, float | None]:
        found = self._monitor.get_cumulative_energy()
        parts = {"cpu": found.cpu_total_mj, "gpu": found.gpu_mj, "dram": found.dram_mj, "ane": found.ane_mj}
        return {part: None if amount is None else amount / 1000 for part, amount in parts.items()}


class _Nvidia(_Source):
    name = "NVML"

    def __init__(self) -> None:
        self._nvml, self._handle = open_nvml()
        self._start = self._joules()

    def read(self) -> dict[str, float | None]:
        joules = self._joules()
        if joules < self._start:
            raise RuntimeError("it began anew; the driver was loaded again")
        return {"gpu": joules}

    def _joules(self) -> float:
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1000


class _Rapl(_Source):
    """Intel's and AMD's counters of whole processor packages and, on some servers, of the memory beside them.

    The domains `core` and `uncore` lie within a package, `psys` around it, and `intel-rapl-mmio` shows the packages a
    second time: all of them would count energy twice.
    """

    name = "RAPL"

    def __init__(self, powercap: Path) -> None:
        self._domains = []
        for folder in sorted(powercap.glob("intel-rapl:*")):
            domain = (folder / "name").read_text().strip()
            part = "cpu" if domain.startswith("package") else domain
            if part in ("cpu", "dram"):
                self._domains.append(_RaplDomain(part, folder))
        if not self._domains:
            raise RuntimeError(f"no energy counter of the processor in {powercap}")

    def read(self) -> dict[str, float | None]:
        joules: dict[str, float | None] = {}
        for domain in self._domains:
            joules[domain.part] = (joules.get(domain.part) or 0.0) + domain.joules()
        return joules


class _RaplDomain:
    """A counter of microjoules that begins at 0 again beyond its range."""

    def __init__(self, part: str, folder: Path):
        self.part = part
        self._file = folder / "energy_uj"
        self._range = int((folder / "max_energy_range_uj").read_text())
        self._last = self._now()
        self._sum = 0

    def joules(self) -> float:
        now = self._now()
        self._sum += now - self._last + (self._range if now < self._last else 0)
        self._last = now
        return self._sum / 1e6

    def _now(self) -> int:
        try:
            return int(self._file.read_text())
        except PermissionError:
            raise RuntimeError(f"the processor's energy counter {self._file} may be read by its owner only") from None


def open_nvml() -> tuple[Any, Any]:
    """NVML's Python module and its handle of the GPU that MLX computes on; raises where there is none."""
    nvml = _import("pynvml", "nvidia-ml-py")
    nvml.nvmlInit()
    # NVML counts all the machine's GPUs, CUDA those that this variable names, by number or by UUID.
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
    from mlx_personal.runtime.device import device_name  # it imports MLX, which must come after `backend.blas`

    return device_name() == "cuda"
