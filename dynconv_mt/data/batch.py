"""A batch of sentence pairs as tensors.

Shape letters: B batch, S source, T target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dynconv_mt.data.shard import Ids
from dynconv_mt.text.vocab import EOS, PAD


@dataclass(frozen=True, eq=False)
class Batch:
    """Right-padded sentence pairs, all tensors int64 on one device."""

    src: Tensor  # (B, S), each row ending in </s>
    src_lengths: Tensor  # (B,), </s> included
    prev_tgt: Tensor  # (B, T): what the decoder reads, the target shifted right, starting with </s>
    tgt: Tensor  # (B, T): what it is to predict, each row ending in </s>
    num_target_tokens: int  # without padding, </s> included; counted on the CPU
    indices: tuple[int, ...]  # numbers of the sentences in their store

    @property
    def num_sentences(self) -> int:
        """Sentence pairs of the store that it holds; 0 for a blank batch, which has one row all the same."""
        return len(self.indices)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch on `device`; `non_blocking` overlaps the copy when the batch is in pinned memory."""
        move = {name: getattr(self, name).to(device, non_blocking=non_blocking) for name in _TENSORS}
        return Batch(**move, num_target_tokens=self.num_target_tokens, indices=self.indices)

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory."""
        pinned = {name: getattr(self, name).pin_memory() for name in _TENSORS}
        return Batch(**pinned, num_target_tokens=self.num_target_tokens, indices=self.indices)


_TENSORS = ("src", "src_lengths", "prev_tgt", "tgt")


def collate(sources: Sequence[Ids], targets: Sequence[Ids], indices: Sequence[int]) -> Batch:
    """Make a batch of sentences that end in `</s>`; row b is sources[b], targets[b], and has the number indices[b]."""
    src, tgt = _pad(sources), _pad(targets)
    prev_tgt = np.full_like(tgt, EOS)
    prev_tgt[:, 1:] = np.where(tgt[:, :-1] == EOS, PAD, tgt[:, :-1])
    return Batch(
        src=torch.from_numpy(src),
        src_lengths=torch.tensor([len(ids) for ids in sources]),
        prev_tgt=torch.from_numpy(prev_tgt),
        tgt=torch.from_numpy(tgt),
        num_target_tokens=sum(len(ids) for ids in targets),
        indices=tuple(int(i) for i in indices),
    )


def blank_batch() -> Batch:
    """A batch of one row and no target token, for a rank that has no sentences left in the last update of an epoch.

    Its target is all padding, so a summed loss over it is exactly 0 and so is every gradient; yet it goes through
    forward and backward like any other, as DDP and FSDP need it to.
    """
    row = torch.tensor([[EOS]])
    return Batch(
        src=row,
        src_lengths=torch.tensor([1]),
        prev_tgt=row.clone(),
        tgt=torch.full_like(row, PAD),
        num_target_tokens=0,
        indices=(),
    )


def _pad(sentences: Sequence[Ids]) -> NDArray[np.int64]:
    """Rows of equal length, padded on the right."""
    rows = np.full((len(sentences), max(map(len, sentences))), PAD, dtype=np.int64)
    for row, ids in zip(rows, sentences, strict=True):
        row[: len(ids)] = ids
    return rows
