"""Token embedding times √D plus a position signal.

Shapes: B sentences, T positions, V types, D width. Padding id 1; the first token of a sentence has position 2, padding
has position 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dynconv_mt.models.config import Positions, Stack
from dynconv_mt.models.dropout import Dropout
from dynconv_mt.text.vocab import PAD

FIRST_POSITION = PAD + 1


def sinusoids(num_positions: int, dim: int) -> Tensor:
    """Return (num_positions, D): sines in the first half, cosines in the second, frequencies 10000^(-i/(D/2 - 1)).

    The vector of padding is zero.
    """
    half = dim // 2
    frequencies = torch.exp(torch.arange(half, dtype=torch.float32) * -(math.log(10000.0) / max(half - 1, 1)))
    angles = torch.arange(num_positions, dtype=torch.float32)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1).index_fill_(0, torch.tensor([PAD]), 0.0)


class PositionTable(nn.Module):
    """Position vectors, fixed sinusoids or learned; right-padded input, so position is the index plus 2."""

    def __init__(self, stack: Stack) -> None:
        super().__init__()
        self.name, self.max_positions = stack.name, stack.max_positions
        num_rows = stack.max_positions + FIRST_POSITION
        self.weight: Tensor
        if stack.positions is Positions.learned:
            self.weight = nn.Parameter(torch.empty(num_rows, stack.dim))
        else:
            self.register_buffer("weight", sinusoids(num_rows, stack.dim), persistent=False)

    def forward(self, ids: Tensor, start: int) -> Tensor:
        """Return the vectors (..., T, D) of ids (..., T), of which the first has position `start`, counted from 0."""
        end = start + ids.shape[-1]
        if end > self.max_positions:
            raise ValueError(
                f"a sequence of {end} tokens is longer than the {self.name}'s max_positions={self.max_positions}"
            )
        vectors = self.weight[start + FIRST_POSITION : end + FIRST_POSITION]
        return torch.where((ids == PAD)[..., None], self.weight[PAD], vectors)


class OutputLayer(nn.Linear):
    """Maps (..., D) to logits (..., V) where no embedding serves as the output matrix."""

    def __init__(self, dim: int, vocab_size: int) -> None:
        super().__init__(dim, vocab_size, bias=False)


class Embedding(nn.Module):
    """dropout(√D · token vector + position vector, if there are any)."""

    def __init__(self, stack: Stack, dropout: float) -> None:
        super().__init__()
        self.scale = math.sqrt(stack.dim)
        self.tokens = nn.Embedding(stack.vocab_size, stack.dim, padding_idx=PAD)
        self.positions = None if stack.positions is Positions.none else PositionTable(stack)
        self.dropout = Dropout(dropout)

    def forward(self, ids: Tensor, start: int = 0) -> Tensor:
        """Map ids (..., T) to (..., T, D); the first of the T has position `start`, counted from 0."""
        x: Tensor = self.scale * self.tokens(ids)
        if self.positions is not None:
            x = x + self.positions(ids, start)
        y: Tensor = self.dropout(x)
        return y
