"""One update: forward and backward of its micro-batches, clipping, and the optimizer."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dynconv_mt.compute import Compute
from dynconv_mt.data.batch import blank_batch
from dynconv_mt.data.loader import Update
from dynconv_mt.errors import SystemFailure, UserError, is_out_of_memory
from dynconv_mt.models.seq2seq import Seq2Seq
from dynconv_mt.runtime import Precision
from dynconv_mt.train.config import FitConfig
from dynconv_mt.train.distributed import Ranks
from dynconv_mt.train.loss import batch_loss, perplexity
from dynconv_mt.train.memory import Attempt, Part, release, whole_parts
from dynconv_mt.train.optim import (
    MovingAverage,
    adapt_loss_scale,
    build_optimizer,
    clip_gradients,
    set_learning_rate,
    step_unless,
)
from dynconv_mt.train.parallel import accumulate, is_sharded, parallelise
from dynconv_mt.train.schedule import learning_rate
from dynconv_mt.train.state import seed_micro_step

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sums:
    """Totals over a stretch of updates; those skipped count in `skipped` only."""

    loss: float = 0.0  # label-smoothed, nats
    nll: float = 0.0  # nats
    tokens: float = 0.0  # target tokens without padding
    grad_norm: float = 0.0
    updates: float = 0.0
    skipped: float = 0.0

    def averages(self) -> dict[str, float]:
        """Return loss, nll and ppl per token and the mean gradient norm; not-a-number before the first update."""
        nll = self.nll / self.tokens if self.tokens else math.nan
        return {
            "loss": self.loss / self.tokens if self.tokens else math.nan,
            "nll": nll,
            "ppl": perplexity(nll),
            "grad_norm": self.grad_norm / self.updates if self.updates else math.nan,
        }


NUM_APART = 3  # of the sums: loss, nll and tokens are each rank's own, the others are the same on all


class UpdateStep:
    """Makes updates. Nothing here waits for the device: totals stay there until `drain` or `peek` reads them."""

    def __init__(self, model: Seq2Seq, config: FitConfig, compute: Compute, ranks: Ranks) -> None:
        """`model` must be on the device already; with several ranks all take rank 0's weights."""
        self.config, self.compute, self.ranks = config, compute, ranks
        self.module = model
        self.model = parallelise(model, ranks, compute, config.train.parallel)
        self.optimizer = build_optimizer(model, config.optim)
        self.scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.precision is Precision.fp16)
        self.average = MovingAverage(model, config.train.ema_decay) if config.train.ema_decay else None
        self.sums = torch.zeros(6, dtype=torch.float64, device=compute.device)  # as in Sums
        self.skipped_in_a_row = torch.zeros((), dtype=torch.float64, device=compute.device)
        self.last: Attempt | None = None  # at an update: the newest
        self._bad_sums = torch.tensor([0.0] * 5 + [1.0], dtype=torch.float64, device=compute.device)
        self._is_exchanging = False  # whether other ranks take part in what is being computed
        self._largest_fit, self._smallest_misfit = 0, math.inf  # of the batches so far, in tokens

    def lr(self, number: int) -> float:
        """Return the learning rate of update `number` (from 0)."""
        return learning_rate(number, self.config.optim.lr, self.config.schedule)

    def __call__(self, number: int, update: Update) -> None:
        """Make update `number` (from 0). With dropout off it depends on its sentences only, not on their division.

        A micro-batch that does not fit in memory is cut in halves and the update begun anew, on all ranks. Raises
        UserError where a single sentence does not fit, and SystemFailure where it comes to light while gradients (or,
        with FSDP, weights) are being exchanged: then ranks wait for each other, and nothing can be taken back.
        """
        set_learning_rate(self.optimizer, self.lr(number))
        weight = self.ranks.world_size / update.num_target_tokens  # DDP averages over the ranks
        attempt = Attempt(number, weight, whole_parts(update.batches))
        totals, misfit = self._accumulate(attempt)
        while self._is_to_be_split(number, misfit):
            self.optimizer.zero_grad(set_to_none=True)
            attempt = attempt.split(misfit)
            totals, misfit = self._accumulate(attempt)
        self.last = attempt
        self._apply(number, totals, sum(batch.num_target_tokens for batch in update.batches))

    def _accumulate(self, attempt: Attempt) -> tuple[Tensor, Part | None]:
        """Add up the gradients; return loss and nll in nats (2,), and the part that did not fit in memory, if any."""
        totals = torch.zeros(2, dtype=torch.float64, device=self.compute.device)
        for part in attempt.parts:
            sums = self._try(attempt, part)
            if sums is None:
                return totals, part
            totals += sums
        return totals, None

    def _try(self, attempt: Attempt, part: Part) -> Tensor | None:
        """Add the gradients of one part; return its loss and nll in nats (2,), None where it does not fit in memory."""
        try:
            sums = self.add_gradients(attempt, part, is_last=part is attempt.parts[-1])
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if self._is_exchanging:
                raise SystemFailure(self._describe_exchange(attempt.number, part)) from None
        else:
            self._largest_fit = max(self._largest_fit, part.num_tokens)
            return sums
        release(self.compute.device)  # out here the error is gone, and what it held on to
        if self.ranks.world_size > 1:  # the others wait for gradients of ours, whatever they are
            self.add_gradients(attempt, Part(blank_batch(), part.micro_step), is_last=True)
        return None

    def add_gradients(self, attempt: Attempt, part: Part, is_last: bool) -> Tensor:
        """Accumulate the gradients of one part, over ranks if `is_last`; return its loss and nll in nats (2,)."""
        seed_micro_step(self.config.seed, attempt.number, part.micro_step, self.ranks.rank, part.first_row)
        is_shared = self.ranks.world_size > 1
        self._is_exchanging = is_shared and is_sharded(self.model)
        with accumulate(self.model, is_last):
            options = self.config.train
            sums = batch_loss(self.model, part.batch, self.compute, options.label_smoothing, options.r_drop)
            self._is_exchanging |= is_shared and is_last
            self.scaler.scale(sums.loss * attempt.weight).backward()
        self._is_exchanging = False
        return torch.stack([sums.loss.detach(), sums.nll])

    def _is_to_be_split(self, number: int, misfit: Part | None) -> bool:
        """Return whether a rank's part did not fit; all ranks agree. Raises UserError if it was a single sentence."""
        alone = misfit if misfit is not None and len(misfit.batch.src) == 1 else None
        own = int(misfit is not None) if alone is None else 2 + self.ranks.rank
        worst = self.ranks.max(own)  # 0: all fit; 1: some are to be split; 2 + rank: that rank's cannot be
        if worst >= 2:
            raise UserError(self.ranks.broadcast(alone and self._describe_alone(number, alone), src=worst - 2))
        if misfit is not None and misfit.num_tokens < self._smallest_misfit:
            self._smallest_misfit = misfit.num_tokens
            logger.warning(
                f"update {number + 1}: a batch of {misfit.num_tokens:,} tokens does not fit in memory and was split in "
                f"two; setting batch.max_tokens={misfit.num_tokens // 2} avoids the lost time"
            )
        return worst > 0

    def _describe_alone(self, number: int, misfit: Part) -> str:
        batch, budget = misfit.batch, min(self._largest_fit, misfit.num_tokens - 1)
        what = (
            f"batch.max_tokens={self.config.batch.max_tokens}: update {number + 1}: sentence pair {batch.indices[0]} "
            f"(counted from 0) alone, with {batch.src.shape[1]} source and {batch.tgt.shape[1]} target tokens, does "
            "not fit in memory"
        )
        if budget == 0:
            return f"{what}, and nothing has fitted so far; take a smaller model, or a device with more memory"
        return (
            f"{what}; set batch.max_tokens={budget}, which has fitted, and drop longer pairs when preprocessing "
            "(clean.max_length= with clean.after_bpe=true)"
        )

    def _describe_exchange(self, number: int, misfit: Part) -> str:
        return (
            f"batch.max_tokens={self.config.batch.max_tokens}: update {number + 1}: rank {self.ranks.rank} ran out of "
            f"memory at a batch of {misfit.num_tokens} tokens, in the middle of an exchange with the other ranks, so "
            "that it cannot be split. The last checkpoint is safe; begin a run with batch.max_tokens="
            f"{max(1, misfit.num_tokens // 2)}"
        )

    def _apply(self, number: int, totals: Tensor, num_tokens: int) -> None:
        """Unscale, clip, update weights and average unless the gradient is not finite, and add to the totals."""
        self.scaler.unscale_(self.optimizer)
        norm = clip_gradients(self.optimizer, self.config.optim.clip_norm)
        is_bad = ~torch.isfinite(norm)
        step_unless(self.optimizer, is_bad)
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(number + 1, is_bad)
        counts = adapt_loss_scale(self.scaler) if self.scaler.is_enabled() else 1.0
        good_sums = torch.zeros_like(self.sums)
        good_sums[:2], good_sums[3] = totals, norm
        good_sums[2], good_sums[4] = num_tokens, 1.0  # filled on the device: a tensor made of them would wait for it
        self.sums += torch.where(is_bad, self._bad_sums, good_sums)
        self.skipped_in_a_row = (self.skipped_in_a_row + counts) * is_bad

    def peek(self) -> Sums:
        """Return this rank's totals since the last `drain`; waits for the device."""
        return Sums(*self.sums.tolist())

    def gather(self) -> list[list[float]]:
        """Return the totals of every rank; all ranks call it together."""
        table = self.sums.new_zeros(self.ranks.world_size, len(self.sums))
        table[self.ranks.rank] = self.sums
        rows: list[list[float]] = self.ranks.sum(table).tolist()
        return rows

    def drain(self) -> Sums:
        """Return the totals of all ranks together and begin again from zero; all ranks call it together."""
        rows = self.gather()
        self.sums.zero_()
        return Sums(*(sum(column) for column in list(zip(*rows, strict=True))[:NUM_APART]), *rows[0][NUM_APART:])

    def restore_sums(self, rows: list[list[float]]) -> None:
        """Put back what `gather` returned; on another number of ranks rank 0 takes it all."""
        if len(rows) == self.ranks.world_size:
            row = rows[self.ranks.rank]
        else:
            apart = [sum(column) * self.ranks.is_main for column in list(zip(*rows, strict=True))[:NUM_APART]]
            row = [*apart, *rows[0][NUM_APART:]]
        self.sums.copy_(self.sums.new_tensor(row))

    def is_stuck(self) -> bool:
        """Whether train.max_skipped updates in a row had a gradient that is not finite; waits for the device.

        An fp16 gradient that overflowed at a loss scale which could still fall counts for nothing. The gradient, and so
        the answer, is the same on all ranks.
        """
        return bool(self.skipped_in_a_row.item() >= self.config.train.max_skipped)
