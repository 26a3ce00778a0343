"""Run an iterator ahead in one background thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
_END = object()


def prefetch(source: Iterator[T], depth: int) -> Iterator[T]:
    """Yield the items of `source`, of which a thread makes the next `depth` ahead; with a depth of 0 there is none.

    An exception in `source` is raised here, after the items made before it. Closing this iterator, dropping its last
    reference or the end of the program stops the thread.
    """
    if depth == 0:
        yield from source
        return
    with ThreadPoolExecutor(1, "prefetch") as pool:
        ahead: deque[Future[Any]] = deque(pool.submit(next, source, _END) for _ in range(depth))
        try:
            while (item := ahead.popleft().result()) is not _END:
                ahead.append(pool.submit(next, source, _END))
                yield item
        finally:
            for future in ahead:
                future.cancel()
