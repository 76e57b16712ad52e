"""The room through which independent jobs run: worker processes on this machine, beyond it Ray (extra `cluster`)."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from typing import Any

from mlx_personal.errors import UserError
from mlx_personal.jobs.cores import default_workers
from mlx_personal.jobs.job import Job, JobResult
from mlx_personal.jobs.local import run_locally

__all__ = ["JobResult", "Job", "default_workers", "run"]


def run(
    function: Callable[[Any], Any], jobs: Iterable[Job], workers: int | None = None, ray: str | None = None
) -> Generator[JobResult, None, None]:
    """Calls `function` with every job's argument, and yields each job as it finishes, once, in the order of finishing.

    A job that fails is yielded with its error and stops no other. Who loops over this is the one writer of results;
    jobs are taken from `jobs` as there is room for them. Leaving the loop early, closing this generator or Ctrl-C ends
    all workers, and so does the end of this process. A job may be computed more than once, where a process or a machine
    has died; it is yielded once.

    Here, a job whose process dies is tried once more in another process. Processes keep their modules from job to job:
    what a module keeps is there for the next one. Each multiplies with its share of the cores, unless
    OPENBLAS_NUM_THREADS says otherwise.

    On Ray, every machine must have this package, in the same version and with the same Python, and see the same files
    under the same paths. A job takes one core, and one GPU too where the cluster has any when the run starts; Ray does
    not see a Mac's GPU, so start it there with `ray start --num-cpus 1`. A job is tried up to 4 times where its process
    or its machine dies.

    Args:
        function: of the top level of a module, not of a script, so that other processes find it by its name.
        jobs: their keys differ.
        workers: how many jobs may be computed at a time. None: `default_workers` here, and all that the cluster holds.
        ray: None, to stay on this machine's processes; else where Ray is: "auto" (the cluster this machine is part
            of), "local" (a new one on this machine alone), "host:port" or "ray://host:port". A program that is
            connected to Ray already stays with that connection.

    Raises:
        UserError: `workers` is below 1; and, when the first job is asked for, Ray is not installed or does not answer,
            or workers cannot start.
        ValueError: two jobs have the same key, or `function` is a script's own.
    """
    if workers is not None and workers < 1:
        raise UserError(f"{workers} workers compute nothing", hint="at least 1 is needed")
    if ray is not None:
        # Here, because Ray is an extra that most never install.
        from mlx_personal.jobs.ray_cluster import run_on_ray

        return run_on_ray(function, _distinct(jobs), ray, workers)
    if getattr(function, "__module__", None) == "__main__":
        raise ValueError(f"{function} is in the script that runs; other processes find only what is in a module")
    workers = workers or default_workers()
    # Fewer processes share the cores where there are fewer jobs.
    most = max(1, min(workers, len(jobs))) if isinstance(jobs, Sized) else workers
    return run_locally(function, _distinct(jobs), most)


def _distinct(jobs: Iterable[Job]) -> Iterator[Job]:
    seen: set[str] = set()
    for job in jobs:
        if job.key in seen:
            raise ValueError(f"two jobs have the key {job.key!r}")
        seen.add(job.key)
        yield job
