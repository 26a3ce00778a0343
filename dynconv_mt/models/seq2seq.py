"""The encoder-decoder.

Shapes: B sentences, W beam slots, S source and T target positions, N new positions, D model width, V target types.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from dynconv_mt.errors import UserError
from dynconv_mt.models.config import ModelConfig, Norm, Tying
from dynconv_mt.models.embedding import Embedding, OutputLayer
from dynconv_mt.models.init import initialise
from dynconv_mt.models.layers import DecoderLayer, EncoderLayer, LayerState
from dynconv_mt.models.mixers import Padding


@dataclass(frozen=True)
class Memory:
    """What the encoder hands to the decoder."""

    hidden: Tensor  # (B, S, D)
    padding: Padding


@dataclass
class DecoderState:
    """What the decoder remembers between steps; sentences in dim 0 of every buffer, beam slots in dim 1."""

    layers: list[LayerState]
    position: int = 0  # target positions fed so far

    def select(self, sentences: Tensor) -> None:
        """Keep these sentences (B',) int64, in this order: the others have finished."""
        for layer in self.layers:
            layer.select(sentences)

    def reorder(self, parents: Tensor) -> None:
        """Let beam slot w of sentence b continue from slot parents[b, w]; parents (B, W') int64, W' at most `beam`."""
        for layer in self.layers:
            layer.mixer.reorder(parents)


class Encoder(nn.Module):
    """Embedding, layers, and a last LayerNorm where the layers normalise before their sub-blocks."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        stack = config.encoder
        self.embedding = Embedding(config, config.src_vocab_size)
        self.layers = nn.ModuleList(EncoderLayer(config, stack, layer) for layer in range(stack.layers))
        self.norm = nn.LayerNorm(config.dim) if config.norm is Norm.pre else nn.Identity()

    def forward(self, src: Tensor, padding: Padding) -> Tensor:
        """Map ids (B, S) to (B, S, D)."""
        x = self.embedding(src)
        for layer in self.layers:
            x = layer(x, padding)
        y: Tensor = self.norm(x)
        return y


class Decoder(nn.Module):
    """Embedding, layers, last LayerNorm (pre-norm only) and the output layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        stack = config.decoder
        self.embedding = Embedding(config, config.tgt_vocab_size)
        self.layers = nn.ModuleList(DecoderLayer(config, stack, layer) for layer in range(stack.layers))
        self.norm = nn.LayerNorm(config.dim) if config.norm is Norm.pre else nn.Identity()
        is_tied = config.tying is not Tying.none
        self.output = None if is_tied else OutputLayer(config.dim, config.tgt_vocab_size)

    def forward(self, prev_tgt: Tensor, memory: Memory) -> Tensor:
        """Map ids (B, T) to logits (B, T, V)."""
        x = self.embedding(prev_tgt)
        for layer in self.layers:
            x = layer(x, memory.hidden, memory.padding)
        return self.logits(x)

    def start(self, memory: Memory, beam: int, max_length: int) -> DecoderState:
        """Return the state before the first token."""
        return DecoderState([layer.start(memory.hidden, memory.padding, beam, max_length) for layer in self._stack()])

    def step(self, tokens: Tensor, state: DecoderState) -> Tensor:
        """Map N new ids (B, W, N) to logits (B, W, N, V)."""
        x = self.embedding(tokens, state.position)
        for layer, layer_state in zip(self._stack(), state.layers, strict=True):
            x = layer.step(x, layer_state)
        state.position += tokens.shape[-1]
        return self.logits(x)

    def _stack(self) -> list[DecoderLayer]:
        return cast("list[DecoderLayer]", list(self.layers))

    def logits(self, x: Tensor) -> Tensor:
        """Map (..., D) to (..., V)."""
        weight = self.embedding.tokens.weight if self.output is None else self.output.weight
        return F.linear(self.norm(x), weight)


class Seq2Seq(nn.Module):
    """A translation model: P(target | source), token by token. All input is right-padded with id 1."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        if config.tying is Tying.all:
            self.decoder.embedding.tokens = self.encoder.embedding.tokens

    def forward(self, src: Tensor, src_lengths: Tensor, prev_tgt: Tensor) -> Tensor:
        """Return the logits (B, T, V) of every target position, each given the true tokens before it.

        src: (B, S) ids ending in </s>; src_lengths: (B,) with </s> counted; prev_tgt: (B, T) ids, the target shifted
        right, beginning with </s>.
        """
        return self.decoder(prev_tgt, self.encode(src, src_lengths))  # type: ignore[no-any-return]

    def encode(self, src: Tensor, src_lengths: Tensor) -> Memory:
        """Return the encoder's output for ids (B, S) of lengths (B,)."""
        padding = Padding.of(src_lengths, src.shape[1])
        return Memory(self.encoder(src, padding), padding)

    def start(self, memory: Memory, beam: int, max_length: int) -> DecoderState:
        """Return the decoding state before the first token.

        beam: beam slots to make room for; max_length: target positions that will be fed at most.
        """
        return self.decoder.start(memory, beam, max_length)

    def step(self, tokens: Tensor, state: DecoderState) -> Tensor:
        """Feed N new tokens (B, W, N) to W beam slots (at most `beam`) and return their logits (B, W, N, V).

        Equal to the same positions of `forward`; `state` is updated in place.
        """
        return self.decoder.step(tokens, state)


def build_model(config: ModelConfig) -> Seq2Seq:
    """Return a model with fresh weights (see `models.init`), drawn from torch's global generator.

    Raises UserError where the parts of `config` do not fit together or a vocabulary size is missing.
    """
    config.check()
    for side in ("src", "tgt"):
        if getattr(config, f"{side}_vocab_size") < 5:
            size = getattr(config, f"{side}_vocab_size")
            raise UserError(f"model.{side}_vocab_size={size}: must be at least 5 (four special ids and one type)")
    model = Seq2Seq(config)
    initialise(model)
    return model
