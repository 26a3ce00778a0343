"""The text pipeline: both directions, what its fingerprint covers, saving, loading, and refusing what was altered."""

import json
import pickle
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynconv_mt.errors import UserError
from dynconv_mt.text.bpe import SentencePieceBpe, learn_bpe
from dynconv_mt.text.config import BpeConfig, TextConfig, Tokenization
from dynconv_mt.text.pipeline import TextPipeline
from dynconv_mt.text.subword import SUBWORDS, register_subword


def count_words(text: str) -> Counter[str]:
    return Counter(text.split() * 3)


ENGLISH = count_words("a man in a blue shirt is standing on a ladder cleaning a window .")
GERMAN = count_words("ein Mann in einem blauen Hemd steht auf einer Leiter und putzt ein Fenster .")


@pytest.fixture(scope="module")
def model() -> SentencePieceBpe:
    return learn_bpe(ENGLISH + GERMAN, BpeConfig(vocab_size=320))


@pytest.fixture(scope="module")
def german() -> SentencePieceBpe:
    return learn_bpe(GERMAN, BpeConfig(vocab_size=300))


@pytest.fixture(scope="module")
def joint(model: SentencePieceBpe) -> TextPipeline:
    return TextPipeline("en", "de", TextConfig(), model, model)


@settings(deadline=None)
@given(st.text())
def test_decoding_gives_the_tokens_back(joint: TextPipeline, line: str) -> None:
    for side in (joint.source, joint.target):
        tokens = side.tokenize(line)
        assert side.decode_tokens(side.encode(line)) == side.decode_tokens(side.encode_tokens(tokens)) == tokens


@settings(deadline=None)
@given(st.text())
def test_pretokenised_lines_come_back(model: SentencePieceBpe, line: str) -> None:
    pipeline = TextPipeline("en", "de", TextConfig(tokenization=Tokenization.none), model, model)
    assert pipeline.decode_target(pipeline.encode_target(line)) == " ".join(line.split())
    assert pipeline.decode_source(pipeline.encode_source(line)) == " ".join(line.split())


def test_text_in_and_text_out(joint: TextPipeline) -> None:
    line = "Ein Mann, 😀 in einem blauen Hemd!"
    ids = joint.encode_target(line)
    assert joint.tokenize_target(line) == "Ein Mann , 😀 in einem blauen Hemd !"
    assert joint.decode_target([0, *ids, 2, 1]) == line
    assert joint.target_pieces([0, 1, 2, 3]) == ["<s>", "<pad>", "</s>", "<unk>"]
    assert "".join(joint.target_pieces(joint.encode_target("ein Hemd"))) == "▁ein▁Hemd"
    assert joint.encode_source("") == []
    assert joint.decode_target([]) == ""


def test_saved_and_loaded(
    tmp_path: Path, joint: TextPipeline, model: SentencePieceBpe, german: SentencePieceBpe
) -> None:
    separate = TextPipeline("en", "de", TextConfig(lowercase=True), model, german)
    for pipeline, files in ((joint, ["joint.model"]), (separate, ["source.model", "target.model"])):
        folder = tmp_path / files[0]
        pipeline.save(folder)
        pipeline.save(folder)  # into a folder that has one already
        assert sorted(path.name for path in folder.iterdir()) == sorted([*files, "pipeline.json"])
        loaded = TextPipeline.load(folder)
        assert loaded.fingerprint == pipeline.fingerprint
        assert (loaded.src, loaded.tgt, loaded.config, loaded.joint) == ("en", "de", pipeline.config, pipeline.joint)
        assert (loaded.src_vocab_size, loaded.tgt_vocab_size) == (320, pipeline.tgt_vocab_size)
        assert loaded.encode_target("Ein Fenster.") == pipeline.encode_target("Ein Fenster.")
    assert (separate.joint, joint.joint, separate.tgt_vocab_size) == (False, True, 300)


def test_fingerprint_covers_whatever_changes_ids(model: SentencePieceBpe, german: SentencePieceBpe) -> None:
    config = TextConfig()
    pipelines = [
        TextPipeline("en", "de", config, model, model),
        TextPipeline("en", "fr", config, model, model),
        TextPipeline("en", "de", config, model, german),
        TextPipeline("en", "de", config, german, german),
        TextPipeline("en", "de", replace(config, lowercase=True), model, model),
        TextPipeline("en", "de", replace(config, escape=True), model, model),
    ]
    assert len({pipeline.fingerprint for pipeline in pipelines}) == len(pipelines)
    assert pickle.loads(pickle.dumps(pipelines[0])).fingerprint == pipelines[0].fingerprint


def edit(folder: Path, **changes: object) -> None:
    path = folder / "pipeline.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("name", ["pipeline.json", "joint.model"])
def test_a_missing_or_cut_file_is_named(tmp_path: Path, joint: TextPipeline, name: str) -> None:
    joint.save(tmp_path)
    data = (tmp_path / name).read_bytes()
    for content in (data[:-10], data[:-1] + b"x", b"", b"\xff\xfe"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"{name}: was altered or damaged"):
            TextPipeline.load(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=name):
        TextPipeline.load(tmp_path)
    with pytest.raises(UserError, match=r"nowhere: no text pipeline here"):
        TextPipeline.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"src": "fr"}, "fingerprint"),
        ({"text": {"lowercase": True}}, "altered"),
        ({"text": {"lowercas": True}}, "altered"),
        ({"subword": {}}, "altered"),
        ({"subword": {"joint": {}}}, "altered"),
        ({"subword": {"joint": {"kind": "wordpiece", "files": {}}}}, "'wordpiece'.*knows sentencepiece"),
        ({"subword": {"joint": {"kind": "sentencepiece", "files": {}}}}, "altered"),
        ({"format": 99}, "format 99"),
    ],
)
def test_an_altered_description_is_refused(
    tmp_path: Path, joint: TextPipeline, changes: dict[str, object], message: str
) -> None:
    joint.save(tmp_path)
    edit(tmp_path, **changes)
    with pytest.raises(UserError, match=message):
        TextPipeline.load(tmp_path)


class Letters:
    """A subword model of another kind: each character of a line is a piece."""

    kind: ClassVar[str]
    vocab_size = 4 + 128

    def encode(self, tokens: str) -> list[int]:
        return [4 + ord(letter) % 128 for letter in tokens]

    def pieces(self, ids: Iterable[int]) -> list[str]:
        return [chr(i - 4) for i in ids]

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(self.pieces([i for i in ids if i >= 4]))

    def is_byte(self, piece: int) -> bool:
        return False

    def files(self) -> Mapping[str, bytes]:
        return {"one": b"1", "two": b"2"}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> "Letters":
        assert files == {"one": b"1", "two": b"2"}
        return cls()


def test_other_kinds_of_subword_models_fit(tmp_path: Path, model: SentencePieceBpe) -> None:
    register_subword("letters")(Letters)
    try:
        TextPipeline("en", "de", TextConfig(), model, Letters()).save(tmp_path)
        loaded = TextPipeline.load(tmp_path)
        assert sorted(p.name for p in tmp_path.iterdir()) == [
            "pipeline.json",
            "source.model",
            "target.one",
            "target.two",
        ]
        assert loaded.decode_target(loaded.encode_target("Abc.")) == "Abc."
    finally:
        del SUBWORDS["letters"]
