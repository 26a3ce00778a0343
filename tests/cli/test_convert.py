"""`dc-convert` on miniatures of fairseq's checkpoints, and what the other commands do with the result."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from convert.original import VOCAB, Original

from dynconv_mt import load_translator
from dynconv_mt.models import load_model

from .conftest import call

CODES = "#version: 0.2\na b\nab c</w>\n"
PIECES = ["ab@@", "abc", "a@@", "b@@", "c@@", "a", "b", "c", "B", "x@@", "x", "'", "&apos;", "d"]
assert len(PIECES) == VOCAB - 6
SEARCH = ["search.beam=2", "search.max_length_a=0", "search.max_length_b=4", "threads=1", "device=cpu"]


def save(path: Path, original: Original, **options: Any) -> Path:
    languages = {"source_lang": "en", "target_lang": "de"} | options
    args = Namespace(**original.options, **{name: value for name, value in languages.items() if value})
    history = [{"num_updates": 7}]
    torch.save({"args": args, "model": original.weights, "optimizer_history": history}, path)
    return path


@pytest.fixture
def dictionaries(tmp_path: Path) -> Path:
    folder = tmp_path / "dict"
    folder.mkdir()
    lines = [f"{piece} 5" for piece in PIECES] + ["madeupword0000 0", "madeupword0001 0"]
    for lang in ("en", "de"):
        (folder / f"dict.{lang}.txt").write_text("\n".join(lines) + "\n")
    (folder / "codes").write_text(CODES)
    return folder


def test_a_converted_model_translates_raw_text(
    tmp_path: Path, dictionaries: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, out = save(tmp_path / "c.pt", Original(share_all_embeddings=True)), tmp_path / "MODEL"
    argv = [f"checkpoint={checkpoint}", f"dict={dictionaries}", f"bpe_codes={dictionaries}/codes", f"out_dir={out}"]
    assert call("convert", *argv) == 0
    assert "dc-generate model_dir=" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["MODEL", "c.pt", "dict"]
    translator = load_translator(out, device="cpu", threads=1)
    assert translator.text.joint
    assert translator.text.tokenize_source("abc it's") == "abc it &apos;s"
    assert translator.text.source_pieces(translator.text.encode_source("abc cab it")) == [
        *("abc", "c@@", "a@@", "b", "<unk>", "<unk>")
    ]
    (tmp_path / "in.txt").write_text("abc ab\nB x\n")
    assert call("generate", f"model_dir={out}", f"input={tmp_path}/in.txt", f"output={tmp_path}/out.txt", *SEARCH) == 0
    assert len((tmp_path / "out.txt").read_text().splitlines()) == 2
    capsys.readouterr()
    assert call("info", f"model_dir={out}") == 0
    info = capsys.readouterr().out
    assert "converted_from fairseq, file c.pt, sha256" in info
    assert "architecture lightconv, updates 7" in info
    assert "encoder: 2 layers, dynamic_conv" in info
    assert call("convert", *argv) == 2
    assert "overwrite=true" in capsys.readouterr().err
    assert call("convert", *argv, "overwrite=true", "text.tokenization=none") == 0


def test_a_converted_model_is_tuned(tmp_path: Path, dictionaries: Path) -> None:
    """Its dictionary and merges make the data, its weights begin the training."""
    checkpoint, out = save(tmp_path / "c.pt", Original(share_all_embeddings=True)), tmp_path / "MODEL"
    argv = [f"checkpoint={checkpoint}", f"dict={dictionaries}", f"bpe_codes={dictionaries}/codes", f"out_dir={out}"]
    assert call("convert", *argv) == 0
    (tmp_path / "new.en").write_text("abc ab\nB x\n")
    (tmp_path / "new.de").write_text("ab\nx x\n")
    options = [f"train={tmp_path}/new", f"text_from={out}", f"out_dir={tmp_path}/data", "workers=1"]
    assert call("preprocess", "src=en", "tgt=de", *options) == 0
    limits = ["train.max_updates=1", "train.tensorboard=false", "checkpoint.final=last", "threads=1"]
    tiny = ["optim.lr=1e-12", "schedule.warmup_updates=0"]
    options = [f"init_from={out}", f"data_dir={tmp_path}/data", f"out_dir={tmp_path}/run", *tiny, *limits]
    assert call("train", *options) == 0
    tuned, converted = load_model(tmp_path / "run" / "model").state_dict(), load_model(out).state_dict()
    assert all(torch.allclose(tuned[name], converted[name], rtol=0, atol=1e-9) for name in converted)


def test_without_dictionaries_there_is_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    original, out = Original(), tmp_path / "MODEL"
    assert call("convert", f"checkpoint={save(tmp_path / 'c.pt', original)}", f"out_dir={out}") == 0
    assert "no text pipeline" in capsys.readouterr().out
    logits = load_model(out)(torch.tensor([[5, 6, 2]]), torch.tensor([3]), torch.tensor([[2, 7]]))
    expected = original.logits(torch.tensor([5, 6, 2]), torch.tensor([2, 7]))
    torch.testing.assert_close(logits[0], expected, atol=2e-5, rtol=1e-5)
    (tmp_path / "in.txt").write_text("a\n")
    assert call("generate", f"model_dir={out}", f"input={tmp_path}/in.txt") == 2
    assert "the model has no text pipeline" in capsys.readouterr().err


def test_language_models(tmp_path: Path, dictionaries: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint, out = save(tmp_path / "lm.pt", Original(arch="lightconv_lm")), tmp_path / "MODEL"
    assert call("convert", f"checkpoint={checkpoint}", f"out_dir={out}") == 0
    assert "a language model" in capsys.readouterr().out
    assert call("info", f"model_dir={out}", "json=true") == 0
    info = json.loads(capsys.readouterr().out)
    assert info["model"]["encoder"]["layers"] == 0
    assert info["provenance"]["architecture"] == "lightconv_lm"
    assert call("info", f"model_dir={out}") == 0
    assert "encoder: none, this is a language model" in capsys.readouterr().out
    assert call("generate", f"model_dir={out}", f"input={checkpoint}") == 2
    assert "is a language model, which cannot translate" in capsys.readouterr().err
    assert call("convert", f"checkpoint={checkpoint}", f"out_dir={tmp_path}/other", f"dict={dictionaries}") == 2
    assert "a language model, which has no text pipeline" in capsys.readouterr().err
    assert (
        call("train", "model=lightconv_lm", "data_dir=nowhere", f"out_dir={tmp_path}/run", "train.max_updates=1") == 2
    )
    assert "a language model; dc-train trains translation models only" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["checkpoint=nowhere.pt"], "checkpoint=nowhere.pt: no such file"),
        (["bpe_codes=x"], "bpe_codes=x: only has an effect with dict="),
        (["dict={dict}", "bpe_codes=nowhere"], "bpe_codes=nowhere: cannot be read"),
        (["dict={dict}", "src=de"], "de on both sides"),
        (["dict=nowhere"], "dict=nowhere: no such folder"),
        (["dict={dict}", "text.aggressive_hyphens=true"], "text.aggressive_hyphens=true: has no effect, since the"),
        (["dict={dict}", "src=fr"], "dict.fr.txt: cannot be read"),
        (["dict={tmp}/silent", "checkpoint={tmp}/silent.pt"], "give src= and tgt="),
        (["dict={tmp}/small"], "has 18 types, the four special ones included, and the model's source vocabulary 20"),
        (["dict={tmp}/odd"], "dict.en.txt: line 1 of the dictionary"),
        (["dict={dict}", "bpe_codes={tmp}/fast_bpe"], "fast_bpe: line 1 of the file of merges"),
        (["checkpoint={tmp}/foreign.pt"], "the architecture fconv cannot be converted"),
        (["checkpoint={tmp}/cut.pt"], "cut.pt: is damaged"),
        (["checkpoint={tmp}/evil.pt"], "evil.pt: holds an object of posix.system, which was not loaded"),
        (["dict={dict}", "text.tokenization=none", "text.aggressive_hyphens=true"], "text.aggressive_hyphens=true"),
        (["out_dir={dict}"], "holds other files than a model"),
    ],
)
def test_mistakes_leave_nothing(
    argv: list[str], words: str, tmp_path: Path, dictionaries: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    original = Original()
    checkpoint = save(tmp_path / "c.pt", original)
    save(tmp_path / "silent.pt", original, source_lang=None)  # one of the two is not enough
    (tmp_path / "cut.pt").write_bytes(checkpoint.read_bytes()[:2000])
    (tmp_path / "evil.pt").write_bytes(b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.")
    save(tmp_path / "foreign.pt", Original(arch="fconv"))
    for name, content in (("small", "".join(f"{p} 1\n" for p in PIECES)), ("odd", "nothing\n"), ("silent", "")):
        (tmp_path / name).mkdir()
        for lang in ("en", "de"):
            (tmp_path / name / f"dict.{lang}.txt").write_text(content)
    (tmp_path / "fast_bpe").write_text("a b 17\n")
    out = tmp_path / "MODEL"
    options = [f"checkpoint={checkpoint}", f"out_dir={out}", *argv]
    assert call("convert", *(option.format(dict=dictionaries, tmp=tmp_path) for option in options)) == 2
    assert words in capsys.readouterr().err
    assert not out.exists()


def test_languages_by_their_dictionaries(
    tmp_path: Path, dictionaries: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = save(tmp_path / "c.pt", Original(), source_lang=None, target_lang=None)
    argv = [f"checkpoint={checkpoint}", f"dict={dictionaries}"]
    assert call("convert", *argv, f"out_dir={tmp_path}/one") == 0
    assert "language pair de-en inferred from the dictionaries" in capsys.readouterr().err
    assert call("convert", *argv, f"out_dir={tmp_path}/two", "src=en", "tgt=de") == 0
    assert capsys.readouterr().err == ""
    path = dictionaries / "dict.de.txt"
    path.write_text(path.read_text().replace("x 5", "y 5"))  # as large, but another
    assert call("convert", *argv, f"out_dir={tmp_path}/three") == 2
    assert "give src= and tgt=" in capsys.readouterr().err
    assert not (tmp_path / "three").exists()


def test_lower_case_is_suspected(tmp_path: Path, dictionaries: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for lang in ("en", "de"):
        path = dictionaries / f"dict.{lang}.txt"
        path.write_text(path.read_text().replace("B 5", "q 5"))
    argv = [f"checkpoint={save(tmp_path / 'c.pt', Original())}", f"dict={dictionaries}"]
    assert call("convert", *argv, f"out_dir={tmp_path}/one") == 0
    assert "(text.lowercase=true)?" in capsys.readouterr().err
    assert call("convert", *argv, f"out_dir={tmp_path}/two", "text.lowercase=true") == 0
    assert capsys.readouterr().err == ""


def test_text_in_pieces_is_taken_as_it_comes(tmp_path: Path, dictionaries: Path) -> None:
    """Without merges; Moses would tear the marks off."""
    argv = [f"checkpoint={save(tmp_path / 'c.pt', Original())}", f"dict={dictionaries}", f"out_dir={tmp_path}/one"]
    assert call("convert", *argv) == 0
    text = load_translator(tmp_path / "one", device="cpu", threads=1).text
    assert text.source_pieces(text.encode_source("a@@ b x@@ &apos;")) == ["a@@", "b", "x@@", "&apos;"]


def test_so_is_text_in_pieces_of_sentencepiece(
    tmp_path: Path, dictionaries: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for lang in ("en", "de"):
        path = dictionaries / f"dict.{lang}.txt"
        path.write_text(path.read_text().replace("@@ 5", "▁ 5"))
    argv = [f"checkpoint={save(tmp_path / 'c.pt', Original())}", f"dict={dictionaries}", f"out_dir={tmp_path}/one"]
    assert call("convert", *argv) == 0
    assert "text in pieces" in capsys.readouterr().out
    text = load_translator(tmp_path / "one", device="cpu", threads=1).text
    assert text.source_pieces(text.encode_source("a▁ b")) == ["a▁", "b"]


def test_two_dictionaries_are_none_of_a_model_with_one(
    tmp_path: Path, dictionaries: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = dictionaries / "dict.de.txt"
    path.write_text(path.read_text().replace("x 5", "y 5"))  # as large, but another
    argv = [f"checkpoint={save(tmp_path / 'c.pt', Original(share_all_embeddings=True))}", f"dict={dictionaries}"]
    assert call("convert", *argv, f"out_dir={tmp_path}/one") == 2
    assert "this model has one for both sides" in capsys.readouterr().err
