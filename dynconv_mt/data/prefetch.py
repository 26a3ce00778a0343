"""Run an iterator ahead in one background thread."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Iterator
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class _Channel(Generic[T]):
    """A bounded queue between one producer and one consumer that either may leave."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.items: deque[T] = deque()
        self.error: BaseException | None = None
        self.is_finished = False  # the producer has left
        self.is_closed = False  # the consumer has left
        self.changed = threading.Condition()

    def put(self, item: T) -> bool:
        """Wait for room and hand over an item; False when the consumer has left."""
        with self.changed:
            self.changed.wait_for(lambda: self.is_closed or len(self.items) < self.depth)
            if self.is_closed:
                return False
            self.items.append(item)
            self.changed.notify_all()
            return True

    def get(self) -> T:
        """Wait for an item; raises what the producer raised, or StopIteration, after the last one."""
        with self.changed:
            self.changed.wait_for(lambda: bool(self.items) or self.is_finished or self.is_closed)
            if self.items and not self.is_closed:
                self.changed.notify_all()
                return self.items.popleft()
            error, self.error = self.error, None
            raise error or StopIteration

    def finish(self, error: BaseException | None) -> None:
        with self.changed:
            self.is_finished, self.error = True, error
            self.changed.notify_all()

    def close(self) -> None:
        with self.changed:
            self.is_closed = True
            self.items.clear()
            self.changed.notify_all()


class Prefetcher(Iterator[T]):
    """Iterates `source`, whose next `depth` items are made ahead by a thread; use as a context manager.

    An exception in `source` is raised in the consumer, after the items made before it. Closing, leaving the block,
    dropping the last reference or the end of the program stops the thread.
    """

    def __init__(self, source: Iterator[T], depth: int) -> None:
        self._channel: _Channel[T] = _Channel(depth)
        self._thread = threading.Thread(target=_produce, args=(source, self._channel), name="prefetch", daemon=True)
        self._thread.start()
        self._finalizer = weakref.finalize(self, _stop, self._channel, self._thread)

    def __next__(self) -> T:
        return self._channel.get()

    def close(self) -> None:
        """Stop the thread and wait until it has left."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _produce(source: Iterator[T], channel: _Channel[T]) -> None:
    """The thread: it holds no reference to the Prefetcher, which so can be collected."""
    try:
        for item in source:
            if not channel.put(item):
                break
    except BaseException as error:  # whatever it is, the consumer must hear of it
        channel.finish(error)
    else:
        channel.finish(None)


def _stop(channel: _Channel[T], thread: threading.Thread) -> None:
    channel.close()
    if thread is not threading.current_thread():
        thread.join()
