"""Leaving a training in good order: SIGTERM and Ctrl-C become a flag that the loop reads between two steps, and
exceptions before and after it."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


class Stop:
    """Whether the training was asked to stop: `requested` is the signal, SIGTERM or SIGINT, or None."""

    def __init__(self) -> None:
        self.requested: signal.Signals | None = None


@contextlib.contextmanager
def ending_at_once() -> Iterator[None]:
    """Inside the `with`, SIGTERM is a `TerminatedError` where it comes, as Ctrl-C is a KeyboardInterrupt."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise TerminatedError

    with _handling(handle, signal.SIGTERM):
        yield


class TerminatedError(BaseException):
    """Asked to end by SIGTERM. Like KeyboardInterrupt nothing that handles errors on the way takes it for one."""


@contextlib.contextmanager
def stopping() -> Iterator[Stop]:
    """Inside the `with`, SIGTERM and the first Ctrl-C only set the flag; Ctrl-C again is a KeyboardInterrupt at once.

    The handlers from before are back afterwards. A signal that was ignored stays ignored, as Ctrl-C is by what a shell
    script runs in the background. Outside the main thread, where Python takes no handlers, the flag is never set.
    """
    stop = Stop()

    def handle(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and stop.requested is not None:
            raise KeyboardInterrupt
        stop.requested = signal.Signals(number)

    with _handling(handle, signal.SIGTERM, signal.SIGINT):
        yield stop


@contextlib.contextmanager
def _handling(handle: Callable[[int, FrameType | None], None], *numbers: signal.Signals) -> Iterator[None]:
    """Handles these signals inside the `with`, but for those that are ignored, and only in the main thread."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in numbers:
            # None stands for a handler that is not Python's: it could not be put back.
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
