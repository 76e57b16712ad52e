"""Stop long-running work cleanly: turn SIGTERM, SIGHUP and Ctrl-C into a flag or an exception.

During training the signals set a flag, which the loop checks between steps. Before and after it they raise an
exception. SIGHUP, which a terminal sends when its window is closed, is handled like SIGTERM.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final

TERMINATION_SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP)


class StopRequest:
    """A request to stop the work, if there was one.

    Attributes:
        signal: The signal that was received; None if there was none.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None


class TerminatedError(BaseException):
    """SIGTERM or SIGHUP was received.

    This is a `BaseException`, like KeyboardInterrupt, so that no handler of ordinary errors catches it.

    Args:
        signal: The signal.

    Attributes:
        signal: The signal.
    """

    def __init__(self, signal: signal.Signals):
        self.signal = signal
        super().__init__(signal.name)


@contextlib.contextmanager
def terminate_immediately() -> Iterator[None]:
    """Raise `TerminatedError` on SIGTERM and SIGHUP inside the `with` block, as Ctrl-C raises KeyboardInterrupt.

    An ignored signal stays ignored, such as SIGHUP under `nohup`.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        raise TerminatedError(signal.Signals(number))

    with _handle_signals(handle, *TERMINATION_SIGNALS):
        yield


@contextlib.contextmanager
def stop_on_signal(*numbers: signal.Signals) -> Iterator[StopRequest]:
    """Record SIGTERM, SIGHUP and the first Ctrl-C inside the `with` block instead of raising.

    A second Ctrl-C raises KeyboardInterrupt at once. The previous handlers are restored afterwards. An ignored signal
    stays ignored, such as Ctrl-C in a background job of a shell script. Outside the main thread, where Python accepts
    no handlers, no signal is recorded.

    Args:
        *numbers: The signals that are recorded; all three by default.

    Yields:
        The request, to be checked whenever the work may stop.
    """
    request = StopRequest()

    def handle(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and request.signal is not None:
            raise KeyboardInterrupt
        request.signal = signal.Signals(number)

    with _handle_signals(handle, *(numbers or (*TERMINATION_SIGNALS, signal.SIGINT))):
        yield request


@contextlib.contextmanager
def _handle_signals(handle: Callable[[int, FrameType | None], None], *numbers: signal.Signals) -> Iterator[None]:
    """Install a handler for these signals, except for ignored ones, in the main thread only."""
    previous_handlers = {}
    if threading.current_thread() is threading.main_thread():
        for number in numbers:
            # None stands for a handler that was not installed from Python and so could not be restored.
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                previous_handlers[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)
