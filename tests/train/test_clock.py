"""Rates, and what they leave out."""

from types import SimpleNamespace

import pytest

from dynconv_mt.train import clock
from dynconv_mt.train.state import TrainerState


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
