"""Is one system better than another, or luckier? Paired bootstrap and paired approximate randomisation.

Both tests are sacreBLEU's: its procedure, its random numbers, its way of counting; on the same seed the results are the
same, which tests/evaluate/test_significance.py holds. They differ in cost: the sums of every resampled test set, of all
systems and scores together, are one matrix product in blocks of bounded size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray

from dynconv_mt.evaluate.config import SignificanceConfig
from dynconv_mt.evaluate.measure import Measure, Statistics

_BLOCK = 1 << 22  # numbers per block of random weights: 32 MB
_EXACT = 6  # decimals kept in sums, so that equal ones stay equal: counts are whole numbers, or halves, thirds, ...
_NOTHING = 1e-9  # a difference of scores below this is rounding
_WORD = 32  # numpy draws booleans in words of 32 bits; blocks of whole words leave their sequence as it is

Scores = NDArray[np.float64]  # (resamples,)


@dataclass(frozen=True)
class Interval:
    """Where a score lies in test sets drawn from this one: 95 % of them within mean ± half_width."""

    mean: float
    half_width: float


@dataclass(frozen=True)
class Comparison:
    """Two systems by one score."""

    metric: str  # key of the measure
    baseline: str
    system: str
    difference: float  # system minus baseline
    bootstrap_p: float | None  # None: the test was switched off
    randomization_p: float | None


@dataclass(frozen=True)
class Significance:
    """What the tests found."""

    intervals: list[list[Interval]]  # by system and measure; no systems without bootstrap samples
    comparisons: list[Comparison]  # every pair of systems, in the order given, on every measure


def compare_systems(
    names: Sequence[str],
    measures: Sequence[Measure],
    tables: Sequence[Sequence[Statistics]],
    config: SignificanceConfig,
) -> Significance:
    """Compare every pair of systems; `tables` holds the statistics by system and measure.

    Where no resample differs from another, as between identical translations, p = 1, and randomisation counts what is
    as large as the observed difference. sacreBLEU counts only what exceeds it: systems that differ in one line have the
    smallest p there is.
    """
    observed = [
        [measure.value(_total(table).tolist()) for measure, table in zip(measures, system, strict=True)]
        for system in tables
    ]
    samples = _bootstrap(measures, tables, config) if config.samples else []
    exchanged = _exchange(measures, tables, config) if config.trials and len(tables) > 1 else {}
    comparisons = []
    for first, second in combinations(range(len(names)), 2):
        for number, measure in enumerate(measures):
            difference = observed[second][number] - observed[first][number]
            bootstrap_p = randomization_p = None
            if samples:
                resampled = np.abs(samples[second][number] - samples[first][number])
                bootstrap_p = _p_value(resampled - resampled.mean(), abs(difference))
            if exchanged:
                # as much as the difference counts too: it is what exchanging no line or all of them makes
                randomization_p = _p_value(exchanged[first, second][number], abs(difference) - _NOTHING)
            pair = names[first], names[second]
            comparisons.append(Comparison(measure.key, *pair, difference, bootstrap_p, randomization_p))
    intervals = [[_interval(scores) for scores in system] for system in samples]
    return Significance(intervals, comparisons)


def _bootstrap(
    measures: Sequence[Measure], tables: Sequence[Sequence[Statistics]], config: SignificanceConfig
) -> list[list[Scores]]:
    """The scores of every system and measure on the same resampled test sets."""
    sums = _weighted_sums(tables, _drawn_lines(len(tables[0][0]), config))
    return [
        [_values(measure, resampled) for measure, resampled in zip(measures, system, strict=True)] for system in sums
    ]


def _exchange(
    measures: Sequence[Measure], tables: Sequence[Sequence[Statistics]], config: SignificanceConfig
) -> dict[tuple[int, int], list[Scores]]:
    """For every pair, by measure, the absolute differences after lines were exchanged between the two at random."""
    kept = _weighted_sums(tables, _coin_tosses(len(tables[0][0]), config))
    given = [
        [_total(table) - part for table, part in zip(*system, strict=True)] for system in zip(tables, kept, strict=True)
    ]
    differences = {}
    for first, second in combinations(range(len(tables)), 2):
        differences[first, second] = [
            np.abs(
                _values(measure, kept[first][number] + given[second][number])
                - _values(measure, given[first][number] + kept[second][number])
            )
            for number, measure in enumerate(measures)
        ]
    return differences


def _weighted_sums(
    tables: Sequence[Sequence[Statistics]], blocks: Iterator[NDArray[np.float64]]
) -> list[list[NDArray[np.float64]]]:
    """Each table's statistics summed with each row of the weights: (resamples, numbers), by system and measure."""
    flat = [table for system in tables for table in system]
    matrix = np.hstack(flat)
    sums = np.concatenate([weights @ matrix for weights in blocks])
    bounds = np.cumsum([0, *(table.shape[1] for table in flat)])
    parts = iter([sums[:, start:end] for start, end in pairwise(bounds)])
    return [[next(parts) for _ in system] for system in tables]


def _drawn_lines(num_lines: int, config: SignificanceConfig) -> Iterator[NDArray[np.float64]]:
    """How often each line is in each resampled test set: blocks of (resamples, lines)."""
    rng = np.random.default_rng(config.seed)
    for rows in _block_sizes(config.samples, num_lines, 1):
        drawn = rng.choice(num_lines, size=(rows, num_lines), replace=True)
        yield np.stack([np.bincount(lines, minlength=num_lines) for lines in drawn]).astype(np.float64)


def _coin_tosses(num_lines: int, config: SignificanceConfig) -> Iterator[NDArray[np.float64]]:
    """Which lines stay where they are in each trial (1) and which change sides (0): blocks of (trials, lines)."""
    rng = np.random.default_rng(config.seed)
    for rows in _block_sizes(config.trials, num_lines, _WORD):
        yield rng.integers(2, size=(rows, num_lines), dtype=bool).astype(np.float64)


def _block_sizes(num_rows: int, num_lines: int, multiple: int) -> Iterator[int]:
    size = max(1, _BLOCK // (num_lines * multiple)) * multiple
    for start in range(0, num_rows, size):
        yield min(size, num_rows - start)


def _total(table: Statistics) -> NDArray[np.float64]:
    total: NDArray[np.float64] = np.round(table.sum(axis=0), _EXACT)
    return total


def _values(measure: Measure, sums: NDArray[np.float64]) -> Scores:
    return np.array([measure.value(row) for row in np.round(sums, _EXACT).tolist()])


def _interval(scores: Scores) -> Interval:
    from sacrebleu.significance import estimate_ci

    mean, half_width = estimate_ci(scores)
    return Interval(float(mean), float(half_width))


def _p_value(statistics: Scores, bound: float) -> float:
    """How often chance alone goes beyond a bound, with the one added that keeps small counts honest."""
    if np.abs(statistics).max() < _NOTHING:
        return 1.0
    return float((np.sum(statistics > bound) + 1) / (len(statistics) + 1))
