"""A disk that is full, and one that fails."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from train.launch import Launch
from train.runs import NewJob, NewModel, metrics, names, tensors

from dynconv_mt.errors import SystemFailure
from dynconv_mt.files import copy_folder, writing
from dynconv_mt.train import FitConfig, FitData, fit
from dynconv_mt.train.average import average_checkpoints, newest_checkpoints
from dynconv_mt.train.checkpoint import write_folder
from dynconv_mt.train.disk import disk_failures

FILL_UP = """
def fill_up():
    while not (run / "checkpoints" / "step_00000012").exists():  # which is being written
        time.sleep(0.01)
    with (run.parent / "filler").open("wb", buffering=0) as filler:
        size = 1 << 16
        while size:
            try:
                filler.write(bytes(size))
            except OSError:
                size //= 2
at_update(13, fill_up)
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder with room for two checkpoints, of 120 kB each."""
    with mounted(tmp_path / "disk", "320k") as folder:
        yield folder


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    command: list[str | Path] = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
    mount = subprocess.run(command, capture_output=True, text=True)
    if mount.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mount.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def run(job: FitConfig, launch: Launch) -> str:
    (process,) = launch.start()
    said = process.communicate(timeout=120.0)[1]
    assert process.returncode == 1, said
    assert "Traceback" not in said and "bug" not in said
    assert "No space left on device; " in said and " MB are free there" in said
    assert not list(Path(job.out_dir).rglob(".tmp_*"))
    return said


@pytest.mark.slow
@pytest.mark.parametrize("what", ["checkpoint", "metrics"])
def test_disk_full(data: FitData, new_model: NewModel, new_job: NewJob, small_disk: Path, what: str) -> None:
    """It says so, exits with 1 and keeps what is sound; with more room the run ends as if nothing had been."""
    whole, job = (new_job(name, train__tensorboard=True, checkpoint__keep_last=9) for name in ("whole", "small"))
    for each in (whole, job) if what == "metrics" else ():  # a file grows by pages of 4 kB
        each.train.log_every, each.checkpoint.every, each.validate.every = 1, 12, 12
    job.out_dir = str(small_disk / "run")
    fit(whole, new_model(), data)
    said = run(job, Launch(job, new_model(), data, FILL_UP if what == "metrics" else "validate = None"))
    last = names(job.out_dir)[-1]
    assert f"{last} is whole" in said
    if what == "metrics":
        assert any(
            f"{name}: No space left" in said for name in ("metrics.jsonl", os.listdir(f"{job.out_dir}/tensorboard")[0])
        )
        (small_disk / "filler").unlink()
    subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True)
    fit(job, new_model(), data, (lambda model: {"score": 1.5}) if what == "metrics" else None)
    expected, found = tensors(whole.out_dir), tensors(job.out_dir)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    lines = [{k: v for k, v in line.items() if k != "score"} for line in metrics(job.out_dir)]
    assert metrics(whole.out_dir) == lines


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_what_a_disk_may_say(tmp_path: Path, code: int) -> None:
    with (
        pytest.raises(SystemFailure, match=r"place: .*MB are free there.*There is no checkpoint yet"),
        disk_failures(tmp_path),
        writing(tmp_path / "place"),
    ):
        raise OSError(code, "it cannot")


def test_other_errors_are_none_of_a_disk(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), disk_failures(tmp_path):
        (tmp_path / "nothing").read_text()


@pytest.mark.parametrize("is_average", [True, False])
def test_a_final_model_that_does_not_fit(
    data: FitData, new_model: NewModel, new_job: NewJob, tmp_path: Path, is_average: bool
) -> None:
    """An average is written by safetensors, the best checkpoint is copied: either names the file and the full disk."""
    job = new_job(train__max_updates=6)
    fit(job, new_model(), data)
    (checkpoint,) = newest_checkpoints(Path(job.out_dir), 1)
    with mounted(tmp_path / "disk", "16k") as disk:  # the weights have 24 kB
        with pytest.raises(OSError, match="model") as caught:
            if is_average:
                average_checkpoints([checkpoint], disk / "model")
            else:
                write_folder(disk / "model", lambda folder: copy_folder(checkpoint, folder))
        assert caught.value.errno == errno.ENOSPC
        assert list(disk.iterdir()) == []
