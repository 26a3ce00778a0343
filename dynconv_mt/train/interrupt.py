"""Signals that ask a run to stop after the present update."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
PATIENCE = 2.0  # seconds; a second Ctrl-C within them is the same one, since terminal and torchrun both send it


class Interrupted(BaseException):
    """A signal has come. Not an Exception, so that what is cut short does not take it for a failure of its own."""


class Interrupt:
    """Whether a signal has come."""

    def __init__(self) -> None:
        self.name = ""  # of the first signal; empty: none so far
        self._is_raising = False

    def __bool__(self) -> bool:
        return bool(self.name)

    def receive(self, number: int) -> None:
        """Take note of a signal; raises Interrupted inside `raising`."""
        self.name = self.name or signal.Signals(number).name
        if self._is_raising:
            self._is_raising = False
            raise Interrupted

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Let a signal, also one that has come before, raise Interrupted inside the block: for work that may be lost.

        For the main thread, which handles the signals.
        """
        self._is_raising = True
        try:
            if self:
                raise Interrupted
            yield
        finally:
            self._is_raising = False


@contextmanager
def interrupts() -> Iterator[Interrupt]:
    """Catch SIGINT, SIGTERM and SIGUSR1 inside the block, as often as they come: the first one is enough.

    Schedulers and torchrun send them several times. Only a second Ctrl-C that comes later raises KeyboardInterrupt.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    first = 0.0

    def receive(number: int, _: FrameType | None) -> None:
        nonlocal first
        now = time.monotonic()
        if number == signal.SIGINT:
            first = first or now
        if number == signal.SIGINT and now - first > PATIENCE:
            raise KeyboardInterrupt
        interrupt.receive(number)

    before = {number: signal.signal(number, receive) for number in SIGNALS}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
