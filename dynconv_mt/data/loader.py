"""From a token store to the batches of one rank, update by update."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dynconv_mt.data.batch import Batch, blank_batch, collate
from dynconv_mt.data.config import BatchConfig
from dynconv_mt.data.plan import Lengths, Order, check_budget, epoch_plan, num_updates, update_batches
from dynconv_mt.data.prefetch import prefetch
from dynconv_mt.data.store import TokenStore


@dataclass(frozen=True, eq=False)
class Update:
    """What one optimizer step of one rank is made of."""

    epoch: int  # from 0
    number: int  # in its epoch, from 0; the position to resume at after it is (epoch, number + 1)
    batches: list[Batch]  # this rank's micro-batches; as many on every rank
    num_target_tokens: int  # of the whole update: all micro-batches of all ranks, padding not counted
    num_sentences: int  # likewise


@dataclass(frozen=True)
class Share:
    """How updates are put together and which part of them is ours."""

    update_freq: int = 1  # micro-batches per update on each rank
    world_size: int = 1  # ranks
    rank: int = 0  # ours


class Loader:
    """Loads the updates of an epoch, made ahead by one thread.

    Position is (epoch, updates consumed in it): what was prefetched does not count, and the same position gives the
    same updates whatever came before. Closing the iterator, or an exception on either side, ends the thread.
    """

    def __init__(
        self,
        store: TokenStore,
        config: BatchConfig,
        seed: int,
        share: Share | None = None,
        *,
        shuffle: bool = True,
        pin_memory: bool = False,
        prefetch: int = 4,
        max_length: int | None = None,
    ) -> None:
        """`shuffle=False` is for validation (short to long, the same in every epoch); `prefetch` counts updates made
        ahead, 0 for none and no thread. Pairs with a side of more than `max_length` tokens, </s> included, are left
        out. Raises UserError when another sentence exceeds `config.max_tokens`.
        """
        self._numbers: Order | None = None  # of the sentences that take part; None: all
        if max_length is not None:
            self._numbers = np.flatnonzero(np.maximum(store.src_lengths, store.tgt_lengths) <= max_length)
        check_budget(*self._lengths(store), config)
        self.store = store
        self.config = config
        self.seed = seed
        self.share = share or Share()
        self.shuffle = shuffle
        self.pin_memory = pin_memory
        self.prefetch = prefetch

    @cached_property
    def num_updates(self) -> int:
        """Updates per epoch: the same in every epoch and on every rank."""
        return num_updates(self._plan(0, shuffle=False), self.share.update_freq, self.share.world_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Update]:
        """Iterate the updates of an epoch (from 0), leaving out the first `start`."""
        return prefetch(self._updates(epoch, start), self.prefetch)

    def _lengths(self, store: TokenStore) -> tuple[Lengths, Lengths]:
        if self._numbers is None:
            return store.src_lengths, store.tgt_lengths
        return store.src_lengths[self._numbers], store.tgt_lengths[self._numbers]

    def _plan(self, epoch: int, shuffle: bool) -> list[Order]:
        plan = epoch_plan(*self._lengths(self.store), self.config, self.seed, epoch, shuffle=shuffle)
        return plan if self._numbers is None else [self._numbers[order] for order in plan]

    def _updates(self, epoch: int, start: int) -> Iterator[Update]:
        plan = self._plan(epoch, self.shuffle)
        share = self.share
        per_update = share.update_freq * share.world_size
        dealt = update_batches(plan, share.update_freq, share.world_size, share.rank)
        for number in range(start, len(dealt)):
            whole = plan[number * per_update : (number + 1) * per_update]
            yield Update(
                epoch=epoch,
                number=number,
                batches=[self._batch(order) for order in dealt[number]],
                num_target_tokens=sum(int(self.store.tgt_lengths[order].sum()) for order in whole),
                num_sentences=sum(map(len, whole)),
            )

    def _batch(self, order: Order | None) -> Batch:
        if order is None:
            batch = blank_batch()
        else:
            indices = order.tolist()
            batch = collate([self.store.source(i) for i in indices], [self.store.target(i) for i in indices], indices)
        return batch.pin_memory() if self.pin_memory else batch
