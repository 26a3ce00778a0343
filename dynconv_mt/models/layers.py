"""The layer that all architectures share: token mixer, cross-attention (decoder) and feed-forward sub-blocks.

Shapes: B sentences, W beam slots, T target and S source positions, N new positions, D width of the stack.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from dynconv_mt.models.config import ModelConfig, Norm, Stack
from dynconv_mt.models.dropout import Dropout
from dynconv_mt.models.mixers import MixerSlot, MixerState, Padding, build_mixer
from dynconv_mt.models.mixers.attention import CrossAttention, CrossState


class Residual(nn.Module):
    """The frame around a sub-block: x + dropout(f(x)), with one LayerNorm before f or after the sum."""

    def __init__(self, stack: Stack, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(stack.dim)
        self.dropout = Dropout(dropout)
        self.is_pre = stack.norm is Norm.pre

    def forward(self, x: Tensor, sub_block: Callable[[Tensor], Tensor]) -> Tensor:
        """Map (..., D) to (..., D)."""
        if self.is_pre:
            y: Tensor = x + self.dropout(sub_block(self.norm(x)))
        else:
            y = self.norm(x + self.dropout(sub_block(x)))
        return y


class FeedForward(nn.Module):
    """Linear, ReLU, dropout, linear; the same at every position."""

    def __init__(self, dim: int, ffn_dim: int, dropout: float) -> None:
        super().__init__()
        self.input = nn.Linear(dim, ffn_dim)
        self.dropout = Dropout(dropout)
        self.output = nn.Linear(ffn_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to (..., D)."""
        y: Tensor = self.output(self.dropout(F.relu(self.input(x))))
        return y


class EncoderLayer(nn.Module):
    """Token mixer over the whole sentence, then feed-forward."""

    def __init__(self, config: ModelConfig, stack: Stack, layer: int) -> None:
        super().__init__()
        self.mixer = build_mixer(stack.mixer, MixerSlot(stack.dim, layer, causal=False))
        self.mixer_residual = Residual(stack, config.dropout)
        self.ffn = FeedForward(stack.dim, stack.ffn_dim, config.relu_dropout)
        self.ffn_residual = Residual(stack, config.dropout)

    def forward(self, x: Tensor, padding: Padding) -> Tensor:
        """Map (B, S, D) to (B, S, D)."""
        x = self.mixer_residual(x, lambda h: self.mixer(h, padding))
        x = self.ffn_residual(x, self.ffn)
        return x


@dataclass(frozen=True)
class Memory:
    """What the encoder hands to the decoder."""

    hidden: Tensor  # (B, S, width of the encoder)
    padding: Padding


@dataclass
class LayerState:
    """What one decoder layer remembers between decoding steps."""

    mixer: MixerState
    cross: CrossState | None  # None in a language model

    def select(self, sentences: Tensor) -> None:
        """Keep these sentences (B',)."""
        self.mixer.select(sentences)
        if self.cross is not None:
            self.cross.select(sentences)


class DecoderLayer(nn.Module):
    """Causal token mixer, attention over the encoder's output (none in a language model), then feed-forward."""

    def __init__(self, config: ModelConfig, stack: Stack, layer: int) -> None:
        super().__init__()
        self.mixer = build_mixer(stack.mixer, MixerSlot(stack.dim, layer, causal=True))
        self.mixer_residual = Residual(stack, config.dropout)
        if not config.is_language_model:
            memory_dim = config.stack("encoder").dim
            self.cross = CrossAttention(stack.dim, memory_dim, config.cross_heads, config.attention_dropout)
            self.cross_residual = Residual(stack, config.dropout)
        self.ffn = FeedForward(stack.dim, stack.ffn_dim, config.relu_dropout)
        self.ffn_residual = Residual(stack, config.dropout)

    def forward(self, x: Tensor, memory: Memory | None) -> Tensor:
        """Map (B, T, D) to (B, T, D), given the encoder's output."""
        x = self.mixer_residual(x, self.mixer)
        if memory is not None:
            state = self.cross.start(memory.hidden, memory.padding)
            x = self.cross_residual(x, lambda h: self.cross(h, state))
        x = self.ffn_residual(x, self.ffn)
        return x

    def start(self, memory: Memory | None, like: Tensor, beam: int, max_length: int) -> LayerState:
        """Return the state before the first token; `like` as for `TokenMixer.start`."""
        cross = None if memory is None else self.cross.start(memory.hidden, memory.padding)
        return LayerState(self.mixer.start(like, beam, max_length), cross)

    def step(self, x: Tensor, state: LayerState) -> Tensor:
        """Map N new positions (B, W, N, D) to (B, W, N, D). The beam folds into the queries of cross-attention."""
        slots, cross = x.shape[1:3], state.cross  # W, N
        x = self.mixer_residual(x, lambda h: self.mixer.step(h, state.mixer))
        if cross is not None:
            x = self.cross_residual(x, lambda h: self.cross(h.flatten(1, 2), cross).unflatten(1, slots))
        x = self.ffn_residual(x, self.ffn)
        return x
