"""`dc-evaluate`: what it writes, what it refuses, and that nothing is written then."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from .conftest import call

REFERENCE = "Der alte Hund rennt.\nEin Rich-Text-Format.\nJa.\nZwei Katzen schlafen auf dem Sofa.\n"
FIRST = "Der Hund rennt.\nEin Rich-Text-Format.\n\nZwei Katzen schlafen auf dem Sofa.\n"
SECOND = "Alter Hund rennt.\nEin Format.\nJa.\nKatzen schlafen auf Sofa.\n"
TRIALS = "significance.trials=20"
FAST = ["significance.samples=20", "workers=1"]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with all texts."""
    texts = {"ref.de": REFERENCE, "two.de": SECOND, "a.txt": FIRST, "b.txt": SECOND, "src.en": "a b\nc\nd e\nf g h\n"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "short.txt").write_text("Eins.\n")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "latin.txt").write_bytes(b"fine\nf\xfcr\nc\nd\n")
    return tmp_path


def test_everything_is_written(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "b.txt.gz").write_bytes(gzip.compress(SECOND.encode()))
    out, picture = files / "scores.json", files / "scores.png"
    argv = [f"hypotheses=[{files}/a.txt,{files}/b.txt.gz]", f"reference={files}/ref.de", f"source={files}/src.en"]
    assert call("evaluate", *argv, f"output={out}", f"plot={picture}", f"train={files}/ref.de", *FAST, TRIALS) == 0
    output = capsys.readouterr()
    assert "compound-split BLEU" in output.out
    assert "tok:moses-noescape-de" in output.out
    assert "a.txt: 1 (line 3)" in output.out
    assert output.err == ""
    content = json.loads(out.read_text())
    assert [system["file"] for system in content["systems"]] == [f"{files}/a.txt", f"{files}/b.txt.gz"]
    assert content["files"]["train"] == [f"{files}/ref.de"]
    assert content["breakdown"]["frequency"]["kind"] == "occurrences of a word in the training data"
    assert len(content["comparisons"]) == 6
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_one_system_and_two_references(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [f"hypotheses={files}/b.txt", f"reference=[{files}/ref.de,{files}/two.de]", "metrics=[tokenized_bleu,ter]"]
    assert call("evaluate", *argv, "names=mine", *FAST) == 0
    text = capsys.readouterr().out
    assert "nrefs:2" in text
    assert "mine" in text
    assert "tokenised BLEU  100.00" in text
    assert "Paired tests" not in text


def test_the_language_is_said_where_it_is_guessed(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [f"hypotheses={files}/a.txt", f"reference={files}/b.txt", "metrics=[tokenized_bleu]", FAST[0]]
    assert call("evaluate", *argv) == 0
    output = capsys.readouterr()
    assert "tokenised as en" in output.err
    assert "tok:moses-noescape-en" in output.out
    (files / "b.gz").write_bytes(gzip.compress(SECOND.encode()))
    assert call("evaluate", argv[0], f"reference={files}/b.gz", *argv[2:]) == 0
    assert "tokenised as en" in capsys.readouterr().err  # gz is no language
    for name, language in (("deu", "deu"), ("pt_BR", "pt_BR"), ("zho-Hans.gz", "zho-Hans"), ("out", "en")):
        (files / f"b.{name}").write_text(SECOND)
        assert call("evaluate", argv[0], f"reference={files}/b.{name}", *argv[2:]) == 0
        assert f"tok:moses-noescape-{language}" in capsys.readouterr().out
    assert call("evaluate", *argv, "lang=de") == 0
    output = capsys.readouterr()
    assert output.err == ""
    assert "tok:moses-noescape-de" in output.out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["hypotheses={f}/none.txt"], "hypotheses={f}/none.txt: no such file"),
        (["hypotheses={f}/empty.txt"], "hypotheses={f}/empty.txt: is empty"),
        (["hypotheses={f}/latin.txt"], "{f}/latin.txt, line 2: not UTF-8"),
        (["hypotheses=[{f}/a.txt,{f}/short.txt]"], "short.txt: has 1 lines, and reference={f}/ref.de has 4"),
        (["hypotheses=[]"], "hypotheses=[]"),
        (["hypotheses=[{f}/a.txt,{f}/a.txt]"], "names a file twice"),
        (["reference=[]"], "reference=[]"),
        (["reference={f}/none.de"], "reference={f}/none.de: no such file"),
        (["reference={f}/empty.txt"], "reference={f}/empty.txt: is empty"),
        (["reference=[{f}/ref.de,{f}/short.txt]"], "reference={f}/short.txt: has 1 lines"),
        (["source={f}/short.txt"], "source={f}/short.txt: has 1 lines"),
        (["source={f}/latin.txt"], "line 2: not UTF-8"),
        (["train={f}/none.de"], "train={f}/none.de: no such file"),
        (["train={f}/latin.txt"], "line 2: not UTF-8"),
        (["names=[a,b]"], "names=[a,b]: give 1"),
        (["metrics=[]"], "metrics=[]"),
        (["metrics=[chrf,chrf]"], "metrics=[chrf,chrf]: give at least one of"),
        (["metrics=[comet]"], "metrics=[comet]: must be a list"),
        (["output={f}/a.txt"], "output={f}/a.txt: another option names this file"),
        (["output={f}/no/scores.json"], "there is no folder {f}/no"),
        (["plot={f}/scores.gif"], "must end in .png"),
        (["plot={f}/out.json"], "another option names this file"),
        (["significance.samples=-1"], "significance.samples=-1"),
        ([TRIALS], f"{TRIALS}: only has an effect with several hypotheses="),
        (["significance.samples=0", "significance.seed=2"], "significance.seed=2: only has an effect with"),
        (["metrics=[chrf]", "workers=3"], "workers=3: only has an effect with metrics=[ter]"),
        (["tokenization=none", "normalize_punctuation=true"], "normalize_punctuation=true: only has an effect with"),
        (["breakdown.lengths=[5,3]"], "breakdown.lengths=[5,3]"),
        (["comet_model={f}/model.ckpt"], "comet_model={f}/model.ckpt"),
    ],
)
def test_mistakes_leave_nothing(argv: list[str], words: str, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, picture = files / "out.json", files / "out.png"
    before = [f"hypotheses={files}/a.txt", f"reference={files}/ref.de", f"output={out}", f"plot={picture}"]
    assert call("evaluate", *before, *FAST, *(argument.format(f=files) for argument in argv)) == 2
    output = capsys.readouterr()
    assert words.format(f=files) in output.err
    assert output.out == ""
    assert not out.exists()
    assert not picture.exists()
    assert (files / "a.txt").read_text() == FIRST
