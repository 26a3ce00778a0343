"""Averaging checkpoints."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from dynconv_mt.errors import UserError
from dynconv_mt.models.io import load_model, read_config_file, save_model
from dynconv_mt.models.seq2seq import Seq2Seq
from dynconv_mt.train import FitConfig, FitData, average_checkpoints, fit, newest_checkpoints
from dynconv_mt.train.average import write_final_model
from dynconv_mt.train.checkpoint import checkpoint_folder
from dynconv_mt.train.config import Final, Metric
from dynconv_mt.train.finish import make_final
from dynconv_mt.train.resume import read_state
from dynconv_mt.train.state import TrainerState, best_updates, stop_reason


def save(folder: Path, model: Seq2Seq, value: float) -> Path:
    for parameter in model.parameters():
        nn.init.constant_(parameter, value)
    save_model(folder, model)
    return folder


def test_mean(tmp_path: Path, new_model: Callable[..., Seq2Seq]) -> None:
    folders = [save(tmp_path / str(value), new_model(), value) for value in (1.0, 2.0, 6.0)]
    average_checkpoints(folders, tmp_path / "mean")
    model = load_model(tmp_path / "mean")
    assert all(bool((parameter == 3.0).all()) for parameter in model.parameters())
    assert read_config_file(tmp_path / "mean")["provenance"]["average_of"] == [str(folder) for folder in folders]


def test_of_one_it_is_the_same(tmp_path: Path, new_model: Callable[..., Seq2Seq]) -> None:
    save_model(tmp_path / "one", new_model())
    average_checkpoints([tmp_path / "one"], tmp_path / "mean")
    one, mean = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "mean"))
    assert one.keys() == mean.keys() and all(torch.equal(one[name], mean[name]) for name in one)


def test_unlike_models_are_refused(tmp_path: Path, new_model: Callable[..., Seq2Seq]) -> None:
    save_model(tmp_path / "a", new_model())
    save_model(tmp_path / "b", new_model(dropout=0.5))
    with pytest.raises(UserError, match="another architecture"):
        average_checkpoints([tmp_path / "a", tmp_path / "b"], tmp_path / "mean")
    assert not (tmp_path / "mean").exists()


def test_weights_of_other_shapes_are_refused(tmp_path: Path, new_model: Callable[..., Seq2Seq]) -> None:
    folders = [save(tmp_path / name, new_model(), 1.0) for name in ("a", "b")]
    weights = load_file(folders[1] / "model.safetensors")
    name = sorted(weights)[0]
    for altered in ({**weights, name: weights[name][:1].clone()}, {k: v for k, v in weights.items() if k != name}):
        save_file(altered, folders[1] / "model.safetensors")
        with pytest.raises(UserError, match=r"b: its weights are others than those of .*a; was one of them altered"):
            average_checkpoints(folders, tmp_path / "mean")


def test_what_stands_in_its_place_is_left(tmp_path: Path, new_model: Callable[..., Seq2Seq]) -> None:
    save_model(tmp_path / "one", new_model())
    (tmp_path / "mean").mkdir()
    (tmp_path / "mean" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="cannot be put in place"):
        average_checkpoints([tmp_path / "one"], tmp_path / "mean")
    assert (tmp_path / "mean" / "notes.txt").read_text() == "mine"
    average_checkpoints([tmp_path / "one"], tmp_path / "mean", replace=True)
    assert load_model(tmp_path / "mean")


def test_run_ends_with_the_average(
    data: FitData, new_model: Callable[..., Seq2Seq], new_job: Callable[..., FitConfig]
) -> None:
    job = new_job(checkpoint__final=Final.average, checkpoint__average=3, train__ema_decay=0.0, checkpoint__keep_last=3)
    fit(job, new_model(), data)
    folders = newest_checkpoints(Path(job.out_dir), 3)
    assert [folder.name[-2:] for folder in folders] == ["12", "18", "24"]
    final = load_file(Path(job.out_dir) / "model" / "model.safetensors")
    parts = [load_file(folder / "model.safetensors") for folder in folders]
    for name, tensor in final.items():
        mean = sum(part[name].double() for part in parts) / 3
        torch.testing.assert_close(tensor.double(), mean, rtol=1e-6, atol=1e-9)
    with pytest.raises(UserError, match="last=9"):
        newest_checkpoints(Path(job.out_dir), 9)


def test_a_metric_that_no_validation_measured(tmp_path: Path, new_job: Callable[..., FitConfig]) -> None:
    """It neither ends training nor picks a model."""
    job = new_job(checkpoint__final=Final.best, validate__metric=Metric.bleu, validate__patience=2)
    validations = [{"update": update, "loss": 1.0} for update in (2, 4, 6)]
    state = TrainerState(update=6, validations=validations, saved=[2, 4, 6])
    assert stop_reason(state, job) is None
    with pytest.raises(UserError, match=r"validate\.metric=bleu: no validation of .* measured it"):
        write_final_model(tmp_path, job, state)
    state.validations.append({"update": 8, "loss": 1.0, "bleu": 20.0})
    state.update = 8
    assert stop_reason(state, job) is None
    state.validations += [{"update": update, "loss": 1.0, "bleu": 10.0} for update in (10, 12)]
    state.update = 12
    assert stop_reason(state, job) == "validate.patience=2"
    state.update = 13  # judged where it was measured, not before each update
    assert stop_reason(state, job) is None


def test_whoever_may_read_a_new_file_may_read_the_weights(tmp_path: Path, new_model: Callable[..., Seq2Seq]) -> None:
    """safetensors' own files are for their owner alone."""
    save_model(tmp_path / "one", new_model())
    average_checkpoints([tmp_path / "one"], tmp_path / "mean")
    (tmp_path / "new").touch()
    modes = {path.stat().st_mode for path in (tmp_path / "new", *tmp_path.glob("*/*"))}
    assert len(modes) == 1


