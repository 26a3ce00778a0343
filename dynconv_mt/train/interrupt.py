"""Signals that ask a run to stop after the present update."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


class Interrupt:
    """Whether a signal has come."""

    def __init__(self) -> None:
        self.name = ""  # of the signal; empty: none so far

    def __bool__(self) -> bool:
        return bool(self.name)


@contextmanager
def interrupts() -> Iterator[Interrupt]:
    """Catch SIGINT, SIGTERM and SIGUSR1 inside the block. A second one does what it does elsewhere."""
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    def receive(number: int, _: FrameType | None) -> None:
        interrupt.name = signal.Signals(number).name
        signal.signal(number, before[number])

    before = {number: signal.signal(number, receive) for number in SIGNALS}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
