"""Several models that predict as one.

Shapes: B sentences, W beam slots, S source positions, V target types.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dynconv_mt.errors import UserError
from dynconv_mt.models.seq2seq import Seq2Seq
from dynconv_mt.models.stacks import DecoderState
from dynconv_mt.search.config import SearchConfig


def mean_log_probs(logits: Sequence[Tensor], temperature: float = 1.0) -> Tensor:
    """Return the fp32 log of the mean of the models' probabilities, without gradients.

    `logits` holds a (..., V) for each model, and may be overwritten.
    """
    log_probs = [_log_softmax(each, temperature) for each in logits]
    if len(log_probs) == 1:
        return log_probs[0]
    return torch.logsumexp(torch.stack(log_probs), dim=0) - math.log(len(log_probs))


@torch.no_grad()
def _log_softmax(logits: Tensor, temperature: float) -> Tensor:
    logits = logits.float() if temperature == 1.0 else logits.float() / temperature
    # In place on the CPU, where fresh pages cost more than the exponentials: 11 ms, not 35, for (64, 5, 32000)
    return torch.log_softmax(logits, dim=-1, out=logits if logits.is_cpu else None)


@contextmanager
def evaluating(models: Sequence[nn.Module]) -> Iterator[None]:
    """Within the context the models are in evaluation mode (no dropout) and no gradients are kept."""
    in_training = [model for model in models if model.training]
    for model in in_training:
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for model in in_training:
            model.train()


def check_models(models: Sequence[Seq2Seq]) -> None:
    """Raise UserError where there is no model, or where models do not predict the same number of types."""
    sizes = [model.config.tgt_vocab_size for model in models]
    if not sizes:
        raise UserError("an ensemble needs at least one model")
    if len(set(sizes)) > 1:
        raise UserError(f"the models of an ensemble have target vocabularies of {sizes} types; they must be the same")


def max_decoder_length(models: Sequence[Seq2Seq]) -> int:
    """Return the most tokens before </s> that all models have positions for."""
    return min(model.config.stack("decoder").max_positions for model in models) - 1


@dataclass
class EnsembleState:
    """The models and what their decoders remember; a step of the ensemble is a step of each."""

    models: Sequence[Seq2Seq]
    states: list[DecoderState]
    temperature: float

    @classmethod
    def start(
        cls, models: Sequence[Seq2Seq], src: Tensor, src_lengths: Tensor, config: SearchConfig, max_length: int
    ) -> EnsembleState:
        """Encode the sources (B, S) of lengths (B,) and return the state before the first of `max_length` steps."""
        states = [model.start(model.encode(src, src_lengths), config.beam, max_length) for model in models]
        return cls(models, states, config.temperature)

    def step(self, tokens: Tensor) -> Tensor:
        """Feed one token to each slot (B, W) and return the log-probabilities (B, W, V) of the next."""
        pairs = zip(self.models, self.states, strict=True)
        logits = [model.step(tokens[..., None], state)[:, :, 0] for model, state in pairs]
        return mean_log_probs(logits, self.temperature)

    def select(self, sentences: Tensor) -> None:
        """Keep these sentences (B',), in this order."""
        for state in self.states:
            state.select(sentences)

    def reorder(self, parents: Tensor) -> None:
        """Let slot w of sentence b continue from slot parents[b, w]; parents (B, W)."""
        for state in self.states:
            state.reorder(parents)
