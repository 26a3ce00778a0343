"""Corpus scores against sacrebleu itself and against BLEU written out."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import sacrebleu

from dynconv_mt.errors import UserError
from dynconv_mt.evaluate import EvaluateConfig, Metric, corpus_scores
from dynconv_mt.text.config import Tokenization

HYPOTHESES = [
    "A man in a blue shirt is standing on a ladder.",
    "The well-known “dog” runs & jumps, doesn't it?",
    "Two Children play in the garden (at night).",
]
REFERENCE = [
    "A man in a blue shirt stands on a ladder.",
    'The well-known "dog" runs & jumps, doesn\'t it?',
    "Two children are playing in the garden (at night).",
]
ALL = EvaluateConfig(metrics=list(Metric))


def multi_bleu(hypotheses: list[str], reference: list[str]) -> float:
    """BLEU of tokens by its definition (Papineni et al., 2002), one reference."""
    matches, totals = [0] * 4, [0] * 4
    hyp_length = ref_length = 0
    for hypothesis, expected in zip(hypotheses, reference, strict=True):
        hyp, ref = hypothesis.split(), expected.split()
        hyp_length, ref_length = hyp_length + len(hyp), ref_length + len(ref)
        for n in range(4):
            hyp_ngrams, ref_ngrams = (
                Counter(tuple(words[i : i + n + 1]) for i in range(len(words) - n)) for words in (hyp, ref)
            )
            matches[n] += (hyp_ngrams & ref_ngrams).total()
            totals[n] += hyp_ngrams.total()
    brevity = min(1.0, math.exp(1 - ref_length / hyp_length))
    return 100 * brevity * math.exp(sum(math.log(m / t) for m, t in zip(matches, totals, strict=True)) / 4)


def test_each_metric_gives_its_score_and_signature() -> None:
    bleu, chrf, cased, lower = corpus_scores(HYPOTHESES, [REFERENCE], "en", ALL)
    assert bleu.value == sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCE]).score
    assert chrf.value == sacrebleu.corpus_chrf(HYPOTHESES, [REFERENCE]).score
    assert "case:mixed|eff:no|tok:13a|smooth:exp|version:" in bleu.signature
    assert "nc:6|nw:0" in chrf.signature
    assert "case:mixed|eff:no|normpunct:yes|tok:moses-noescape-en|sacremoses:" in cased.signature
    assert "case:lc|eff:no|normpunct:yes|tok:moses-noescape-en|sacremoses:" in lower.signature
    assert lower.value > cased.value
    assert "BP = " in lower.detail


def test_tokenised_bleu_is_that_of_multi_bleu() -> None:
    tokens = [
        "a man in a blue shirt is standing on a ladder .",
        'the well-known " dog " runs & jumps , doesn \'t it ?',
        "two children play in the garden ( at night ) .",
    ]
    expected = [
        "a man in a blue shirt stands on a ladder .",
        'the well-known " dog " runs & jumps , doesn \'t it ?',
        "two children are playing in the garden ( at night ) .",
    ]
    (score,) = corpus_scores(HYPOTHESES, [REFERENCE], "en", EvaluateConfig([Metric.tokenized_bleu_lc]))
    assert score.value == pytest.approx(multi_bleu(tokens, expected), abs=1e-9)
    (score,) = corpus_scores(
        tokens, [expected], "en", EvaluateConfig([Metric.tokenized_bleu], tokenization=Tokenization.none)
    )
    assert score.value == pytest.approx(multi_bleu(tokens, expected), abs=1e-9)
    assert "|tok:none|" in score.signature


def test_punctuation_counts_unless_normalised() -> None:
    normalised, as_is = (
        corpus_scores(HYPOTHESES, [REFERENCE], "en", EvaluateConfig([Metric.tokenized_bleu], normalize_punctuation=yes))
        for yes in (True, False)
    )
    assert normalised[0].value > as_is[0].value
    assert "normpunct:no" in as_is[0].signature


@pytest.mark.parametrize("metric", Metric)
def test_a_perfect_translation_scores_100_and_a_second_reference_never_hurts(metric: Metric) -> None:
    config = EvaluateConfig([metric])
    assert corpus_scores(REFERENCE, [REFERENCE], "de", config)[0].value == pytest.approx(100)
    (both,) = corpus_scores(HYPOTHESES, [REFERENCE, HYPOTHESES], "de", config)
    assert both.value == pytest.approx(100)
    assert "nrefs:2" in both.signature


def test_empty_lines_are_scored_like_others() -> None:
    for score in corpus_scores(["", *HYPOTHESES], [["Nothing here .", *REFERENCE]], "en", ALL):
        assert 0 < score.value < 100
    assert all(score.value == 0 for score in corpus_scores(["", ""], [REFERENCE[:2]], "en", ALL))


def test_scores_as_json_and_as_a_line() -> None:
    (score, *_) = corpus_scores(HYPOTHESES, [REFERENCE], "en")
    assert set(score.to_dict()) == {"name", "value", "signature", "detail"}
    assert str(score).startswith(f"sacreBLEU {score.value:.2f}")
    assert score.signature in str(score)


def test_unequal_or_no_lines_are_refused() -> None:
    with pytest.raises(UserError, match="3 lines of translation, and 2 in the reference"):
        corpus_scores(HYPOTHESES, [REFERENCE[:2]], "en")
    with pytest.raises(UserError, match="and 2 in reference 2"):
        corpus_scores(HYPOTHESES, [REFERENCE, REFERENCE[:2]], "en")
    with pytest.raises(UserError, match="no lines to score"):
        corpus_scores([], [[]], "en")
    with pytest.raises(TypeError, match="list of references"):
        corpus_scores(HYPOTHESES, REFERENCE, "en")
    with pytest.raises(UserError, match=r"evaluate.metrics=\[\]"):
        EvaluateConfig(metrics=[])
