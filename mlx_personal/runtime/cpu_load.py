"""The load of the processors by other processes on Linux, read without waiting.

A load is a mean over some time, so it needs two readings. The first one is made when this object is created, and each
later call compares with the reading before it: what happens between the start of a program and its first computation is
measured without delaying it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# The system counts hundredths of a second; over a shorter time two readings say nothing.
_MIN_INTERVAL_S = 0.2


@dataclass(frozen=True)
class CpuTimes:
    """Seconds that the processors have worked.

    Attributes:
        clock_s: Time of the reading, in seconds of any clock.
        busy_s: Seconds of all processes, on the processors that this process may use.
        own_s: Seconds of this process among them.
    """

    clock_s: float
    busy_s: float
    own_s: float


class OtherLoad:
    """Measures how many processors the other processes use.

    Args:
        read: Reads the processors' times; None where the system does not report them.
    """

    def __init__(self, read: Callable[[], CpuTimes | None] | None = None):
        self._read = read or read_cpu_times
        self._last = self._read()
        self._processors: float | None = None

    def processors(self) -> float | None:
        """Return the mean number of processors that others have used since the last measurement.

        Returns:
            The number; that of the last measurement if that was less than 0.2 seconds ago; None if it is not known.
        """
        now, last = self._read(), self._last
        if now is None or last is None:
            self._last = now
        elif now.clock_s - last.clock_s >= _MIN_INTERVAL_S:
            others_s = (now.busy_s - last.busy_s) - (now.own_s - last.own_s)
            self._processors, self._last = max(0.0, others_s / (now.clock_s - last.clock_s)), now
        return self._processors


def read_cpu_times(stat: Path = Path("/proc/stat")) -> CpuTimes | None:
    """Read the times of the processors that this process may use.

    Args:
        stat: Linux's file of processor times, in hundredths of a second.

    Returns:
        The times; None where there is no such file, or it has another form.
    """
    try:
        lines = [line.split() for line in stat.read_text().splitlines()]
        names = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        counts = [[int(count) for count in fields[1:9]] for fields in lines if fields and fields[0] in names]
        busy = sum(
            user + nice + system + irq + softirq + steal for user, nice, system, _, _, irq, softirq, steal in counts
        )
    except (OSError, AttributeError, ValueError):
        return None
    own = os.times()
    return CpuTimes(time.monotonic(), busy / os.sysconf("SC_CLK_TCK"), own.user + own.system) if counts else None
