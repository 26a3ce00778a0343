"""Work in the background: one thing at a time, and no error is lost."""

import threading
import time
from functools import partial

import pytest

from dynconv_mt.train.saving import Background


def test_one_at_a_time() -> None:
    background, done = Background(), list[int]()

    def work(number: int) -> None:
        time.sleep(0.02)
        done.append(number)

    for number in range(3):
        background.submit(partial(work, number))
        assert len(done) >= number  # what came before has ended
    background.join()
    assert done == [0, 1, 2] and not background.is_busy()


def test_an_error_is_raised_once_at_the_next_call() -> None:
    background, may_end = Background(), threading.Event()

    def fail() -> None:
        may_end.wait()
        raise OSError("no room")

    background.submit(fail)
    background.check()  # does not wait
    may_end.set()
    with pytest.raises(OSError, match="no room"):
        background.join()
    background.check()
    background.join()


def test_an_error_is_raised_without_waiting_for_it() -> None:
    background = Background()

    def fail() -> None:
        raise ZeroDivisionError

    background.submit(fail)
    while background.is_busy():
        time.sleep(0.001)
    with pytest.raises(ZeroDivisionError):
        background.check()