@pytest.mark.parametrize("final", [Final.average, Final.best])
def test_a_model_of_less_than_was_asked_for_is_said(
    data: FitData, new_model: Callable[..., Seq2Seq], new_job: Callable[..., FitConfig], final: Final
) -> None:
    job = new_job(checkpoint__final=final, checkpoint__average=3, checkpoint__keep_last=4, checkpoint__keep_best=2)
    fit(job, new_model(), data)
    state = read_state(newest_checkpoints(Path(job.out_dir), 1)[0])
    missing = best_updates(state, Metric.loss, 1)[0] if final is Final.best else 6
    shutil.rmtree(checkpoint_folder(Path(job.out_dir), missing))
    if final is Final.average:
        shutil.rmtree(checkpoint_folder(Path(job.out_dir), 12))
    reason = "best checkpoint by it" if final is Final.best else "2 of these 3 checkpoints are left"
    assert f"; warning: {'validate.metric=loss' if final is Final.best else 'checkpoint.average=3'}: " in (
        line := make_final(job, state)
    )
    assert reason in line
    with pytest.raises(UserError, match=reason):
        make_final(job, state, must_be_all=True)


def test_models_of_other_texts_are_refused(tmp_path: Path, new_model: Callable[..., Seq2Seq]) -> None:
    folders = [save(tmp_path / name, new_model(), 1.0) for name in ("a", "b")]
    for folder in folders:
        (folder / "text").mkdir()
        (folder / "text" / "joint.model").write_text(folder.name)
    with pytest.raises(UserError, match=r"b: another text pipeline than .*a"):
        average_checkpoints(folders, tmp_path / "mean")


def test_a_damaged_checkpoint_becomes_no_model(
    data: FitData, new_model: Callable[..., Seq2Seq], new_job: Callable[..., FitConfig]
) -> None:
    job = new_job(checkpoint__final=Final.last, train__max_updates=12)
    fit(job, new_model(), data)
    newest = checkpoint_folder(Path(job.out_dir), 12)
    state = read_state(newest)
    (newest / "config.json").write_text("{}")
    assert "is the last of step_00000006" in make_final(job, state)
