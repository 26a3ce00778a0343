"""One update: forward and backward of its micro-batches, clipping, and the optimizer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dynconv_mt.compute import Compute
from dynconv_mt.data.batch import Batch
from dynconv_mt.data.loader import Update
from dynconv_mt.errors import UserError
from dynconv_mt.models.seq2seq import Seq2Seq
from dynconv_mt.runtime import Precision
from dynconv_mt.train.config import FitConfig
from dynconv_mt.train.distributed import Ranks, accumulate, parallelise
from dynconv_mt.train.loss import LossSums, label_smoothed_loss
from dynconv_mt.train.optim import MovingAverage, build_optimizer, clip_gradients, set_learning_rate, step_unless
from dynconv_mt.train.schedule import learning_rate
from dynconv_mt.train.state import seed_micro_step


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


def perplexity(nll: float) -> float:
    """Return e^nll, infinite where that is too large for a float."""
    return math.exp(nll) if nll < 700.0 else math.inf


class UpdateStep:
    """Makes updates. Nothing here waits for the device: totals stay there until `drain` or `peek` reads them."""

    def __init__(self, model: Seq2Seq, config: FitConfig, compute: Compute, ranks: Ranks) -> None:
        """`model` must be on the device already; with several ranks all take rank 0's weights."""
        self.config, self.compute, self.ranks = config, compute, ranks
        self.module = model
        self.model = parallelise(model, ranks, compute)
        self.optimizer = build_optimizer(model, config.optim)
        self.scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.precision is Precision.fp16)
        self.average = MovingAverage(model, config.train.ema_decay) if config.train.ema_decay else None
        self.sums = torch.zeros(6, dtype=torch.float64, device=compute.device)  # as in Sums
        self.skipped_in_a_row = torch.zeros((), dtype=torch.float64, device=compute.device)
        self._bad_sums = torch.tensor([0.0] * 5 + [1.0], dtype=torch.float64, device=compute.device)

    def lr(self, number: int) -> float:
        """Return the learning rate of update `number` (from 0)."""
        return learning_rate(number, self.config.optim.lr, self.config.schedule)

    def __call__(self, number: int, update: Update) -> None:
        """Make update `number` (from 0). With dropout off it depends on its sentences only, not on their division."""
        set_learning_rate(self.optimizer, self.lr(number))
        weight = self.ranks.world_size / update.num_target_tokens  # DDP averages over the ranks
        totals = torch.zeros(2, dtype=torch.float64, device=self.compute.device)
        for micro_step, batch in enumerate(update.batches):
            seed_micro_step(self.config.seed, number, micro_step, self.ranks.rank)
            with accumulate(self.model, is_last=micro_step == len(update.batches) - 1):
                sums = self._forward(batch)
                self.scaler.scale(sums.loss * weight).backward()
            totals += torch.stack([sums.loss.detach(), sums.nll])
        self._apply(number, totals, sum(batch.num_target_tokens for batch in update.batches))

    def _forward(self, batch: Batch) -> LossSums:
        batch = batch.to(self.compute.device, non_blocking=True)
        with self.compute.autocast():
            logits = self.model(batch.src, batch.src_lengths, batch.prev_tgt)
        return label_smoothed_loss(logits, batch.tgt, self.config.train.label_smoothing)

    def _apply(self, number: int, totals: Tensor, num_tokens: int) -> None:
        """Unscale, clip, update the weights unless the gradient is not finite, and add to the totals."""
        self.scaler.unscale_(self.optimizer)
        norm = clip_gradients(self.optimizer, self.config.optim.clip_norm)
        is_bad = ~torch.isfinite(norm)
        if self.scaler.is_enabled():
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            step_unless(self.optimizer, is_bad)
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(number + 1)
        good_sums = torch.zeros_like(self.sums)
        good_sums[:2], good_sums[3] = totals, norm
        good_sums[2], good_sums[4] = num_tokens, 1.0  # filled on the device: a tensor made of them would wait for it
        self.sums += torch.where(is_bad, self._bad_sums, good_sums)
        self.skipped_in_a_row = (self.skipped_in_a_row + 1.0) * is_bad

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

    def check_finite(self, number: int) -> None:
        """Raise UserError when too many updates in a row, up to update `number`, had a gradient that is not finite."""
        skipped = int(self.skipped_in_a_row.item())
        if skipped >= self.config.train.max_skipped:
            raise UserError(
                f"train.max_skipped={self.config.train.max_skipped}: the gradients of the last {skipped} updates (to "
                f"update {number}) were not finite, and the weights have not moved; lower optim.lr="
                f"{self.config.optim.lr:g}, lengthen schedule.warmup_updates, set optim.clip_norm, or use "
                f"precision=fp32 (now {self.compute.precision})"
            )
