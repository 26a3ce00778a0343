"""Whole runs: limits, restarts, and what they leave behind."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from train.runs import Crash, NewJob, NewModel, crash_at, metrics, names, tensors

from dynconv_mt.data.batch import collate
from dynconv_mt.data.store import StoreWriter, TokenStore
from dynconv_mt.errors import UserError
from dynconv_mt.models.io import load_model
from dynconv_mt.train import FitConfig, FitData, fit
from dynconv_mt.train.config import Final, Metric, ValidateConfig
from dynconv_mt.train.saving import Saver


def test_a_run_leaves_what_it_promises(data: FitData, new_model: NewModel, new_job: NewJob) -> None:
    job = new_job(train__tensorboard=True)
    result = fit(job, new_model(), data)
    run = Path(job.out_dir)
    assert result.is_finished and result.update == 24 and result.reason == "train.max_updates=24"
    assert result.best is not None and result.model_dir == run / "model"
    lines = metrics(run)
    assert [line["update"] for line in lines if line["kind"] == "train"] == [5, 10, 15, 20]
    assert [line["update"] for line in lines if line["kind"] == "valid"] == [6, 12, 18, 24]
    best = min((line for line in lines if line["kind"] == "valid"), key=lambda line: line["loss"])
    assert json.loads((run / "model" / "config.json").read_text())["provenance"]["update"] == best["update"]
    assert not load_model(run / "model").training
    assert (run / "curves.png").stat().st_size > 1000
    assert any((run / "tensorboard").iterdir())
    assert not [
        path for path in run.rglob("*") if path.name.startswith(".tmp") or path.suffix in (".pt", ".pkl", ".bin")
    ]


def test_it_learns(data: FitData, new_model: NewModel, new_job: NewJob) -> None:
    job = new_job(train__max_updates=100, optim__lr=0.03, validate__every=0, checkpoint__every=0)
    job.batch.max_tokens = 300
    fit(job, new_model(dropout=0.0), data)
    assert metrics(job.out_dir)[-2]["ppl"] < 10.0  # on the training data; 21 where nothing is learnt


def test_same_seed_same_losses(data: FitData, new_model: NewModel, new_job: NewJob) -> None:
    jobs = [new_job("a"), new_job("b"), new_job("c", seed=2)]
    for job in jobs:
        fit(job, new_model(), data)
    first, second, other = (metrics(job.out_dir) for job in jobs)
    assert first == second != other


@pytest.mark.parametrize("update", [3, 7, 13, 22])
def test_resume_equals_uninterrupted(
    data: FitData, new_model: NewModel, new_job: NewJob, monkeypatch: pytest.MonkeyPatch, update: int
) -> None:
    """Bit for bit, with dropout, accumulation, moving average and clipping, from the middle of an epoch."""
    whole, broken = new_job("whole"), new_job("broken")
    fit(whole, new_model(), data)
    with monkeypatch.context() as patch:
        crash_at(patch, update)
        with pytest.raises(Crash):
            fit(broken, new_model(), data)
    torch.manual_seed(update)
    torch.rand(5)
    model = new_model()
    for parameter in model.parameters():
        nn.init.ones_(parameter)  # whatever it begins with does not matter, once there is a checkpoint
    fit(broken, model if update > 6 else new_model(), data)
    expected, found = tensors(whole.out_dir), tensors(broken.out_dir)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert metrics(whole.out_dir) == metrics(broken.out_dir)
    assert names(whole.out_dir) == names(broken.out_dir)


def test_killed_after_a_validation_that_a_signal_had_put_off(
    data: FitData, new_model: NewModel, new_job: NewJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal leaves the validation of update 12 to the second session, which dies after it and before it has saved;
    the third does it again. Nothing is missing in metrics.jsonl and TensorBoard, and nothing is there twice.
    """
    whole, broken = (new_job(name, train__tensorboard=True, validate__every=12) for name in ("whole", "broken"))
    fit(whole, new_model(), data, lambda _: {"score": 1.0})

    def interrupted(_: nn.Module) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGTERM)
        return {"score": 1.0}

    result = fit(broken, new_model(), data, interrupted)
    assert (result.is_finished, result.reason, result.update) == (False, "SIGTERM", 12)
    assert [line["kind"] for line in metrics(broken.out_dir)] == ["train", "train"]

    def die(*_: Any) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(Saver, "save", die)
        with pytest.raises(Crash):
            fit(broken, new_model(), data, lambda _: {"score": 1.0})
    assert metrics(broken.out_dir)[-1]["kind"] == "valid"
    fit(broken, new_model(), data, lambda _: {"score": 1.0})
    assert metrics(whole.out_dir) == metrics(broken.out_dir)
    assert names(whole.out_dir) == names(broken.out_dir)
    for job in (whole, broken):
        assert events(job.out_dir) == [
            (f"{line['kind']}/loss", line["update"], pytest.approx(line["loss"])) for line in metrics(job.out_dir)
        ]


