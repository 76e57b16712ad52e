"""Jobs on a Ray cluster, one task each: for what one machine would take days over. Needs the extra `cluster`."""

from __future__ import annotations

import contextlib
import importlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

from mlx_personal.errors import UserError
from mlx_personal.jobs.cores import default_workers
from mlx_personal.jobs.job import Job, JobResult, perform

_INSTALL = "pip install 'mlx-personal[cluster]'"
# Seconds a cluster has to take us in; Ray itself tries for two minutes and may then end the whole process.
_PATIENCE = 30.0
# How often Ray starts a task anew whose process or machine has died.
_RETRIES = 3
# What a process of its own does to find out whether there is a cluster: just what we then do.
_KNOCK = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR')"


def run_on_ray(
    function: Callable[[Any], Any], jobs: Iterator[Job], address: str, workers: int | None
) -> Generator[JobResult, None, None]:
    """Performs the jobs on the cluster at `address` and yields each as it finishes; see `cluster.run`."""
    ray = _ray()
    with _connected(ray, address, workers):
        gpus = ray.cluster_resources().get("GPU", 0) >= 1
        # A worker process with a GPU is otherwise ended after every task, and what it has loaded is lost.
        options = {"num_cpus": 1, "num_gpus": int(gpus), "max_retries": _RETRIES, "max_calls": 0}
        task = ray.remote(**options)(_perform)
        sent: dict[Any, tuple[Job, float]] = {}
        try:
            while True:
                # Not all at once: arguments lie in the cluster's memory until their task is done.
                most = workers or _room(ray, "GPU" if gpus else "CPU")
                while len(sent) < most and (job := next(jobs, None)) is not None:
                    sent[task.remote(function, job)] = (job, time.perf_counter())
                if not sent:
                    return
                [reference], _ = ray.wait(list(sent), num_returns=1)
                job, since = sent.pop(reference)
                yield _outcome(ray, reference, job, since)
        finally:
            for reference in sent:
                ray.cancel(reference, force=True)


def _perform(function: Callable[[Any], Any], job: Job) -> JobResult:
    """One job in a process of Ray's, which has told BLAS by OMP_NUM_THREADS to use one thread for one core.

    Saying it by BLAS's own name too keeps it so for large models, which `blas.use_one_thread` gives all cores.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    return perform(function, job)


def _outcome(ray: Any, reference: Any, job: Job, since: float) -> JobResult:
    try:
        done: JobResult = ray.get(reference)
        return done
    except ray.exceptions.RayError as error:
        seconds = time.perf_counter() - since
        return JobResult(job.key, None, f"{type(error).__name__}: {_first_line(str(error))}", seconds)


def _room(ray: Any, kind: str) -> int:
    """Twice what the cluster can compute at a time now, so that the next job is there when one ends."""
    return max(2, 2 * int(ray.cluster_resources().get(kind, 0)))


def _ray() -> Any:
    with _no_telemetry():
        try:
            return importlib.import_module("ray")
        except ModuleNotFoundError as error:
            if error.name != "ray":
                raise
            raise UserError("Ray is not installed", hint=_INSTALL) from None


@contextlib.contextmanager
def _connected(ray: Any, address: str, workers: int | None) -> Iterator[None]:
    """Inside the `with`, this process is a driver of the cluster."""
    if ray.is_initialized():
        yield
        return
    settings: dict[str, Any] = {"address": address, "logging_level": "ERROR"}
    if address == "local":
        settings |= {"num_cpus": workers or default_workers(), "include_dashboard": False}
    else:
        _knock(address)
    with _no_telemetry():
        try:
            ray.init(**settings)
        except Exception as error:  # of many kinds, among them ValueError and RuntimeError
            raise _unreachable(address, _first_line(str(error))) from error
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """UserError if no cluster takes us in within `_PATIENCE` seconds."""
    command = [sys.executable, "-c", _KNOCK, address]
    try:
        with _no_telemetry():
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=_PATIENCE
            )
    except subprocess.TimeoutExpired:
        raise _unreachable(address, f"no answer within {_PATIENCE:.0f} seconds") from None
    if done.returncode:
        raise _unreachable(address, (done.stderr.strip().splitlines() or ["no message"])[-1])


def _unreachable(address: str, why: str) -> UserError:
    if "ray[client]" in why:
        return UserError("Ray's client is not installed", address, _INSTALL)
    hint = "check the address and that the cluster is up (`ray status`), or use `local`"
    return UserError(f"cannot join the Ray cluster: {why}", address, hint)


@contextlib.contextmanager
def _no_telemetry() -> Iterator[None]:
    """Inside the `with`, what Ray starts sends nothing to anyone about its use."""
    name = "RAY_USAGE_STATS_ENABLED"
    before = os.environ.get(name)
    os.environ[name] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _first_line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "no message")
