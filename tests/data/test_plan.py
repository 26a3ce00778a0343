"""The batch plan: every sentence once, within the budget, the same for any number of ranks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynconv_mt.data.config import BatchConfig
from dynconv_mt.data.plan import Order, epoch_plan, num_updates, update_batches
from dynconv_mt.errors import UserError

lengths = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), max_size=200).map(
    lambda pairs: np.array(pairs, dtype=np.int32).reshape(-1, 2).T
)
configs = st.builds(
    BatchConfig,
    max_tokens=st.integers(40, 300),
    max_sentences=st.none() | st.integers(8, 20),
    rows_multiple=st.sampled_from([1, 2, 8]),
)


def as_lists(plan: list[Order]) -> list[list[int]]:
    return [batch.tolist() for batch in plan]


@given(lengths=lengths, config=configs, seed=st.integers(0, 2**40), epoch=st.integers(0, 1000), shuffle=st.booleans())
@settings(max_examples=150, deadline=None)
def test_every_sentence_once_within_the_budget(
    lengths: np.ndarray, config: BatchConfig, seed: int, epoch: int, shuffle: bool
) -> None:
    src, tgt = lengths
    plan = epoch_plan(src, tgt, config, seed, epoch, shuffle=shuffle)
    assert sorted(i for batch in plan for i in batch) == list(range(len(src)))
    full = 0
    for batch in plan:
        assert 0 < len(batch) <= (config.max_sentences or len(src))
        assert len(batch) * max(src[batch].max(), tgt[batch].max()) <= config.max_tokens
        full += len(batch) % config.rows_multiple == 0 or len(batch) < config.rows_multiple
    assert full >= len(plan) - 1  # the longest sentences may leave one odd batch


@given(lengths=lengths, config=configs, seed=st.integers(0, 99), epoch=st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_pure_and_equal_in_shape_every_epoch(lengths: np.ndarray, config: BatchConfig, seed: int, epoch: int) -> None:
    src, tgt = lengths
    plan = epoch_plan(src, tgt, config, seed, epoch)
    assert as_lists(plan) == as_lists(epoch_plan(src.copy(), tgt.astype(np.int64), config, seed, epoch))
    steady = epoch_plan(src, tgt, config, seed, epoch, shuffle=False)
    assert as_lists(steady) == as_lists(epoch_plan(src, tgt, config, seed + 1, epoch + 1, shuffle=False))
    longest = np.maximum(src, tgt)
    assert sorted(sorted(longest[batch].tolist()) for batch in plan) == sorted(
        sorted(longest[batch].tolist()) for batch in steady
    )


def test_the_plan_is_the_same_on_every_machine() -> None:
    """Golden: a change here changes the data order of every run and must be said in the changelog."""
    src = np.arange(40, dtype=np.int32) * 7 % 11 + 1
    tgt = np.arange(40, dtype=np.int32) * 5 % 13 + 1
    plan = epoch_plan(src, tgt, BatchConfig(max_tokens=60), seed=1, epoch=2)
    assert as_lists(plan) == GOLDEN


def test_seed_and_epoch_change_batches_and_their_order() -> None:
    rng = np.random.default_rng(0)
    src, tgt = rng.integers(1, 20, (2, 2000))
    plans = [epoch_plan(src, tgt, BatchConfig(max_tokens=400), seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    members = [{frozenset(batch.tolist()) for batch in plan} for plan in plans]
    assert members[0] != members[1] != members[2] != members[0]
    widths = [[int(np.maximum(src, tgt)[batch].max()) for batch in plan] for plan in plans]
    assert widths[0] != widths[1] != widths[2] != widths[0]
    assert widths[0] != sorted(widths[0])


def test_little_padding_on_realistic_lengths() -> None:
    rng = np.random.default_rng(0)
    src = rng.gamma(4, 7, 20000).astype(int) + 1
    tgt = np.maximum(1, (src * rng.normal(1, 0.15, len(src))).astype(int))
    plan = epoch_plan(src, tgt, BatchConfig(max_tokens=4096), 0, 0)
    padded = sum(len(batch) * (src[batch].max() + tgt[batch].max()) for batch in plan)
    assert (src.sum() + tgt.sum()) / padded > 0.94


@given(
    batches=st.integers(0, 60),
    update_freq=st.integers(1, 5),
    world_size=st.integers(1, 5),
)
@settings(max_examples=150, deadline=None)
def test_dealing_covers_the_plan_once_and_alike_on_all_ranks(batches: int, update_freq: int, world_size: int) -> None:
    plan = [np.array([i]) for i in range(batches)]
    ranks = [update_batches(plan, update_freq, world_size, rank) for rank in range(world_size)]
    updates = num_updates(plan, update_freq, world_size)
    assert [len(dealt) for dealt in ranks] == [updates] * world_size
    for u in range(updates):
        steps = [len(dealt[u]) for dealt in ranks]
        assert len(set(steps)) == 1
        assert 1 <= steps[0] <= update_freq
        assert steps[0] == update_freq or u == updates - 1
        assert ranks[0][u][-1] is not None  # no micro-step without any batch
        for rank, dealt in enumerate(ranks):
            for m, batch in enumerate(dealt[u]):
                number = (u * update_freq + m) * world_size + rank
                assert batch is plan[number] if number < batches else batch is None
    assert sorted(int(b[0]) for dealt in ranks for update in dealt for b in update if b is not None) == list(
        range(batches)
    )


@given(batches=st.integers(0, 40), parts=st.sampled_from([(4, 1, 1, 4), (6, 1, 2, 3), (2, 2, 1, 4)]))
def test_updates_hold_the_same_batches_whatever_the_ranks(batches: int, parts: tuple[int, int, int, int]) -> None:
    plan = [np.array([i]) for i in range(batches)]

    def updates(update_freq: int, world_size: int) -> list[list[int]]:
        ranks = [update_batches(plan, update_freq, world_size, rank) for rank in range(world_size)]
        return [
            sorted(int(b[0]) for dealt in same for b in dealt if b is not None) for same in zip(*ranks, strict=True)
        ]

    assert updates(*parts[:2]) == updates(*parts[2:])


def test_a_sentence_beyond_the_budget_is_named_with_the_remedy() -> None:
    with pytest.raises(UserError, match=r"batch\.max_tokens=50: sentence pair 1 .* 61 tokens.*batch\.max_tokens=61"):
        epoch_plan(np.array([5, 61]), np.array([9, 9]), BatchConfig(max_tokens=50), 0, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": -1}, r"batch\.max_tokens=-1: .* or auto"),
        ({"max_sentences": 0}, r"batch\.max_sentences=0"),
        ({"rows_multiple": 0}, r"batch\.rows_multiple=0"),
        ({"rows_multiple": 8, "max_sentences": 4}, r"batch\.rows_multiple=8"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        BatchConfig(**options)


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(UserError, match="seed=-1"):
        epoch_plan(np.array([1]), np.array([1]), BatchConfig(), -1, 0)


GOLDEN = [
    [0, 8, 16, 11, 24, 13, 21, 32, 19, 27],
    [2, 10, 23, 36],
    [1, 34, 9, 12, 38, 33],
    [29, 26, 37, 35, 22, 30, 4],
    [7, 20, 17, 6, 39],
    [3, 14, 25, 28, 15],
    [31, 18, 5],
]
