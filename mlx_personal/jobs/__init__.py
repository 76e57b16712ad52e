"""Independent jobs in worker processes on this machine, or on a Ray cluster (extra `cluster`)."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from typing import Any

from mlx_personal.errors import UserError
from mlx_personal.jobs.cores import default_workers
from mlx_personal.jobs.job import Job, JobResult
from mlx_personal.jobs.local import run_locally

__all__ = ["Job", "JobResult", "default_workers", "run_jobs"]


def run_jobs(
    function: Callable[[Any], Any], jobs: Iterable[Job], workers: int | None = None, ray_address: str | None = None
) -> Generator[JobResult, None, None]:
    """Call `function` with every job's argument and yield each job once, in the order of completion.

    A job that fails is yielded with its error and does not stop the others. Only the caller, who iterates over the
    results, writes them anywhere. Jobs are taken from `jobs` only as fast as they can be started. Leaving the loop
    early, closing this generator, Ctrl-C and the end of this process all end the workers. A job may be computed more
    than once if a process or a machine dies; it is still yielded once.

    On this machine, a job whose process dies is tried once more in another process. Processes keep their modules from
    job to job, so a cached model stays loaded. Each process multiplies matrices with its share of the cores, unless
    OPENBLAS_NUM_THREADS is set.

    On Ray, every machine needs this package in the same version, the same Python, and the same files under the same
    paths. A job takes one core, and also one GPU if the cluster has any when the run starts. Ray does not detect a
    Mac's GPU, so start it there with `ray start --num-cpus 1`. A job is tried up to 4 times if its process or its
    machine dies.

    Args:
        function: A function at the top level of a module (not of a script), so that other processes can import it.
        jobs: The jobs, each with its own key.
        workers: How many jobs may run at a time. None: `default_workers` on this machine, all resources of a cluster.
        ray_address: None for processes on this machine; otherwise "auto" (the cluster that this machine is part of),
            "local" (a new cluster on this machine only), "host:port" or "ray://host:port". An existing Ray connection
            of this process is used as it is.

    Yields:
        The result of each job.

    Raises:
        UserError: If `workers` is below 1. Also, when the first result is requested, if Ray is not installed or not
            reachable, or workers cannot start.
        ValueError: If two jobs have the same key, or `function` belongs to a script.
    """
    if workers is not None and workers < 1:
        raise UserError(f"{workers} workers compute nothing", hint="at least 1 is needed")
    if ray_address is not None:
        # Imported here because Ray is optional.
        from mlx_personal.jobs.ray_cluster import run_on_ray

        return run_on_ray(function, _with_unique_keys(jobs), ray_address, workers)
    if getattr(function, "__module__", None) == "__main__":
        raise ValueError(f"{function} is defined in a script; other processes can only import functions of modules")
    workers = workers or default_workers()
    # With fewer jobs than workers, fewer processes share the cores.
    max_workers = max(1, min(workers, len(jobs))) if isinstance(jobs, Sized) else workers
    return run_locally(function, _with_unique_keys(jobs), max_workers)


def _with_unique_keys(jobs: Iterable[Job]) -> Iterator[Job]:
    """Yield the jobs; raise ValueError at a repeated key."""
    seen: set[str] = set()
    for job in jobs:
        if job.key in seen:
            raise ValueError(f"two jobs have the key {job.key!r}")
        seen.add(job.key)
        yield job
