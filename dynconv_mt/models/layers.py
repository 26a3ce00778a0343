"""The layer that all architectures share: token mixer, cross-attention (decoder) and feed-forward sub-blocks.

Shapes: B sentences, W beam slots, T target and S source positions, N new positions, D model width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from dynconv_mt.models.config import ModelConfig, Norm, StackConfig
from dynconv_mt.models.mixers import MixerSlot, MixerState, Padding, build_mixer
from dynconv_mt.models.mixers.attention import CrossAttention, CrossState


class Residual(nn.Module):
    """The frame around a sub-block: x + dropout(f(x)), with one LayerNorm before f or after the sum."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.is_pre = config.norm is Norm.pre

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
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(ffn_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to (..., D)."""
        y: Tensor = self.output(self.dropout(F.relu(self.input(x))))
        return y


class EncoderLayer(nn.Module):
    """Token mixer over the whole sentence, then feed-forward."""

    def __init__(self, config: ModelConfig, stack: StackConfig, layer: int) -> None:
        super().__init__()
        self.mixer = build_mixer(stack.mixer, MixerSlot(config.dim, layer, causal=False))
        self.mixer_residual = Residual(config)
        self.ffn = FeedForward(config.dim, stack.ffn_dim, config.relu_dropout)
        self.ffn_residual = Residual(config)

    def forward(self, x: Tensor, padding: Padding) -> Tensor:
        """Map (B, S, D) to (B, S, D)."""
        x = self.mixer_residual(x, lambda h: self.mixer(h, padding))
        x = self.ffn_residual(x, self.ffn)
        return x


@dataclass
class LayerState:
    """What one decoder layer remembers between decoding steps."""

    mixer: MixerState
    cross: CrossState

    def select(self, sentences: Tensor) -> None:
        """Keep these sentences (B',)."""
        self.mixer.select(sentences)
        self.cross.select(sentences)


class DecoderLayer(nn.Module):
    """Causal token mixer, attention over the encoder's output, then feed-forward."""

    def __init__(self, config: ModelConfig, stack: StackConfig, layer: int) -> None:
        super().__init__()
        self.mixer = build_mixer(stack.mixer, MixerSlot(config.dim, layer, causal=True))
        self.mixer_residual = Residual(config)
        self.cross = CrossAttention(config.dim, config.cross_heads, config.attention_dropout)
        self.cross_residual = Residual(config)
        self.ffn = FeedForward(config.dim, stack.ffn_dim, config.relu_dropout)
        self.ffn_residual = Residual(config)

    def forward(self, x: Tensor, memory: Tensor, padding: Padding) -> Tensor:
        """Map (B, T, D) to (B, T, D), given the encoder's output (B, S, D) and its padding."""
        x = self.mixer_residual(x, self.mixer)
        x = self.cross_residual(x, lambda h: self.cross(h, self.cross.start(memory, padding)))
        x = self.ffn_residual(x, self.ffn)
        return x

    def start(self, memory: Tensor, padding: Padding, beam: int, max_length: int) -> LayerState:
        """Return the state before the first token."""
        return LayerState(self.mixer.start(memory, beam, max_length), self.cross.start(memory, padding))

    def step(self, x: Tensor, state: LayerState) -> Tensor:
        """Map N new positions (B, W, N, D) to (B, W, N, D). The beam folds into the queries of cross-attention."""
        slots = x.shape[1:3]  # W, N
        x = self.mixer_residual(x, lambda h: self.mixer.step(h, state.mixer))
        x = self.cross_residual(x, lambda h: self.cross(h.flatten(1, 2), state.cross).unflatten(1, slots))
        x = self.ffn_residual(x, self.ffn)
        return x
