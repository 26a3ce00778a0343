"""A model that is a table: quick, exact, and sensitive to every token of its history."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dynconv_mt.models.config import ModelConfig
from dynconv_mt.models.seq2seq import Seq2Seq

NUM_ROWS = 9973


@dataclass
class TableState:
    """A hash of the source and of everything written so far, for every slot."""

    hashes: Tensor  # (B, W)

    def select(self, sentences: Tensor) -> None:
        self.hashes = self.hashes[sentences]

    def reorder(self, parents: Tensor) -> None:
        moved = self.hashes.gather(1, parents)
        self.hashes[:, : parents.shape[1]] = moved


class TableModel(Seq2Seq):
    """Looks the logits of the next token up by a hash of (source, tokens so far)."""

    def __init__(self, vocab_size: int = 12, seed: int = 0, max_positions: int = 100, end_bias: float = 0.0) -> None:
        nn.Module.__init__(self)
        self.config = ModelConfig(src_vocab_size=50, tgt_vocab_size=vocab_size, max_positions=max_positions)
        table = 2 * torch.randn(NUM_ROWS, vocab_size, generator=torch.Generator().manual_seed(seed))
        table[:, 2] += end_bias
        self.table = nn.Parameter(table)

    def forward(self, src: Tensor, src_lengths: Tensor, prev_tgt: Tensor, head: Any = None) -> Tensor:
        assert head is None
        state = self.start(self.encode(src, src_lengths), 1, prev_tgt.shape[1])
        return self.step(prev_tgt[:, None], state)[:, 0]

    def encode(self, src: Tensor, src_lengths: Tensor) -> Any:
        is_token = torch.arange(src.shape[1]) < src_lengths[:, None]
        return (src * is_token * torch.arange(1, src.shape[1] + 1)).sum(dim=1) + 17

    def start(self, memory: Any, beam: int, max_length: int) -> Any:
        return TableState(memory[:, None].repeat(1, beam))

    def step(self, tokens: Tensor, state: Any) -> Tensor:
        hashes, logits = state.hashes[:, : tokens.shape[1]], []
        for position in range(tokens.shape[2]):
            hashes = (hashes * 131 + tokens[:, :, position] * 7 + 1) % NUM_ROWS
            logits.append(self.table[hashes])
        state.hashes[:, : tokens.shape[1]] = hashes
        return torch.stack(logits, dim=2)


def random_sources(num_sentences: int, longest: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return ids (B, S) ending in </s>, padded on the right, and their lengths (B,)."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (num_sentences,), generator=generator)
    positions = torch.arange(int(lengths.max()))
    src = torch.randint(4, 12, (num_sentences, len(positions)), generator=generator)
    src[positions == lengths[:, None] - 1] = 2
    return src.masked_fill(positions >= lengths[:, None], 1), lengths
