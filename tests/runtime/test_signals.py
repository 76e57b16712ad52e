"""Signals in a training: a flag first, at once when asked again, and everything as before afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from mlx_personal.runtime.signals import Stop, stopping

LOOP = """
import sys, time
import mlx_personal
from mlx_personal.runtime.signals import stopping
with stopping() as stop:
    print("ready", flush=True)
    for step in range(1000):
        time.sleep(0.01)
        if stop.requested and "stubborn" not in sys.argv:
            print("saved after", stop.requested.name, flush=True)
            break
        if stop.requested:
            print("asked", flush=True)
print("left in order", flush=True)
"""


@pytest.fixture(autouse=True)
def handlers_as_before() -> Iterator[None]:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    yield
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_becomes_a_flag(number: int) -> None:
    with stopping() as stop:
        assert stop.requested is None
        send(number)
        assert stop.requested == number


def test_sigterm_again_changes_nothing() -> None:
    with stopping() as stop:
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        assert stop.requested == signal.SIGTERM


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_after_a_first_request_leaves_at_once(first: int) -> None:
    with pytest.raises(KeyboardInterrupt), stopping() as stop:
        send(first)
        assert stop.requested
        send(signal.SIGINT)
        pytest.fail("went on")


def test_the_handlers_from_before_are_back_after_an_error() -> None:
    received = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        with pytest.raises(ZeroDivisionError), stopping():
            send(signal.SIGTERM)
            raise ZeroDivisionError
        assert received == []
        send(signal.SIGTERM)
        assert received == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stopping() as stop:
            send(signal.SIGINT)
            send(signal.SIGINT)
            assert stop.requested is None
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_the_main_thread_nothing_is_changed() -> None:
    seen: list[Stop] = []

    def work() -> None:
        with stopping() as stop:
            assert signal.getsignal(signal.SIGINT) is before
            seen.append(stop)

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert [stop.requested for stop in seen] == [None]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_process_leaves_its_loop_in_order(name: str) -> None:
    with subprocess.Popen([sys.executable, "-c", LOOP], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(getattr(signal, name))
        assert process.stdout.read() == f"saved after {name}\nleft in order\n"
    assert process.returncode == 0


def test_a_process_that_is_told_twice_leaves_at_once() -> None:
    command = [sys.executable, "-c", LOOP, "stubborn"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "asked\n"
        process.send_signal(signal.SIGINT)
        assert "left in order" not in process.stdout.read()
        assert process.stderr.read().endswith("KeyboardInterrupt\n")
    assert process.returncode == -signal.SIGINT
