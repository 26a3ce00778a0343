"""Signs of life between ranks, so that the death of one ends the others instead of leaving them to wait for it.

A process that is killed closes its connections, and gloo tells the others at once; NCCL does not, and neither does a
machine that hangs or leaves the network. How long a rank may be busy says nothing: rank 0 translates for minutes while
the others wait. So each rank counts aloud in the store that torchrun or rank 0 keeps, in a thread of its own.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from dynconv_mt.train.interrupt import Interrupt

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

INTERVAL = 2.0  # seconds between two signs of life
LIMIT = 30.0  # seconds without one after which a rank counts as dead
AFTER_DEATH = "Its own output says why; what was saved is safe, and the same command goes on from there"


class Heartbeat:
    """Two daemon threads: one counts and listens, which may block; the other watches the time, which never does.

    Rank 0 also hears of a signal that only another rank was sent, since it may be at work alone.
    """

    def __init__(self, store: Store, rank: int, world_size: int, interrupt: Interrupt) -> None:
        """Begin, on all ranks together (the caller's barrier follows); nothing else uses this connection of `store`."""
        self.store, self.rank, self.interrupt, self.limit = store, rank, interrupt, LIMIT
        self.others = [other for other in range(world_size) if other != rank]
        self.heard: dict[int, bytes] = {}
        self.heard_at = dict.fromkeys(self.others, time.monotonic())
        self.is_over = threading.Event()
        self._say(0)

    def start(self) -> None:
        """Start the threads; every rank must have been constructed."""
        for work in (self._count, self._watch):
            threading.Thread(target=work, name=f"heartbeat{work.__name__}", daemon=True).start()

    def stop(self) -> None:
        """Fall silent, and no longer mind the silence of others."""
        self.is_over.set()

    def _say(self, number: int) -> None:
        self.store.set(f"alive/{self.rank}", f"{number} {self.interrupt.name}")

    def _count(self) -> None:
        number = 0
        with suppress(RuntimeError):  # the store is gone: then nobody is heard, and _watch says so
            while not self.is_over.wait(min(INTERVAL, self.limit / 4)):
                number += 1
                self._say(number)
                self._hear(self.store.multi_get([f"alive/{other}" for other in self.others]))

    def _hear(self, values: Iterable[bytes]) -> None:
        for other, value in zip(self.others, values, strict=True):
            if value != self.heard.get(other):
                self.heard[other], self.heard_at[other] = value, time.monotonic()
            if self.rank == 0 and not self.interrupt and (name := value.decode().partition(" ")[2]):
                main_thread = threading.main_thread().ident
                assert main_thread is not None
                # as SIGTERM: a SIGINT would count as the first Ctrl-C of the user
                signal.pthread_kill(main_thread, signal.SIGTERM if name == "SIGINT" else signal.Signals[name])

    def _watch(self) -> None:
        woken = time.monotonic()
        while not self.is_over.wait(1.0):
            if (slept := time.monotonic() - woken) > 5.0:  # we were stopped ourselves, and then perhaps all were
                self.heard_at = {other: at + slept for other, at in self.heard_at.items()}
            woken = time.monotonic()
            if (silent := self.silent()) and not self.is_over.is_set():
                self._give_up(silent)

    def silent(self) -> list[int]:
        """Return the ranks that have shown no sign of life for too long."""
        now = time.monotonic()
        return [other for other, at in self.heard_at.items() if now - at > self.limit]

    def _give_up(self, silent: list[int], leave: Callable[[int], None] = os._exit) -> None:
        """End the process at once: the main thread waits for the dead, inside a library that does not ask Python."""
        names = f"rank{'s' * (len(silent) > 1)} {', '.join(map(str, silent))}"
        print(
            f"\nrank {self.rank}: error: no sign of life from {names} for {self.limit:g} seconds: dead, stopped or cut "
            f"off. {AFTER_DEATH}",
            file=sys.stderr,
            flush=True,
        )
        leave(1)
