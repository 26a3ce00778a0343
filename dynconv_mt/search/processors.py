"""What changes a model's log-probabilities before the search looks at them.

Shapes: B sentences of the batch, B' of them still searched, W beam slots, P prefix positions, V target types.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from dynconv_mt.search.config import SearchConfig
from dynconv_mt.search.trellis import Trellis
from dynconv_mt.text.vocab import EOS, PAD, UNK


class StepProcessor(Protocol):
    """Edits the log-probabilities of one step in place. Processors run in order; what one rules out stays so."""

    def __call__(self, log_probs: Tensor, step: int, sentences: Tensor) -> None:
        """Edit `log_probs` (B', W, V) of output token `step` (from 0); row b' is sentence `sentences[b']` (B',)."""


class Penalties:
    """<pad> is never written; <unk> costs `unk_penalty` nats."""

    def __init__(self, unk_penalty: float) -> None:
        self.unk_penalty = unk_penalty

    def __call__(self, log_probs: Tensor, step: int, sentences: Tensor) -> None:
        """See StepProcessor."""
        log_probs[..., PAD] = -math.inf
        if self.unk_penalty:
            log_probs[..., UNK] -= self.unk_penalty


class ForcedPrefix:
    """The first tokens are given, at their own log-probabilities; where the prefix holds <pad>, the choice is free."""

    def __init__(self, prefix: Tensor) -> None:
        self.prefix = prefix  # (B, P)

    def __call__(self, log_probs: Tensor, step: int, sentences: Tensor) -> None:
        """See StepProcessor."""
        if step < self.prefix.shape[1]:
            tokens = self.prefix[sentences, step][:, None, None].expand(-1, log_probs.shape[1], 1)  # (B', W, 1)
            forced = log_probs.gather(-1, tokens)
            is_forced = tokens != PAD
            log_probs.masked_fill_(is_forced, -math.inf)
            log_probs.scatter_(-1, tokens, forced)


class NoRepeatedNgrams:
    """A token that would end an n-gram which the hypothesis has already is ruled out. Forced tokens may repeat."""

    def __init__(self, size: int, trellis: Trellis, prefix: Tensor | None) -> None:
        self.size, self.trellis, self.prefix = size, trellis, prefix  # (B, P), as for ForcedPrefix

    def __call__(self, log_probs: Tensor, step: int, sentences: Tensor) -> None:
        """See StepProcessor."""
        if step < self.size:
            return
        tokens = self.trellis.beam_tokens(sentences)  # (B', W, L), L = step
        ngrams = tokens.unfold(2, self.size, 1)  # (B', W, L - n + 1, n)
        beginning = tokens[..., step - self.size + 1 :]  # (B', W, n - 1), what the next token would complete
        is_repeated = (ngrams[..., :-1] == beginning[:, :, None]).all(dim=-1)
        if self.prefix is not None and step < self.prefix.shape[1]:
            is_repeated &= (self.prefix[sentences, step] == PAD)[:, None, None]
        log_probs.scatter_(-1, ngrams[..., -1].masked_fill(~is_repeated, PAD), -math.inf)  # <pad> is ruled out anyway


class LengthBounds:
    """</s> is ruled out before token `shortest` and is all that is left at token `longest`, sentence by sentence."""

    def __init__(self, shortest: Tensor, longest: Tensor) -> None:
        self.shortest, self.longest = shortest, longest  # (B,) each, at least one sentence
        self.last_minimum, self.first_limit = int(shortest.max()), int(longest.min())

    def __call__(self, log_probs: Tensor, step: int, sentences: Tensor) -> None:
        """See StepProcessor."""
        if step < self.last_minimum:
            is_early = step < self.shortest[sentences]
            log_probs[..., EOS].masked_fill_(is_early[:, None], -math.inf)
        if step >= self.first_limit:
            is_last = step >= self.longest[sentences]
            end = log_probs[..., EOS].clone()
            log_probs.masked_fill_(is_last[:, None, None], -math.inf)
            log_probs[..., EOS] = end


def default_processors(
    config: SearchConfig, limits: Tensor, prefix: Tensor | None, trellis: Trellis
) -> list[StepProcessor]:
    """Return the processors that `config` and a prefix (B, P) ask for; limits (B,): most tokens before </s>.

    At its limit a sentence ends even where the prefix goes on, and a prefix may end before `min_length`.
    """
    shortest = limits.clamp(max=config.min_length)
    processors: list[StepProcessor] = [Penalties(config.unk_penalty)]
    if prefix is not None and prefix.shape[1] > 0:
        positions = torch.arange(prefix.shape[1], device=prefix.device)
        given_end = torch.where(prefix == EOS, positions, limits.max()).amin(dim=1)  # where the prefix has </s>
        shortest = torch.minimum(shortest, given_end)
        prefix = prefix.masked_fill(positions >= limits[:, None], PAD)
        processors.append(ForcedPrefix(prefix))
    if config.no_repeat_ngram:
        processors.append(NoRepeatedNgrams(config.no_repeat_ngram, trellis, prefix))
    return [*processors, LengthBounds(shortest, limits)]
