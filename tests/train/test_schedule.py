"""Learning rates against the formulas of PAPER.md's recipes."""

import math

import pytest

from dynconv_mt.errors import UserError
from dynconv_mt.train.config import ScheduleConfig, ScheduleKind
from dynconv_mt.train.schedule import learning_rate

INVERSE = ScheduleConfig(ScheduleKind.inverse_sqrt, 4000, 1e-7)
COSINE = ScheduleConfig(ScheduleKind.cosine, 10_000, 1e-7, 20_000, 1e-7)


@pytest.mark.parametrize("config, peak", [(INVERSE, 5e-4), (COSINE, 1e-3)])
def test_warmup_is_linear(config: ScheduleConfig, peak: float) -> None:
    assert learning_rate(0, peak, config) == 1e-7
    half = learning_rate(config.warmup_updates // 2, peak, config)
    assert half == pytest.approx((1e-7 + peak) / 2)
    assert learning_rate(config.warmup_updates, peak, config) == pytest.approx(peak)


@pytest.mark.parametrize("update", [4000, 4001, 16_000, 50_000])
def test_inverse_sqrt(update: int) -> None:
    assert learning_rate(update, 5e-4, INVERSE) == pytest.approx(5e-4 * math.sqrt(4000 / update))


@pytest.mark.parametrize("update", [10_000, 15_000, 20_000, 29_999])
def test_cosine(update: int) -> None:
    expected = 1e-7 + 0.5 * (1e-3 - 1e-7) * (1 + math.cos(math.pi * (update - 10_000) / 20_000))
    assert learning_rate(update, 1e-3, COSINE) == pytest.approx(expected)


def test_cosine_starts_over() -> None:
    assert learning_rate(30_000, 1e-3, COSINE) == pytest.approx(1e-3)
    assert learning_rate(29_999, 1e-3, COSINE) == pytest.approx(1e-7, rel=0.1)


def test_floor_and_no_warmup() -> None:
    config = ScheduleConfig(warmup_updates=0, min_lr=1e-5)
    assert learning_rate(0, 1e-3, config) == 1e-3
    assert learning_rate(10**6, 1e-3, config) == 1e-5


def test_cosine_needs_a_period() -> None:
    with pytest.raises(UserError, match=r"schedule\.period_updates=0"):
        ScheduleConfig(ScheduleKind.cosine)
