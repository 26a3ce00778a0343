"""Loss and perplexity on held-out pairs, and what the caller wants to know besides."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import torch
from torch import nn

from dynconv_mt.data.config import BatchConfig
from dynconv_mt.data.loader import Loader, Share
from dynconv_mt.data.store import TokenStore
from dynconv_mt.models.seq2seq import new_model
from dynconv_mt.train.distributed import Ranks
from dynconv_mt.train.interrupt import Interrupt, Interrupted
from dynconv_mt.train.loss import batch_loss
from dynconv_mt.train.parallel import assign, is_sharded, scattered_again, whole
from dynconv_mt.train.step import Sums, UpdateStep

Validate = Callable[[nn.Module], Mapping[str, float]]


def validation_loader(store: TokenStore, batch: BatchConfig, ranks: Ranks, max_length: int) -> Loader:
    """Return a loader that deals the batches to the ranks; its budget has room for the longest sentence.

    Pairs with a side of more than `max_length` tokens, which the model cannot take, are left out.
    """
    longest = min(max_length, max(int(store.src_lengths.max()), int(store.tgt_lengths.max())))
    roomy = replace(batch, max_tokens=max(batch.max_tokens, longest))
    share = Share(1, ranks.world_size, ranks.rank)
    return Loader(store, roomy, 0, share, shuffle=False, max_length=max_length)


def measure(
    step: UpdateStep, loader: Loader, validate: Validate | None, interrupt: Interrupt
) -> dict[str, float] | None:
    """Return the scores of the weights (of their average if there is one) on `loader`'s pairs, the same on all ranks.

    These are loss, nll and ppl, and what `validate` returns on rank 0. None on all ranks when a signal cut it short.
    """
    average = step.average.applied() if step.average else nullcontext()
    with scattered_again(step.model), average, _evaluation(step.module):
        scores = validation_loss(step, loader, interrupt)
        if scores is None or validate is None or not math.isfinite(scores["loss"]):  # nothing can be translated with
            return scores
        with _usable(step) as model:
            further = _further(validate, model, interrupt) if model is not None else None
        further = step.ranks.broadcast(further)
    return None if further is None else scores | further


@torch.no_grad()
def validation_loss(step: UpdateStep, loader: Loader, interrupt: Interrupt) -> dict[str, float] | None:
    """Return loss (label-smoothed), nll and ppl per target token over all pairs; None when a signal cut it short."""
    totals = torch.zeros(2, dtype=torch.float64, device=step.compute.device)
    num_tokens = 0
    for update in loader.epoch(0):  # of as many updates on every rank
        if step.ranks.max(bool(interrupt)):
            return None
        num_tokens += update.num_target_tokens
        for batch in update.batches:
            totals += torch.stack(batch_loss(step.module, batch, step.compute, step.config.train.label_smoothing))
    loss, nll = step.ranks.sum(totals).tolist()
    averages = Sums(loss, nll, num_tokens).averages()
    return {name: averages[name] for name in ("loss", "nll", "ppl")}


def _further(validate: Validate, model: nn.Module, interrupt: Interrupt) -> dict[str, float] | None:
    try:
        with interrupt.raising():
            return {name: float(value) for name, value in validate(model).items()}
    except Interrupted:
        return None


@contextmanager
def _evaluation(model: nn.Module) -> Iterator[None]:
    model.eval()
    try:
        yield
    finally:
        model.train()


@contextmanager
def _usable(step: UpdateStep) -> Iterator[nn.Module | None]:
    """Yield a model on rank 0, None on the others: a copy where the weights are sharded, which all ranks make."""
    if not is_sharded(step.model):
        yield step.module if step.ranks.is_main else None
        return
    copy = new_model(step.module.config) if step.ranks.is_main else None
    places = dict(copy.named_parameters()) if copy else {}
    for name, parameter in step.module.named_parameters():
        full = whole(parameter.detach())
        if places:
            assign(places[name], full)
    yield copy and copy.to(step.compute.device).eval()
