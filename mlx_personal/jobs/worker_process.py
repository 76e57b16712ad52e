"""A worker process: how the parent starts it, and its main function.

Workers are new interpreters. Those of the standard library would first import the caller's script again, which costs
time and runs the script's top-level code.
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

from mlx_personal.jobs.job import Job, JobResult, describe_exception, run_job

# Message of a worker that is ready for jobs.
READY = "ready"


class WorkerProcess:
    """The parent's side of a worker process.

    Args:
        threads: Number of BLAS threads of the process; None keeps the BLAS's own setting.

    Attributes:
        connection: Sends the function and the jobs; receives `READY`, then a `JobResult` for each job. It closes when
            the process dies.
        process: The process.
    """

    def __init__(self, threads: int | None):
        parent_socket, worker_socket = socket.socketpair()
        parent_pipe, self._parent_pipe_end = os.pipe()
        # In the environment, because a BLAS reads it when it is loaded, before the worker could run code from the
        # parent.
        environment = os.environ | ({} if threads is None else {"OPENBLAS_NUM_THREADS": str(threads)})
        code = (
            f"import sys; sys.path[:] = {[*map(str, sys.path)]}; "
            f"from mlx_personal.jobs.worker_process import worker_main; worker_main"
        )
        command = [sys.executable, "-c", f"{code}({worker_socket.fileno()}, {parent_pipe})"]
        # Block Ctrl-C here until the process has started, and in the worker until it ignores the signal.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, pass_fds=(worker_socket.fileno(), parent_pipe)
            )
        finally:
            worker_socket.close()
            os.close(parent_pipe)
            self.connection = Connection(parent_socket.detach())
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def close(self) -> None:
        """Free the resources of the process, which has ended."""
        self.connection.close()
        self.process.wait()
        os.close(self._parent_pipe_end)


def worker_main(connection_descriptor: int, parent_pipe: int) -> None:
    """Run jobs until the connection closes: the main function of a worker process.

    Ctrl-C in a terminal reaches all processes of a job; workers ignore it, because their parent ends them.

    Args:
        connection_descriptor: File descriptor of the connection to the parent.
        parent_pipe: File descriptor of a pipe that closes when the parent ends.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_exit_with_parent, args=(parent_pipe,), daemon=True).start()
    with Connection(connection_descriptor) as connection, contextlib.suppress(EOFError, ConnectionError):
        function = connection.recv()
        connection.send(READY)
        while True:
            _run_next(function, connection)


def _run_next(function: Callable[[Any], Any], connection: Connection) -> None:
    job: Job = connection.recv()
    result = run_job(function, job)
    try:
        connection.send(result)
    except ConnectionError:
        raise
    except Exception as error:  # Pickling raises whatever the object raises.
        reason = f"its result cannot be sent: {describe_exception(error)}"
        connection.send(JobResult(job.key, None, reason, result.elapsed_s))


def _exit_with_parent(parent_pipe: int) -> None:
    """End this process when its parent ends, even during a job: no process would receive the result."""
    os.read(parent_pipe, 1)
    os._exit(1)
