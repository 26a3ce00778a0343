"""Work in the background: one thing at a time, and no error is lost. What is kept."""

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from dynconv_mt.compute import Compute
from dynconv_mt.models.seq2seq import Seq2Seq
from dynconv_mt.runtime import Precision
from dynconv_mt.train import FitConfig
from dynconv_mt.train.checkpoint import checkpoint_folder, list_checkpoints
from dynconv_mt.train.distributed import Ranks
from dynconv_mt.train.saving import Background, Saver
from dynconv_mt.train.state import TrainerState
from dynconv_mt.train.step import UpdateStep


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


def test_what_a_signal_saved_is_kept_beside_a_damaged_newer_one(
    tmp_path: Path, new_model: Callable[..., Seq2Seq], new_job: Callable[..., FitConfig]
) -> None:
    """Such a checkpoint is none of those that rules keep."""
    folders = [checkpoint_folder(tmp_path, update) for update in (4, 8, 12)]
    for folder in folders:
        folder.mkdir(parents=True)
    step = UpdateStep(new_model(), new_job(), Compute(torch.device("cpu"), Precision.fp32), Ranks())
    Saver(tmp_path, step, None, TrainerState(update=8)).prune()
    assert list_checkpoints(tmp_path) == folders[1:]
