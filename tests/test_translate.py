"""From lines to translations, with a small untrained model: what it says is noise, and must be the right noise."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dynconv_mt.data.config import BatchConfig
from dynconv_mt.errors import UserError
from dynconv_mt.models.io import save_model
from dynconv_mt.models.presets import preset
from dynconv_mt.models.seq2seq import Seq2Seq, build_model
from dynconv_mt.search import SearchConfig, forced_scores
from dynconv_mt.text.bpe import learn_bpe
from dynconv_mt.text.config import BpeConfig, TextConfig
from dynconv_mt.text.pipeline import TextPipeline
from dynconv_mt.translate import Translation, Translator, load_translator

LINES = [
    "A dog runs.",
    "",
    "Two children are playing in the garden!",
    "   \t ",
    "Dogs",
    "A man isn't standing on the 3 ladders 🙂.",
]
torch.set_num_threads(1)  # the models are so small that more only wait for each other
SEARCH = SearchConfig(beam=3, nbest=2, max_length_b=6)


def pipeline(config: TextConfig) -> TextPipeline:
    bpe = learn_bpe(Counter(" ".join(LINES).split()), BpeConfig(vocab_size=320))
    return TextPipeline("en", "de", config, bpe, bpe)


def small_model(text: TextPipeline, seed: int = 0, **changes: object) -> Seq2Seq:
    torch.manual_seed(seed)
    sizes = {"src_vocab_size": text.src_vocab_size, "tgt_vocab_size": text.tgt_vocab_size}
    model = build_model(replace(preset("transformer_tiny"), **sizes, **changes))  # type: ignore[arg-type]
    assert isinstance(model, Seq2Seq)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


TEXT = pipeline(TextConfig())
MODEL = small_model(TEXT)


def test_translations_come_in_the_order_of_the_lines() -> None:
    together = Translator([MODEL], TEXT, search=SEARCH).translate(LINES)
    assert [t.source for t in together] == LINES
    for line, translation in zip(LINES, together, strict=True):
        (alone,) = Translator([MODEL], TEXT, search=SEARCH, batch=BatchConfig(max_tokens=5)).translate([line])
        assert (alone.text, alone.pieces) == (translation.text, translation.pieces)
        assert alone.score == pytest.approx(translation.score, abs=1e-4)


def test_windows_change_nothing_but_memory(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Neither the order of the lines nor the numbers by which they are named."""
    translator = Translator([MODEL], TEXT, search=SEARCH)
    translator.max_pieces = 12
    lines = [*LINES, "dog " * 20]
    expected = [translation.text for translation in translator.translate(lines)]
    monkeypatch.setattr("dynconv_mt.translate.FIRST_WINDOW", 2)
    monkeypatch.setattr("dynconv_mt.translate.WINDOW", 2)
    caplog.clear()
    assert [translation.text for translation in translator.stream(lines)] == expected
    assert f"line {len(lines)} (" in caplog.text


def test_scores_come_by_the_window_and_lines_are_checked_before(monkeypatch: pytest.MonkeyPatch) -> None:
    translator = Translator([MODEL], TEXT, search=SEARCH)
    targets = LINES[::-1]
    whole = translator.score(LINES, targets)
    assert [(each.source, each.target) for each in whole] == list(zip(LINES, targets, strict=True))
    monkeypatch.setattr("dynconv_mt.translate.FIRST_WINDOW", 2)
    monkeypatch.setattr("dynconv_mt.translate.WINDOW", 2)
    for one, other in zip(translator.stream_scores(LINES, targets), whole, strict=True):
        assert one.pieces == other.pieces
        assert one.token_scores == pytest.approx(other.token_scores, abs=1e-5)
    with pytest.raises(UserError, match="source line 6: has"):
        next(translator.stream_scores([*LINES[:5], "dogs " * 2000], targets))


