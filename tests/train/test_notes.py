"""What a run notes of itself, and what it keeps: values, not only that they are there."""

from __future__ import annotations

from pathlib import Path

import pytest
from train.runs import NewJob, NewModel, metrics, names

from dynconv_mt.data.loader import Loader, Share
from dynconv_mt.data.store import StoreWriter, TokenStore
from dynconv_mt.models.io import read_config_file
from dynconv_mt.train import FitData, fit
from dynconv_mt.train.checkpoint import list_checkpoints
from dynconv_mt.train.resume import read_state
from dynconv_mt.train.schedule import learning_rate


def test_the_best_is_kept_however_old(
    data: FitData, new_model: NewModel, new_job: NewJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And saved where no checkpoint was due."""
    losses = iter([3.0, 1.0, *[2.0] * 9])
    monkeypatch.setattr("dynconv_mt.train.loop.measure", lambda *_: {"loss": next(losses)})
    job = new_job(train__max_updates=12, validate__every=2, checkpoint__every=3, checkpoint__keep_last=1)
    result = fit(job, new_model(), data)
    assert names(job.out_dir) == ["step_00000004", "step_00000012"]
    assert result.best is not None and result.best["update"] == 4


def test_what_a_line_of_metrics_says(data: FitData, new_model: NewModel, new_job: NewJob) -> None:
    job = new_job(seed=3, train__log_every=1, train__max_updates=3)
    fit(job, new_model(), data)
    loader = Loader(data.train, job.batch, job.seed, Share(job.train.update_freq), prefetch=0)
    updates = list(loader.epoch(0))[:3]
    lines = [line for line in metrics(job.out_dir) if line["kind"] == "train"]
    for number, (line, update) in enumerate(zip(lines, updates, strict=True)):
        assert line["lr"] == learning_rate(number, job.optim.lr, job.schedule)
        assert line["tokens"] == update.num_target_tokens
        assert line["epoch"] == (number + 1) / loader.num_updates
    state = read_state(list_checkpoints(Path(job.out_dir))[-1])
    assert state.target_tokens == sum(update.num_target_tokens for update in updates)
    assert state.seconds > 0.0


def test_every_second_epoch(data: FitData, new_model: NewModel, new_job: NewJob) -> None:
    by_updates = {"train__max_updates": 0, "validate__every": 0, "checkpoint__every": 0}
    job = new_job(**by_updates, train__max_epochs=5, validate__every_epochs=2, checkpoint__every_epochs=2)
    fit(job, new_model(), data)
    assert [line["epoch"] for line in metrics(job.out_dir) if line["kind"] == "valid"] == [2.0, 4.0, 5.0]
    assert len(read_state(list_checkpoints(Path(job.out_dir))[-1]).saved) == 3


def test_a_validation_pair_may_exceed_the_budget(
    data: FitData, new_model: NewModel, new_job: NewJob, tmp_path: Path
) -> None:
    with StoreWriter(tmp_path / "valid", "tiny") as writer:
        writer.add([5] * 20, [6, 7])
    job = new_job(batch__max_tokens=9, train__max_updates=6)
    fit(job, new_model(), FitData(data.train, TokenStore.open(tmp_path / "valid")))
    assert [line["update"] for line in metrics(job.out_dir) if line["kind"] == "valid"] == [6]


def test_scores_are_those_of_the_checkpoint_itself(data: FitData, new_model: NewModel, new_job: NewJob) -> None:
    job = new_job(train__max_updates=10, checkpoint__every=2, checkpoint__keep_last=9)
    fit(job, new_model(), data)
    found = [read_config_file(folder)["provenance"]["validation"] for folder in list_checkpoints(Path(job.out_dir))]
    assert [scores.get("update") for scores in found] == [None, None, 6, None, 10]
