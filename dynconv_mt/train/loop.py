"""Training: updates, validations and checkpoints until a limit is reached or a signal comes.

What is due after an update is decided from the position alone, so a run that was cut off anywhere does after its
restart what it would have done.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from dynconv_mt.compute import keep_freed_memory, resolve_compute
from dynconv_mt.data.loader import Loader, Share, Update
from dynconv_mt.models.seq2seq import Seq2Seq
from dynconv_mt.train.average import write_final_model
from dynconv_mt.train.checkpoint import (
    checkpoint_folder,
    clean_temporary,
    find_damage,
    newest_sound,
    prune,
    write_folder,
)
from dynconv_mt.train.clock import Clock, updates_left
from dynconv_mt.train.config import FitConfig
from dynconv_mt.train.curves import draw_curves
from dynconv_mt.train.distributed import Ranks, process_group
from dynconv_mt.train.interrupt import Interrupt, interrupts
from dynconv_mt.train.report import Reporter
from dynconv_mt.train.resume import read_state, restore_step, write_state
from dynconv_mt.train.run_folder import check_run_folder, finished_state, locked, write_finished, write_job
from dynconv_mt.train.start import FitData, check_data, check_resume, describe
from dynconv_mt.train.state import TrainerState, Validation, best_updates, best_validation, stop_reason
from dynconv_mt.train.step import Sums, UpdateStep
from dynconv_mt.train.validation import validation_loader, validation_loss

Validate = Callable[[nn.Module], Mapping[str, float]]


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
    further scores, such as {"bleu": 38.1}. A finished run is left as it is. With torchrun's environment set, every
    rank calls this. `config` may be a subclass with further fields; all of them go into the run's config.json.
    Raises UserError before anything is written where options, data and folder do not fit together.
    """
    config.check()
    check_run_folder(config)
    run, ranks = Path(config.out_dir), Ranks.from_environment()
    if finished := finished_state(config):
        if ranks.is_main:
            print(f"{run}: this run has finished ({finished[1]}); raise the limit to train on", file=sys.stderr)
        best = best_validation(finished[0], config.validate.metric)
        return FitResult(True, finished[1], finished[0].update, best, run / "model")
    check_data(config, model, data)
    compute = resolve_compute(config, ranks.local_rank, ranks.local_world_size)
    if compute.device.type == "cpu":
        keep_freed_memory()
    with process_group(ranks, compute), locked(run) if ranks.is_main else nullcontext(), interrupts() as interrupt:
        step = UpdateStep(model.to(compute.device), config, compute, ranks)
        trainer = Trainer(config, step, data, validate)
        with closing(trainer.reporter):
            return trainer.run(interrupt)


@dataclass(frozen=True)
class Stop:
    """Why to stop; the same on all ranks."""

    reason: str  # the limit reached, as typed, or the name of the signal
    is_interrupt: bool  # a signal came: the run has not ended


