"""Training: updates, validations and checkpoints until a limit is reached or a signal comes.

What is due after an update is decided from the position alone, so a run that was cut off anywhere does after its
restart what it would have done.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Generator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynconv_mt.compute import keep_freed_memory, resolve_compute
from dynconv_mt.data.loader import Loader, Share, Update
from dynconv_mt.errors import UserError
from dynconv_mt.models.seq2seq import Seq2Seq
from dynconv_mt.ops import check_device
from dynconv_mt.train.budget import recall_budget, settle_budget
from dynconv_mt.train.checkpoint import clean_temporary, newest_sound, put_all_back
from dynconv_mt.train.clock import Clock, updates_left
from dynconv_mt.train.config import FitConfig
from dynconv_mt.train.curves import draw_curves
from dynconv_mt.train.disk import disk_failures
from dynconv_mt.train.distributed import Ranks, process_group
from dynconv_mt.train.finish import keep_finished, make_final
from dynconv_mt.train.interrupt import Interrupt, interrupts
from dynconv_mt.train.report import Reporter
from dynconv_mt.train.resume import read_state, restore_step
from dynconv_mt.train.run_folder import check_run_folder, locked, read_finished, write_finished, write_job
from dynconv_mt.train.saving import Saver
from dynconv_mt.train.start import (
    FitData,
    check_data,
    check_ranks,
    check_resume,
    check_same_data,
    describe,
    doubt_of_pace,
    doubts,
    max_positions,
)
from dynconv_mt.train.state import TrainerState, Validation, best_updates, best_validation, stop_reason
from dynconv_mt.train.step import Sums, UpdateStep
from dynconv_mt.train.trouble import give_up
from dynconv_mt.train.validation import Validate, measure, validation_loader


@dataclass(frozen=True)
class FitResult:
    """How a call of `fit` ended."""

    is_finished: bool  # False: interrupted; the same call goes on
    reason: str  # the limit reached, as typed, or the name of the signal
    update: int  # updates made in all
    best: Validation | None  # the best validation
    model_dir: Path | None  # RUN/model once finished


def fit(config: FitConfig, model: Seq2Seq, data: FitData, validate: Validate | None = None) -> FitResult:
    """Train `model` on `data` in the run folder `config.out_dir`, or go on where an earlier call was cut off.

    `validate` is called at each validation, on rank 0, with the model in evaluation mode on its device; it returns
    further scores, such as {"bleu": 38.1}. A finished run is left as it is, and so is `model`. With torchrun's
    environment set, every rank calls this. `config` may be a subclass with further fields; all of them, and the model's
    config, go into the run's config.json. The seed is not that of the weights of `model`, which has some already.
    Raises UserError before anything is written where options, data and folder do not fit together, and SystemFailure
    where a disk is full or another rank has died.
    """
    config.check()
    if not isinstance(model, Seq2Seq):
        raise UserError(f"model: must be a Seq2Seq, as build_model makes it, not {type(model).__name__}")
    config = recall_budget(config)
    check_run_folder(config, model.config)
    run, ranks = Path(config.out_dir), Ranks.from_environment()
    if finished := _finished(config, data, ranks, is_locked=False):
        return finished
    check_data(config, model, data)
    if config.validate.bleu and validate is None:
        raise UserError("validate.bleu=true: needs the function `validate`, which translates and scores")
    compute = resolve_compute(config, ranks.local_rank, ranks.local_world_size, width=model.config.dim)
    check_device(compute.device)
    if compute.device.type == "cpu":
        keep_freed_memory()
    with (
        interrupts() as interrupt,
        disk_failures(run),
        process_group(ranks, compute, interrupt) as ranks,
        locked(run) if ranks.is_main else nullcontext(),
    ):
        if ranks.is_main:
            put_all_back(run)
        ranks.barrier()
        config = recall_budget(config)  # once more: now nobody else trains here, and what was set aside has its name
        check_run_folder(config, model.config)
        if finished := _finished(config, data, ranks, is_locked=True):
            ranks.barrier()  # a rank that leaves early would look dead to rank 0
            return finished
        check_ranks(config, model.config, data, compute, ranks)
        model = model.to(compute.device).train()
        config = settle_budget(config, model, data.train, compute, ranks)
        step = UpdateStep(model, config, compute, ranks)
        trainer = Trainer(config, step, data, validate, interrupt)
        with closing(trainer.reporter), closing(trainer.saver):
            return trainer.run()


def _finished(config: FitConfig, data: FitData, ranks: Ranks, *, is_locked: bool) -> FitResult | None:
    """Return what the run in `out_dir` has come to, where it has ended; UserError where it did on other data."""
    finished = read_finished(config)
    if finished is None:
        return None
    state, reason = finished
    check_same_data(state, data)
    if ranks.is_main:
        keep_finished(config, state, reason, is_locked=is_locked)
    best = best_validation(state, config.validate.metric)
    return FitResult(True, reason, state.update, best, Path(config.out_dir) / "model")


@dataclass(frozen=True)
class Stop:
    """Why to stop; the same on all ranks."""

    reason: str  # the limit reached, as typed, or the name of the signal
    is_interrupt: bool  # a signal came: the run has not ended


class Trainer:
    """The loop and all that it holds together."""

    def __init__(
        self, config: FitConfig, step: UpdateStep, data: FitData, validate: Validate | None, interrupt: Interrupt
    ) -> None:
        """Begin a run, or take it up from its newest sound checkpoint."""
        self.config, self.step, self.data, self.validate, self.interrupt = config, step, data, validate, interrupt
        self.ranks, self.run_dir = step.ranks, Path(config.out_dir)
        share = Share(config.train.micro_batches(self.ranks.world_size), self.ranks.world_size, self.ranks.rank)
        is_gpu = step.compute.device.type == "cuda"
        self.loader = Loader(data.train, config.batch, config.seed, share, pin_memory=is_gpu)
        longest = max_positions(step.module)
        self.valid = validation_loader(data.valid, config.batch, self.ranks, longest) if data.valid else None
        notes = [*describe(step.module, data, self.loader, step.compute, self.ranks), *doubts(config)]
        self.state = self._resume(notes)
        self.reporter = self._open_reporter(notes) if self.ranks.is_main else Reporter()
        self.clock = Clock(self.state)
        self._has_judged_pace = False

    def _resume(self, notes: list[str]) -> TrainerState:
        """Return where to begin, with weights and moments in place; adds to `notes` what the user should hear."""
        name, damage = self.ranks.broadcast(self._find_checkpoint(notes) if self.ranks.is_main else None)
        if damage:
            raise UserError(
                f"out_dir={self.run_dir}: none of its checkpoints is sound ({damage}); put a sound copy of one back, "
                "or remove them to begin anew, or choose another out_dir"
            )
        state = TrainerState() if name is None else read_state(Path(name))
        # which takes a copy of what was written, before the state is fitted to the ranks at hand
        self.saver = Saver(self.run_dir, self.step, self.data.text, None if name is None else state)
        notes += check_resume(state, self.data, self.loader)
        if name is not None:
            restore_step(Path(name), self.step, state)
            notes.append(f"continuing after update {state.update:,}, from {name}")
        self.ranks.barrier()  # before rank 0 changes anything in the folder
        self.saver.prune()
        return state

    def _find_checkpoint(self, notes: list[str]) -> tuple[str | None, str | None]:
        """Return the newest sound checkpoint or, where there are others only, what is wrong with the newest of them."""
        left = clean_temporary(self.run_dir)
        notes += [f"removed what an interrupted save had left: {', '.join(left)}"] if left else []
        folder, complaints = newest_sound(self.run_dir)
        notes += [f"warning: passed over a damaged checkpoint: {complaint}" for complaint in complaints]
        if folder is None:
            return None, complaints[0] if complaints else None
        return str(folder), None

    def _open_reporter(self, notes: list[str]) -> Reporter:
        write_job(self.config, self.step.module.config)
        left_over = updates_left(self.state, self.config, self.loader.num_updates)
        total = None if left_over is None else self.state.update + left_over
        reporter = Reporter.open(self.run_dir, self.state, total, self.config.train.tensorboard)
        for note in notes:
            reporter.say(note)
        return reporter

    def run(self) -> FitResult:
        """Train until a limit or a signal; leave a checkpoint and, at a limit, the final model."""
        with closing(self._updates()) as updates:
            while True:
                stop = self._stop()
                is_to_validate = self._is_validation_due(stop)
                if is_to_validate and not (stop and stop.is_interrupt):
                    if self.validate is not None:  # it may fail where training does not, and must lose nothing
                        self._save(is_due=False)
                    is_to_validate = not self._validate()
                    stop = self._stop()
                is_due = not is_to_validate and self._is_save_due(stop)  # what is not validated is saved again later
                if is_due or stop or self._is_among_best():
                    self._save(is_due)
                if stop:
                    break
                self._make(next(updates))
        self._wait_for_files()
        return self._interrupted(stop) if stop.is_interrupt else self._finish(stop)

    def _wait_for_files(self) -> None:
        """Wait, on all ranks, until the last checkpoint is on the disk: one that left would look dead to rank 0."""
        self.saver.join()
        self.ranks.barrier()

    def _updates(self) -> Generator[Update]:
        """Yield updates from the present position on, epoch after epoch, without end."""
        while True:
            yield from self.loader.epoch(self.state.epoch, self.state.epoch_update)

    def _stop(self) -> Stop | None:
        """Return why to stop now, if at all. All ranks agree; rank 0's clock counts."""
        self.state.seconds = self.clock.run_seconds()
        reason = stop_reason(self.state, self.config) if self.ranks.is_main else None
        code = self.ranks.max(2 if self.interrupt else 1 if reason else 0)
        if code == 0:
            return None
        signal = self.interrupt.name or "a signal to another rank"
        return Stop(str(self.ranks.broadcast(signal if code == 2 else reason)), code == 2)

    def _make(self, update: Update) -> None:
        """Make one update, move the position, and report."""
        state = self.state
        self.saver.check()
        self.step(state.update, update)
        state.update += 1
        state.target_tokens += update.num_target_tokens
        state.epoch_update += 1
        if state.epoch_update == self.loader.num_updates:
            state.epoch, state.epoch_update = state.epoch + 1, 0
        self.reporter.tick()
        if state.update % self.config.train.log_every == 0:
            self._log()
        elif self.reporter.is_due():
            self._show(self._record(self.step.peek()))
        is_due = state.update % self.config.train.max_skipped == 0  # seldom, since it waits for the device
        if is_due and self.step.is_stuck():
            self._wait_for_files()
            give_up(self.step, self.run_dir, self.data.text)

    def _log(self) -> None:
        """Write a line of metrics."""
        sums = self.step.drain()
        self.state.skipped += int(sums.skipped)
        record = self._record(sums)
        self.reporter.add(record)
        if self.reporter.is_due():
            self._show(record)
        if sums.skipped:
            self.reporter.say(f"warning: {sums.skipped:.0f} updates skipped, since their gradient was not finite")
        self.clock.restart_rate(self.state)
        self._judge_pace()

    def _judge_pace(self) -> None:
        """Say, once a twentieth of the time is over, if it will not do for the schedule."""
        is_early = self.clock.run_seconds() < 60.0 * self.config.train.max_minutes / 20
        if is_early or self._has_judged_pace:
            return
        self._has_judged_pace = True
        last_update = self.clock.last_update(self.state, self.config, self.loader.num_updates)
        if doubt := doubt_of_pace(self.config, last_update):
            self.reporter.say(doubt)

    def _record(self, sums: Sums) -> dict[str, Any]:
        state = self.state
        return {
            "kind": "train",
            "update": state.update,
            "epoch": state.epoch + state.epoch_update / self.loader.num_updates,
            **sums.averages(),
            "lr": self.step.lr(state.update - 1),
            "tokens": int(sums.tokens),
            "tokens_per_second": self.clock.tokens_per_second(state),
            "skipped": int(sums.skipped),
            "seconds": self.clock.run_seconds(),
        }

    def _show(self, record: dict[str, Any]) -> None:
        self.reporter.show(record, self.clock.seconds_left(self.state, self.config, self.loader.num_updates))

    def _is_epoch_end(self, every: int) -> bool:
        return every > 0 and self.state.epoch_update == 0 and self.state.epoch % every == 0

    def _is_validation_due(self, stop: Stop | None) -> bool:
        state, rule = self.state, self.config.validate
        if self.valid is None or state.update in (0, state.validated_at):
            return False
        is_end = stop is not None and not stop.is_interrupt
        return is_end or is_multiple(state.update, rule.every) or self._is_epoch_end(rule.every_epochs)

    def _is_save_due(self, stop: Stop | None) -> bool:
        state, rule = self.state, self.config.checkpoint
        if state.update == 0 or state.saved[-1:] == [state.update]:
            return False
        is_end = stop is not None and not stop.is_interrupt
        return is_end or is_multiple(state.update, rule.every) or self._is_epoch_end(rule.every_epochs)

    def _is_among_best(self) -> bool:
        state, count = self.state, self.config.checkpoint.keep_best
        is_new = state.update == state.validated_at
        return is_new and state.update in best_updates(state, self.config.validate.metric, count)

    def _validate(self) -> bool:
        """Measure loss, perplexity and what the caller wants to know; note it in state and metrics.

        A signal cuts it short: then nothing is noted, the return value is False, and it is done again after a restart.
        """
        assert self.valid is not None
        start = time.monotonic()
        with self.clock.pause():
            scores = measure(self.step, self.valid, self.validate, self.interrupt)
        if scores is None:
            return False
        epoch = self.state.epoch + self.state.epoch_update / self.loader.num_updates
        self.state.validations.append({"update": self.state.update, "epoch": epoch, **scores})
        self.reporter.add({"kind": "valid", **self.state.validations[-1], "seconds": time.monotonic() - start})
        numbers = "  ".join(f"{name} {value:.3f}" for name, value in scores.items())
        is_best = best_updates(self.state, self.config.validate.metric, 1) == [self.state.update]
        best = f"  (best {self.config.validate.metric} so far)" if is_best else ""
        self.reporter.say(f"validation after update {self.state.update}, epoch {epoch:.2f}:  {numbers}{best}")
        return True

    def _save(self, is_due: bool) -> None:
        """Save a checkpoint where it would say more than the newest one; all ranks call it."""
        state, step = self.state, self.step
        if is_due:
            state.saved.append(state.update)
        state.sums = step.gather()
        state.skipped_in_a_row = int(step.skipped_in_a_row.item())
        state.scaler = step.scaler.state_dict()
        if state.update and not self.saver.is_written(state):
            with self.clock.pause():
                self.reporter.flush()
                self.saver.save(state)
                self.ranks.barrier()  # a slow disk may keep rank 0 for longer than gradients are waited for

    def _interrupted(self, stop: Stop) -> FitResult:
        place = f"saved after update {self.state.update:,}" if self.state.update else "stopped before the first update"
        command = shlex.join(sys.argv) + (", started by torchrun as before" if self.ranks.world_size > 1 else "")
        self.reporter.say(f"{stop.reason}: {place}; the same command goes on: {command}")
        return FitResult(False, stop.reason, self.state.update, self._best(), None)

    def _finish(self, stop: Stop) -> FitResult:
        """Make RUN/model and the picture, and note that the run has ended."""
        if self.ranks.is_main:
            made = make_final(self.config, self.state)
            self.reporter.flush()
            if draw_curves(self.run_dir) is None:
                self.reporter.say("no curves.png: the package matplotlib is not installed")
            write_finished(self.config, self.state, stop.reason)
            self.reporter.say(f"finished ({stop.reason}): {made}")
        self.ranks.barrier()
        return FitResult(True, stop.reason, self.state.update, self._best(), self.run_dir / "model")

    def _best(self) -> Validation | None:
        return best_validation(self.state, self.config.validate.metric)


def is_multiple(number: int, unit: int) -> bool:
    """Whether `number` is a multiple of `unit`; of 0 nothing is."""
    return unit > 0 and number % unit == 0
