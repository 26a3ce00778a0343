from __future__ import annotations

import json
import re

import matplotlib
import pytest

from dynconv_mt.errors import UserError
from dynconv_mt.evaluate import (
    BreakdownConfig,
    EvaluateConfig,
    Report,
    ReportConfig,
    ScoreKind,
    SignificanceConfig,
    Texts,
    corpus_scores,
    evaluate_systems,
)
from dynconv_mt.evaluate.plot import draw_report
from dynconv_mt.evaluate.table import report_text
from dynconv_mt.evaluate.treatment import Treatment

REFERENCE = ["The old dog runs.", "A rich-text format, nothing else.", "Yes.", "Two cats sleep on the old sofa."]
SYSTEMS = {
    "first": ["The dog runs.", "A rich-text format.", "", "Two cats sleep on the sofa."],
    "second": ["Old dog runs here.", "Nothing else, rich text.", "Yes.", "Cats sleep on a sofa."],
}
SOURCE = ["Der alte Hund rennt.", "Ein Rich-Text-Format, sonst nichts.", "Ja.", ""]


def report(config: ReportConfig | None = None, source: list[str] | None = SOURCE) -> Report:
    few = SignificanceConfig(samples=20, trials=20)
    texts = Texts(SYSTEMS, [REFERENCE], "en", source)
    return evaluate_systems(texts, config or ReportConfig(significance=few, workers=1))


def test_scores_are_those_of_each_system_alone() -> None:
    found = report()
    for lines, scores in zip(SYSTEMS.values(), found.scores, strict=True):
        alone = corpus_scores(lines, [REFERENCE], "en", EvaluateConfig(list(ScoreKind)))
        assert scores == alone


def test_the_table_has_every_score_and_signature() -> None:
    found = report()
    text = report_text(found)
    for name in ("sacreBLEU", "chrF2", "TER ↓", "tokenised BLEU, lower-cased", "compound-split BLEU"):
        assert f"\n  {name} " in text
    assert all(score.signature in text for score in found.scores[0])
    assert "second − first" in text
    assert "sacreBLEU by words in the source sentence" in text
    assert "by occurrences of a word in the reference" in text
    assert "  first: 1 (line 3)" in text
    assert "  source: 1 (line 4)" in text
    assert not any(line.endswith(" ") for line in text.split("\n"))


def test_tests_and_intervals_can_be_left_out() -> None:
    config = ReportConfig(metrics=[ScoreKind.chrf], significance=SignificanceConfig(samples=0, trials=0))
    text = report_text(report(config, source=None))
    assert "±" not in text
    assert "chrF2 by words in the reference sentence" in text
    assert draw_report(report(config)).startswith(b"\x89PNG")


def test_json_says_everything() -> None:
    found = report()
    content = json.loads(json.dumps(found.to_dict()))
    assert (content["lines"], content["references"], content["lang"]) == (4, 1, "en")
    assert [system["system"] for system in content["systems"]] == ["first", "second"]
    score = content["systems"][0]["scores"][0]
    assert score["value"] == found.scores[0][0].value
    assert score.keys() == {"metric", "name", "value", "signature", "detail", "bootstrap_mean", "confidence_95"}
    assert len(content["comparisons"]) == len(ScoreKind)
    assert content["breakdown"]["length"]["buckets"][0]["values"].keys() == {"first", "second"}
    assert content["empty_lines"] == {"first": [3], "source": [4]}


def test_word_frequencies_come_from_training_text_where_there_is_some() -> None:
    texts = Texts(SYSTEMS, [REFERENCE], "en")
    config = ReportConfig(metrics=[ScoreKind.chrf], significance=SignificanceConfig(0, 0))
    found = evaluate_systems(texts, config, train=["The dog.", "The cats sleep."])
    assert found.frequency.kind == "occurrences of a word in the training data"
    counts = {bucket.label: bucket.count for bucket in found.frequency.buckets}
    assert counts["1"] == 3  # dog cats sleep
    assert counts["2–4"] == 5  # The and the full stops


@pytest.mark.parametrize("ending", [".png", ".svg", ".pdf"])
def test_the_picture_is_of_the_kind_asked_for(ending: str) -> None:
    start = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[ending]
    assert draw_report(report(), ending).startswith(start)


def test_the_picture_names_every_system() -> None:
    """Whatever their files are called: an underscore first hides a label from matplotlib, a dollar begins a formula."""
    lines = next(iter(SYSTEMS.values()))
    texts = Texts({"_hidden": lines, "$5": lines}, [REFERENCE], "en")
    config = ReportConfig(metrics=[ScoreKind.chrf], significance=SignificanceConfig(0, 0))
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # names as text
        picture = draw_report(evaluate_systems(texts, config), ".svg").decode()
    assert "_hidden</text>" in picture
    assert "$5</text>" in picture


def test_texts_of_unequal_length_are_refused() -> None:
    with pytest.raises(UserError, match="4 lines of translation, and 3 in the reference"):
        Texts(SYSTEMS, [REFERENCE[:3]], "en")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (ReportConfig(significance=SignificanceConfig(samples=-1)), "significance.samples=-1"),
        (ReportConfig(significance=SignificanceConfig(seed=-1)), "significance.seed=-1"),
        (ReportConfig(breakdown=BreakdownConfig(lengths=[0, 5])), r"breakdown.lengths=\[0,5\]"),
        (ReportConfig(breakdown=BreakdownConfig(frequencies=[5, 5])), r"breakdown.frequencies=\[5,5\]"),
        (ReportConfig(workers=-1), "workers=-1"),
    ],
)
def test_options_that_cannot_be(config: ReportConfig, words: str) -> None:
    with pytest.raises(UserError, match=words):
        config.check()


@pytest.mark.parametrize("metrics", [[], [ScoreKind.chrf, ScoreKind.chrf]])
def test_each_score_once(metrics: list[ScoreKind]) -> None:
    with pytest.raises(UserError, match=r"metrics=\["):
        ReportConfig(metrics=metrics)


def test_a_system_may_be_called_source() -> None:
    texts = Texts({"source": SYSTEMS["first"], "b": SYSTEMS["second"]}, [REFERENCE], "en", SOURCE)
    assert texts.empty_lines() == {"system source": [3], "source": [4]}


def test_numbers_stand_under_their_names() -> None:
    found = report()
    for system, intervals in zip(found.to_dict()["systems"], found.significance.intervals, strict=True):
        for score, interval in zip(system["scores"], intervals, strict=True):
            assert (score["bootstrap_mean"], score["confidence_95"]) == (interval.mean, interval.half_width)
    for each in found.significance.comparisons:
        assert re.search(rf"{each.bootstrap_p:.4f} +{each.randomization_p:.4f}", report_text(found))


def test_lengths_are_those_of_the_source_where_there_is_one() -> None:
    config = ReportConfig(
        metrics=[ScoreKind.chrf],
        significance=SignificanceConfig(0, 0),
        breakdown=BreakdownConfig(lengths=[1, 4]),
    )
    buckets = [[(each.label, each.count) for each in report(config, by).length.buckets] for by in (SOURCE, None)]
    assert buckets == [[("0", 1), ("1–3", 1), ("4+", 2)], [("1–3", 1), ("4+", 3)]]


def test_characters_that_do_not_print_are_scored() -> None:
    assert "\u200b" in Treatment("en", EvaluateConfig()).tokenize("a\u200bb")
