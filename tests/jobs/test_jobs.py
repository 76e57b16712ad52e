"""Jobs: in worker processes, some of which die, and on a Ray cluster that loses a machine."""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_personal.errors import StorageError, UserError
from mlx_personal.jobs import Job, JobResult, cores, default_workers, local, ray_cluster, run_jobs
from mlx_personal.jobs.job import run_job
from tests.support.cases import quick_cases
from tests.support.paths import ROOT
from tests.support.worker_functions import (
    NamedArray,
    call_or_raise,
    describe_blas,
    describe_process,
    die_the_first_time,
    double,
    exit_with,
    ignore_sigterm,
    kill_own_process,
    mark_node_and_wait,
    raise_stopped,
    return_unpicklable,
    sum_columns,
    wait_for_file,
)


def jobs_of(*arguments: object) -> list[Job]:
    return [Job(f"job {number}", argument) for number, argument in enumerate(arguments)]


def by_key(results: Iterable[JobResult]) -> dict[str, JobResult]:
    """Return the results by key; each key occurs once."""
    listed = list(results)
    assert len({result.key for result in listed}) == len(listed)
    return {result.key: result for result in listed}


def is_running(process: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        if sys.platform == "linux":
            return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, 0)
        return True
    return False


def eventually(condition: Callable[[], bool], timeout_s: float = 30.0) -> bool:
    """Wait until the condition holds; return whether it does."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def marked_processes(folder: Path, count: int) -> list[int]:
    """Wait for this number of marks in a folder and return the ids of the processes that left them."""
    assert eventually(lambda: len(list(folder.iterdir())) == count)
    return [int(mark.name) for mark in folder.iterdir()]


# Worker processes.


def test_every_job_is_yielded_once_with_its_result() -> None:
    results = by_key(run_jobs(double, jobs_of(*range(20)), workers=2))
    assert {key: result.result for key, result in results.items()} == {f"job {n}": 2 * n for n in range(20)}
    assert all(result.error is None and 0 <= result.elapsed_s < 10 for result in results.values())


def test_dataclasses_and_large_arrays_are_sent_both_ways() -> None:
    rows = np.arange(1_000_000, dtype=np.float64).reshape(-1, 1000)
    [result] = run_jobs(sum_columns, [Job("a", NamedArray("rows", rows))], workers=1)
    assert result.result[0] == "rows"
    np.testing.assert_array_equal(result.result[1], rows.sum(axis=0))


def test_jobs_are_yielded_as_they_finish_and_taken_as_they_can_start(tmp_path: Path) -> None:
    taken = []

    def offered() -> Iterator[Job]:
        for file in (tmp_path / "mark", None, None, None):
            taken.append(file)
            yield Job(str(len(taken)), file)

    results = run_jobs(wait_for_file, offered(), workers=2)
    assert taken == []
    assert next(results).key == "2"
    assert len(taken) == 3
    assert [next(results).key, next(results).key] == ["3", "4"]
    (tmp_path / "mark").write_text("")
    assert [result.key for result in results] == ["1"]


def test_no_jobs_need_no_process() -> None:
    assert list(run_jobs(double, [], workers=3)) == []


def test_errors_are_on_one_line_and_stop_no_other_job(capfd: pytest.CaptureFixture[str]) -> None:
    stop = functools.partial(exit_with, 3)
    jobs = jobs_of(
        "user", "defect", 7, return_unpicklable, stop, functools.partial(kill_own_process, signal.SIGKILL), 8
    )
    errors = {
        key: (result.result, result.error) for key, result in by_key(run_jobs(call_or_raise, jobs, workers=2)).items()
    }
    assert errors == {
        "job 0": (None, "here: no such data; look there"),
        "job 1": (None, r"KeyError: 'two\nlines'"),
        "job 2": (7, None),
        "job 3": (None, "its result cannot be sent: TypeError: cannot pickle '_thread.lock' object"),
        "job 4": (None, "its process ended with status 3, and so did the one before"),
        "job 5": (
            None,
            "its process was killed by SIGKILL, and so did the one before; "
            "most likely out of memory: use fewer workers",
        ),
        "job 6": (8, None),
    }
    written = capfd.readouterr().err
    assert "job 1: Traceback" in written and "in call_or_raise" in written and "UserError:" not in written


def test_a_full_disk_stops_all_jobs_after_the_results_that_came_before(monkeypatch: pytest.MonkeyPatch) -> None:
    def fill_disk() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "file")

    full = run_job(call_or_raise, Job("full", fill_disk))
    assert (full.storage_failed, full.result) == (True, None) and "file: the disk is full" in (full.error or "")
    # Two results that a worker pool returns at once: the one that was stored before the disk was full comes first.
    pools = iter([[full, JobResult("done", 1, None, 0.0)], [JobResult("never read", 2, None, 0.0)], []])
    monkeypatch.setattr(local._WorkerPool, "start_jobs", lambda self: None)
    monkeypatch.setattr(local._WorkerPool, "wait", lambda self: next(pools))
    results = run_jobs(call_or_raise, jobs_of(1, 2, 3), workers=1)
    assert next(results).key == "done"
    with pytest.raises(StorageError, match="file: the disk is full; free some space"):
        next(results)
    assert list(results) == []


def test_an_unpicklable_argument_is_the_error_of_its_job_only() -> None:
    results = by_key(run_jobs(double, jobs_of(1, threading.Lock(), 3), workers=1))
    assert [results[f"job {n}"].result for n in range(3)] == [2, None, 6]
    assert (results["job 1"].error or "").startswith("its argument cannot be sent: TypeError")


def test_a_job_whose_process_dies_once_is_tried_again_and_succeeds(tmp_path: Path) -> None:
    [result] = run_jobs(die_the_first_time, [Job("a", str(tmp_path))], workers=1)
    assert result.error is None and result.result != os.getpid()


def test_a_job_stopped_by_a_signal_counts_as_killed_by_it() -> None:
    [result] = run_jobs(call_or_raise, [Job("a", raise_stopped)], workers=1)
    assert result.error == "its process was killed by SIGTERM, and so did the one before"


def test_workers_run_many_jobs_share_the_cores_and_start_without_mlx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    monkeypatch.setattr("mlx_personal.jobs.cores.cores", lambda: 7)
    answers = [result.result for result in run_jobs(describe_process, jobs_of(*range(8)), workers=2)]
    assert len({process for process, _, _ in answers} - {os.getpid()}) <= 2
    assert {answer[1:] for answer in answers} == {("3", False)}
    assert "OPENBLAS_NUM_THREADS" not in os.environ


def test_the_users_number_of_threads_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "5")
    [result] = run_jobs(describe_process, jobs_of(0), workers=2)
    assert result.result[1] == "5" and os.environ["OPENBLAS_NUM_THREADS"] == "5"


@pytest.mark.parametrize("how", quick_cases(["close", "leave", "raise"], "raise"))
def test_leaving_early_ends_all_workers(how: str) -> None:
    processes = []

    def loop() -> None:
        for result in run_jobs(describe_process, jobs_of(*range(1000)), workers=2):
            processes.append(result.result[0])
            if how == "leave":
                break
            if how == "raise" and len(set(processes)) == 2:
                raise OSError("the disk is full")

    start = time.monotonic()
    if how == "close":
        results = run_jobs(describe_process, jobs_of(*range(1000)), workers=2)
        processes.append(next(results).result[0])
        results.close()
    else:
        with contextlib.suppress(OSError):
            loop()
    assert processes and not any(is_running(process) for process in processes)
    assert time.monotonic() - start < 15


def test_workers_that_ignore_termination_are_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlx_personal.jobs.local._TERMINATION_TIMEOUT_S", 0.1)
    ended = []

    def interrupt() -> None:
        ended.extend(marked_processes(tmp_path, 2))
        main_thread = threading.main_thread().ident
        assert main_thread is not None
        signal.pthread_kill(main_thread, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        list(run_jobs(ignore_sigterm, jobs_of(str(tmp_path), str(tmp_path)), workers=2))
    thread.join()
    assert len(ended) == 2 and not any(is_running(process) for process in ended)


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from mlx_personal.jobs import Job, local, run_jobs
from tests.support.worker_functions import ignore_sigterm
local._TERMINATION_TIMEOUT_S = 0.1
list(run_jobs(ignore_sigterm, [Job("a", {folder!r}), Job("b", {folder!r})], workers=2))
"""


