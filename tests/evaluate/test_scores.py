"""Corpus scores against sacrebleu itself and against BLEU written out."""

from __future__ import annotations

import gzip
import importlib.util
import math
import random
import re
import shutil
import subprocess
from collections import Counter

import pytest
import sacrebleu
from shared import SHARED

from dynconv_mt.errors import UserError
from dynconv_mt.evaluate import EvaluateConfig, ScoreKind, corpus_scores
from dynconv_mt.evaluate.scores import check_scoring
from dynconv_mt.evaluate.treatment import Treatment, split_compounds
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
ALL = EvaluateConfig(metrics=list(ScoreKind))


def multi_bleu(hypotheses: list[str], *references: list[str]) -> float:
    """BLEU of tokens by its definition (Papineni et al., 2002), with the closest reference's length as multi-bleu."""
    matches, totals = [0] * 4, [0] * 4
    hyp_length = ref_length = 0
    for hypothesis, *expected in zip(hypotheses, *references, strict=True):
        hyp, refs = hypothesis.split(), [reference.split() for reference in expected]
        hyp_length += len(hyp)
        ref_length += min((abs(len(ref) - len(hyp)), len(ref)) for ref in refs)[1]
        for n in range(4):
            found = ngrams(hyp, n + 1)
            allowed: Counter[tuple[str, ...]] = Counter()
            for ref in refs:
                allowed |= ngrams(ref, n + 1)
            matches[n] += (found & allowed).total()
            totals[n] += found.total()
    brevity = min(1.0, math.exp(1 - ref_length / hyp_length))
    return 100 * brevity * math.exp(sum(math.log(m / t) for m, t in zip(matches, totals, strict=True)) / 4)


def ngrams(words: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def with_perl(lines: list[str]) -> list[str]:
    """What the literature's own command makes of the lines."""
    if shutil.which("perl") is None:
        pytest.skip("no perl")
    command = ["perl", "-ple", r"s{(\S)-(\S)}{$1 ##AT##-##AT## $2}g"]
    text = "".join(f"{line}\n" for line in lines)
    done = subprocess.run(command, input=text.encode(), capture_output=True, check=True, env={})
    return done.stdout.decode().split("\n")[:-1]


def test_each_metric_gives_its_score_and_signature() -> None:
    bleu, chrf, ter, cased, lower, split = corpus_scores(HYPOTHESES, [REFERENCE], "en", ALL)
    assert bleu.value == sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCE]).score
    assert chrf.value == sacrebleu.corpus_chrf(HYPOTHESES, [REFERENCE]).score
    assert ter.value == sacrebleu.corpus_ter(HYPOTHESES, [REFERENCE]).score
    assert "case:mixed|eff:no|tok:13a|smooth:exp|version:" in bleu.signature
    assert "nc:6|nw:0" in chrf.signature
    assert "case:mixed|eff:no|normpunct:yes|tok:moses-noescape-en|sacremoses:" in cased.signature
    assert "case:lc|eff:no|normpunct:yes|tok:moses-noescape-en|sacremoses:" in lower.signature
    assert "|compounds:split|smooth:none|" in split.signature
    assert "tok:tercom" in ter.signature
    assert "edits" in ter.detail
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
    (score,) = corpus_scores(HYPOTHESES, [REFERENCE], "en", EvaluateConfig([ScoreKind.tokenized_bleu_lc]))
    assert score.value == pytest.approx(multi_bleu(tokens, expected), abs=1e-9)
    (score,) = corpus_scores(
        tokens, [expected], "en", EvaluateConfig([ScoreKind.tokenized_bleu], tokenization=Tokenization.none)
    )
    assert score.value == pytest.approx(multi_bleu(tokens, expected), abs=1e-9)
    assert "|tok:none|" in score.signature


def test_punctuation_counts_unless_normalised() -> None:
    normalised, as_is = (
        corpus_scores(
            HYPOTHESES, [REFERENCE], "en", EvaluateConfig([ScoreKind.tokenized_bleu], normalize_punctuation=yes)
        )
        for yes in (True, False)
    )
    assert normalised[0].value > as_is[0].value
    assert "normpunct:no" in as_is[0].signature


@pytest.mark.parametrize("metric", ScoreKind)
def test_a_perfect_translation_has_the_best_score_and_a_second_reference_never_hurts(metric: ScoreKind) -> None:
    config = EvaluateConfig([metric])
    perfect = 0 if metric is ScoreKind.ter else 100
    assert corpus_scores(REFERENCE, [REFERENCE], "de", config)[0].value == pytest.approx(perfect)
    (both,) = corpus_scores(HYPOTHESES, [REFERENCE, HYPOTHESES], "de", config)
    assert both.value == pytest.approx(perfect)
    assert "nrefs:2" in both.signature


