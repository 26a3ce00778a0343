"""The paired tests against sacreBLEU's own."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER
from sacrebleu.significance import PairedTest

from dynconv_mt.evaluate import ReportConfig, ScoreKind, SignificanceConfig, significance
from dynconv_mt.evaluate.measure import Measure, Statistics, build_measures
from dynconv_mt.evaluate.significance import Significance, compare_systems
from dynconv_mt.evaluate.treatment import Treatment

WORDS = ["the", "a", "small", "large", "dog", "cat", "house", "sees", "eats", "runs", "quickly", ",", "."]
LINES = 90
SACREBLEU = {"BLEU": BLEU(), "chrF2": CHRF(), "TER": TER()}


def sentences(seed: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(3, 15))) for _ in range(LINES)]


def worsened(lines: list[str], rate: float, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [
        " ".join(draw.choice(WORDS) if draw.random() < rate else word for word in line.split(" ")) for line in lines
    ]


REFERENCES = [sentences(1), worsened(sentences(1), 0.3, 2)]
SYSTEMS = {
    "good": worsened(REFERENCES[0], 0.2, 3),
    "alike": worsened(REFERENCES[0], 0.22, 4),
    "bad": worsened(REFERENCES[0], 0.5, 5),
}


def statistics(references: list[list[str]]) -> tuple[list[Measure], list[list[Statistics]]]:
    config = ReportConfig(metrics=[ScoreKind.sacrebleu, ScoreKind.chrf, ScoreKind.ter])
    measures: list[Measure] = [*build_measures(references, config, Treatment("en", config))]
    return measures, [[measure.statistics(lines) for measure in measures] for lines in SYSTEMS.values()]


def compared(references: list[list[str]], config: SignificanceConfig) -> Significance:
    measures, tables = statistics(references)
    return compare_systems(list(SYSTEMS), measures, tables, config)


@pytest.mark.parametrize("num_references", [1, 2])
@pytest.mark.parametrize("block", [LINES * 32, 1 << 22])
def test_both_tests_are_sacrebleus(num_references: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SACREBLEU_SEED", raising=False)
    monkeypatch.setattr(significance, "_BLOCK", block)  # resampling in many blocks gives the same random numbers
    references = REFERENCES[:num_references]
    ours = compared(references, SignificanceConfig(samples=200, trials=500))
    named: list[tuple[str, Sequence[str]]] = [*SYSTEMS.items()]
    bootstrap: Any = PairedTest(named, SACREBLEU, references, test_type="bs", n_samples=200)()[1]
    randomization: Any = PairedTest(named, SACREBLEU, references, test_type="ar", n_samples=500)()[1]
    for number, metric in enumerate(SACREBLEU):
        for system in range(len(named)):
            interval, theirs = ours.intervals[system][number], bootstrap[metric][system]
            assert interval.mean == pytest.approx(theirs.mean, rel=1e-5)  # sacreBLEU adds up in single precision
            assert interval.half_width == pytest.approx(theirs.ci, rel=1e-4)
            if system > 0:
                found = ours.comparisons[(system - 1) * len(SACREBLEU) + number]
                assert (found.baseline, found.system) == ("good", named[system][0])
                difference = theirs.score - bootstrap[metric][0].score
                assert found.difference == pytest.approx(difference, abs=1e-9)
                assert found.bootstrap_p == theirs.p_value
                is_tie = abs(difference) < 1e-9  # which every trial equals, and sacreBLEU counts those that exceed it
                assert found.randomization_p == (1.0 if is_tie else randomization[metric][system].p_value)


def test_every_pair_is_compared_and_the_sign_does_not_matter() -> None:
    measures, tables = statistics(REFERENCES[:1])
    config = SignificanceConfig(samples=100, trials=100)
    forward = compare_systems(["a", "b", "c"], measures, tables, config)
    backward = compare_systems(["c", "b", "a"], measures, tables[::-1], config)
    pairs = [(found.baseline, found.system) for found in forward.comparisons[:: len(measures)]]
    assert pairs == [("a", "b"), ("a", "c"), ("b", "c")]
    opposite = {(found.system, found.baseline, found.metric): found for found in backward.comparisons}
    for found in forward.comparisons:
        other = opposite[found.baseline, found.system, found.metric]
        assert found.difference == -other.difference
        assert (found.bootstrap_p, found.randomization_p) == (other.bootstrap_p, other.randomization_p)


def test_a_system_does_not_differ_from_itself() -> None:
    measures, tables = statistics(REFERENCES)
    same = compare_systems(["a", "b"], measures, [tables[0], tables[0]], SignificanceConfig(samples=50, trials=50))
    assert {(found.difference, found.bootstrap_p, found.randomization_p) for found in same.comparisons} == {(0, 1, 1)}


@pytest.mark.parametrize(("num_differing", "expected"), [(1, 1.0), (2, 0.5), (3, 0.25)])
def test_a_handful_of_differing_lines_proves_nothing(num_differing: int, expected: float) -> None:
    """Where each line that differs is better, exchanging none or all of them makes as much, which 2 of 2ᵏ trials do."""
    better = sentences(1)
    worse = ["a" if number < num_differing else line for number, line in enumerate(better)]
    config = ReportConfig(metrics=[ScoreKind.chrf])
    measures = [*build_measures([better], config, Treatment("en", config))]
    tables = [[measure.statistics(lines) for measure in measures] for lines in (worse, better)]
    found = compare_systems(["worse", "better"], measures, tables, SignificanceConfig(samples=0, trials=4000))
    assert found.comparisons[0].randomization_p == pytest.approx(expected, abs=0.03)


def test_either_test_can_be_left_out() -> None:
    without = compared(REFERENCES[:1], SignificanceConfig(samples=0, trials=20))
    assert without.intervals == []
    assert all(found.bootstrap_p is None and found.randomization_p for found in without.comparisons)
    without = compared(REFERENCES[:1], SignificanceConfig(samples=20, trials=0))
    assert all(found.bootstrap_p and found.randomization_p is None for found in without.comparisons)


def test_statistics_add_up_to_the_corpus_score() -> None:
    measures, tables = statistics(REFERENCES)
    for measure, metric, table in zip(measures, SACREBLEU.values(), tables[0], strict=True):
        expected = metric.corpus_score(SYSTEMS["good"], REFERENCES).score
        assert measure.value(np.sum(table, axis=0).tolist()) == pytest.approx(expected, abs=1e-9)


def test_ter_is_the_same_from_several_processes() -> None:
    many = SYSTEMS["good"] * 6  # more lines than one block
    references = [REFERENCES[0] * 6]
    tables = []
    for workers in (1, 2):
        config = ReportConfig(metrics=[ScoreKind.ter])
        (measure,) = build_measures(references, config, Treatment("en", config), workers)
        tables.append(measure.statistics(many))
    assert (tables[0] == tables[1]).all()


def test_the_seed_decides() -> None:
    one, other = (compared(REFERENCES[:1], SignificanceConfig(50, 50, seed)) for seed in (1, 2))
    assert one.intervals != other.intervals
    assert [each.randomization_p for each in one.comparisons] != [each.randomization_p for each in other.comparisons]
