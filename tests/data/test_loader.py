"""The loader: position is what was consumed, ranks agree, no thread outlives its iterator."""

import gc
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dynconv_mt.data.config import BatchConfig
from dynconv_mt.data.loader import Loader, Share, Update
from dynconv_mt.data.prefetch import prefetch
from dynconv_mt.data.store import StoreWriter, TokenStore
from dynconv_mt.errors import UserError

CONFIG = BatchConfig(max_tokens=120)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    folder = tmp_path_factory.mktemp("loader") / "store"
    rng = np.random.default_rng(0)
    with StoreWriter(folder, "f", shard_tokens=500) as writer:
        for _ in range(207):
            src, tgt = (rng.integers(3, 500, rng.integers(0, 20)).tolist() for _ in range(2))
            writer.add(src, tgt)
    return TokenStore.open(folder)


def prefetch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    gc.collect()
    assert prefetch_threads() == []


def summary(update: Update) -> list[object]:
    return [update.epoch, update.number, update.num_target_tokens, [batch.indices for batch in update.batches]]


@pytest.mark.parametrize("prefetch", [0, 1, 4])
def test_resuming_anywhere_gives_the_same_updates(store: TokenStore, prefetch: int) -> None:
    loader = Loader(store, CONFIG, 3, Share(update_freq=2), prefetch=prefetch)
    whole = [summary(update) for update in loader.epoch(1)]
    assert len(whole) == loader.num_updates
    assert [row[1] for row in whole] == list(range(len(whole)))
    for start in (0, 1, 7, len(whole)):
        assert [summary(update) for update in loader.epoch(1, start)] == whole[start:]
    assert [summary(update) for update in loader.epoch(2)] != whole


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_ranks_share_an_update_and_its_token_count(store: TokenStore, world_size: int) -> None:
    shares = [Share(2, world_size, rank) for rank in range(world_size)]
    loaders = [Loader(store, CONFIG, 0, share) for share in shares]
    seen: list[int] = []
    for updates in zip(*(loader.epoch(0) for loader in loaders), strict=True):
        batches = [batch for update in updates for batch in update.batches]
        tokens = sum(batch.num_target_tokens for batch in batches)
        assert {update.num_target_tokens for update in updates} == {tokens}
        assert {update.num_sentences for update in updates} == {sum(batch.num_sentences for batch in batches)}
        assert len({len(update.batches) for update in updates}) == 1
        seen += [i for batch in batches for i in batch.indices]
    assert sorted(seen) == list(range(len(store)))


def test_ranks_or_micro_batches_see_the_same_update(store: TokenStore) -> None:
    def updates(update_freq: int, world_size: int) -> list[tuple[int, set[int]]]:
        ranks = [Loader(store, CONFIG, 5, Share(update_freq, world_size, r)).epoch(0) for r in range(world_size)]
        return [
            (same[0].num_target_tokens, {i for update in same for batch in update.batches for i in batch.indices})
            for same in zip(*ranks, strict=True)
        ]

    assert updates(4, 1) == updates(1, 4) == updates(2, 2)


def test_batches_hold_the_sentences_of_the_store(store: TokenStore) -> None:
    for update in Loader(store, CONFIG, 0, shuffle=False).epoch(0):
        (batch,) = update.batches
        assert batch.src.numel() <= 120
        assert batch.tgt.numel() <= 120
        for row, i in enumerate(batch.indices):
            assert batch.src[row, : batch.src_lengths[row]].tolist() == store.source(i).tolist()
            assert batch.tgt[row, : store.tgt_lengths[i]].tolist() == store.target(i).tolist()


def test_a_consumer_may_leave_at_any_time(store: TokenStore) -> None:
    iterator = Loader(store, CONFIG, 0).epoch(0)
    next(iterator)
    assert len(prefetch_threads()) == 1
    iterator.close()  # type: ignore[attr-defined]
    assert prefetch_threads() == []


def test_a_consumer_that_fails_leaves_no_thread(store: TokenStore) -> None:
    def consume() -> None:
        for _ in Loader(store, CONFIG, 0).epoch(0):
            raise RuntimeError("consumer")

    with pytest.raises(RuntimeError, match="consumer"):
        consume()


def test_an_error_in_the_thread_reaches_the_consumer(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = Loader(store, CONFIG, 0)
    calls = iter(range(100))

    def read(i: int) -> np.ndarray:
        if next(calls) == 60:
            raise OSError("the disk is gone")
        return TokenStore.target(store, i)

    monkeypatch.setattr(store, "target", read)
    taken: list[Update] = []
    with pytest.raises(OSError, match="the disk is gone"):
        taken.extend(loader.epoch(0))
    assert taken


def test_prefetch_is_bounded() -> None:
    made: list[int] = []

    def source() -> Iterator[int]:
        for i in range(100):
            made.append(i)
            yield i

    ahead = prefetch(source(), 3)
    assert [next(ahead) for _ in range(5)] == list(range(5))
    assert len(made) <= 5 + 3
    assert list(ahead) == list(range(5, 100))


def test_an_iterator_that_is_dropped_stops_its_thread() -> None:
    ahead = prefetch(iter(range(1000)), 2)
    assert next(ahead) == 0
    del ahead


def test_the_program_ends_with_an_iterator_open(tmp_path: Path) -> None:
    code = (
        "from dynconv_mt.data.prefetch import prefetch\n"
        "import itertools\n"
        "ahead = prefetch(itertools.count(), 2)\n"
        "print(next(ahead))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")


def test_a_budget_below_a_sentence_is_refused_at_once(store: TokenStore) -> None:
    with pytest.raises(UserError, match=r"batch\.max_tokens=10"):
        Loader(store, BatchConfig(max_tokens=10), 0)


def test_longer_pairs_can_be_left_out(store: TokenStore) -> None:
    """The budget need not hold them, and every other sentence comes once, as itself."""
    longest = np.maximum(store.src_lengths, store.tgt_lengths)
    limit = int(np.median(longest))
    loader = Loader(store, BatchConfig(max_tokens=limit), 1, max_length=limit)
    batches = [batch for update in loader.epoch(0) for batch in update.batches]
    assert sorted(i for batch in batches for i in batch.indices) == np.flatnonzero(longest <= limit).tolist()
    assert loader.num_updates == len(batches) and (longest > limit).sum() > 0
    for batch in batches:
        for row, index in enumerate(batch.indices):
            assert batch.src[row, : store.src_lengths[index]].tolist() == store.source(index).tolist()
