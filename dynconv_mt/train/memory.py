"""What becomes of a micro-batch that does not fit in memory: it is cut in halves, sentence by sentence.

A device says so by torch.OutOfMemoryError, a CPU's allocator by a RuntimeError of its own (where the system refuses
memory at all; mostly its kernel kills the process, which is what `batch.max_tokens=auto` is for).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from dynconv_mt.data.batch import Batch
from dynconv_mt.text.vocab import PAD


@dataclass(frozen=True, eq=False)
class Part:
    """A micro-batch, or what a split has left of one. Its place is what its random numbers are drawn by."""

    batch: Batch
    micro_step: int  # of its update, from 0, whole micro-batches counted
    first_row: int = 0  # of the micro-batch it was cut from; 0 for a whole one

    @property
    def num_tokens(self) -> int:
        """Rows x longest side, padding counted: what batch.max_tokens bounds."""
        rows, longest = len(self.batch.src), max(self.batch.src.shape[1], self.batch.tgt.shape[1])
        return rows * longest

    def halves(self) -> list[Part]:
        """Cut it in two, the first not smaller than the second; it must hold two sentences at least."""
        rows = len(self.batch.src)
        assert rows > 1, "one sentence cannot be cut"
        middle = (rows + 1) // 2
        return [
            replace(self, batch=_rows(self.batch, 0, middle)),
            replace(self, batch=_rows(self.batch, middle, rows), first_row=self.first_row + middle),
        ]


def whole_parts(batches: Sequence[Batch]) -> list[Part]:
    """Return the micro-batches of an update, not split."""
    return [Part(batch, micro_step) for micro_step, batch in enumerate(batches)]


@dataclass(frozen=True, eq=False)
class Attempt:
    """One try at an update: what this rank computes for it."""

    number: int  # of the update, from 0
    weight: float  # of a part's summed loss: ranks / target tokens of the whole update
    parts: Sequence[Part]

    def split(self, failed: Part | None) -> Attempt:
        """Return the next try, with halves in the place of the part that did not fit."""
        parts = [piece for part in self.parts for piece in (part.halves() if part is failed else [part])]
        return replace(self, parts=parts)


def release(device: torch.device) -> None:
    """Give back what torch's allocator keeps, so that what is cut up otherwise finds room."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _rows(batch: Batch, start: int, stop: int) -> Batch:
    """Return some of the sentences, without the padding that only the others needed."""
    lengths, tgt = batch.src_lengths[start:stop], batch.tgt[start:stop]
    is_token = tgt != PAD
    width = int(is_token.sum(1).max())
    return Batch(
        src=batch.src[start:stop, : int(lengths.max())],
        src_lengths=lengths,
        prev_tgt=batch.prev_tgt[start:stop, :width],
        tgt=tgt[:, :width],
        num_target_tokens=int(is_token.sum()),
        indices=batch.indices[start:stop],
    )
