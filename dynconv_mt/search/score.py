"""Forced decoding: how probable a model finds a given translation.

Shapes: B sentences, S source and T target positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dynconv_mt.models.seq2seq import Seq2Seq
from dynconv_mt.search.ensemble import check_models, evaluating, mean_log_probs
from dynconv_mt.text.vocab import EOS, PAD


def forced_scores(
    models: Sequence[Seq2Seq], src: Tensor, src_lengths: Tensor, tgt: Tensor, temperature: float = 1.0
) -> Tensor:
    """Return the log-probability (B, T), in nats, of every token of tgt (B, T); 0 at padding.

    src: (B, S) right-padded ids of lengths (B,); tgt: (B, T) right-padded ids, each row ending in </s>, which is
    scored too. Equal to the `token_scores` that beam search gives the same tokens (`unk_penalty` apart).
    Raises FloatingPointError for logits that are not finite.
    """
    check_models(models)
    start = tgt.new_full((len(tgt), 1), EOS)
    prev_tgt = torch.cat([start, tgt[:, :-1]], dim=1)
    with evaluating(models):
        log_probs = mean_log_probs([model(src, src_lengths, prev_tgt) for model in models], temperature)
        scores = log_probs.gather(-1, tgt[..., None])[..., 0]
        if scores.isnan().any():
            raise FloatingPointError("logits are not finite: the model is damaged, or its precision too low")
        return scores.masked_fill(tgt == PAD, 0.0)
