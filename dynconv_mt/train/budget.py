"""`batch.max_tokens=auto`: how large batches may be, found by trial before the first update.

A few updates' worth of forward and backward passes over batches of the worst shapes, each twice as large as the one
before, tell how many bytes a token takes. From there a straight line leads to the memory at hand, less what the
optimizer will want and a margin. Nothing of the trials remains in the model.
"""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from dynconv_mt.compute import Compute
from dynconv_mt.data.batch import Batch
from dynconv_mt.data.config import AUTO
from dynconv_mt.data.store import TokenStore
from dynconv_mt.errors import UserError, is_out_of_memory
from dynconv_mt.text.vocab import EOS, UNK
from dynconv_mt.train.checkpoint import list_checkpoints
from dynconv_mt.train.config import FitConfig, Parallel, TrainConfig, require
from dynconv_mt.train.distributed import Ranks
from dynconv_mt.train.loss import batch_loss
from dynconv_mt.train.memory import release
from dynconv_mt.train.meter import DeviceMeter, HostMeter, Meter
from dynconv_mt.train.run_folder import has_final, read_job

MAX_BUDGET = 16_384  # tokens; a choice: larger updates are made of several batches (train.update_freq)
FIRST_TRIAL = 512  # tokens
CLEAR_GROWTH = 2**26  # bytes from one trial to the next that stand out from what else happens in a process
ROUND_TO = 64  # tokens


def recall_budget(config: FitConfig) -> FitConfig:
    """Return `config` with the batch.max_tokens that its run was begun with, where it says auto and goes on."""
    run = Path(config.out_dir)
    if not config.batch.is_auto or not (list_checkpoints(run) or has_final(run)):
        return config
    job = read_job(run) or {}
    return with_budget(config, int(job.get("batch", {}).get("max_tokens", AUTO)))


def with_budget(config: FitConfig, max_tokens: int) -> FitConfig:
    """Return `config` with another batch.max_tokens."""
    return replace(config, batch=replace(config.batch, max_tokens=max_tokens))


def settle_budget(config: FitConfig, model: nn.Module, store: TokenStore, compute: Compute, ranks: Ranks) -> FitConfig:
    """Return `config` with a number for batch.max_tokens=auto, the same on all ranks, and say so.

    `model` is on its device, and neither parallel nor in an optimizer yet. Raises UserError where the longest pair of
    `store` does not fit, or the system does not say how much memory there is.
    """
    if not config.batch.is_auto:
        return config
    is_sharded = config.train.parallel is Parallel.fsdp and ranks.world_size > 1
    rule = "is estimated for whole weights on every device; set a number with train.parallel=fsdp"
    require(not is_sharded, "batch.max_tokens", "auto", rule)
    ranks.barrier()  # every model is where it belongs
    trial = Trial(model, compute, config.train)
    state = state_bytes(model, config)
    room = trial.meter.room(ranks.local_world_size) - state
    ranks.barrier()  # nobody has begun
    shapes = worst_shapes(store)
    budget = min(find_budget(trial, shape, room, state) for shape in shapes)
    budget = -ranks.max(-budget)
    longest = max(map(max, shapes))
    about = f"{max(room, 0) / 2**30:.1f} GiB"
    if budget < longest:
        raise UserError(
            f"batch.max_tokens=auto: the {about} at hand beside the model hold batches of {budget} tokens, and the "
            f"longest pair has {longest}; drop long pairs when preprocessing (clean.max_length= with clean.after_bpe="
            "true), or take a smaller model or a device with more memory"
        )
    if ranks.is_main:
        print(
            f"batch.max_tokens=auto: {budget:,} tokens, by trial, for {about}; the run keeps this number",
            file=sys.stderr,
        )
    return with_budget(config, budget)


def state_bytes(model: nn.Module, config: FitConfig) -> int:
    """Return what the optimizer and the moving average will add to the trials."""
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    copies = 2 + (2 if config.train.ema_decay else 0)  # two moments; the average, and on a GPU its next step
    return copies * weights


