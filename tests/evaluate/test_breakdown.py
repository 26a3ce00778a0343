from __future__ import annotations

import pytest

from dynconv_mt.evaluate import EvaluateConfig, ScoreKind, corpus_scores
from dynconv_mt.evaluate.breakdown import Bucket, by_frequency, by_length
from dynconv_mt.evaluate.measure import build_measures
from dynconv_mt.evaluate.treatment import Treatment

HYPOTHESES = ["a b", "a b c d e f", "", "x a b c d e f g h", "c d"]
REFERENCE = ["a b", "a b c d f e", "b", "a b c d e f g h", "d c"]


def test_a_class_of_sentences_has_the_score_of_its_sentences() -> None:
    config = EvaluateConfig([ScoreKind.sacrebleu, ScoreKind.chrf])
    measures = build_measures([REFERENCE], config, Treatment("en", config))
    tables = [[measure.statistics(HYPOTHESES) for measure in measures]]
    found = by_length(REFERENCE, "words", [2, 6, 20], measures, tables)
    assert [(bucket.label, bucket.count) for bucket in found.buckets] == [("0–1", 1), ("2–5", 2), ("6–19", 2)]
    longest = corpus_scores([HYPOTHESES[1], HYPOTHESES[3]], [[REFERENCE[1], REFERENCE[3]]], "en", config)
    assert found.buckets[2].values == [{"sacrebleu": longest[0].value, "chrf": longest[1].value}]
    assert found.to_dict(["system"])["buckets"][2]["values"].keys() == {"system"}


def test_words_are_found_again_or_not() -> None:
    systems = [["the cat sat", "the the dog"], ["", ""]]
    reference = ["the cat ran", "the dog ran off"]
    found = by_frequency(systems, [reference], {"the": 10, "cat": 1, "dog": 2, "ran": 1}, "counts", [1, 2, 10])
    unseen, once, few, many = found.buckets
    # off was not produced, sat is not wanted; cat of cat and ran, ran
    assert (unseen.count, unseen.values[0]) == (1, {"precision": 0, "recall": 0, "f1": 0})
    assert once.count == 3
    assert once.values[0]["precision"] == 100
    assert once.values[0]["recall"] == pytest.approx(100 / 3)
    assert once.values[0]["f1"] == pytest.approx(50)
    assert few.values[0]["f1"] == 100
    assert many.values[0]["precision"] == pytest.approx(200 / 3)  # the second the of one sentence has no partner
    assert many.values[1] == {"precision": None, "recall": 0, "f1": 0}


def test_several_references_are_summed() -> None:
    found = by_frequency([["a b"]], [["a c"], ["a b"]], {"a": 1, "b": 1, "c": 1}, "counts", [1])
    (bucket,) = found.buckets
    assert (bucket.count, bucket.label) == (4, "1+")
    assert bucket.values == [{"precision": 75, "recall": 75, "f1": 75}]


def test_words_that_no_reference_has_are_shown() -> None:
    found = by_frequency([["new"]], [["old"]], {"old": 1}, "counts", [1])
    assert [bucket.values[0] for bucket in found.buckets] == [
        {"precision": 0, "recall": None, "f1": None},
        {"precision": None, "recall": 0, "f1": 0},
    ]


def test_labels() -> None:
    ranges = [(0, 0), (1, 4), (5, None)]
    assert [Bucket(start, end, 0, []).label for start, end in ranges] == ["0", "1–4", "5+"]