def test_blank_lines_stay_empty() -> None:
    translations = Translator([MODEL], TEXT, search=SEARCH).translate(LINES)
    assert translations[1] == Translation("")
    assert translations[3] == Translation("   \t ")
    assert Translator([MODEL], TEXT).translate([]) == []
    assert all(t.pieces for i, t in enumerate(translations) if i not in (1, 3))


def test_scores_belong_to_the_pieces() -> None:
    translation = Translator([MODEL], TEXT, search=SEARCH).translate(LINES[:1])[0]
    src = torch.tensor([[*TEXT.encode_source(LINES[0]), 2]])
    for each in (translation, *translation.alternatives):
        assert len(each.token_scores) == len(each.pieces) + 1
        assert each.score == pytest.approx(sum(each.token_scores) / len(each.token_scores), abs=1e-5)
    ids = [i for piece in translation.pieces for i in range(TEXT.tgt_vocab_size) if TEXT.target_pieces([i]) == [piece]]
    forced = forced_scores([MODEL], src, torch.tensor([src.shape[1]]), torch.tensor([[*ids, 2]]))
    assert translation.token_scores == pytest.approx(forced[0].tolist(), abs=1e-4)
    assert translation.text == TEXT.decode_target(ids)


def test_alternatives_are_the_rest_of_the_n_best() -> None:
    best, *others = Translator([MODEL], TEXT, search=replace(SEARCH, nbest=3)).translate(LINES[:1])[0:1]
    assert not others
    assert len(best.alternatives) == 2
    assert best.score >= best.alternatives[0].score >= best.alternatives[1].score
    assert all(not each.alternatives and each.source == LINES[0] for each in best.alternatives)


@pytest.mark.parametrize("max_tokens", [1, 20, 4096])
def test_batches_keep_to_the_budget_and_hold_every_line_once(max_tokens: int) -> None:
    translator = Translator([MODEL], TEXT, batch=BatchConfig(max_tokens=max_tokens, max_sentences=3))
    lengths = [5, 0, 9, 1, 1, 14, 3, 0, 30]
    batches = translator._batches(lengths)
    assert sorted(row for rows in batches for row in rows) == [i for i, length in enumerate(lengths) if length]
    for rows in batches:
        longest = max(lengths[row] for row in rows) + 1
        assert len(rows) == 1 or len(rows) * longest <= max_tokens
        assert len(rows) <= 3
    for rows, (following, *_) in itertools.pairwise(batches):  # as large as they may be
        assert len(rows) == 3 or (len(rows) + 1) * (lengths[rows[0]] + 1) > max_tokens
        assert lengths[following] <= lengths[rows[-1]]


def test_a_line_that_is_too_long_is_cut_and_named(caplog: pytest.LogCaptureFixture) -> None:
    translator = Translator([small_model(TEXT, max_positions=6)], TEXT, search=SEARCH)
    with caplog.at_level(logging.WARNING):
        translations = translator.translate(["A", LINES[2], LINES[5]])
    assert [t.truncated for t in translations] == [False, True, True]
    assert "line 2 (" in caplog.text
    assert "and 1 more lines: the model reads at most 5 pieces" in caplog.text
    assert translations[1].source == LINES[2]
    with caplog.at_level(logging.WARNING):
        translator.translate([LINES[2]])  # as dc-interactive does, line by line
    assert "the line (" in caplog.messages[-1]


def test_lines_that_are_not_lines_are_refused() -> None:
    with pytest.raises(UserError, match="line 2: contains a line break"):
        Translator([MODEL], TEXT).translate(["one", "two\nthree"])
    with pytest.raises(TypeError, match="list of lines"):
        Translator([MODEL], TEXT).translate("one line")


def test_as_many_targets_as_sources_are_scored() -> None:
    translator = Translator([MODEL], TEXT)
    with pytest.raises(UserError, match="targets: there are 1, and 2 sources"):
        translator.score(["one", "two"], ["eins"])
    with pytest.raises(TypeError, match="two lists of lines, not a string"):
        translator.score("one", "eins")


