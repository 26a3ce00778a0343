"""Loss and perplexity on held-out pairs."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from dynconv_mt.compute import Compute
from dynconv_mt.data.config import BatchConfig
from dynconv_mt.data.loader import Loader, Share
from dynconv_mt.data.store import TokenStore
from dynconv_mt.train.distributed import Ranks
from dynconv_mt.train.loss import label_smoothed_loss
from dynconv_mt.train.step import Sums


def validation_loader(store: TokenStore, batch: BatchConfig, ranks: Ranks) -> Loader:
    """Return a loader that deals the batches to the ranks; its budget has room for the longest sentence."""
    longest = max(int(store.src_lengths.max()), int(store.tgt_lengths.max()))
    roomy = replace(batch, max_tokens=max(batch.max_tokens, longest))
    return Loader(store, roomy, 0, Share(1, ranks.world_size, ranks.rank), shuffle=False)


@torch.no_grad()
def validation_loss(
    model: nn.Module, loader: Loader, compute: Compute, ranks: Ranks, label_smoothing: float
) -> dict[str, float]:
    """Return loss (label-smoothed), nll and ppl per target token over all pairs; `model` is in evaluation mode."""
    totals = torch.zeros(2, dtype=torch.float64, device=compute.device)
    num_tokens = 0
    for update in loader.epoch(0):
        num_tokens += update.num_target_tokens
        for batch in update.batches:
            batch = batch.to(compute.device)
            with compute.autocast():
                logits = model(batch.src, batch.src_lengths, batch.prev_tgt)
            totals += torch.stack(label_smoothed_loss(logits, batch.tgt, label_smoothing))
    loss, nll = ranks.sum(totals).tolist()
    averages = Sums(loss, nll, num_tokens).averages()
    return {name: averages[name] for name in ("loss", "nll", "ppl")}
