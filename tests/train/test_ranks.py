"""Two processes against one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from train.launch import Launch
from train.runs import NewJob, NewModel, metrics, tensors

from dynconv_mt.errors import UserError
from dynconv_mt.models.seq2seq import Seq2Seq
from dynconv_mt.train import FitConfig, FitData, fit
from dynconv_mt.train.checkpoint import checkpoint_update, list_checkpoints
from dynconv_mt.train.config import Final, Parallel, TrainConfig


def run_two(job: FitConfig, model: Seq2Seq, data: FitData, extra: str = "", *options: str) -> str:
    """Run to the end under torchrun; return what was said."""
    result = Launch(job, model, data, extra).torchrun(*options)
    assert result.returncode == 0, result.stderr
    return result.stderr


def quiet(job: FitConfig) -> FitConfig:
    """Four batches an update; a large eps, since the bias of attention keys has a gradient of rounding noise."""
    job.train.update_freq, job.train.batches_per_update, job.optim.eps = 1, 4, 1e-3
    return job


@pytest.mark.slow
def test_two_ranks_equal_one(data: FitData, new_model: NewModel, new_job: NewJob) -> None:
    """With dropout off, the same plan gives the same weights, also where the last update lacks a batch for rank 1."""
    one, two = (quiet(new_job(name, train__max_updates=12)) for name in ("one", "two"))
    fit(one, new_model(dropout=0.0), data)
    said = run_two(two, new_model(dropout=0.0), data)
    assert "2 ranks" in said
    first, second = (load_file(Path(job.out_dir) / "model" / "model.safetensors") for job in (one, two))
    torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-5)
    for alone, shared in zip(*(metrics(job.out_dir) for job in (one, two)), strict=True):
        assert shared.pop("score", 1.5) == 1.5
        assert alone.pop("kind") == shared.pop("kind")
        assert alone == pytest.approx(shared, rel=1e-4)


@pytest.mark.slow
def test_sharded_equals_replicated(data: FitData, new_model: NewModel, new_job: NewJob) -> None:
    """FSDP2 computes what DDP does, with dropout, accumulation, clipping and moving average, also after validations."""
    every = {
        "train__max_updates": 12,
        "validate__every": 2,
    }  # not all followed by a save, for which weights are gathered
    options: dict[str, Any] = {**every, "checkpoint__keep_best": 0, "checkpoint__final": Final.last}
    replicated, sharded = (quiet(new_job(name, **options)) for name in ("ddp", "fsdp"))
    sharded.train.parallel = Parallel.fsdp
    scores = "def validate(model): return {'score': float(model.decoder.layers[0].ffn.input.weight.detach().sum())}"
    for job in (replicated, sharded):
        run_two(job, new_model(), data, scores)
    first, second = (tensors(job.out_dir) for job in (replicated, sharded))
    torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-5)
    for one, other in zip(metrics(replicated.out_dir), metrics(sharded.out_dir), strict=True):
        assert one.pop("kind") == other.pop("kind")
        assert one == pytest.approx(other, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", list(Parallel))
def test_a_gradient_that_is_not_finite_is_found(
    data: FitData, new_model: NewModel, new_job: NewJob, parallel: Parallel
) -> None:
    job = quiet(new_job(train__max_updates=12, train__max_skipped=1, train__parallel=parallel))
    spoilt = "lambda module, given, output: output.register_hook(lambda gradient: gradient * float('nan')) and None"
    extra = f"model.get_submodule('decoder.layers.0.ffn.input').register_forward_hook({spoilt})"
    assert Launch(job, new_model(), data, extra).torchrun().returncode != 0
    report = json.loads((Path(job.out_dir) / "trouble.json").read_text())
    assert report["place"] == "backward" and report["name"].startswith("decoder.layers.0.ffn.input.")


@pytest.mark.slow
@pytest.mark.parametrize("parallel", list(Parallel))
def test_resume_equals_uninterrupted(data: FitData, new_model: NewModel, new_job: NewJob, parallel: Parallel) -> None:
    """Bit for bit on two ranks, after torchrun has started the job anew by itself, and after a signal."""
    whole, broken = (new_job(name, train__parallel=parallel) for name in ("whole", "broken"))
    run_two(whole, new_model(), data)
    deaths = """
def die():
    attempt = os.environ["TORCHELASTIC_RESTART_COUNT"]
    if attempt == "0" and rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    at_update(15, die)
