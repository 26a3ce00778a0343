"""Beam search, as the literature runs it.

The search starts from </s> and looks at the 2W best candidates of each step. A candidate </s> finishes a hypothesis if
it is among the first W; the first W others are the new beam. A sentence ends when W hypotheses are finished, or at its
own length limit, where </s> is all that is left to choose; it then leaves the batch.

Shapes: B sentences of the batch, B' of them still searched, W beam slots, S source positions, V target types.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from dynconv_mt.models.seq2seq import Seq2Seq
from dynconv_mt.search.config import SearchConfig
from dynconv_mt.search.ensemble import EnsembleState, check_models, evaluating, max_decoder_length
from dynconv_mt.search.processors import StepProcessor, default_processors
from dynconv_mt.search.topk import topk
from dynconv_mt.search.trellis import Candidates, Hypothesis, Trellis
from dynconv_mt.text.vocab import EOS, PAD


def beam_search(
    models: Sequence[Seq2Seq], src: Tensor, src_lengths: Tensor, config: SearchConfig, prefix: Tensor | None = None
) -> list[list[Hypothesis]]:
    """Return the `config.nbest` best hypotheses found for each sentence, best first; fewer where fewer exist.

    models: one, or several that are averaged (mean of probabilities). src: (B, S) right-padded ids ending in </s>;
    src_lengths: (B,), </s> counted. prefix: (B, P) ids that the output must begin with, <pad> where it is free.
    A sentence's result does not depend on the other sentences of the batch, beyond rounding.
    Raises UserError where the models' vocabularies differ, FloatingPointError where logits are not finite.
    """
    check_models(models)
    if len(src) == 0:
        return []
    if prefix is not None and len(prefix) != len(src):
        raise ValueError(f"prefix has {len(prefix)} rows, and src has {len(src)}")
    with evaluating(models):
        longest = max_decoder_length(models)
        limits = torch.tensor([min(config.max_length(n), longest) for n in src_lengths.tolist()], device=src.device)
        max_steps = int(limits.max()) + 1  # </s> is a step too
        state = EnsembleState.start(models, src, src_lengths, config, max_steps)
        trellis = Trellis(len(src), config.beam, max_steps, src.device)
        _search(state, trellis, Beam.start(limits), config.beam, default_processors(config, limits, prefix, trellis))
        found = trellis.hypotheses(config)
    if not all(found):
        row = found.index([])
        raise FloatingPointError(
            f"no hypothesis for sentence {row} of the batch: logits are not finite, or no token is allowed; try "
            "precision=fp32"
        )
    return found


@dataclass
class Beam:
    """The sentences that are still searched, and their unfinished hypotheses; sentences in dim 0 of every tensor."""

    sentences: Tensor  # (B',) row in the batch
    limits: Tensor  # (B',) most tokens before </s>
    num_finished: Tensor  # (B',) finished hypotheses
    tokens: Tensor  # (B', W) last token of each slot
    parents: Tensor  # (B', W) slot that it continued
    totals: Tensor  # (B', W) Σ log p; -inf: the slot is empty

    @classmethod
    def start(cls, limits: Tensor) -> Beam:
        """Return one slot for each of the sentences with these limits (B,): </s>, nothing else."""
        zeros = torch.zeros_like(limits)
        sentences = torch.arange(len(limits), device=limits.device)
        return cls(sentences, limits, zeros, (zeros + EOS)[:, None], zeros[:, None], zeros[:, None].float())

    def select(self, rows: Tensor) -> None:
        """Keep these rows (R,), in this order."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name)[rows])


def _search(
    state: EnsembleState, trellis: Trellis, beam: Beam, beam_size: int, processors: Sequence[StepProcessor]
) -> None:
    """Decode until no sentence is left, and record every step in `trellis`."""
    while True:
        log_probs = state.step(beam.tokens)  # (B', W, V); W is 1 in the first step
        for process in processors:
            process(log_probs, trellis.num_steps, beam.sentences)
        candidates = best_candidates(log_probs, beam.totals, 2 * beam_size)
        kept = (candidates.tokens == EOS).to(torch.uint8).argsort(dim=1, stable=True)[:, :beam_size]
        trellis.record(beam.sentences, candidates, kept)
        _advance(beam, candidates, kept)
        remaining = _unfinished(beam, trellis.num_steps)
        if len(remaining) == 0:
            return
        if len(remaining) < len(beam.sentences):
            beam.select(remaining)
            state.select(remaining)
        state.reorder(beam.parents)


def best_candidates(log_probs: Tensor, totals: Tensor, num_candidates: int) -> Candidates:
    """Return the best continuations of slots with `totals` (B', W), given log_probs (B', W, V), which is overwritten.

    Equal candidates come in the order of slots, then of tokens; which that equal the last are left out is not said.
    """
    vocab_size = log_probs.shape[-1]
    scores = log_probs.add_(totals[..., None]).flatten(1)  # (B', W·V)
    num_best = min(num_candidates, scores.shape[1])
    best, indices = topk(scores, num_best)
    missing = (0, num_candidates - num_best)  # only where the vocabulary is tiny
    return Candidates(
        tokens=F.pad(indices % vocab_size, missing, value=PAD),
        parents=F.pad(indices // vocab_size, missing),
        totals=F.pad(best, missing, value=-math.inf),
    )


def _advance(beam: Beam, candidates: Candidates, kept: Tensor) -> None:
    """Make the candidates kept (B', W) the new beam, and count the finished hypotheses."""
    beam.num_finished = beam.num_finished + candidates.ends().sum(dim=1)
    beam.tokens = candidates.tokens.gather(1, kept)
    beam.parents = candidates.parents.gather(1, kept)
    beam.totals = candidates.totals.gather(1, kept)


def _unfinished(beam: Beam, num_steps: int) -> Tensor:
    """Return the rows of the sentences that go on after `num_steps` steps: (R,) int64."""
    is_full = beam.num_finished >= beam.tokens.shape[1]
    is_at_limit = beam.limits < num_steps
    is_empty = beam.totals[:, 0] == -math.inf
    return (~(is_full | is_at_limit | is_empty)).nonzero()[:, 0]
