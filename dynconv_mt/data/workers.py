"""Worker processes for preprocessing: results in order, little under way, and no process left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from concurrent.futures import wait as wait_for
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Self, TypeVar

from dynconv_mt.errors import UserError
from dynconv_mt.runtime import num_cores

T = TypeVar("T")
R = TypeVar("R")
_AHEAD = 3  # items under way per worker: one at work, two waiting, so that memory is bounded and nobody idles
_ENDING = {signal.SIGINT, signal.SIGTERM}
_PATIENCE = 2.0  # seconds between looks whether all workers live


class Workers:
    """A pool of `count` processes, as a context manager; with a count of 1 this process does the work itself.

    Leaving the block by an exception (Ctrl-C included) ends the processes at once.
    """

    def __init__(self, count: int) -> None:
        """`count` of 0 stands for as many processes as this one may use cores."""
        self.count = count or num_cores()
        self._executor: ProcessPoolExecutor | None = None

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Yield `function(item)` for each item, in order. `function` and its results must pickle.

        An exception of `function` comes out here; a process that died raises UserError.
        """
        if self._executor is None:
            yield from map(function, items)
            return
        pending: deque[Future[R]] = deque()
        try:
            for item in items:
                pending.append(self._executor.submit(function, item))
                if len(pending) >= self.count * _AHEAD:
                    yield self._result_of(pending.popleft())
            while pending:
                yield self._result_of(pending.popleft())
        except BrokenProcessPool:
            raise UserError(
                f"workers={self.count}: a worker process died, most likely for want of memory; use fewer workers"
            ) from None

    def _result_of(self, future: Future[R]) -> R:
        """Wait for a result. Raises BrokenProcessPool also where a worker died in the middle of sending one."""
        while not wait_for([future], timeout=_PATIENCE).done:
            if any(not process.is_alive() for process in self._processes()):
                raise BrokenProcessPool
        return future.result()

    def _processes(self) -> list[BaseProcess]:
        return list((getattr(self._executor, "_processes", None) or {}).values())

    def __enter__(self) -> Self:
        if self.count > 1:
            self._executor = ProcessPoolExecutor(self.count, mp_context=_context(), initializer=_prepare_worker)
            with warnings.catch_warnings():
                # Python 3.12 warns of forking beside the threads of numerical libraries; these workers use none.
                warnings.simplefilter("ignore", DeprecationWarning)
                self._start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._end(at_once=kind is not None)

    def _start(self) -> None:
        """Start all processes now, before a progress bar has its thread; Ctrl-C meanwhile leaves none behind."""
        try:
            assert self._executor is not None
            with _held_back():
                first = [self._executor.submit(abs, number) for number in range(self.count)]
            for future in first:
                future.result()
        except BrokenExecutor:
            self._end(at_once=True)
            raise UserError(
                f"workers={self.count}: worker processes end as they begin; a script that starts them must do so below "
                'if __name__ == "__main__":, or give workers=1'
            ) from None
        except OSError as error:  # of a limit on files or processes
            self._end(at_once=True)
            raise UserError(f"workers={self.count}: cannot be started ({error.strerror}); use fewer") from None
        except BaseException:
            self._end(at_once=True)
            raise

    def _end(self, *, at_once: bool) -> None:
        if self._executor is None:
            return
        if at_once:
            _hang_up(self._executor)
            for process in self._processes():
                process.terminate()  # the executor would let them finish first, which may take minutes
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._executor = None


def _hang_up(executor: ProcessPoolExecutor) -> None:
    """Close this process's copy of the end of the pipe that workers send results into.

    A worker that is ended in the middle of a long result would else leave the executor waiting for the rest of it: a
    pipe whose other end this process itself holds open never ends. (Its copy of the end that workers receive from the
    executor closes by itself, at about the same time.)
    """
    writer = getattr(getattr(executor, "_result_queue", None), "_writer", None)
    if writer is not None:
        writer.close()


@contextmanager
def _held_back() -> Iterator[None]:
    """Let the signals that end this process wait until it has forked.

    A child has its parent's handlers until `_prepare_worker`. One that raises as the child begins would leave the block
    of `Workers` there as well, and the child go on as its parent's double.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _context() -> BaseContext:
    """Forking starts at once, but is only safe where no other Python thread may hold a lock."""
    is_safe = sys.platform == "linux" and threading.active_count() == 1
    return multiprocessing.get_context("fork" if is_safe else "spawn")


def _prepare_worker() -> None:
    """Leave Ctrl-C to the parent, die of SIGTERM, and do not outlive the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