def start_script(tmp_path: Path) -> tuple[Path, subprocess.Popen[str]]:
    """Start a script that runs two jobs; return the folder of their marks and its process."""
    folder = tmp_path / "marks"
    folder.mkdir()
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(ROOT), folder=str(folder)))
    return folder, subprocess.Popen(
        [sys.executable, str(script)], stderr=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_a_killed_parent_and_with_ctrl_c(signal_number: signal.Signals, tmp_path: Path) -> None:
    folder, parent = start_script(tmp_path)
    workers = marked_processes(folder, 2)
    if signal_number == signal.SIGKILL:
        parent.kill()
    else:
        # As a terminal does: to every process of the job. The workers take no notice of that, nor of SIGTERM.
        os.killpg(parent.pid, signal.SIGINT)
    assert eventually(lambda: not any(is_running(worker) for worker in workers))
    _, errors = parent.communicate(timeout=30)
    assert errors.count("Traceback") == (signal_number == signal.SIGINT)


def test_workers_that_cannot_start_are_an_error(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "only_in_the_parent.py").write_text("def double(number):\n    return 2 * number\n")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        double = importlib.import_module("only_in_the_parent").double
    with pytest.raises(UserError, match="a worker process ended with status 1 before its first job; see its output"):
        list(run_jobs(double, jobs_of(1), workers=1))
    assert "No module named 'only_in_the_parent'" in capfd.readouterr().err


def test_a_function_of_a_script_is_refused() -> None:
    script = "from mlx_personal.jobs import run_jobs\ndef f(x): pass\nrun_jobs(f, [])"
    completed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "is defined in a script; other processes can only import functions of modules" in completed.stderr


def test_two_jobs_of_one_key_are_refused() -> None:
    with pytest.raises(ValueError, match="two jobs have the key 'a'"):
        list(run_jobs(double, [Job("a", 1), Job("a", 2)], workers=1))


def test_fewer_than_one_worker_is_refused() -> None:
    with pytest.raises(UserError, match="the number of workers is 0"):
        run_jobs(double, [], workers=0)


# The number of workers.


def test_a_gpu_has_one_worker_and_a_cpu_one_per_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlx_personal.jobs.cores.cores", lambda: 12)
    monkeypatch.setattr("mlx_personal.runtime.device.device_name", lambda: "cpu")
    assert default_workers() == 12
    monkeypatch.setattr("mlx_personal.runtime.device.device_name", lambda: "metal")
    assert default_workers() == 1


@pytest.mark.skipif(sys.platform != "linux", reason="Only Linux describes its topology in files.")
def test_cores_are_those_this_process_may_use_and_hyperthreads_count_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for processor, siblings in enumerate(["0,2", "1,3", "0,2", "1,3"]):
        folder = tmp_path / f"cpu{processor}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{siblings}\n")
    monkeypatch.setattr("mlx_personal.jobs.cores._CPU_FOLDER", tmp_path)
    for allowed, expected in [({0, 1, 2, 3}, 2), ({0, 2}, 1), ({0, 3}, 2), ({7, 8, 9}, 3)]:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, allowed=allowed: allowed)
        assert cores.cores() == expected