def worst_shapes(store: TokenStore) -> list[tuple[int, int]]:
    """Return the (source, target) lengths, </s> included, whose batches take most memory for their tokens.

    They are pairs of the longest sides, since attention grows with the length; and as a batch counts its longer side
    only, pairs that are as long on both sides.
    """
    src, tgt = int(store.src_lengths.max()), int(store.tgt_lengths.max())
    shorter = min(src, tgt)
    return list(dict.fromkeys([(src, tgt), (shorter, shorter)]))


class Trial:
    """Forward and backward passes of batches that are as bad as any."""

    def __init__(self, model: nn.Module, compute: Compute, options: TrainConfig) -> None:
        self.model, self.compute, self.options = model, compute, options
        self.is_gpu = compute.device.type == "cuda"
        self.meter: Meter = DeviceMeter(compute.device) if self.is_gpu else HostMeter()

    def bytes(self, rows: int, shape: tuple[int, int]) -> float:
        """Return what a batch of so many pairs takes at the peak, gradients included; infinite: it does not fit."""
        try:
            return self.meter.growth(lambda: self._run(worst_batch(rows, *shape)))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return math.inf
        finally:
            self.model.zero_grad(set_to_none=True)
            release(self.compute.device)

    def holds(self, rows: int, shape: tuple[int, int], beside: int) -> bool:
        """Return whether a batch fits with `beside` bytes more. A CPU is not asked: its kernel kills who tries."""
        if not self.is_gpu:
            return True
        try:
            held = torch.empty(beside, dtype=torch.uint8, device=self.compute.device)
        except torch.OutOfMemoryError:
            return False
        fits = math.isfinite(self.bytes(rows, shape))
        del held
        return fits

    def _run(self, batch: Batch) -> None:
        options = self.options
        batch_loss(self.model, batch, self.compute, options.label_smoothing, options.r_drop).loss.backward()


def find_budget(trial: Trial, shape: tuple[int, int], room: int, beside: int) -> int:
    """Return the tokens, at most MAX_BUDGET, that batches of such pairs may have in `room` bytes; 0: not one pair.

    A line through two trials leads there, as soon as they differ clearly; no trial is made that might need more than
    `room`. A GPU then tries the result, with `beside` bytes of other things.
    """
    longest = max(shape)
    most = max(1, MAX_BUDGET // longest)
    rows = max(1, min(most, FIRST_TRIAL // longest))
    taken = trial.bytes(rows, shape)
    while taken > room and rows > 1:
        rows //= 2
        taken = trial.bytes(rows, shape)
    if taken > room:
        return 0
    per_row = max(taken, CLEAR_GROWTH) / rows  # at most, since some of it is for gradients
    while rows < most:
        more = min(most, 2 * rows)
        if taken + per_row * (more - rows) > room:
            break
        growth = trial.bytes(more, shape) - taken
        per_row = max(growth, CLEAR_GROWTH) / (more - rows)
        if growth >= CLEAR_GROWTH:
            break
        rows, taken = more, taken + growth
    rows = min(most, rows + int((room - taken) / per_row))
    while rows and not trial.holds(rows, shape, beside):
        rows = rows * 3 // 4
    if rows == most:
        return max(MAX_BUDGET, longest)
    return max(rows * longest // ROUND_TO * ROUND_TO, min(rows, 1) * longest)


def worst_batch(rows: int, src_length: int, tgt_length: int) -> Batch:
    """Return a batch of pairs of these lengths, </s> included, without padding."""
    src, tgt = (torch.full((rows, length), UNK) for length in (src_length, tgt_length))
    src[:, -1] = tgt[:, -1] = EOS
    return Batch(src, torch.full((rows,), src_length), tgt.roll(1, dims=1), tgt, rows * tgt_length, ())
