"""Every decision of a beam search, and the hypotheses that follow from them.

Shapes: B sentences of the batch, B' of them still searched, W beam slots, 2W candidates a step, L steps, N hypotheses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dynconv_mt.search.config import SearchConfig
from dynconv_mt.text.vocab import EOS, PAD


@dataclass(frozen=True)
class Hypothesis:
    """A finished translation."""

    tokens: list[int]  # ids, ending in </s>
    score: float  # Σ token_scores / length^length_penalty, </s> counted in the length (or the plain sum)
    token_scores: list[float]  # log-probability of each token, in nats


@dataclass(frozen=True)
class Candidates:
    """The best continuations of each sentence's beam, best first."""

    tokens: Tensor  # (B', 2W) int64
    parents: Tensor  # (B', 2W) int64, the beam slot that each continues
    totals: Tensor  # (B', 2W) float32, Σ log p; -inf: there is no such candidate

    def ends(self) -> Tensor:
        """Return which of the first W candidates finish a hypothesis: (B', W) bool."""
        beam = self.tokens.shape[-1] // 2
        return (self.tokens[..., :beam] == EOS) & (self.totals[..., :beam] > -math.inf)


def final_score(total: Tensor, length: Tensor, config: SearchConfig) -> Tensor:
    """Return what hypotheses are ranked by, for sums of log-probabilities and lengths (</s> counted) of one shape."""
    return total / length.to(total.dtype) ** config.length_penalty if config.normalize else total


class Trellis:
    """Back-pointers over the whole batch: nothing is copied when the beam moves or a sentence leaves."""

    def __init__(self, num_sentences: int, beam: int, num_steps: int, device: torch.device) -> None:
        shape = (num_steps, num_sentences, 2 * beam)
        self.tokens = torch.full(shape, PAD, device=device)
        self.parents = torch.zeros(shape, dtype=torch.int64, device=device)
        self.totals = torch.full(shape, -math.inf, device=device)
        self.kept = torch.zeros(num_steps, num_sentences, beam, dtype=torch.int64, device=device)
        self.num_steps = 0

    def record(self, sentences: Tensor, candidates: Candidates, kept: Tensor) -> None:
        """Add a step: the candidates of `sentences` (B',), and which of them, kept (B', W), are the new beam."""
        self.tokens[self.num_steps, sentences] = candidates.tokens
        self.parents[self.num_steps, sentences] = candidates.parents
        self.totals[self.num_steps, sentences] = candidates.totals
        self.kept[self.num_steps, sentences] = kept
        self.num_steps += 1

    def beam_tokens(self, sentences: Tensor) -> Tensor:
        """Return what the unfinished hypotheses of `sentences` (B',) hold so far: (B', W, L) after L steps."""
        tokens: list[Tensor] = []
        column = self.kept[self.num_steps - 1][sentences]  # (B', W)
        for step in range(self.num_steps - 1, -1, -1):
            tokens.append(self.tokens[step][sentences].gather(1, column))
            slot = self.parents[step][sentences].gather(1, column)
            column = self.kept[step - 1][sentences].gather(1, slot) if step else column
        return torch.stack(tokens[::-1], dim=-1)

    def hypotheses(self, config: SearchConfig) -> list[list[Hypothesis]]:
        """Return the `nbest` best of the first `beam` finished hypotheses of each sentence, best first."""
        steps, columns, totals = self._finished(config.beam)
        scores = final_score(totals, steps + 1, config)
        best = scores.argsort(dim=1, descending=True, stable=True)[:, : config.nbest]  # (B, N)
        steps, scores = steps.gather(1, best), scores.gather(1, best)
        tokens, token_scores = self._trace(steps, columns.gather(1, best))
        rows = zip(scores.tolist(), steps.tolist(), tokens.tolist(), token_scores.tolist(), strict=True)
        return [
            [
                Hypothesis(ids[: last + 1], score, parts[: last + 1])
                for score, last, ids, parts in zip(*row, strict=True)
                if score > -math.inf
            ]
            for row in rows
        ]

    def _finished(self, beam: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return step, column and total of the first W candidates that were </s>, (B, W) each; total -inf: none."""
        candidates = Candidates(*(each[: self.num_steps] for each in (self.tokens, self.parents, self.totals)))
        ends = candidates.ends().transpose(0, 1).flatten(1)  # (B, L·W)
        first = ends.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :beam]
        totals = candidates.totals[..., :beam].transpose(0, 1).flatten(1).gather(1, first)
        totals = totals.masked_fill(~ends.gather(1, first), -math.inf)
        return first // beam, first % beam, totals

    def _trace(self, steps: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Follow the back-pointers from candidate `columns` of `steps`, (B, N) each.

        Returns tokens and their log-probabilities, (B, N, L) each; what lies beyond a hypothesis' step is undefined.
        """
        shape = (*steps.shape, self.num_steps)
        tokens, totals = steps.new_zeros(shape), self.totals.new_zeros(shape)
        column = columns
        for step in range(self.num_steps - 1, -1, -1):
            column = torch.where(steps == step, columns, column)
            tokens[..., step] = self.tokens[step].gather(1, column)
            totals[..., step] = self.totals[step].gather(1, column)
            slot = self.parents[step].gather(1, column)
            column = self.kept[step - 1].gather(1, slot) if step else column
        return tokens, totals.diff(dim=-1, prepend=totals.new_zeros(*steps.shape, 1))
