"""Rates, what they leave out, and the time that is left."""

import math
from types import SimpleNamespace

import pytest

from dynconv_mt.train import clock
from dynconv_mt.train.config import FitConfig, TrainConfig
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


def test_a_minute_has_sixty_seconds() -> None:
    config = FitConfig(out_dir="RUN", train=TrainConfig(max_minutes=1.0))
    assert stop_reason(TrainerState(seconds=59.0), config) is None
    assert stop_reason(TrainerState(seconds=60.0), config) == "train.max_minutes=1"