"""
    said = run_two(broken, new_model(), data, deaths, "--max-restarts=1")
    assert "continuing after update 12" in said
    assert "lost the connection to another rank" in said or "no sign of life" in said or "SIGTERM" in said
    expected, found = tensors(whole.out_dir), tensors(broken.out_dir)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert metrics(whole.out_dir) == metrics(broken.out_dir)


@pytest.mark.slow
def test_resume_on_other_ranks(
    data: FitData, new_model: NewModel, new_job: NewJob, capsys: pytest.CaptureFixture[str]
) -> None:
    """From one rank to two that shard and to two that do not, and back, it says what changes; with dropout off nothing
    but the order of sums does.
    """
    whole, moved = (quiet(new_job(name, train__max_updates=6)) for name in ("whole", "moved"))
    whole.train.max_updates = 24
    fit(whole, new_model(dropout=0.0), data)
    fit(moved, new_model(dropout=0.0), data)
    for updates, parallel in ((12, Parallel.fsdp), (18, Parallel.ddp)):
        moved.train.max_updates, moved.train.parallel = updates, parallel
        said = run_two(moved, new_model(dropout=0.0), data)
        assert ("2 ranks, before 1: the same batches" in said) == (updates == 12), said
    moved.train.max_updates = 24
    fit(moved, new_model(dropout=0.0), data)
    assert "1 ranks, before 2" in capsys.readouterr().err
    first, second = (tensors(job.out_dir) for job in (whole, moved))
    torch.testing.assert_close(first, second, rtol=2e-3, atol=2e-5)


def test_batches_per_update_must_divide() -> None:
    assert TrainConfig(batches_per_update=128).micro_batches(8) == 16
    assert TrainConfig(update_freq=3).micro_batches(8) == 3
    with pytest.raises(UserError, match=r"train\.batches_per_update=128: cannot be shared evenly by 3 ranks"):
        TrainConfig(batches_per_update=128).micro_batches(3)
    with pytest.raises(UserError, match=r"train\.update_freq=2"):
        TrainConfig(batches_per_update=128, update_freq=2)


@pytest.mark.slow
def test_ranks_with_other_options_are_refused(data: FitData, new_model: NewModel, new_job: NewJob) -> None:
    """Their weights would part without a word."""
    job = quiet(new_job(train__max_updates=6))
    extra = "import os; config.optim.lr *= 1 + int(os.environ['RANK'])"
    result = Launch(job, new_model(), data, extra).torchrun()
    assert result.returncode != 0
    assert "optim.lr: differs between rank 1 and rank 0" in result.stderr
    assert not (Path(job.out_dir) / "checkpoints").exists()


SLOW_DISK = """
import signal, time
from dynconv_mt.train import heartbeat, saving
from dynconv_mt.train.loop import Trainer
heartbeat.LIMIT, write, make = 6.0, saving.write_folder, Trainer._make
def write_slowly(*given):
    time.sleep(12.0)
    write(*given)
def make_and_stop(self, update):
    make(self, update)
    if self.state.update == 5:
        signal.raise_signal(signal.SIGTERM)
saving.write_folder, Trainer._make = write_slowly, make_and_stop
"""


@pytest.mark.slow
def test_ranks_stay_until_a_slow_disk_has_the_checkpoint(data: FitData, new_model: NewModel, new_job: NewJob) -> None:
    job = quiet(new_job(train__max_updates=12))
    said = run_two(job, new_model(), data, SLOW_DISK)
    assert "saved after update 5" in said
    assert [checkpoint_update(folder) for folder in list_checkpoints(Path(job.out_dir))] == [5]


@pytest.mark.slow
def test_more_ranks_do_not_end_an_epoch(data: FitData, new_model: NewModel, new_job: NewJob) -> None:
    """Stopped one update into an epoch, with twice as many batches an update from there on."""
    options: dict[str, Any] = {"validate__every": 0, "checkpoint__every": 0, "checkpoint__every_epochs": 1}
    job = new_job(train__update_freq=1, train__max_updates=1, checkpoint__final=Final.last, **options)
    fit(job, new_model(), data)
    run_two(replace(job, train=replace(job.train, max_updates=3)), new_model(), data)
    state = json.loads((list_checkpoints(Path(job.out_dir))[-1] / "state" / "trainer.json").read_text())
    assert state["update"] == 3 and state["saved"] == [1, 3] and state["epoch"] == 0
