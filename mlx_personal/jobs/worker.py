"""A worker process: how one is started, and its life from the first job to the last.

A fresh interpreter of our own making and not the standard library's: that one would first run the caller's script
again, which costs time and has surprised many.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from mlx_personal.jobs.job import Job, JobResult, one_line, perform

# What a worker says once it can take a job.
READY = "ready"


class Worker:
    """One process, from the parent's side.

    Attributes:
        connection: the function and jobs go out here; `READY`, then a `JobResult` for each job come in. Its end is the
            process's death.
        process: the process.
    """

    def __init__(self, threads: int | None):
        """Starts it; BLAS multiplies there with `threads` threads, None for its own choice."""
        ours, theirs = socket.socketpair()
        watched, self._watch = os.pipe()
        # In the environment, since a BLAS reads that as it is loaded, before any code that one could send.
        environment = os.environ | ({} if threads is None else {"OPENBLAS_NUM_THREADS": str(threads)})
        code = f"import sys; sys.path[:] = {[*map(str, sys.path)]}; from mlx_personal.jobs.worker import live; live"
        command = [sys.executable, "-c", f"{code}({theirs.fileno()}, {watched})"]
        # Ctrl-C waits, here until the process is started, and there until it takes no notice of it.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(), watched)
            )
        finally:
            theirs.close()
            os.close(watched)
            self.connection = Connection(ours.detach())
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def close(self) -> None:
        """Forgets the process, which has ended."""
        self.connection.close()
        self.process.wait()
        os.close(self._watch)


def live(connection_number: int, watched: int) -> None:
    """What the process does: jobs come in and go out until the pipe closes. Takes the numbers of its open files.

    Ctrl-C at a terminal reaches every process of it; here the parent alone decides who ends.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, args=(watched,), daemon=True).start()
    with Connection(connection_number) as connection, contextlib.suppress(EOFError, ConnectionError):
        function = connection.recv()
        connection.send(READY)
        while True:
            _do_one(function, connection)


def _do_one(function: Callable[[Any], Any], connection: Connection) -> None:
    job: Job = connection.recv()
    done = perform(function, job)
    try:
        connection.send(done)
    except ConnectionError:
        raise
    except Exception as error:  # whatever an object raises that cannot be written down
        connection.send(JobResult(job.key, None, f"its result cannot be sent: {one_line(error)}", done.seconds))


def _end_with_parent(watched: int) -> None:
    """Ends this process in the middle of its job when the parent is gone: nobody would take the result."""
    os.read(watched, 1)
    os._exit(1)
