"""Batches that do not fit in memory: injected, since a test cannot fill a GPU."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from train.launch import Launch

from dynconv_mt.compute import Compute
from dynconv_mt.data.config import BatchConfig
from dynconv_mt.data.loader import Loader, Share, Update
from dynconv_mt.errors import UserError, is_out_of_memory
from dynconv_mt.models.seq2seq import Seq2Seq
from dynconv_mt.runtime import Precision
from dynconv_mt.train import FitConfig, FitData, fit
from dynconv_mt.train.config import Final, Parallel
from dynconv_mt.train.distributed import Ranks
from dynconv_mt.train.memory import whole_parts
from dynconv_mt.train.step import UpdateStep

NewModel = Callable[..., Seq2Seq]
NewJob = Callable[..., FitConfig]
EPS = 1e-3  # large: the bias of attention keys has a gradient of rounding noise, which Adam would blow up


def make_step(model: Seq2Seq, job: FitConfig) -> UpdateStep:
    return UpdateStep(model, job, Compute(torch.device("cpu"), Precision.fp32), Ranks())


def updates(data: FitData, update_freq: int = 2) -> list[Update]:
    return list(Loader(data.train, BatchConfig(max_tokens=60), 1, Share(update_freq), prefetch=0).epoch(0))


def limit_memory(module: nn.Module, max_rows: int, *, in_backward: bool = False) -> None:
    """Let `module` run out of memory for batches of more rows."""

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory (injected)")

    def hook(_: nn.Module, __: Any, output: Tensor) -> None:
        is_blank = output.shape[1] == 1  # what a rank computes that has nothing to compute, in any memory
        if len(output) > max_rows and module.training and not is_blank:
            output.register_hook(fail) if in_backward else fail()

    module.register_forward_hook(hook)


@pytest.mark.parametrize("in_backward", [False, True])
def test_split_update_is_the_whole_one(
    data: FitData, new_model: NewModel, new_job: NewJob, in_backward: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """With dropout off: also where gradients of some layers had been added already."""
    steps = [make_step(new_model(dropout=0.0), new_job(optim__eps=EPS)) for _ in range(2)]
    limit_memory(steps[1].module.encoder.layers[0], 4, in_backward=in_backward)
    some = updates(data)[:6]
    for step in steps:
        for number, update in enumerate(some):
            step(number, update)
    torch.testing.assert_close(steps[0].module.state_dict(), steps[1].module.state_dict(), rtol=1e-4, atol=1e-6)
    whole, split = (step.drain() for step in steps)
    assert whole.loss == pytest.approx(split.loss, rel=1e-5)
    assert (whole.tokens, whole.updates, whole.skipped) == (split.tokens, split.updates, split.skipped)
    assert steps[1].last is not None and max(len(part.batch.src) for part in steps[1].last.parts) <= 4
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert said and "was split in two; setting batch.max_tokens=" in said[0]


def test_with_dropout_it_is_the_same_every_time(data: FitData, new_model: NewModel, new_job: NewJob) -> None:
    weights = []
    for disturbance in (1, 2):
        step = make_step(new_model(), new_job())
        limit_memory(step.module.decoder.layers[0], 3)
        torch.manual_seed(disturbance)
        for number, update in enumerate(updates(data)[:4]):
            step(number, update)
        weights.append(step.module.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_parts_hold_the_rows_without_needless_padding(data: FitData) -> None:
    (part,) = whole_parts(updates(data, 1)[0].batches)
    batch = part.batch
    first, second = part.halves()
    assert first.batch.indices + second.batch.indices == batch.indices
    assert first.batch.num_target_tokens + second.batch.num_target_tokens == batch.num_target_tokens
    assert (first.first_row, second.first_row) == (0, len(first.batch.src))
    for piece in (first, second, *second.halves()):
        assert piece.batch.src.shape[1] == int(piece.batch.src_lengths.max()) <= batch.src.shape[1]
        assert piece.batch.prev_tgt.shape == piece.batch.tgt.shape == (len(piece.batch.src), piece.batch.tgt.shape[1])
        for row, index in enumerate(piece.batch.indices):
            length = int(piece.batch.src_lengths[row])
            assert piece.batch.src[row, :length].tolist() == data.train.source(index).tolist()
            target = data.train.target(index)
            assert piece.batch.tgt[row, : len(target)].tolist() == target.tolist()


def test_a_sentence_that_does_not_fit_alone(data: FitData, new_model: NewModel, new_job: NewJob) -> None:
    step = make_step(new_model(), new_job())
    some = updates(data, 1)
    step(0, some[0])
    fitted = whole_parts(some[0].batches)[0].num_tokens
    limit_memory(step.module.encoder, 0)
    with pytest.raises(UserError, match=r"batch\.max_tokens=60: update 2: sentence pair \d+ .* does not fit") as caught:
        step(1, some[1])
    alone = max(some[1].batches[0].src.shape[1], some[1].batches[0].tgt.shape[1])
    budget = int(str(caught.value).split("set batch.max_tokens=")[1].split(",")[0])
    assert 0 < budget <= min(fitted, alone - 1)
    step = make_step(new_model(), new_job())
    limit_memory(step.module.encoder, 0)
    with pytest.raises(UserError, match="nothing has fitted so far"):
        step(0, some[0])


def test_other_errors_are_not_taken_for_it(data: FitData, new_model: NewModel, new_job: NewJob) -> None:
    step = make_step(new_model(), new_job())

    def fail(*_: object) -> None:
        raise RuntimeError("shapes do not match")

    step.module.encoder.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        step(0, updates(data)[0])


def test_a_cpu_that_refuses_memory_is_understood() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55)
    assert is_out_of_memory(caught.value)


def second_rank(line: str) -> str:
    """Lines for Launch that do something to the model of rank 1."""
    tests = str(Path(__file__).parents[1])
    return f"sys.path.insert(0, {tests!r})\nfrom train.test_memory import limit_memory\nif rank == 1:\n    {line}\n"


@pytest.fixture
def new_rank_job(new_job: NewJob) -> NewJob:
    def build(name: str) -> FitConfig:
        job = new_job(name, train__update_freq=1, optim__eps=EPS, checkpoint__every=0, validate__every=0)
        job.checkpoint.final, job.train.max_updates = Final.last, 6
        return job

    return build


@pytest.mark.slow
def test_one_rank_of_two_runs_out_in_forward(data: FitData, new_model: NewModel, new_rank_job: NewJob) -> None:
    """In the micro-step where gradients meet, too: the ranks agree, and the weights are those of one rank."""
    one, two = new_rank_job("one"), new_rank_job("two")
    one.train.update_freq = 2
    fit(one, new_model(dropout=0.0), data)
    lines = second_rank("limit_memory(model.encoder.layers[0], 4)")
    done = Launch(two, new_model(dropout=0.0), data, lines).torchrun()
    assert done.returncode == 0, done.stderr
    assert "was split in two" in done.stderr
    first, second = (load_file(Path(job.out_dir) / "model" / "model.safetensors") for job in (one, two))
    torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", [Parallel.ddp, Parallel.fsdp])
def test_one_rank_of_two_runs_out_while_it_exchanges(
    data: FitData, new_model: NewModel, new_rank_job: NewJob, parallel: Parallel
) -> None:
    """Nothing can be taken back then: the job ends, and says with which budget it would not have."""
    job = new_rank_job("two")
    job.train.parallel = parallel
    in_backward = parallel is Parallel.ddp  # FSDP exchanges weights in forward already
    lines = second_rank(f"limit_memory(model.encoder.layers[0], 4, in_backward={in_backward})")
    done = Launch(job, new_model(dropout=0.0), data, lines).torchrun()
    assert done.returncode != 0
    assert "with the other ranks" in done.stderr and "begin a run with batch.max_tokens=" in done.stderr


@pytest.mark.slow
def test_a_sentence_too_long_for_the_second_rank_is_told(
    data: FitData, new_model: NewModel, new_rank_job: NewJob
) -> None:
    lines = second_rank("limit_memory(model.encoder.layers[0], 0)")
    done = Launch(new_rank_job("two"), new_model(), data, lines).torchrun()
    assert done.returncode != 0
    assert re.search(r"sentence pair \d+ .* alone, with .* and nothing has fitted so far", done.stderr), done.stderr


@pytest.mark.slow
def test_trouble_on_the_second_rank_is_told(data: FitData, new_model: NewModel, new_rank_job: NewJob) -> None:
    job = new_rank_job("two")
    job.train.max_skipped = 3
    lines = second_rank("model.decoder.layers[0].ffn.register_forward_hook(lambda *args: args[2] * float('nan'))")
    done = Launch(job, new_model(), data, lines).torchrun()
    assert done.returncode != 0
    assert "the first module to go wrong is decoder.layers.0.ffn (" in done.stderr  # rank 0 speaks for all
    report = json.loads((Path(job.out_dir) / "trouble.json").read_text())
    assert (report["rank"], report["update"], report["name"]) == (1, 3, "decoder.layers.0.ffn")
    assert len(report["sentences"]) > 1


def test_parts_draw_their_own_dropout(
    data: FitData, new_model: Callable[..., Seq2Seq], new_job: Callable[..., FitConfig]
) -> None:
    step, seeds = make_step(new_model(), new_job()), set[int]()
    limit_memory(step.module.decoder.layers[0], 3)
    step(0, updates(data, 1)[0])
    assert step.last is not None
    for part in step.last.parts:
        step.add_gradients(step.last, part, is_last=False)
        seeds.add(torch.initial_seed())
    assert len(seeds) == len(step.last.parts) > 1