def test_output_never_holds_a_line_break(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TextPipeline, "decode_target", lambda self, ids: "a\r\nb\u2028c d")
    assert Translator([MODEL], TEXT).translate(["A dog"])[0].text == "a b c d"


def test_a_saved_model_translates_alike(tmp_path: Path) -> None:
    save_model(tmp_path / "run" / "model", MODEL, TEXT)
    expected = Translator([MODEL], TEXT, search=SEARCH).translate(LINES)
    for path in (tmp_path / "run", str(tmp_path / "run" / "model"), [tmp_path / "run"]):
        translator = load_translator(path, device=torch.device("cpu"), precision="fp32", threads=1, search=SEARCH)
        assert [t.text for t in translator.translate(LINES)] == [t.text for t in expected]


def test_an_ensemble_needs_one_vocabulary(tmp_path: Path) -> None:
    save_model(tmp_path / "one", MODEL, TEXT)
    save_model(tmp_path / "two", small_model(TEXT, seed=1), TEXT)
    save_model(tmp_path / "three", MODEL, pipeline(TextConfig(lowercase=True)))
    translator = load_translator([tmp_path / "one", tmp_path / "two"], device="cpu", precision="fp32", threads=1)
    assert len(translator.models) == 2
    assert translator.translate(LINES)[0].pieces
    with pytest.raises(UserError, match=r"three: has another text pipeline than .*one"):
        load_translator([tmp_path / "one", tmp_path / "three"], device="cpu", threads=1)


def test_models_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        load_translator(tmp_path / "nowhere")
    with pytest.raises(UserError, match="give at least one model"):
        load_translator([])
    save_model(tmp_path / "textless", MODEL)
    with pytest.raises(UserError, match="textless: the model has no text pipeline"):
        load_translator(tmp_path / "textless")
    odd = build_model(replace(MODEL.config, src_vocab_size=50, tgt_vocab_size=50))
    save_model(tmp_path / "odd", odd, TEXT)
    with pytest.raises(UserError, match="put together from different models"):
        load_translator(tmp_path / "odd", device="cpu", threads=1)
    save_model(tmp_path / "good", MODEL, TEXT)
    with pytest.raises(UserError, match="precision=fp8: must be one of auto, fp32"):
        load_translator(tmp_path / "good", precision="fp8")
    with pytest.raises(UserError, match="device=cuda:99"):
        load_translator(tmp_path / "good", device="cuda:99")


def test_bf16_finds_nearly_the_same_scores(tmp_path: Path) -> None:
    save_model(tmp_path, MODEL, TEXT)
    scores, dtypes = {}, {}
    for precision in ("fp32", "bf16"):
        translator = load_translator(tmp_path, device="cpu", precision=precision, threads=1, search=SEARCH)
        seen = dtypes[precision] = set[torch.dtype]()
        product = translator.models[0].get_submodule("decoder.layers.0.ffn.input")
        product.register_forward_hook(lambda _, __, y, seen=seen: seen.add(y.dtype))
        scores[precision] = translator.translate(LINES[:1])[0].score
    assert dtypes == {"fp32": {torch.float32}, "bf16": {torch.bfloat16}}
    assert scores["bf16"] == pytest.approx(scores["fp32"], abs=0.1)
    assert scores["bf16"] != scores["fp32"]


def test_a_pair_of_empty_lines_is_scored() -> None:
    (scored,) = Translator([MODEL], TEXT).score([""], [""])
    assert scored.pieces == () and len(scored.token_scores) == 1


def test_the_batch_asked_for_is_used(tmp_path: Path) -> None:
    save_model(tmp_path, MODEL, TEXT)
    batch = BatchConfig(max_tokens=7)
    assert load_translator(tmp_path, device="cpu", threads=1, batch=batch).batch == batch


def test_an_ensemble_reads_what_all_its_models_read() -> None:
    assert Translator([small_model(TEXT, max_positions=number) for number in (6, 60)], TEXT).max_pieces == 5
