"""The two stacks: an encoder, and a decoder that predicts the next token.

Shapes: B sentences, W beam slots, S source and T target positions, N new positions, D width of the stack, V types.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn
from torch.nn import functional as F

from dynconv_mt.models.config import ModelConfig, Tying
from dynconv_mt.models.embedding import Embedding, OutputLayer
from dynconv_mt.models.layers import DecoderLayer, EncoderLayer, LayerState, Memory
from dynconv_mt.models.mixers import Padding

Head = Callable[[Tensor, Tensor], Any]  # of the last hidden vectors (..., D) and the output layer's weight (V, D)


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
    """Embedding, layers, and usually a last LayerNorm where the layers normalise before their sub-blocks."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        stack = config.stack("encoder")
        self.embedding = Embedding(stack, config.dropout)
        self.layers = nn.ModuleList(EncoderLayer(config, stack, layer) for layer in range(stack.layers))
        self.norm = nn.LayerNorm(stack.dim) if stack.final_norm else nn.Identity()

    def forward(self, src: Tensor, padding: Padding) -> Tensor:
        """Map ids (B, S) to (B, S, D)."""
        x = self.embedding(src)
        for layer in self.layers:
            x = layer(x, padding)
        y: Tensor = self.norm(x)
        return y


class Decoder(nn.Module):
    """Embedding, layers, last LayerNorm (as in the encoder) and the output layer. `memory` None: a language model."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        stack = config.stack("decoder")
        self.embedding = Embedding(stack, config.dropout)
        self.layers = nn.ModuleList(DecoderLayer(config, stack, layer) for layer in range(stack.layers))
        self.norm = nn.LayerNorm(stack.dim) if stack.final_norm else nn.Identity()
        is_tied = config.tying is not Tying.none
        self.output = None if is_tied else OutputLayer(stack.dim, stack.vocab_size)

    def forward(self, prev_tgt: Tensor, memory: Memory | None, head: Head = F.linear) -> Any:
        """Map ids (B, T) to logits (B, T, V), or to what `head` makes of the two that they are the product of."""
        x = self.embedding(prev_tgt)
        for layer in self.layers:
            x = layer(x, memory)
        return head(self.norm(x), self.output_weight)

    def start(self, memory: Memory | None, like: Tensor, beam: int, max_length: int) -> DecoderState:
        """Return the state before the first token, for B sentences and dtype and device of `like` (B, ...)."""
        return DecoderState([layer.start(memory, like, beam, max_length) for layer in self._stack()])

    def step(self, tokens: Tensor, state: DecoderState) -> Tensor:
        """Map N new ids (B, W, N) to logits (B, W, N, V)."""
        x = self.embedding(tokens, state.position)
        for layer, layer_state in zip(self._stack(), state.layers, strict=True):
            x = layer.step(x, layer_state)
        state.position += tokens.shape[-1]
        return F.linear(self.norm(x), self.output_weight)

    def _stack(self) -> list[DecoderLayer]:
        return cast("list[DecoderLayer]", list(self.layers))

    @property
    def output_weight(self) -> Tensor:
        """The weight (V, D) of the output layer, or of the embedding that serves as one."""
        return self.embedding.tokens.weight if self.output is None else self.output.weight