def events(run: str) -> list[tuple[str, int, Any]]:
    """What TensorBoard has to show for the loss, in order of the updates."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    shown = EventAccumulator(f"{run}/tensorboard")
    shown.Reload()
    tags = ("train/loss", "valid/loss")
    return sorted(
        ((tag, event.step, event.value) for tag in tags for event in shown.Scalars(tag)), key=lambda event: event[1]
    )


def test_a_signal_saves_and_the_same_call_goes_on(data: FitData, new_model: NewModel, new_job: NewJob) -> None:
    whole, broken = new_job("whole"), new_job("broken")
    fit(whole, new_model(), data)

    def validate(_: nn.Module) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGTERM)
        return {}

    job = new_job("broken", validate__every=4)
    result = fit(job, new_model(), data, validate)
    assert not result.is_finished and result.reason == "SIGTERM" and result.update == 4
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    fit(broken, new_model(), data)
    expected, found = tensors(whole.out_dir), tensors(broken.out_dir)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert names(whole.out_dir)[-3:] == names(broken.out_dir)[-3:]


def test_finished_run_is_left_alone_and_a_higher_limit_goes_on(
    data: FitData, new_model: NewModel, new_job: NewJob, capsys: pytest.CaptureFixture[str]
) -> None:
    job = new_job()
    fit(job, new_model(), data)
    capsys.readouterr()
    before = {path: path.stat().st_mtime_ns for path in Path(job.out_dir).rglob("*")}
    result = fit(job, new_model(), data)
    assert result.is_finished and result.update == 24
    assert "has finished at update 24 (train.max_updates=24)" in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in Path(job.out_dir).rglob("*")}
    assert fit(new_job(train__max_updates=30), new_model(), data).update == 30


def test_the_model_of_a_finished_run_is_made_anew_when_asked_for(
    data: FitData, new_model: NewModel, new_job: NewJob, capsys: pytest.CaptureFixture[str]
) -> None:
    def update_of(job: FitConfig) -> int:
        config = json.loads((Path(job.out_dir) / "model" / "config.json").read_text())
        return int(config["provenance"]["update"])

    job = new_job(checkpoint__final=Final.last, optim__lr=0.5)  # so bad that the last is not the best
    best = fit(job, new_model(), data).best
    assert best is not None and update_of(job) == 24 != best["update"]
    job.checkpoint.final = Final.best
    fit(job, new_model(), data)
    assert update_of(job) == best["update"]
    assert f"model is the best of step_{best['update']:08d}" in capsys.readouterr().err
    job.checkpoint.final, job.checkpoint.average = Final.average, 3
    fit(job, new_model(), data)
    assert len(json.loads((Path(job.out_dir) / "model" / "config.json").read_text())["provenance"]["average_of"]) == 3
    job.checkpoint.average = job.checkpoint.keep_last = 4
    with pytest.raises(UserError, match=r"checkpoint\.average=4: 3 of these 4 checkpoints are left"):
        fit(job, new_model(), data)


def test_limits(data: FitData, new_model: NewModel, new_job: NewJob) -> None:
    with pytest.raises(UserError, match=r"train\.max_updates=0: training has no end"):
        fit(new_job("none", train__max_updates=0), new_model(), data)
    result = fit(new_job("epochs", train__max_updates=0, train__max_epochs=2), new_model(), data)
    assert result.reason == "train.max_epochs=2"
    result = fit(new_job("minutes", train__max_updates=0, train__max_minutes=0.01), new_model(), data)
    assert result.reason == "train.max_minutes=0.01" and result.update > 0


def test_patience_and_the_caller_scores(data: FitData, new_model: NewModel, new_job: NewJob) -> None:
    scores = iter([10.0, 30.0, 20.0, 25.0, 99.0])
    job = new_job(train__max_updates=0)
    job.validate = ValidateConfig(every=6, every_epochs=0, bleu=True, metric=Metric.bleu, patience=2)

    def validate(model: nn.Module) -> dict[str, float]:
        assert not model.training
        return {"bleu": next(scores)}

    result = fit(job, new_model(), data, validate)
    assert result.reason == "validate.patience=2" and result.update == 24
    assert result.best is not None and (result.best["update"], result.best["bleu"]) == (12, 30.0)
    assert names(job.out_dir) == [f"step_{update:08d}" for update in (12, 18, 24)]
    provenance = json.loads((Path(job.out_dir) / "model" / "config.json").read_text())["provenance"]
    assert provenance["update"] == 12


def test_the_best_model_has_the_scores_of_its_validation(data: FitData, new_model: NewModel, new_job: NewJob) -> None:
    """Loss and perplexity are those of the model that is saved (the moving average), a sentence at a time."""
    result = fit(new_job(), new_model(), data)
    assert result.best is not None and result.model_dir is not None and data.valid is not None
    model, loss, nll, num_tokens = load_model(result.model_dir), 0.0, 0.0, 0
    for i in range(len(data.valid)):
        batch = collate([data.valid.source(i)], [data.valid.target(i)], [i])
        with torch.no_grad():
            logits, target = model(batch.src, batch.src_lengths, batch.prev_tgt)[0], batch.tgt[0]
        loss += cross_entropy(logits, target, label_smoothing=0.1, reduction="sum").item()
        nll += cross_entropy(logits, target, reduction="sum").item()
        num_tokens += len(target)
    expected = {"loss": loss / num_tokens, "nll": nll / num_tokens, "ppl": math.exp(nll / num_tokens)}
    assert {name: result.best[name] for name in expected} == pytest.approx(expected, rel=1e-4)


def test_a_validation_that_fails_loses_nothing(data: FitData, new_model: NewModel, new_job: NewJob) -> None:
    """Beam search may want memory that training did not."""

    def fails(_: nn.Module) -> dict[str, float]:
        raise MemoryError

    def score(_: nn.Module) -> dict[str, float]:
        return {"bleu": 1.0}

    whole, broken = new_job("whole"), new_job("broken")
    fit(whole, new_model(), data, score)
    with pytest.raises(MemoryError):
        fit(broken, new_model(), data, fails)
    assert names(broken.out_dir) == ["step_00000006"]
    fit(broken, new_model(), data, score)
    expected, found = tensors(whole.out_dir), tensors(broken.out_dir)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert metrics(whole.out_dir) == metrics(broken.out_dir)


def test_a_model_in_evaluation_mode_is_trained_with_dropout(
    data: FitData, new_model: NewModel, new_job: NewJob
) -> None:
    jobs = [new_job(name, train__max_updates=2) for name in ("trained", "evaluated")]
    fit(jobs[0], new_model(), data)
    fit(jobs[1], new_model().eval(), data)
    expected, found = (tensors(job.out_dir) for job in jobs)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_damaged_lines_of_metrics_are_left_out(data: FitData, new_model: NewModel, new_job: NewJob) -> None:
    job = new_job(train__max_updates=12)
    fit(job, new_model(), data)
    path = Path(job.out_dir) / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b'\xff\xfe{"', lines[1], b"\n[]\n", *lines[2:], b'{"kind": "tr']))
    job = new_job(train__max_updates=24)
    fit(job, new_model(), data)
    whole = new_job("whole")
    fit(whole, new_model(), data)
    expected = [line for line in metrics(whole.out_dir) if line["update"] != json.loads(lines[1])["update"]]
    assert [line["update"] for line in metrics(job.out_dir)] == [line["update"] for line in expected]


def test_patience_needs_validations() -> None:
    with pytest.raises(UserError, match=r"validate\.patience=3: needs validate\.every or validate\.every_epochs"):
        ValidateConfig(patience=3, every_epochs=0)


def test_keeping(data: FitData, new_model: NewModel, new_job: NewJob) -> None:
    job = new_job(
        train__max_updates=20,
        checkpoint__every=2,
        checkpoint__keep_last=2,
        checkpoint__keep_best=0,
        checkpoint__keep_every=6,
        checkpoint__final=Final.last,
    )
    fit(job, new_model(), data)
    assert names(job.out_dir) == [f"step_{update:08d}" for update in (6, 12, 18, 20)]


def test_without_validation_data(data: FitData, new_model: NewModel, new_job: NewJob) -> None:
    only_train = FitData(data.train)
    with pytest.raises(UserError, match=r"checkpoint\.final=best: needs validation data"):
        fit(new_job(), new_model(), only_train)
    result = fit(new_job(checkpoint__final=Final.last, train__max_updates=4), new_model(), only_train)
    assert result.is_finished and result.best is None


def test_validation_pairs_that_are_too_long_are_left_out(
    data: FitData, new_model: NewModel, new_job: NewJob, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody cleans them, so they must not keep anyone from training; the loss is that of the others."""
    assert data.valid is not None
    with StoreWriter(tmp_path / "long", "tiny") as writer:
        for i in range(len(data.valid)):
            writer.add(data.valid.source(i)[:-1].tolist(), data.valid.target(i)[:-1].tolist())
        writer.add([5] * 40, [6, 7])
        writer.add([5, 6], [7] * 31 + [8])
    losses = []
    for name, valid in (("short", data.valid), ("long", TokenStore.open(tmp_path / "long"))):
        fit(new_job(name, train__max_updates=6), new_model(), FitData(data.train, valid))
        losses.append([line["loss"] for line in metrics(tmp_path / name) if line["kind"] == "valid"])
    assert losses[0] == losses[1] and losses[0]
    said = "2 of the 22 validation pairs are left out of the validation loss"
    assert f"warning: {said}, since they have a side of more than model.max_positions=32" in capsys.readouterr().err
    with StoreWriter(tmp_path / "only", "tiny") as writer:
        writer.add([5] * 40, [6, 7])
    with pytest.raises(UserError, match=r"model\.max_positions=32: the longest valid sentence has 41 tokens"):
        fit(new_job("only_long"), new_model(), FitData(data.train, TokenStore.open(tmp_path / "only")))


@pytest.mark.parametrize("metric", [Metric.loss, Metric.bleu])
@pytest.mark.parametrize("final", list(Final))
def test_a_run_that_has_diverged_ends_with_an_error(
    data: FitData,
    new_model: NewModel,
    new_job: NewJob,
    final: Final,
    metric: Metric,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The gradients are finite, and the weights that the only update makes of them are not."""
    options = {"validate__bleu": True, "validate__metric": metric} if metric is Metric.bleu else {}
    model = new_model()
    job = new_job(checkpoint__final=final, train__max_updates=1, train__ema_decay=0.0, **options)
    with torch.no_grad():
        next(model.parameters()).fill_(3e38)

    def translate(model: object) -> dict[str, float]:
        pytest.fail("there is nothing to translate with")

    with pytest.raises(UserError, match=rf"checkpoint\.final={final}: no .*training has diverged\. .*lower optim\.lr="):
        fit(job, model, data, translate)
    assert "best loss so far" not in capsys.readouterr().err
    assert not (Path(job.out_dir) / "model").exists()
