"""Saving checkpoints while training goes on: tensors are copied at once, files written in the background."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from dynconv_mt.models.io import SavesItself
from dynconv_mt.train.checkpoint import checkpoint_folder, checkpoint_update, list_checkpoints, prune, write_folder
from dynconv_mt.train.resume import Snapshot, take_snapshot, write_snapshot
from dynconv_mt.train.state import TrainerState, best_updates
from dynconv_mt.train.step import UpdateStep


class Background:
    """Does one thing at a time in a thread, which the end of the program waits for."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "save")
        self._work: Future[None] | None = None

    def submit(self, work: Callable[[], None]) -> None:
        """Wait until earlier work is done, and begin with `work`. Raises what that raised."""
        self.join()
        self._work = self._pool.submit(work)

    def is_busy(self) -> bool:
        """Whether there is work that has not ended."""
        return self._work is not None and not self._work.done()

    def check(self) -> None:
        """Raise what work that has ended raised; does not wait."""
        if not self.is_busy():
            self.join()

    def join(self) -> None:
        """Wait until the work is done, and raise what it raised."""
        work, self._work = self._work, None
        if work is not None:
            work.result()

    def close(self) -> None:
        """Wait until the work is done, for a caller that has an error of its own to tell."""
        self._pool.shutdown()


class Saver(Background):
    """Saves the checkpoints of a run, and removes those that need not be kept. All ranks have one; rank 0 writes.

    A checkpoint counts what metrics.jsonl has, so the caller flushes that first.
    """

    def __init__(self, run: Path, step: UpdateStep, text: SavesItself | None, written: TrainerState | None) -> None:
        """`written`: the state of the checkpoint that the run goes on from."""
        super().__init__()
        self._run, self._step, self._text = run, step, text
        self._written = written and _content(written)

    def is_written(self, state: TrainerState) -> bool:
        """Whether `state` is that of the checkpoint written last; the same on all ranks."""
        return self._written == _content(state)

    def save(self, state: TrainerState) -> None:
        """Take a copy of `state` and of all tensors, and begin to write them; all ranks call it."""
        self._written = _content(state)
        snapshot = take_snapshot(self._step)
        if snapshot is not None:
            self.submit(
                partial(self._write, snapshot, self._written.update, state.to_json(), self._provenance(), self._kept())
            )

    def _write(
        self, snapshot: Snapshot, update: int, state: dict[str, Any], provenance: dict[str, Any], keep: set[int]
    ) -> None:
        folder = checkpoint_folder(self._run, update)
        write_folder(folder, lambda path: write_snapshot(path, snapshot, state, self._text, provenance))
        prune(self._run, keep)

    def _provenance(self) -> dict[str, Any]:
        state = self._written
        assert state is not None
        scores = state.validations[-1] if state.validated_at == state.update else {}
        keys = ("update", "epoch", "target_tokens", "data")
        return {"seed": self._step.config.seed, **{key: getattr(state, key) for key in keys}, "validation": scores}

    def _kept(self) -> set[int]:
        state, config = self._written, self._step.config
        assert state is not None
        rule = config.checkpoint
        best = best_updates(state, config.validate.metric, rule.keep_best)
        multiples = [update for update in state.saved if rule.keep_every and update % rule.keep_every == 0]
        return {state.update, *state.saved[-rule.keep_last :], *best, *multiples}

    def prune(self) -> None:
        """Remove older checkpoints that an earlier session was killed before it could remove."""
        if self._written is not None and self._step.ranks.is_main:
            newer = {checkpoint_update(folder) for folder in list_checkpoints(self._run)}
            newer = {update for update in newer if update > self._written.update}  # damaged, and of interest perhaps
            prune(self._run, self._kept() | newer)


def _content(state: TrainerState) -> TrainerState:
    """Return a copy of what tells one state from another: all but the time."""
    return replace(deepcopy(state), seconds=0.0)
