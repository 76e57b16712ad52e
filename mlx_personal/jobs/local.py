"""Jobs in worker processes of this machine.

A pool of our own, since the standard library's breaks as a whole where one of its processes dies. Each worker lives for
many jobs, so what a module of it keeps (a loaded model) is there for the next one.
"""

from __future__ import annotations

import contextlib
import multiprocessing.connection
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from mlx_personal.errors import UserError
from mlx_personal.jobs.cores import blas_threads
from mlx_personal.jobs.job import Job, JobResult, one_line
from mlx_personal.jobs.worker import Worker

# How often a job is tried whose process dies, and how many workers in a row may die before they are ready.
_TRIES = 2
# Seconds that workers have to leave on their own when they are told to.
_GRACE = 3.0


def run_locally(function: Callable[[Any], Any], jobs: Iterable[Job], workers: int) -> Generator[JobResult, None, None]:
    """Performs the jobs in at most `workers` processes and yields each as it finishes; see `cluster.run`."""
    pool = _Pool(function, iter(jobs), workers)
    finished: list[JobResult] = []
    try:
        while True:
            # First, so that workers compute while the caller is busy with what they have brought.
            pool.fill()
            yield from finished
            finished = pool.wait()
            if not finished:
                return
    finally:
        pool.end()


@dataclass
class _Task:
    """A job on its way, and how many processes have died of it or with it."""

    job: Job
    deaths: int = 0


@dataclass(eq=False)
class _Seat:
    """A worker, whether it can take jobs yet, the one it has, and since when."""

    worker: Worker
    ready: bool = False
    task: _Task | None = None
    since: float = 0.0


class _Pool:
    """The workers, the jobs that wait for one, and what has finished but was not taken yet."""

    def __init__(self, function: Callable[[Any], Any], jobs: Iterator[Job], workers: int):
        self._function, self._jobs, self._most = function, jobs, workers
        self._threads = blas_threads(workers)
        self._again: deque[_Task] = deque()
        self._seats: list[_Seat] = []
        self._finished: list[JobResult] = []
        self._failed_starts = 0

    def fill(self) -> None:
        """Gives every idle worker a job, and starts workers, as far as there are jobs."""
        while True:
            seat = next((seat for seat in self._seats if seat.task is None), None)
            if seat is None and len(self._seats) >= self._most:
                return
            task = self._next()
            if task is None:
                return
            if seat is None:
                seat = self._start()
            seat.task = task
            if seat.ready:
                self._send(seat, task)

    def wait(self) -> list[JobResult]:
        """Waits until jobs have finished and returns them; an empty list if none is left."""
        while not self._finished:
            busy = [seat for seat in self._seats if seat.task is not None]
            if not busy:
                break
            speaking = multiprocessing.connection.wait([seat.worker.connection for seat in busy])
            for seat in busy:
                if seat.worker.connection in speaking:
                    self._receive(seat)
            self.fill()
        finished, self._finished = self._finished, []
        return finished

    def end(self) -> None:
        """Ends every worker: idle ones leave as their connection closes, others are told to, or killed if they stay."""
        for seat in self._seats:
            seat.worker.connection.close()
            if seat.task is not None:
                seat.worker.process.terminate()
        deadline = time.monotonic() + _GRACE
        for seat in self._seats:
            try:
                seat.worker.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                seat.worker.process.kill()
        for seat in self._seats:
            seat.worker.close()

    def _next(self) -> _Task | None:
        if self._again:
            return self._again.popleft()
        job = next(self._jobs, None)
        return None if job is None else _Task(job)

    def _start(self) -> _Seat:
        seat = _Seat(Worker(self._threads))
        self._seats.append(seat)
        # A dead worker is found out by `wait`, like any other.
        with contextlib.suppress(ConnectionError):
            seat.worker.connection.send(self._function)
        return seat

    def _send(self, seat: _Seat, task: _Task) -> None:
        seat.since = time.perf_counter()
        try:
            seat.worker.connection.send(task.job)
        except ConnectionError:
            pass  # as in starting
        except Exception as error:  # whatever an object raises that cannot be written down
            seat.task = None
            self._finished.append(JobResult(task.job.key, None, f"its argument cannot be sent: {one_line(error)}", 0.0))

    def _receive(self, seat: _Seat) -> None:
        """Takes what the worker says, or that it has died."""
        task = seat.task
        assert task is not None
        try:
            said = seat.worker.connection.recv()
        except (EOFError, OSError):
            self._bury(seat, task)
            return
        if isinstance(said, JobResult):
            seat.task = None
            self._finished.append(said)
        else:
            seat.ready, self._failed_starts = True, 0
            self._send(seat, task)

    def _bury(self, seat: _Seat, task: _Task) -> None:
        """The job of a worker that died goes to another one, or is over if that happened to it before."""
        self._seats.remove(seat)
        seat.worker.close()
        end = _how_it_ended(seat.worker.process.returncode)
        if not seat.ready:
            self._failed_starts += 1
            if self._failed_starts >= _TRIES:
                raise UserError(f"a worker process {end} before its first job", hint="what it wrote above may say why")
            self._again.append(task)
            return
        task.deaths += 1
        if task.deaths < _TRIES:
            self._again.append(task)
            return
        hint = "most likely for want of memory: use fewer workers" if end.endswith("SIGKILL") else None
        error = UserError(f"its process {end}, and so did the one before", hint=hint)
        self._finished.append(JobResult(task.job.key, None, error.line(), time.perf_counter() - seat.since))


def _how_it_ended(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:  # a real-time signal has no name
        return f"was killed by signal {-status}"
