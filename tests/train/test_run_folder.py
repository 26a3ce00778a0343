"""Run folders that are refused: another run's, other data's, damaged, cut off from their disk, in use."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from train.runs import Crash, NewJob, NewModel, crash_at, metrics, tensors

from dynconv_mt.data.loader import Loader, Share
from dynconv_mt.errors import UserError
from dynconv_mt.runtime import Precision
from dynconv_mt.train import FitData, fit
from dynconv_mt.train.checkpoint import list_checkpoints
from dynconv_mt.train.config import Final
from dynconv_mt.train.start import check_resume
from dynconv_mt.train.state import TrainerState


def test_another_run_is_refused(data: FitData, new_model: NewModel, new_job: NewJob) -> None:
    fit(new_job(train__max_updates=6), new_model(), data)
    with pytest.raises(UserError, match=r"another run.*optim\.lr=0\.5 \(was 0\.01\); seed=9 \(was 1\)"):
        fit(new_job(optim__lr=0.5, seed=9), new_model(), data)
    fit(new_job(precision=Precision.bf16, train__log_every=3, checkpoint__keep_last=1), new_model(), data)


def test_other_data_are_refused(data: FitData, new_model: NewModel, new_job: NewJob) -> None:
    assert data.valid is not None
    fit(new_job(train__max_updates=6), new_model(), data)
    for job in (new_job(), new_job(train__max_updates=6)):  # to go on, and finished
        with pytest.raises(UserError, match="the train data have changed"):
            fit(job, new_model(), FitData(data.valid, data.valid))


def test_something_else_is_refused(data: FitData, new_model: NewModel, new_job: NewJob) -> None:
    job = new_job()
    Path(job.out_dir).mkdir()
    (Path(job.out_dir) / "train.log").touch()  # does not matter
    (Path(job.out_dir) / "data.json").touch()
    with pytest.raises(UserError, match=r"holds something else \(data.json\)"):
        fit(job, new_model(), data)
    assert not (Path(job.out_dir) / "config.json").exists()


def test_a_run_that_never_saved_may_be_begun_anew(
    data: FitData, new_model: NewModel, new_job: NewJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        crash_at(patch, 5)
        with pytest.raises(Crash):
            fit(new_job(), new_model(), data)
    job = new_job(optim__lr=0.005, train__max_updates=6)
    assert fit(job, new_model(), data).is_finished
    assert [line["update"] for line in metrics(job.out_dir)] == [5, 6]


def test_damaged_checkpoints_are_named_and_passed_over(
    data: FitData,
    new_model: NewModel,
    new_job: NewJob,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole, broken = new_job("whole"), new_job("broken")
    fit(whole, new_model(), data)
    with monkeypatch.context() as patch:
        crash_at(patch, 20)
        with pytest.raises(Crash):
            fit(broken, new_model(), data)
    path = list_checkpoints(Path(broken.out_dir))[-1] / "state" / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    leftover = Path(broken.out_dir) / "checkpoints" / ".tmp_step_00000024"
    leftover.mkdir()
    capsys.readouterr()
    fit(broken, new_model(), data)
    said = capsys.readouterr().err
    assert "step_00000018: state/optimizer.safetensors has" in said
    assert "continuing after update 12" in said and ".tmp_step_00000024" in said
    expected, found = tensors(whole.out_dir), tensors(broken.out_dir)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert metrics(whole.out_dir) == metrics(broken.out_dir)


def test_vocabulary_and_positions_must_fit(data: FitData, new_model: NewModel, new_job: NewJob) -> None:
    model = new_model()
    model.config.tgt_vocab_size = 23
    with pytest.raises(UserError, match=r"model\.tgt_vocab_size=23: the train data hold the id 23"):
        fit(new_job(), model, data)
    model = new_model()
    model.config.max_positions = 5
    with pytest.raises(UserError, match=r"model\.max_positions=5.*model\.max_positions=9"):
        fit(new_job(), model, data)


def test_two_processes_cannot_share_a_run(data: FitData, new_model: NewModel, new_job: NewJob) -> None:
    from dynconv_mt.train.run_folder import locked

    job = new_job()
    with locked(Path(job.out_dir)), pytest.raises(UserError, match="another process"):
        fit(job, new_model(), data)


def test_a_link_that_leads_nowhere_is_no_new_run(
    data: FitData, new_model: NewModel, new_job: NewJob, tmp_path: Path
) -> None:
    """As where the disk that it leads to is not mounted: the history of the run stays."""
    job = new_job(train__max_updates=6)
    fit(job, new_model(), data)
    run, disk = Path(job.out_dir), tmp_path / "disk"
    shutil.move(run / "checkpoints", disk)
    (run / "checkpoints").symlink_to(disk)
    assert fit(job, new_model(), data).update == 6
    disk.rename(tmp_path / "away")
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    with pytest.raises(UserError, match=r"checkpoints: is a link to .*disk, which is not there"):
        fit(new_job(), new_model(), data)
    (run / "checkpoints").unlink()
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "step_00000006").symlink_to(disk / "step_00000006")
    with pytest.raises(UserError, match=r"none of its checkpoints is sound .*step_00000006"):
        fit(new_job(), new_model(), data)
    assert before == {path: path.read_bytes() for path in run.iterdir() if path.is_file()}


def test_a_model_on_a_disk_that_is_not_there_is_no_new_run(
    data: FitData, new_model: NewModel, new_job: NewJob, tmp_path: Path
) -> None:
    job = new_job(train__max_updates=6)
    fit(job, new_model(), data)
    run = Path(job.out_dir)
    shutil.rmtree(run / "checkpoints")
    shutil.rmtree(run / "model")
    (run / "model").symlink_to(tmp_path / "disk")
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    with pytest.raises(UserError, match=r"model: is a link to .*disk, which is not there"):
        fit(job, new_model(), data)
    assert before == {path: path.read_bytes() for path in run.iterdir() if path.is_file()}


def test_a_finished_model_that_a_killed_replacement_had_set_aside_is_found(
    data: FitData, new_model: NewModel, new_job: NewJob
) -> None:
    job = new_job(train__max_updates=6)
    first = fit(job, new_model(), data)
    run = Path(job.out_dir)
    shutil.rmtree(run / "checkpoints")
    (run / "model").rename(run / ".tmp_replaced_model")
    assert fit(job, new_model(), data) == first
    assert not (run / "checkpoints").exists()


def test_such_a_model_is_made_anew_where_another_is_asked_for(
    data: FitData, new_model: NewModel, new_job: NewJob, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the call that holds the folder, which must not take itself for another process."""
    fit(new_job(train__max_updates=12), new_model(), data)
    run = Path(new_job().out_dir)
    (run / "model").rename(run / ".tmp_replaced_model")
    capsys.readouterr()
    assert fit(new_job(train__max_updates=12, checkpoint__final=Final.last), new_model(), data).update == 12
    assert "model is the last of step_00000012" in capsys.readouterr().err


