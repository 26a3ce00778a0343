"""Going on with a run: for another epoch, and with other options, where that is allowed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from train.runs import NewJob, NewModel, metrics, names, tensors

from dynconv_mt.errors import UserError
from dynconv_mt.runtime import Precision
from dynconv_mt.train import FitData, fit
from dynconv_mt.train.checkpoint import list_checkpoints
from dynconv_mt.train.config import Final, Metric, ScheduleKind

BY_EPOCH = {
    "train__max_updates": 0,
    "validate__every": 0,
    "validate__every_epochs": 1,
    "checkpoint__every": 0,
    "checkpoint__every_epochs": 1,
}

# option, another value than that of the fixture
HARMLESS = [
    ("train__max_skipped", 3),
    ("train__log_every", 2),
    ("train__tensorboard", True),
    ("validate__every", 4),
    ("validate__metric", Metric.ppl),
    ("validate__patience", 9),
    ("checkpoint__every", 5),
    ("checkpoint__keep_last", 1),
    ("checkpoint__keep_best", 3),
    ("checkpoint__keep_every", 4),
    ("checkpoint__final", Final.average),
]
REFUSED = [
    ("seed", 2, "seed=2 (was 1)"),
    ("batch__max_tokens", 61, "batch.max_tokens=61 (was 60)"),
    ("train__update_freq", 3, "train.update_freq=3 (was 2)"),
    ("train__label_smoothing", 0.2, "train.label_smoothing=0.2 (was 0.1)"),
    ("train__r_drop", 1.0, "train.r_drop=1.0 (was 0.0)"),
    ("train__ema_decay", 0.0, "train.ema_decay=0.0 (was 0.9)"),
    ("optim__lr", 0.02, "optim.lr=0.02 (was 0.01)"),
    ("optim__betas", [0.9, 0.99], "optim.betas=[0.9, 0.99] (was [0.9, 0.98])"),
    ("optim__eps", 1e-6, "optim.eps=1e-06 (was 1e-08)"),
    ("optim__weight_decay", 0.0, "optim.weight_decay=0.0 (was 0.0001)"),
    ("optim__clip_norm", 0.0, "optim.clip_norm=0.0 (was 1.0)"),
    ("schedule__kind", ScheduleKind.cosine, "schedule.kind=cosine (was inverse_sqrt)"),
    ("schedule__warmup_updates", 9, "schedule.warmup_updates=9 (was 8)"),
    ("schedule__min_lr", 1e-9, "schedule.min_lr=1e-09 (was 0.0)"),
]


def test_another_epoch_is_as_if_it_had_been_asked_for_at_once(
    data: FitData, new_model: NewModel, new_job: NewJob
) -> None:
    """Bit for bit, also metrics and what is kept: at the end of an epoch it validates and saves in any case."""
    fit(new_job("whole", **BY_EPOCH, train__max_epochs=3), new_model(), data)
    for epochs in (1, 2, 3):
        result = fit(new_job("step by step", **BY_EPOCH, train__max_epochs=epochs), new_model(), data)
        assert result.reason == f"train.max_epochs={epochs}"
    whole, stepwise = (str(Path(new_job(name).out_dir)) for name in ("whole", "step by step"))
    expected, found = tensors(whole), tensors(stepwise)
    assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)
    assert metrics(whole) == metrics(stepwise)
    assert names(whole) == names(stepwise)


@pytest.mark.parametrize(("option", "value"), HARMLESS, ids=[option for option, _ in HARMLESS])
def test_what_does_not_touch_the_weights_may_change(
    data: FitData, new_model: NewModel, new_job: NewJob, option: str, value: Any
) -> None:
    """And the weights are those of a run that was left as it is."""
    short, longer = {"train__max_updates": 6}, {"train__max_updates": 10}
    for name, options in (("as it is", {}), ("changed", {option: value})):
        fit(new_job(name, **short), new_model(), data)
        assert fit(new_job(name, **longer, **options), new_model(), data).update == 10
    first, second = (list_checkpoints(Path(new_job(name).out_dir))[-1] for name in ("as it is", "changed"))
    for file in ("model.safetensors", "state/model.safetensors", "state/optimizer.safetensors"):
        expected, found = load_file(first / file), load_file(second / file)
        assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)


def test_how_it_computes_may_change(data: FitData, new_model: NewModel, new_job: NewJob) -> None:
    """Another precision or number of threads is another rounding, so this changes bits, but it is allowed."""
    fit(new_job(train__max_updates=6), new_model(), data)
    changes: list[dict[str, Any]] = [{"precision": Precision.bf16}, {"precision": Precision.fp32}, {"threads": 2}]
    for update, change in enumerate(changes, start=7):
        assert fit(new_job(train__max_updates=update, **change), new_model(), data).update == update
    torch.set_num_threads(1)


@pytest.mark.parametrize(("option", "value", "said"), REFUSED, ids=[option for option, *_ in REFUSED])
def test_what_makes_it_another_run_is_refused(
    data: FitData, new_model: NewModel, new_job: NewJob, option: str, value: Any, said: str
) -> None:
    """With the option, both values and what to do; the folder stays as it was."""
    job = new_job(train__max_updates=6)
    fit(job, new_model(), data)
    before = {path: path.stat().st_mtime_ns for path in Path(job.out_dir).rglob("*")}
    with pytest.raises(UserError) as error:
        fit(new_job(train__max_updates=12, **{option: value}), new_model(), data)
    assert said in str(error.value)
    assert "Give the options of that run to continue it, or choose another out_dir" in str(error.value)
    assert before == {path: path.stat().st_mtime_ns for path in Path(job.out_dir).rglob("*")}


def test_a_run_of_an_older_version_goes_on(data: FitData, new_model: NewModel, new_job: NewJob) -> None:
    """It does not note an option that was added since."""
    job = new_job(train__max_updates=6)
    fit(job, new_model(), data)
    noted = Path(job.out_dir) / "config.json"
    content = json.loads(noted.read_text())
    del content["job"]["train"]["r_drop"]
    noted.write_text(json.dumps(content))
    assert fit(new_job(train__max_updates=8), new_model(), data).update == 8


def test_a_finished_run_without_its_checkpoints_is_no_other_run(
    data: FitData, new_model: NewModel, new_job: NewJob
) -> None:
    """It is still finished; with other options, or for longer, it is refused and its model stays."""
    job = new_job(train__max_updates=6)
    fit(job, new_model(), data)
    run = Path(job.out_dir)
    shutil.rmtree(run / "checkpoints")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert fit(job, new_model(), data).update == 6
    with pytest.raises(UserError, match=r"differs in seed=2 \(was 1\)"):
        fit(new_job(train__max_updates=6, seed=2), new_model(), data)
    with pytest.raises(UserError, match="no checkpoint to continue from"):
        fit(new_job(train__max_updates=7), new_model(), data)
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*")}
