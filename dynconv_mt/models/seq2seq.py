"""The encoder-decoder, and where models of all kinds come from.

Shapes: B sentences, W beam slots, S source and T target positions, N new positions, D model width, V target types.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from dynconv_mt.errors import UserError
from dynconv_mt.models.config import ModelConfig, Tying
from dynconv_mt.models.init import initialise
from dynconv_mt.models.language_model import LanguageModel
from dynconv_mt.models.layers import Memory
from dynconv_mt.models.mixers import Padding
from dynconv_mt.models.stacks import Decoder, DecoderState, Encoder, Head


class Seq2Seq(nn.Module):
    """A translation model: P(target | source), token by token. All input is right-padded with id 1."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        if config.tying is Tying.all:
            self.decoder.embedding.tokens = self.encoder.embedding.tokens

    def forward(self, src: Tensor, src_lengths: Tensor, prev_tgt: Tensor, head: Head = F.linear) -> Any:
        """Return the logits (B, T, V) of every target position, each given the true tokens before it.

        src: (B, S) ids ending in </s>; src_lengths: (B,) with </s> counted; prev_tgt: (B, T) ids, the target shifted
        right, beginning with </s>; head: what to return of the last hidden vectors (B, T, D) and the output layer's
        weight (V, D) instead, for a loss that never needs all logits at once.
        """
        return self.decoder(prev_tgt, self.encode(src, src_lengths), head)

    def encode(self, src: Tensor, src_lengths: Tensor) -> Memory:
        """Return the encoder's output for ids (B, S) of lengths (B,)."""
        padding = Padding.of(src_lengths, src.shape[1])
        return Memory(self.encoder(src, padding), padding)

    def start(self, memory: Memory, beam: int, max_length: int) -> DecoderState:
        """Return the decoding state before the first token.

        beam: beam slots to make room for; max_length: target positions that will be fed at most.
        """
        return self.decoder.start(memory, memory.hidden, beam, max_length)

    def step(self, tokens: Tensor, state: DecoderState) -> Tensor:
        """Feed N new tokens (B, W, N) to W beam slots (at most `beam`) and return their logits (B, W, N, V).

        Equal to the same positions of `forward`; `state` is updated in place.
        """
        return self.decoder.step(tokens, state)


Model = Seq2Seq | LanguageModel


def new_model(config: ModelConfig) -> Model:
    """Return a model whose weights are yet to be set."""
    return LanguageModel(config) if config.is_language_model else Seq2Seq(config)


def build_model(config: ModelConfig) -> Model:
    """Return a model with fresh weights (see `models.init`), drawn from torch's global generator.

    Raises UserError where the parts of `config` do not fit together or a vocabulary size is missing.
    """
    check_complete(config)
    model = new_model(config)
    initialise(model)
    return model


def check_complete(config: ModelConfig) -> None:
    """Raise UserError where the parts of `config` do not fit together or a vocabulary size is missing."""
    config.check()
    for side in ("tgt",) if config.is_language_model else ("src", "tgt"):
        if getattr(config, f"{side}_vocab_size") < 5:
            size = getattr(config, f"{side}_vocab_size")
            raise UserError(f"model.{side}_vocab_size={size}: must be at least 5 (four special ids and one type)")
