"""Merges and dictionaries of subword-nmt and fairseq. The expected pieces are those of subword-nmt 0.3.8."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynconv_mt.errors import UserError
from dynconv_mt.text import SubwordNmtBpe, TextConfig, TextPipeline, Tokenization
from dynconv_mt.text.subword_nmt import Merges, read_dictionary

MERGES = (
    "e r\nu n\nun d\nund </w>\nd er</w>\ni n\nin </w>\nH a\nHa u\ns </w>\nn n\ne r</w>\nHau s</w>\na a\n"  # no prose
)
LINE = "der und in Haus Hausen Mann aaaaa a unders Ärger"
FIRST = "d@@ er und in Haus Hau@@ s@@ e@@ n M@@ a@@ nn aa@@ aa@@ a a und@@ er@@ s Ä@@ r@@ g@@ er"
SECOND = "der un@@ d i@@ n Haus Hau@@ s@@ e@@ n M@@ a@@ n@@ n aa@@ aa@@ a a und@@ er@@ s Ä@@ r@@ g@@ er"
PIECES = sorted(set(SECOND.split()) | set(FIRST.split()))
DICT = "".join(f"{piece} {100 - i}\n" for i, piece in enumerate(PIECES)) + "madeupword0000 0\n"


@pytest.mark.parametrize(("header", "expected"), [("", FIRST), ("#version: 0.1\n", FIRST), ("#version: 0.2\n", SECOND)])
def test_pieces_are_those_of_subword_nmt(header: str, expected: str) -> None:
    merges = Merges((header + MERGES).encode())
    assert " ".join(piece for word in LINE.split() for piece in merges.split(word)) == expected


def test_of_equal_merges_the_first_counts() -> None:
    assert Merges(b"#version: 0.2\na b\nb c\na b\nab c</w>\n").split("abc") == ["abc"]
    assert Merges(b"#version: 0.2\nb c</w>\na b\nb c</w>\n").split("abc") == ["a@@", "bc"]


def test_ids_and_back() -> None:
    subword = SubwordNmtBpe(DICT.encode(), f"#version: 0.2\n{MERGES}".encode())
    assert subword.vocab_size == 4 + len(PIECES) + 1
    ids = subword.encode(LINE)
    assert [subword.pieces(range(4)), subword.pieces(ids)] == [["<s>", "<pad>", "</s>", "<unk>"], SECOND.split()]
    assert subword.decode([0, *ids, 2, 1]) == LINE
    assert subword.encode("der  xyz\tder") == [*subword.encode("der"), 3, 3, 3, *subword.encode("der")]
    assert subword.decode([3, *subword.encode("und")]) == "<unk> und"
    assert subword.decode(subword.encode("unders")[:1]) == "und"  # cut off within a word
    assert subword.encode("") == []
    assert pickle.loads(pickle.dumps(subword)).encode(LINE) == ids


def test_no_text_becomes_a_special_piece() -> None:
    model = SubwordNmtBpe(b"a 5\n")
    assert model.encode("a <s> <pad> </s> <unk>") == [4, 3, 3, 3, 3]


def test_without_codes_words_are_pieces() -> None:
    subword = SubwordNmtBpe(DICT.encode())
    assert subword.pieces(subword.encode("und@@ er@@ s Haus Hausen")) == ["und@@", "er@@", "s", "Haus", "<unk>"]
    assert list(subword.files()) == ["dict.txt"]


@given(st.lists(st.text("abc", min_size=1, max_size=8), max_size=6))
def test_what_goes_in_comes_out(words: list[str]) -> None:
    dictionary = "".join(
        f"{piece} 1\n" for end in ("", "@@") for piece in ("a" + end, "b" + end, "c" + end, "ab" + end)
    )
    subword = SubwordNmtBpe(dictionary.encode(), b"#version: 0.2\na b\na b</w>\n")
    assert subword.decode(subword.encode(" ".join(words))) == " ".join(words)


def test_dictionaries() -> None:
    pieces, ids = read_dictionary("the 9\n, 8\n<unk> 7 #fairseq:overwrite\n\u3000x 1\nmadeupword0000 0\n".encode())
    assert pieces[4:] == ["the", ",", "<unk>", "\u3000x", "madeupword0000"]
    assert (ids["the"], ids["<unk>"], ids["\u3000x"]) == (4, 6, 7)
    assert read_dictionary(b"")[0] == ["<s>", "<pad>", "</s>", "<unk>"]


@pytest.mark.parametrize(
    ("dictionary", "message"),
    [
        (b"the 9\nword\n", "line 2 of the dictionary: must be a piece and its count, and is 'word'"),
        (b"the 9\n\n", "line 2 of the dictionary"),
        (b"the 9\nthe 8\n", "line 2 of the dictionary: 'the' has come before"),
        (b"<unk> 8\n", "'<unk>' has come before"),
        (b"the x\n", "line 1"),
        (b"\xff 1\n", "not UTF-8"),
    ],
)
def test_other_files_are_no_dictionaries(dictionary: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SubwordNmtBpe(dictionary)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (b"#version: 0.3\na b\n", "merges of #version: 0.3"),
        (b"#version: 0.2\na b\na b c\n", "line 3 of the file of merges: must be two symbols"),
        (b"a b 9\n", "line 1 of the file of merges"),
        (b"a b\n\xfe\n", "not UTF-8"),
    ],
)
def test_other_files_are_no_merges(codes: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SubwordNmtBpe(DICT.encode(), codes)


def test_in_a_pipeline(tmp_path: Path) -> None:
    subword = SubwordNmtBpe(DICT.encode(), f"#version: 0.2\n{MERGES}".encode())
    words = SubwordNmtBpe(DICT.encode())
    config = TextConfig(tokenization=Tokenization.none)
    for source, files in ((subword, ["joint.codes", "joint.dict.txt"]), (words, ["source.dict.txt", "target.codes"])):
        folder = tmp_path / files[0]
        pipeline = TextPipeline("de", "de", config, source, subword)
        pipeline.save(folder)
        assert {path.name for path in folder.iterdir()} >= {*files, "pipeline.json"}
        loaded = TextPipeline.load(folder)
        assert loaded.fingerprint == pipeline.fingerprint
        assert loaded.encode_target(LINE) == subword.encode(LINE)
        assert loaded.decode_target(loaded.encode_target(LINE)) == LINE
        (folder / files[0]).write_bytes(b"x 1\n")
        with pytest.raises(UserError, match="was altered or damaged"):
            TextPipeline.load(folder)