def test_empty_lines_are_scored_like_others() -> None:
    for score in corpus_scores(["", *HYPOTHESES], [["Nothing here .", *REFERENCE]], "en", ALL):
        assert 0 < score.value < 100
    nothing = corpus_scores(["", ""], [REFERENCE[:2]], "en", ALL)
    assert [score.value for score in nothing] == [100 if score.name == "TER" else 0 for score in nothing]


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


COMPOUNDS = [
    "rich-text format",
    "a-b-c-d",
    "ab-cd-ef",
    "a-ü-c",
    "ä-ö-ü ß-ß",
    "a - b -c d- --- a--b",
    "- -a a-",
    "1-2-3-4 x-😀-y",
    "a\u00a0-\u00a0b a-\u2003b",
    "",
]


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ("rich-text format", "rich ##AT##-##AT## text format"),
        ("a-b-c", "a ##AT##-##AT## b-c"),  # matches do not overlap
        ("ab-cd-ef", "ab ##AT##-##AT## cd ##AT##-##AT## ef"),
        ("a-ü-c", "a ##AT##-##AT## ü ##AT##-##AT## c"),  # perl sees the two bytes of ü
        ("a - b -c d-", "a - b -c d-"),
    ],
)
def test_compounds_are_split_as_in_the_literature(tokens: str, expected: str) -> None:
    assert split_compounds(tokens) == expected


def test_compounds_are_split_as_perl_does() -> None:
    draw = random.Random(1)
    lines = COMPOUNDS + ["".join(draw.choices("ab-- -ü\u00a0-", k=30)) for _ in range(300)]
    assert [split_compounds(line) for line in lines] == with_perl(lines)


def perturbed(lines: list[str], seed: int) -> list[str]:
    """Lines with one word in ten left out, and one in ten changed with its neighbour."""
    draw = random.Random(seed)
    result = []
    for line in lines:
        words = [word for word in line.split(" ") if draw.random() > 0.1]
        for i in range(len(words) - 1):
            if draw.random() < 0.1:
                words[i], words[i + 1] = words[i + 1], words[i]
        result.append(" ".join(words))
    return result


def test_bleu_of_newstest2014_is_that_of_the_original_procedure() -> None:
    file = SHARED / "data" / "newstest.en-de" / "newstest2014.de.gz"
    if not file.is_file():
        pytest.skip(f"{file} is not here")
    reference = gzip.decompress(file.read_bytes()).decode().split("\n")[:1000]
    texts = [reference, perturbed(reference, 1), perturbed(reference, 2)]
    metrics = EvaluateConfig([ScoreKind.tokenized_bleu, ScoreKind.tokenized_bleu_lc, ScoreKind.compound_split_bleu])
    cased, lower, split = corpus_scores(texts[1], [texts[0]], "de", metrics)
    two = corpus_scores(texts[1], [texts[0], texts[2]], "de", metrics)
    treatment = Treatment("de", metrics)
    ref, hyp, other = ([treatment.tokenize(line) for line in text] for text in texts)
    assert cased.value == pytest.approx(multi_bleu(hyp, ref), abs=1e-9)
    assert two[0].value == pytest.approx(multi_bleu(hyp, ref, other), abs=1e-9)
    lowered = [[line.lower() for line in lines] for lines in (hyp, ref)]
    assert lower.value == pytest.approx(multi_bleu(*lowered), abs=1e-9)
    compounds = [with_perl(lines) for lines in (hyp, ref, other)]
    assert any(re.search("##AT##", line) for line in compounds[1])
    assert split.value == pytest.approx(multi_bleu(*compounds[:2]), abs=1e-9)
    assert two[2].value == pytest.approx(multi_bleu(*compounds), abs=1e-9)


def test_languages_without_blanks_have_tokenisers_of_their_own() -> None:
    config = EvaluateConfig(metrics=[ScoreKind.sacrebleu])
    hypotheses, reference = (
        ["一个男人站在梯子上。", "孩子们在花园里玩。"],
        ["一个男人正站在梯子上。", "孩子们在花园里玩耍。"],
    )
    (score,) = corpus_scores(hypotheses, [reference], "zh", config)
    assert "tok:zh" in score.signature
    assert corpus_scores(hypotheses, [reference], "zh_CN", config) == [score]
    assert score.value == sacrebleu.corpus_bleu(hypotheses, [reference], tokenize="zh").score > 50
    if importlib.util.find_spec("MeCab") is None:
        with pytest.raises(UserError, match=r"needs a tokeniser for ja: pip install 'sacrebleu\[ja\]'"):
            check_scoring("ja", config)
    else:
        check_scoring("ja", config)


def test_words_stand_for_scores() -> None:
    word: list[ScoreKind] = ["tokenized_bleu"]  # type: ignore[list-item]
    lines = ["A rich-text format, isn't it?"]
    assert corpus_scores(lines, [lines], "en", EvaluateConfig(metrics=word))[0].name == "tokenised BLEU"
    with pytest.raises(UserError, match=r"evaluate\.metrics=bleurt: must be one of sacrebleu"):
        EvaluateConfig(metrics=["bleurt"])  # type: ignore[list-item]