class Trainer:
    """The loop and all that it holds together."""

    def __init__(self, config: FitConfig, step: UpdateStep, data: FitData, validate: Validate | None) -> None:
        """Begin a run, or take it up from its newest sound checkpoint."""
        self.config, self.step, self.data, self.validate = config, step, data, validate
        self.ranks, self.run_dir = step.ranks, Path(config.out_dir)
        share = Share(config.train.micro_batches(self.ranks.world_size), self.ranks.world_size, self.ranks.rank)
        is_gpu = step.compute.device.type == "cuda"
        self.loader = Loader(data.train, config.batch, config.seed, share, pin_memory=is_gpu)
        self.valid = validation_loader(data.valid, config.batch, self.ranks) if data.valid else None
        notes = list(describe(step.module, data, self.loader, step.compute, self.ranks))
        self.state = self._resume(notes)
        self.reporter = self._open_reporter(notes) if self.ranks.is_main else Reporter()
        self.clock = Clock(self.state)

    def _resume(self, notes: list[str]) -> TrainerState:
        """Return where to begin, with weights and moments in place; adds to `notes` what the user should hear."""
        folder, complaints = newest_sound(self.run_dir)
        notes += [f"warning: passed over a damaged checkpoint: {complaint}" for complaint in complaints]
        state = TrainerState() if folder is None else read_state(folder)
        notes += check_resume(state, self.data, self.loader)
        if folder is not None:
            restore_step(folder, self.step, state)
            notes.append(f"continuing after update {state.update:,}, from {folder}")
        self.ranks.barrier()  # before rank 0 changes anything in the folder
        return state

    def _open_reporter(self, notes: list[str]) -> Reporter:
        left = clean_temporary(self.run_dir)
        notes += [f"removed what an interrupted save had left: {', '.join(left)}"] if left else []
        write_job(self.config)
        left_over = updates_left(self.state, self.config, self.loader.num_updates)
        total = None if left_over is None else self.state.update + left_over
        reporter = Reporter.open(self.run_dir, self.state.update, total, self.config.train.tensorboard)
        for note in notes:
            reporter.say(note)
        return reporter

    def run(self, interrupt: Interrupt) -> FitResult:
        """Train until a limit or a signal; leave a checkpoint and, at a limit, the final model."""
        with closing(self._updates()) as updates:
            while True:
                stop = self._stop(interrupt)
                if self._is_validation_due(stop):
                    self._validate()
                    stop = stop or self._stop(interrupt)
                is_due = self._is_save_due(stop)
                if is_due or stop or self._is_among_best():
                    self._save(is_due)
                if stop:
                    break
                self._make(next(updates))
        return self._interrupted(stop) if stop.is_interrupt else self._finish(stop)

    def _updates(self) -> Generator[Update]:
        """Yield updates from the present position on, epoch after epoch, without end."""
        while True:
            yield from self.loader.epoch(self.state.epoch, self.state.epoch_update)

    def _stop(self, interrupt: Interrupt) -> Stop | None:
        """Return why to stop now, if at all. All ranks agree; rank 0's clock counts."""
        self.state.seconds = self.clock.run_seconds()
        reason = stop_reason(self.state, self.config) if self.ranks.is_main else None
        code = self.ranks.max(2 if interrupt else 1 if reason else 0)
        if code == 0:
            return None
        return Stop(str(self.ranks.from_main(reason or interrupt.name or "a signal to another rank")), code == 2)

    def _make(self, update: Update) -> None:
        """Make one update, move the position, and report."""
        state = self.state
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

    def _log(self) -> None:
        """Write a line of metrics; give up where the gradient has not been finite for long."""
        sums = self.step.drain()
        self.state.skipped += int(sums.skipped)
        record = self._record(sums)
        self.reporter.add(record)
        if self.reporter.is_due():
            self._show(record)
        if sums.skipped:
            self.reporter.say(f"warning: {sums.skipped:.0f} updates skipped, since their gradient was not finite")
        self.step.check_finite(self.state.update)
        self.clock.restart_rate(self.state)

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
        if self.valid is None or state.update in (0, state.validated_at) or (stop and stop.is_interrupt):
            return False
        return bool(stop) or is_multiple(state.update, rule.every) or self._is_epoch_end(rule.every_epochs)

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

    def _validate(self) -> None:
        """Measure loss, perplexity and what the caller wants to know; note it in state and metrics."""
        assert self.valid is not None
        start, step, model = time.monotonic(), self.step, self.step.module
        with self.clock.pause(), step.average.applied() if step.average else nullcontext():
            model.eval()
            epsilon = self.config.train.label_smoothing
            scores = validation_loss(model, self.valid, step.compute, self.ranks, epsilon)
            if self.validate is not None and self.ranks.is_main:
                scores |= {name: float(value) for name, value in self.validate(model).items()}
            model.train()
            scores = self.ranks.from_main(scores)
        epoch = self.state.epoch + self.state.epoch_update / self.loader.num_updates
        self.state.validations.append({"update": self.state.update, "epoch": epoch, **scores})
        self.reporter.add({"kind": "valid", **self.state.validations[-1], "seconds": time.monotonic() - start})
        numbers = "  ".join(f"{name} {value:.3f}" for name, value in scores.items())
        is_best = best_updates(self.state, self.config.validate.metric, 1) == [self.state.update]
        best = f"  (best {self.config.validate.metric} so far)" if is_best else ""
        self.reporter.say(f"validation after update {self.state.update}, epoch {epoch:.2f}:  {numbers}{best}")

    def _save(self, is_due: bool) -> None:
        """Write a checkpoint and remove what need not be kept; rank 0 does it, all ranks call it."""
        state, step, rule = self.state, self.step, self.config.checkpoint
        if is_due:
            state.saved.append(state.update)
        state.sums = step.gather()
        state.skipped_in_a_row = int(step.skipped_in_a_row.item())
        state.scaler = step.scaler.state_dict()
        folder = checkpoint_folder(self.run_dir, state.update)
        if not self.ranks.is_main:
            return
        with self.clock.pause():
            self.reporter.flush()
            if not folder.exists() or find_damage(folder):
                write_folder(folder, lambda path: write_state(path, step, state, self.data.text, self._provenance()))
            best = best_updates(state, self.config.validate.metric, rule.keep_best)
            multiples = [update for update in state.saved if is_multiple(update, rule.keep_every)]
            prune(self.run_dir, {*state.saved[-rule.keep_last :], *best, *multiples})

    def _provenance(self) -> dict[str, Any]:
        state = self.state
        scores = state.validations[-1] if state.validated_at == state.update else {}
        keys = ("update", "epoch", "target_tokens", "data")
        return {"seed": self.config.seed, **{key: getattr(state, key) for key in keys}, "validation": scores}

    def _interrupted(self, stop: Stop) -> FitResult:
        self.reporter.say(
            f"{stop.reason}: saved after update {self.state.update:,}; the same command goes on: {shlex.join(sys.argv)}"
        )
        return FitResult(False, stop.reason, self.state.update, self._best(), None)

    def _finish(self, stop: Stop) -> FitResult:
        """Make RUN/model and the picture, and note that the run has ended."""
        if self.ranks.is_main:
            sources = write_final_model(self.run_dir, self.config, self.state)
            self.reporter.flush()
            if draw_curves(self.run_dir) is None:
                self.reporter.say("no curves.png: the package matplotlib is not installed")
            write_finished(self.run_dir, self.state, stop.reason)
            names = ", ".join(folder.name for folder in sources)
            how = self.config.checkpoint.final
            self.reporter.say(f"finished ({stop.reason}): {self.run_dir / 'model'} is the {how} of {names}")
        self.ranks.barrier()
        return FitResult(True, stop.reason, self.state.update, self._best(), self.run_dir / "model")

    def _best(self) -> Validation | None:
        return best_validation(self.state, self.config.validate.metric)


def is_multiple(number: int, unit: int) -> bool:
    """Whether `number` is a multiple of `unit`; of 0 nothing is."""
    return unit > 0 and number % unit == 0
