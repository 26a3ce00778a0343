"""Multi-head attention (Vaswani et al., 2017): self-attention as a token mixer, and the decoder's cross-attention.

Shapes: B sentences, W beam slots, T target and S source positions, N new positions, D model width, H heads, E = D/H.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynconv_mt.models.config import AttentionConfig
from dynconv_mt.models.mixers.base import MixerSlot, Padding, TokenMixer, register_mixer

MIN_CPU_BF16_LENGTH = 256  # positions


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Return (B, T, D) as (B, H, T, E)."""
    parts: Tensor = x.unflatten(-1, (heads, -1))
    return parts.transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """Return (B, H, T, E) as (B, T, D)."""
    return x.transpose(1, 2).flatten(2)


def attend(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, dropout: float, *, causal: bool = False
) -> Tensor:
    """Return softmax(Q Kᵀ / √E) V, (B, H, T, E), of queries (B, H, T, E), keys and values (B, H, S, E).

    A CPU trains short sentences of 16-bit types in fp32 here: torch's backward takes up to ten times as long in bf16.
    """
    is_short = max(query.shape[2], keys.shape[2]) < MIN_CPU_BF16_LENGTH
    if query.is_cpu and query.requires_grad and is_short and query.dtype.itemsize == 2:
        with torch.autocast("cpu", enabled=False):
            q, k, v = query.float(), keys.float(), values.float()
            return F.scaled_dot_product_attention(q, k, v, mask, dropout, causal).to(query.dtype)
    return F.scaled_dot_product_attention(query, keys, values, mask, dropout, causal)


@dataclass
class AttentionState:
    """Keys and values of all positions so far."""

    keys: Tensor  # (B, W, L, D), L the most positions there will be
    values: Tensor  # (B, W, L, D)
    position: int = 0  # positions filled

    def select(self, sentences: Tensor) -> None:
        """Keep these sentences (B',). They move to the front of the same buffers; only what is filled is copied."""
        self.keys, self.values = (self._front(buffer, sentences) for buffer in (self.keys, self.values))

    def reorder(self, parents: Tensor) -> None:
        """Let slot w of sentence b continue from slot parents[b, w]; parents (B, W')."""
        sentences = torch.arange(parents.shape[0], device=parents.device)[:, None]
        for buffer in (self.keys, self.values):
            filled = buffer[:, :, : self.position]
            filled[:, : parents.shape[1]] = filled[sentences, parents]

    def _front(self, buffer: Tensor, sentences: Tensor) -> Tensor:
        kept = buffer[: len(sentences)]
        kept[:, :, : self.position] = buffer[:, :, : self.position][sentences]
        return kept

    def append(self, keys: Tensor, values: Tensor) -> None:
        """Add the keys and values (B, W, N, D) of N new positions."""
        end = self.position + keys.shape[2]
        self.keys[:, : keys.shape[1], self.position : end] = keys
        self.values[:, : keys.shape[1], self.position : end] = values
        self.position = end


@register_mixer(AttentionConfig)
class SelfAttention(TokenMixer):
    """softmax(Q Kᵀ / √E) V over the positions of one sentence."""

    def __init__(self, config: AttentionConfig, slot: MixerSlot) -> None:
        super().__init__(config, slot)
        self.heads, self.dropout, self.causal = config.heads, config.dropout, slot.causal
        self.input = nn.Linear(slot.dim, 3 * slot.dim)  # queries, keys, values
        self.output = nn.Linear(slot.dim, slot.dim)

    def initialise(self) -> None:
        """Xavier-uniform with gain 1/√2 for each of the three projections apart."""
        for weight in self.input.weight.chunk(3):
            nn.init.xavier_uniform_(weight, gain=2**-0.5)

    def forward(self, x: Tensor, padding: Padding | None = None) -> Tensor:
        """Map (B, T, D) to (B, T, D)."""
        q, k, v = (split_heads(part, self.heads) for part in self.input(x).chunk(3, dim=-1))  # (B, H, T, E) each
        mask = None if padding is None else padding.mask
        if self.causal and mask is not None:
            mask = mask & torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        dropout = self.dropout if self.training else 0.0
        y = attend(q, k, v, mask, dropout, causal=self.causal and mask is None)
        output: Tensor = self.output(merge_heads(y))
        return output

    def start(self, like: Tensor, beam: int, max_length: int) -> AttentionState:
        """Return an empty cache for `max_length` positions; nothing is read that has not been written."""
        shape = (like.shape[0], beam, max_length, self.output.in_features)
        return AttentionState(like.new_empty(shape), like.new_empty(shape))

    def step(self, x: Tensor, state: AttentionState) -> Tensor:
        """Map N new positions (B, W, N, D) to (B, W, N, D)."""
        num_slots, num_new = x.shape[1:3]
        q, k, v = self.input(x).chunk(3, dim=-1)
        state.append(k, v)
        end = state.position
        keys, values = (buffer[:, :num_slots, :end].flatten(0, 1) for buffer in (state.keys, state.values))
        mask = None
        if num_new > 1:
            mask = torch.ones(num_new, end, dtype=torch.bool, device=x.device).tril(end - num_new)
        q, keys, values = (split_heads(part, self.heads) for part in (q.flatten(0, 1), keys, values))
        y = F.scaled_dot_product_attention(q, keys, values, mask)  # (B·W, H, N, E)
        output: Tensor = self.output(merge_heads(y)).unflatten(0, (-1, num_slots))
        return output


@dataclass
class CrossState:
    """Keys and values of the encoder's output, projected once; no beam dimension."""

    keys: Tensor  # (B, H, S, E)
    values: Tensor  # (B, H, S, E)
    mask: Tensor  # (B, 1, 1, S) bool, True where a token stands

    def select(self, sentences: Tensor) -> None:
        """Keep these sentences (B',)."""
        self.keys, self.values, self.mask = self.keys[sentences], self.values[sentences], self.mask[sentences]


class CrossAttention(nn.Module):
    """The decoder's attention over the encoder's output."""

    def __init__(self, dim: int, memory_dim: int, heads: int, dropout: float) -> None:
        """`memory_dim` is the width of the encoder's output, `dim` that of the decoder."""
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(dim, dim)
        self.memory = nn.Linear(memory_dim, 2 * dim)  # keys, values
        self.output = nn.Linear(dim, dim)

    def initialise(self) -> None:
        """Xavier-uniform with gain 1/√2 for each of the three projections apart."""
        for weight in (self.query.weight, *self.memory.weight.chunk(2)):
            nn.init.xavier_uniform_(weight, gain=2**-0.5)

    def start(self, memory: Tensor, padding: Padding) -> CrossState:
        """Project the encoder's output (B, S, memory_dim) to keys and values."""
        keys, values = self.memory(memory).chunk(2, dim=-1)
        return CrossState(split_heads(keys, self.heads), split_heads(values, self.heads), padding.mask)

    def forward(self, x: Tensor, state: CrossState) -> Tensor:
        """Map (B, T, D) to (B, T, D). While decoding, T holds the new positions of all beam slots."""
        dropout = self.dropout if self.training else 0.0
        query = split_heads(self.query(x), self.heads)
        y = attend(query, state.keys, state.values, state.mask, dropout)
        output: Tensor = self.output(merge_heads(y))
        return output