# Ray.


def test_without_ray_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"Ray is not installed; pip install 'mlx-personal\[cluster\]'"):
        list(run_jobs(double, jobs_of(1), ray_address="auto"))


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Ray, whose processes can import the functions of these tests."""
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    return ray


@pytest.fixture
def two_nodes(ray: Any) -> Iterator[Any]:
    """A cluster of two machines, as Ray sees it: one core here, two on the other."""
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    with ray_cluster._without_telemetry():
        cluster = cluster_utils.Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
        )
        other = cluster.add_node(num_cpus=2)
        cluster.wait_for_nodes()
    yield cluster, other
    cluster.shutdown()


@pytest.mark.slow
def test_every_job_finishes_once_though_a_machine_dies(two_nodes: Any, tmp_path: Path) -> None:
    cluster, other = two_nodes
    jobs = [Job(str(number), (str(tmp_path), number)) for number in range(14)]

    def starts() -> list[list[str]]:
        """Return a line `node process` for each start of each job."""
        return [path.read_text().splitlines() for path in tmp_path.iterdir() if path.name != "release"]

    def processes_of_other() -> list[int]:
        """Return the processes that run jobs on the machine."""
        nodes = [line.split() for lines in starts() for line in lines]
        return [int(process) for node, process in nodes if node == other.node_id]

    def remove_other() -> None:
        """Remove the machine once a job runs there, and let the other jobs finish when its processes are gone."""
        eventually(lambda: bool(processes_of_other()), timeout_s=120)
        cluster.remove_node(other, allow_graceful=False)
        eventually(lambda: not any(map(is_running, processes_of_other())), timeout_s=120)
        (tmp_path / "release").touch()

    remover = threading.Thread(target=remove_other)
    remover.start()
    results = list(run_jobs(mark_node_and_wait, jobs, ray_address=cluster.address))
    remover.join()
    assert [result.error for result in results] == [None] * 14
    assert sorted(result.result for result in results) == list(range(14))
    # Unless something was lost with the machine and started again, this test shows nothing.
    assert max(map(len, starts())) > 1


@pytest.mark.slow
def test_a_local_cluster_reports_errors_and_uses_one_thread(ray: Any) -> None:
    jobs = [Job("blas", functools.partial(describe_blas, 0)), *jobs_of("user", 7, functools.partial(exit_with, 3))]
    results = by_key(run_jobs(call_or_raise, jobs, workers=2, ray_address="local"))
    threads, variable, telemetry = results["blas"].result
    assert threads in (1, None) and variable == "1" and telemetry == "0"
    assert results["job 0"].error == "here: no such data; look there"
    assert results["job 1"].result == 7
    assert (results["job 2"].error or "").startswith("WorkerCrashedError: ")
    assert not ray.is_initialized() and "RAY_USAGE_STATS_ENABLED" not in os.environ


@pytest.mark.slow
def test_a_cluster_that_does_not_answer_is_an_error_in_bounded_time(ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "_CONNECT_TIMEOUT_S", 4.0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        addresses = {
            f"127.0.0.1:{silent.getsockname()[1]}": "no answer within 4 seconds",
            "nonsense": "Invalid address",
        }
        for address, why in addresses.items():
            start = time.monotonic()
            with pytest.raises(UserError, match=f"^{address}: cannot join the Ray cluster: .*{why}"):
                list(run_jobs(double, jobs_of(1), ray_address=address))
            assert time.monotonic() - start < 25
