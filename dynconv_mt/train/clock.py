"""Time: of the run over all its sessions, of an update, and until the end."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from dynconv_mt.train.config import FitConfig
from dynconv_mt.train.state import TrainerState


class Clock:
    """Measures one session of a run, which may have had earlier ones."""

    def __init__(self, state: TrainerState) -> None:
        """Begin a session at `state`."""
        self._start = time.monotonic()
        self._earlier_seconds, self._first_update = state.seconds, state.update
        self.restart_rate(state)

    def run_seconds(self) -> float:
        """Return the seconds spent on the run, earlier sessions included."""
        return self._earlier_seconds + time.monotonic() - self._start

    def restart_rate(self, state: TrainerState) -> None:
        """Measure tokens per second from here."""
        self._rate_start, self._rate_tokens = time.monotonic(), state.target_tokens

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Leave the block out of the tokens per second: validation and saving."""
        start = time.monotonic()
        yield
        self._rate_start += time.monotonic() - start

    def tokens_per_second(self, state: TrainerState) -> float:
        """Return target tokens per second since `restart_rate`."""
        seconds = time.monotonic() - self._rate_start
        return (state.target_tokens - self._rate_tokens) / seconds if seconds > 0.0 else 0.0

    def seconds_left(self, state: TrainerState, config: FitConfig, updates_per_epoch: int) -> float:
        """Return an estimate of the time until the first limit; infinite where none can be foreseen."""
        left = updates_left(state, config, updates_per_epoch)
        by_updates = math.inf if left is None else left * self._seconds_per_update(state) if left else 0.0
        by_time = 60.0 * config.train.max_minutes - self.run_seconds() if config.train.max_minutes else math.inf
        return max(0.0, min(by_updates, by_time))

    def last_update(self, state: TrainerState, config: FitConfig, updates_per_epoch: int) -> float:
        """Return an estimate of the update at which that limit ends training; this session must have made one."""
        return state.update + self.seconds_left(state, config, updates_per_epoch) / self._seconds_per_update(state)

    def _seconds_per_update(self, state: TrainerState) -> float:
        made = state.update - self._first_update
        return (time.monotonic() - self._start) / made if made else math.inf


def updates_left(state: TrainerState, config: FitConfig, updates_per_epoch: int) -> int | None:
    """Return the updates that train.max_updates and train.max_epochs still allow; None where neither is set."""
    train, left = config.train, []
    if train.max_updates:
        left.append(train.max_updates - state.update)
    if train.max_epochs:
        left.append((train.max_epochs - state.epoch) * updates_per_epoch - state.epoch_update)
    return max(0, min(left)) if left else None
