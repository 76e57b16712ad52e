"""Signals during training set a flag, then interrupt at once, and the previous handlers are restored."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from mlx_personal.runtime.signals import StopRequest, TerminatedError, stop_on_signal, terminate_immediately

LOOP = """
import sys, time
import mlx_personal
from mlx_personal.runtime.signals import stop_on_signal
with stop_on_signal() as stop:
    print("ready", flush=True)
    for step in range(1000):
        time.sleep(0.01)
        if stop.signal and "ignore" not in sys.argv:
            print("saved after", stop.signal.name, flush=True)
            break
        if stop.signal:
            print("requested", flush=True)
print("left regularly", flush=True)
"""


HANDLED = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


@pytest.fixture(autouse=True)
def handlers_are_restored() -> Iterator[None]:
    before = [signal.getsignal(number) for number in HANDLED]
    yield
    assert [signal.getsignal(number) for number in HANDLED] == before


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", HANDLED)
def test_a_signal_becomes_a_flag(number: int) -> None:
    with stop_on_signal() as stop:
        assert stop.signal is None
        send(number)
        assert stop.signal == number


def test_a_second_sigterm_changes_nothing() -> None:
    with stop_on_signal() as stop:
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        assert stop.signal == signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_termination_raises_at_once(number: signal.Signals) -> None:
    with pytest.raises(TerminatedError) as error, terminate_immediately():
        send(number)
        pytest.fail("not terminated")
    assert error.value.signal == number


def test_only_the_named_signals_become_a_flag() -> None:
    with pytest.raises(TerminatedError), terminate_immediately(), stop_on_signal(signal.SIGINT) as stop:
        send(signal.SIGINT)
        assert stop.signal == signal.SIGINT
        send(signal.SIGHUP)


@pytest.mark.parametrize("first", HANDLED)
def test_ctrl_c_after_a_first_signal_raises_at_once(first: int) -> None:
    with pytest.raises(KeyboardInterrupt), stop_on_signal() as stop:
        send(first)
        assert stop.signal
        send(signal.SIGINT)
        pytest.fail("not interrupted")


def test_previous_handlers_are_restored_after_an_error() -> None:
    received = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        with pytest.raises(ZeroDivisionError), stop_on_signal():
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
        with stop_on_signal() as stop:
            send(signal.SIGINT)
            send(signal.SIGINT)
            assert stop.signal is None
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_the_main_thread_nothing_is_changed() -> None:
    requests: list[StopRequest] = []

    def work() -> None:
        with stop_on_signal() as stop:
            assert signal.getsignal(signal.SIGINT) is before
            requests.append(stop)

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert [stop.signal for stop in requests] == [None]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_process_stops_its_loop_regularly(name: str) -> None:
    with subprocess.Popen([sys.executable, "-c", LOOP], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(getattr(signal, name))
        assert process.stdout.read() == f"saved after {name}\nleft regularly\n"
    assert process.returncode == 0


def test_a_second_ctrl_c_interrupts_a_process_at_once() -> None:
    command = [sys.executable, "-c", LOOP, "ignore"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "requested\n"
        process.send_signal(signal.SIGINT)
        assert "left regularly" not in process.stdout.read()
        assert process.stderr.read().endswith("KeyboardInterrupt\n")
    assert process.returncode == -signal.SIGINT
