"""Worker processes: order, bounded look-ahead, errors that come out, and nothing left behind."""

import multiprocessing
import operator
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dynconv_mt.data import workers as module
from dynconv_mt.data.workers import Workers
from dynconv_mt.errors import UserError

RESULTS: list[Any] = []  # the pipe of the present test's workers


def square(number: int) -> int:
    time.sleep(0.001 * (number % 3))  # so that they finish out of order
    return number * number


def fail_at_five(number: int) -> int:
    if number == 5:
        raise UserError("five")
    return number


def die(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def sleep(number: int) -> int:
    time.sleep(60)
    return number


@pytest.fixture(autouse=True)
def forking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A spawned process cannot import this file, and an earlier test's thread (tqdm's) would make processes spawn."""
    monkeypatch.setattr(module, "_context", lambda: multiprocessing.get_context("fork"))


@pytest.mark.parametrize("count", [1, 2])
def test_results_come_in_order_and_little_is_read_ahead(count: int) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        while taken < 100:
            taken += 1
            yield taken

    with Workers(count) as workers:
        for received, result in enumerate(workers.map(square, items()), start=1):
            assert result == received * received
            assert taken - received < 3 * count
    assert taken == 100


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_comes_out_as_it_is(count: int) -> None:
    with pytest.raises(UserError, match="five"), Workers(count) as workers:
        list(workers.map(fail_at_five, range(100)))
    assert not multiprocessing.active_children()


def test_a_process_that_dies_is_an_error() -> None:
    with pytest.raises(UserError, match=r"workers=2: a worker process died"), Workers(2) as workers:
        list(workers.map(die, range(10)))
    assert not multiprocessing.active_children()


def die_with_half_a_message(number: int) -> int:
    os.write(RESULTS[0]._writer.fileno(), struct.pack("!i", 1000))  # the length of what never comes
    return die(number)


def test_a_process_that_dies_in_the_middle_of_a_result_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The executor waits for the rest, which another worker might send for all it knows."""
    start = Workers._start

    def start_and_tell(self: Workers) -> None:
        RESULTS[:] = [self._executor._result_queue]  # type: ignore[union-attr]
        start(self)

    monkeypatch.setattr(Workers, "_start", start_and_tell)
    monkeypatch.setattr(module, "_PATIENCE", 0.1)
    with pytest.raises(UserError, match=r"workers=2: a worker process died"), Workers(2) as workers:
        list(workers.map(die_with_half_a_message, range(1)))
    assert not multiprocessing.active_children()


@contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, previous)


def test_leaving_by_an_exception_does_not_wait() -> None:
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), interrupted_after(0.5), Workers(2) as workers:
        list(workers.map(sleep, range(100)))
    assert time.monotonic() - started < 40
    assert not multiprocessing.active_children()


def long_text(number: int) -> str:
    return "y" * 20_000_000  # of which a pipe holds 65,536 bytes


def test_ending_workers_in_the_middle_of_a_result_does_not_wait_for_the_rest() -> None:
    with pytest.raises(RuntimeError, match="enough"), Workers(2) as workers:
        for number, _ in enumerate(workers.map(long_text, range(100))):
            if number == 3:
                raise RuntimeError("enough")
    assert not multiprocessing.active_children()


def test_interrupting_the_start_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_context", lambda: multiprocessing.get_context("spawn"))  # which takes its time
    with pytest.raises(KeyboardInterrupt), interrupted_after(0.05), Workers(2) as workers:
        list(workers.map(sleep, range(100)))
    assert not multiprocessing.active_children()


def test_a_script_without_a_guard_is_told_so(tmp_path: Path) -> None:
    """Its spawned workers begin by running it again."""
    script = tmp_path / "script.py"
    script.write_text(
        "import threading\nfrom dynconv_mt.data.workers import Workers\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "with Workers(2) as workers:\n    print(list(workers.map(abs, [1])))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, cwd=Path.cwd())
    assert done.returncode == 1
    assert 'must do so below if __name__ == "__main__":, or give workers=1' in done.stderr


def test_more_workers_than_the_system_allows_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(ProcessPoolExecutor, "_start_executor_manager_thread", refuse)
    with pytest.raises(UserError, match=r"workers=3: cannot be started \(Too many open files\); use fewer"), Workers(3):
        pass
    assert not multiprocessing.active_children()


def test_spawned_workers_do_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_context", lambda: multiprocessing.get_context("spawn"))
    with Workers(2) as workers:
        assert list(workers.map(operator.neg, range(10))) == [-number for number in range(10)]


def test_zero_means_all_cores() -> None:
    assert Workers(0).count >= 1
    assert Workers(3).count == 3


DOUBLE = """
import os, signal, sys
from dynconv_mt.data.workers import Workers
from dynconv_mt.errors import UserError
signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGTERM))
try:
    with Workers(2):
        pass
except (SystemExit, UserError) as error:
    print(type(error).__name__, flush=True)
"""


def test_a_worker_that_is_ended_as_it_begins_is_no_double_of_its_parent() -> None:
    done = subprocess.run([sys.executable, "-c", DOUBLE], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["UserError"], done.stderr
