"""Run independent jobs in worker processes on this machine, or on a Ray cluster (extra `cluster`)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from typing import Any

from mlx_personal.errors import StorageError, UserError
from mlx_personal.jobs.cores import default_workers
from mlx_personal.jobs.job import Job, JobResult
from mlx_personal.jobs.local import run_locally

__all__ = ["Job", "JobResult", "default_workers", "run_jobs"]


def run_jobs(
    function: Callable[[Any], Any], jobs: Iterable[Job], workers: int | None = None, ray_address: str | None = None
) -> Generator[JobResult, None, None]:
    """Call `function` with each job's argument, and yield one result per job, in the order of completion.

    A job that fails yields its error and does not stop the others. Only if the machine is at fault, as on a full disk,
    all jobs end with a `StorageError`, because the others would fail too. Results are only yielded, never written.
    `jobs` is consumed only as fast as jobs can be started. The workers end when the caller leaves its loop or closes
    this generator, on Ctrl-C, and with this process. If a process or a machine dies, a job may be computed more than
    once, but it is still yielded once.

    On this machine, a job whose process dies is retried once in another process. A process runs many jobs, so a cached
    model stays loaded. Each process uses its share of the cores for matrix products, unless OPENBLAS_NUM_THREADS is
    set.

    On Ray, all machines must have the same version of this package and of Python, and the same files under the same
    paths. A job uses one core, and also one GPU if the cluster has any when the run starts. Ray does not detect a Mac's
    GPU, so start it there with `ray start --num-cpus 1`. A job is tried up to 4 times if its process or its machine
    dies.

    Args:
        function: A function at the top level of a module (not of a script), so that other processes can import it.
        jobs: The jobs, each with its own key.
        workers: Maximum number of simultaneous jobs; None for `default_workers` on this machine, and for all resources
            of a cluster.
        ray_address: None for processes on this machine; otherwise "auto" (the cluster that this machine is part of),
            "local" (a new cluster on this machine only), "host:port" or "ray://host:port". An existing Ray connection
            of this process is reused.

    Yields:
        The result of each job.

    Raises:
        StorageError: If a job could not read or write its files, after the results that came before were yielded.
        UserError: If `workers` is below 1; when the first result is requested, if Ray is not installed or not
            reachable, or if workers cannot start.
        ValueError: If two jobs have the same key, or `function` belongs to a script.
    """
    if workers is not None and workers < 1:
        raise UserError(f"the number of workers is {workers}", hint="at least 1 is needed")
    if ray_address is not None:
        # Imported here because Ray is optional.
        from mlx_personal.jobs.ray_cluster import run_on_ray

        return _until_storage_fails(run_on_ray(function, _with_unique_keys(jobs), ray_address, workers))
    if getattr(function, "__module__", None) == "__main__":
        raise ValueError(f"{function} is defined in a script; other processes can only import functions of modules")
    workers = workers or default_workers()
    # With fewer jobs than workers, fewer processes share the cores.
    max_workers = max(1, min(workers, len(jobs))) if isinstance(jobs, Sized) else workers
    return _until_storage_fails(run_locally(function, _with_unique_keys(jobs), max_workers))


def _until_storage_fails(results: Generator[JobResult, None, None]) -> Generator[JobResult, None, None]:
    """Yield the results up to the first that failed because of the machine, and raise its error."""
    with contextlib.closing(results):
        for result in results:
            if result.storage_failed:
                raise StorageError(result.error or "")
            yield result


def _with_unique_keys(jobs: Iterable[Job]) -> Iterator[Job]:
    """Yield the jobs; raise ValueError if two have the same key."""
    seen: set[str] = set()
    for job in jobs:
        if job.key in seen:
            raise ValueError(f"two jobs have the key {job.key!r}")
        seen.add(job.key)
        yield job
