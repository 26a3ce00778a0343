"""Rates, what they leave out, and the time that is left."""

import math
from types import SimpleNamespace

import pytest
from train.runs import NewJob, NewModel

from dynconv_mt.train import FitData, clock, fit
from dynconv_mt.train.config import FitConfig, ScheduleConfig, ScheduleKind, TrainConfig
from dynconv_mt.train.start import doubt_of_pace
from dynconv_mt.train.state import TrainerState, stop_reason


def test_the_rate_leaves_out_pauses_and_counts_from_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(clock, "time", SimpleNamespace(monotonic=lambda: now[0]))
    state = TrainerState(target_tokens=100, seconds=50.0)
    measured = clock.Clock(state)
    state.target_tokens, now[0] = 1000, 2.0
    with measured.pause():
        now[0] = 7.0
    now[0] = 8.0
    assert measured.tokens_per_second(state) == 300.0
    assert measured.run_seconds() == 58.0
    measured.restart_rate(state)
    state.target_tokens, now[0] = 1600, 10.0
    assert measured.tokens_per_second(state) == 300.0


@pytest.mark.parametrize(
    ("limits", "seconds"),
    [
        ({"max_updates": 30}, 40.0),  # 20 more at 2 s each
        ({"max_epochs": 3}, 48.0),  # 3 · 12 - 12 updates
        ({"max_updates": 30, "max_epochs": 3}, 40.0),
        ({"max_minutes": 1.0, "max_updates": 30}, 20.0),  # of 60 s, 40 are over
        ({"max_updates": 5}, 0.0),
        ({"max_updates": 0}, math.inf),
    ],
)
def test_the_time_left_is_that_to_the_first_limit(
    limits: dict[str, float], seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The 4 updates of this session took 8 s; the 6 before it took 32 s, which says nothing of this machine."""
    now = [100.0]
    monkeypatch.setattr(clock, "time", SimpleNamespace(monotonic=lambda: now[0]))
    state = TrainerState(update=6, seconds=32.0)
    measured = clock.Clock(state)
    config = FitConfig(out_dir="RUN", train=TrainConfig(**{"max_updates": 0, **limits}))  # type: ignore[arg-type]
    now[0] = 108.0
    state.update, state.epoch = 10, 1
    assert measured.seconds_left(state, config, 12) == seconds
    assert measured.last_update(state, config, 12) == 10 + seconds / 2.0


def test_a_minute_has_sixty_seconds() -> None:
    config = FitConfig(out_dir="RUN", train=TrainConfig(max_minutes=1.0))
    assert stop_reason(TrainerState(seconds=59.0), config) is None
    assert stop_reason(TrainerState(seconds=60.0), config) == "train.max_minutes=1"


@pytest.mark.parametrize(
    ("kind", "minutes", "last_update", "is_warned"),
    [
        ("cosine", 60.0, 5600.0, True),
        ("cosine", 60.0, 7700.0, False),  # at less than a hundredth of the peak
        ("cosine", 0.0, 5600.0, False),  # by another limit, which was chosen
        ("inverse_sqrt", 60.0, 5600.0, False),
    ],
)
def test_a_cosine_that_time_cuts_short_is_warned_of(
    kind: str, minutes: float, last_update: float, is_warned: bool
) -> None:
    schedule = ScheduleConfig(ScheduleKind(kind), warmup_updates=1000, period_updates=7000)
    config = FitConfig(out_dir="RUN", train=TrainConfig(max_minutes=minutes, max_updates=8000), schedule=schedule)
    warning = doubt_of_pace(config, last_update)
    assert (warning is not None) == is_warned
    if warning:
        assert "after some 5,600 updates, at a learning rate of 0.00013" in warning
        assert "until update 8,000" in warning


def test_training_says_so_once(
    data: FitData, new_model: NewModel, new_job: NewJob, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is time for a few updates, of the million that the cosine takes."""
    job = new_job(train__max_minutes=1e-3, train__max_updates=0, train__log_every=1, schedule__warmup_updates=0)
    job.schedule = ScheduleConfig(ScheduleKind.cosine, warmup_updates=0, period_updates=10**6)
    fit(job, new_model(), data)
    assert capsys.readouterr().err.count("warning: at this pace train.max_minutes=0.001 ends training after some ") == 1
