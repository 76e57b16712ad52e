"""Run jobs on a Ray cluster, one task per job. Requires the extra `cluster`."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

from mlx_personal.errors import UserError
from mlx_personal.jobs.cores import default_workers
from mlx_personal.jobs.job import Job, JobResult, run_job

logger = logging.getLogger(__name__)

_INSTALL_HINT = "pip install 'mlx-personal[cluster]'"
# Ray itself tries to connect for two minutes and may then end the whole process.
_CONNECT_TIMEOUT_S = 30.0
# How often Ray restarts a task whose process or machine has died.
_MAX_RETRIES = 3
# Run in a separate process to test whether the cluster can be reached.
_CONNECTION_TEST = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR')"


def run_on_ray(
    function: Callable[[Any], Any], jobs: Iterator[Job], address: str, workers: int | None
) -> Generator[JobResult, None, None]:
    """Run the jobs on the cluster at `address` and yield each as it finishes; see `run_jobs`.

    Args:
        function: Function to call with each job's argument.
        jobs: The jobs.
        address: Address of the cluster, as for `run_jobs`.
        workers: Maximum number of simultaneous jobs; None for all resources of the cluster.

    Yields:
        The result of each job.

    Raises:
        UserError: If Ray is not installed or the cluster cannot be reached.
    """
    ray = _import_ray()
    with _connected(ray, address, workers):
        has_gpu = ray.cluster_resources().get("GPU", 0) >= 1
        # By default Ray ends a process with a GPU after every task, and its loaded model is lost.
        options = {"num_cpus": 1, "num_gpus": int(has_gpu), "max_retries": _MAX_RETRIES, "max_calls": 0}
        task = ray.remote(**options)(_run_job)
        pending: dict[Any, tuple[Job, float]] = {}
        try:
            while True:
                # Not all at once, because arguments occupy the cluster's memory until their task is done.
                max_pending = workers or _max_pending(ray, "GPU" if has_gpu else "CPU")
                while len(pending) < max_pending and (job := next(jobs, None)) is not None:
                    pending[task.remote(function, job)] = (job, time.perf_counter())
                if not pending:
                    return
                [reference], _ = ray.wait(list(pending), num_returns=1)
                job, started_at = pending.pop(reference)
                yield _result(ray, reference, job, started_at)
        finally:
            for reference in pending:
                ray.cancel(reference, force=True)


def _run_job(function: Callable[[Any], Any], job: Job) -> JobResult:
    """Run one job in a Ray process, where Ray has set OMP_NUM_THREADS to the job's one core.

    The BLAS's own variable is set too, because `blas_threads` would let large models use all idle cores.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    return run_job(function, job)


def _result(ray: Any, reference: Any, job: Job, started_at: float) -> JobResult:
    try:
        result: JobResult = ray.get(reference)
        return result
    except ray.exceptions.RayError as error:
        logger.warning("Ray lost a job after its retries (%s)", type(error).__name__)
        elapsed_s = time.perf_counter() - started_at
        return JobResult(job.key, None, f"{type(error).__name__}: {_first_line(str(error))}", elapsed_s)


def _max_pending(ray: Any, resource: str) -> int:
    """Return twice the number of jobs that the cluster can run now, so that the next one starts when one ends."""
    return max(2, 2 * int(ray.cluster_resources().get(resource, 0)))


def _import_ray() -> Any:
    with _without_telemetry():
        try:
            return importlib.import_module("ray")
        except ModuleNotFoundError as error:
            if error.name != "ray":
                raise
            raise UserError("Ray is not installed", hint=_INSTALL_HINT) from None


@contextlib.contextmanager
def _connected(ray: Any, address: str, workers: int | None) -> Iterator[None]:
    """Make this process a driver of the cluster inside the `with` block."""
    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"address": address, "logging_level": "ERROR"}
    if address == "local":
        options |= {"num_cpus": workers or default_workers(), "include_dashboard": False}
    else:
        _check_reachable(address)
    with _without_telemetry():
        try:
            ray.init(**options)
        except Exception as error:  # Ray raises many kinds, among them ValueError and RuntimeError.
            raise _unreachable(address, _first_line(str(error))) from error
    logger.info("connected to a Ray cluster with %s", ray.cluster_resources())
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raise UserError if the cluster does not accept a driver within `_CONNECT_TIMEOUT_S`."""
    command = [sys.executable, "-c", _CONNECTION_TEST, address]
    try:
        with _without_telemetry():
            completed = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_CONNECT_TIMEOUT_S,
            )
    except subprocess.TimeoutExpired:
        raise _unreachable(address, f"no answer within {_CONNECT_TIMEOUT_S:.0f} seconds") from None
    if completed.returncode:
        raise _unreachable(address, (completed.stderr.strip().splitlines() or ["no message"])[-1])


def _unreachable(address: str, reason: str) -> UserError:
    if "ray[client]" in reason:
        return UserError("Ray's client is not installed", address, _INSTALL_HINT)
    hint = "check the address and that the cluster is up (`ray status`), or use `local`"
    return UserError(f"cannot join the Ray cluster: {reason}", address, hint)


@contextlib.contextmanager
def _without_telemetry() -> Iterator[None]:
    """Turn off Ray's usage reports for processes that are started inside the `with` block."""
    name = "RAY_USAGE_STATS_ENABLED"
    previous = os.environ.get(name)
    os.environ[name] = "0"
    try:
        yield
    finally:
        if previous is None:
            del os.environ[name]
        else:
            os.environ[name] = previous


def _first_line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "no message")