def test_checkpoints_that_cannot_be_read_are_no_new_run(data: FitData, new_model: NewModel, new_job: NewJob) -> None:
    fit(new_job(train__max_updates=6), new_model(), data)
    checkpoints = Path(new_job().out_dir) / "checkpoints"
    shutil.rmtree(checkpoints)
    checkpoints.touch()
    with pytest.raises(UserError, match=r"checkpoints: cannot be read \(Not a directory\)"):
        fit(new_job(), new_model(), data)


@pytest.mark.parametrize("place", ["run", "above"])
def test_a_run_folder_that_is_a_link_to_nothing(
    data: FitData, new_model: NewModel, new_job: NewJob, tmp_path: Path, place: str
) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    job = new_job(out_dir=str(link if place == "run" else link / "run"))
    with pytest.raises(UserError, match=r"is a link to .*nowhere, which is not there"):
        fit(job, new_model(), data)
    assert not (tmp_path / "nowhere").exists()


def test_options_are_compared_with_what_a_killed_save_had_set_aside(
    data: FitData, new_model: NewModel, new_job: NewJob
) -> None:
    """The run's only checkpoint, killed between the two renames, while it was written again."""
    job = new_job(train__max_updates=6)
    fit(job, new_model(), data)
    run = Path(job.out_dir)
    shutil.rmtree(run / "model")
    (run / "finished.json").unlink()
    (newest,) = list_checkpoints(run)
    newest.rename(newest.with_name(f".tmp_replaced_{newest.name}"))
    with pytest.raises(UserError, match=r"another run.*optim\.lr=0\.5 \(was 0\.01\)"):
        fit(new_job(optim__lr=0.5), new_model(), data)
    assert newest.is_dir()
    assert fit(new_job(train__max_updates=12), new_model(), data).update == 12


def test_another_model_is_another_run(data: FitData, new_model: NewModel, new_job: NewJob, tmp_path: Path) -> None:
    fit(new_job(train__max_updates=6, out_dir=tmp_path / "run"), new_model(), data)  # a Path serves as well
    for job in (new_job(), new_job(train__max_updates=6)):  # to go on, and finished
        with pytest.raises(UserError, match=r"another run.*model\.dropout=0\.5 \(was 0\.2\)"):
            fit(job, new_model(dropout=0.5), data)
    noted = tmp_path / "run" / "config.json"
    content = json.loads(noted.read_text())
    del content["job"]["model"]  # as older versions noted it
    noted.write_text(json.dumps(content))
    assert fit(new_job(train__max_updates=7), new_model(), data).update == 7


def test_what_cannot_be_trained_is_refused(data: FitData, new_model: NewModel, new_job: NewJob) -> None:
    with pytest.raises(UserError, match="model: must be a Seq2Seq, as build_model makes it, not OptimizedModule"):
        fit(new_job(), torch.compile(new_model()), data)  # type: ignore[arg-type]
    job = new_job(validate__bleu=True)
    with pytest.raises(UserError, match=r"validate\.bleu=true: needs the function `validate`"):
        fit(job, new_model(), data)

    class Text:
        fingerprint = "another"

        def save(self, folder: Path) -> None:
            """Write nothing."""

    with pytest.raises(UserError, match="its ids belong to another vocabulary"):
        fit(new_job(), new_model(), replace(data, text=Text()))
    assert not Path(job.out_dir).exists()


def test_the_place_in_the_epoch_counts_batches(data: FitData, new_job: NewJob) -> None:
    state = TrainerState(update=5, epoch_update=5, batches_per_update=2)
    (said,) = check_resume(state, FitData(data.train), Loader(data.train, new_job().batch, 1, Share(4), prefetch=0))
    assert "now has 4 batches, before it had 2" in said
    assert (state.epoch, state.epoch_update) == (0, 2)
