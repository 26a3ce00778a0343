"""Preprocessing: what a data folder holds, and that neither workers nor a second run change it."""

import gzip
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from shared import SHARED

from dynconv_mt.data import build
from dynconv_mt.data.manifest import read_manifest
from dynconv_mt.data.preprocess import PreprocessConfig, preprocess
from dynconv_mt.data.stats import histogram
from dynconv_mt.data.store import TokenStore
from dynconv_mt.errors import UserError
from dynconv_mt.text.config import BpeConfig, CleanConfig, TextConfig, Tokenization
from dynconv_mt.text.corpus import read_lines
from dynconv_mt.text.pipeline import TextPipeline

NOUNS = {"dog": "Hund", "cat": "Kater", "man": "Mann", "boy": "Junge", "fox": "Fuchs"}
VERBS = {"sees": "sieht", "hears": "hört", "finds": "findet"}
PAIRS = [
    (
        f'The {one} "{verb}" the {other}, no. {number}.',
        f"Der {NOUNS[one]} {VERBS[verb]} den {NOUNS[other]}, Nr. {number}.",
    )
    for number in range(12)
    for one in NOUNS
    for verb in VERBS
    for other in NOUNS
]
MULTI30K = SHARED / "data" / "multi30k"


def write_corpus(prefix: Path, pairs: list[tuple[str, str]]) -> str:
    for side, lang in enumerate(("en", "de")):
        Path(f"{prefix}.{lang}").write_text(
            "".join(f"{pair[side]}\n" for pair in pairs), encoding="utf-8", newline="\n"
        )
    return str(prefix)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PreprocessConfig:
    monkeypatch.setattr(build, "_CHUNK", 64)  # so that the small corpus is many chunks
    held_out = [("A dog 😀", "Ein Hund 😀"), ("", ""), ("word " * 300, "Wort"), ("a\tb \u2028 c", "▁ <s> </s>")]
    return PreprocessConfig(
        src="en",
        tgt="de",
        train=write_corpus(tmp_path / "train", PAIRS),
        valid=write_corpus(tmp_path / "valid", held_out),
        test=[write_corpus(tmp_path / "test", held_out[:1]), write_corpus(tmp_path / "test2", held_out[1:])],
        out_dir=str(tmp_path / "data"),
        bpe=BpeConfig(vocab_size=400),
        workers=1,
    )


def contents(folder: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_the_folder_holds_what_the_format_says(config: PreprocessConfig) -> None:
    summary = preprocess(config)
    out_dir = Path(config.out_dir)
    text = TextPipeline.load(out_dir / "text")
    manifest = read_manifest(out_dir)
    assert sorted(path.name for path in out_dir.iterdir()) == sorted(
        ["data.json", "stats.json", "summary.txt", "test", "text", "train", "valid"]
    )
    assert (manifest.src, manifest.tgt, manifest.fingerprint) == ("en", "de", text.fingerprint)
    for split, pairs in (("train", PAIRS), ("valid", None), ("test", None)):
        store = TokenStore.open(out_dir / split)
        store.check_fingerprint(text.fingerprint)
        store.verify()
        if pairs is None:
            pairs = list(zip(*(read_lines(out_dir / split / f"raw.{lang}") for lang in ("en", "de")), strict=True))
        assert len(store) == len(pairs) == manifest.splits[split].sentences
        assert manifest.splits[split].tgt_tokens == store.num_tgt_tokens
        for i, (src, tgt) in enumerate(pairs):
            assert store.source(i).tolist() == [*text.encode_source(src), 2]
            assert store.target(i).tolist() == [*text.encode_target(tgt), 2]
    assert "en to de: joint BPE, 400 pieces" in str(summary)
    assert "pairs/s" in str(summary)


def test_held_out_lines_are_kept_raw(config: PreprocessConfig, tmp_path: Path) -> None:
    preprocess(config)
    for lang in ("en", "de"):
        raw = (tmp_path / "valid").with_suffix(f".{lang}").read_bytes()
        assert (tmp_path / "data" / "valid" / f"raw.{lang}").read_bytes() == raw
        assert (tmp_path / "data" / "test" / f"raw.{lang}").read_bytes() == raw  # from two files
    store = TokenStore.open(tmp_path / "data" / "valid")
    assert store.source(1).tolist() == store.target(1).tolist() == [2]


@pytest.mark.parametrize("joint", [True, False])
def test_the_result_does_not_depend_on_the_workers(config: PreprocessConfig, joint: bool) -> None:
    config.bpe = BpeConfig(vocab_size=330, joint=joint)
    config.clean = CleanConfig(max_length=30, after_bpe=True, drop_duplicates=True, drop_identical=True)
    config.train = [config.train, config.train]
    results = []
    for workers in (1, 2, 3):
        again = replace(config, workers=workers, out_dir=f"{config.out_dir}_{workers}")
        preprocess(again)
        results.append(contents(again.out_dir))
    assert results[0] == results[1] == results[2]
    assert TextPipeline.load(Path(f"{config.out_dir}_1") / "text").joint is joint


def test_drops_are_counted_by_reason(config: PreprocessConfig, tmp_path: Path) -> None:
    extra = [("", "x"), ("x", "  "), ("one", "eins zwei"), ("a " * 60, "b " * 60), ("a b", "c d e f g"), ("a b", "a b")]
    extra += [("x" * 1001 + " y", "x y")]
    config.train = write_corpus(tmp_path / "dirty", [PAIRS[0], *extra, *PAIRS, PAIRS[3]])
    config.clean = CleanConfig(min_length=2, max_length=50, ratio=2, drop_duplicates=True, drop_identical=True)
    stats = preprocess(config).stats["splits"]["train"]
    assert stats["dropped"] == {
        "empty": 2, "too_short": 1, "too_long": 1, "ratio": 1, "long_word": 1, "identical": 1, "duplicate": 2
    }  # fmt: skip
    assert stats["pairs"] == len(PAIRS) == len(TokenStore.open(tmp_path / "data" / "train"))
    assert stats["pairs_read"] == stats["pairs"] + sum(stats["dropped"].values())


def test_duplicates_do_not_count_for_bpe(config: PreprocessConfig) -> None:
    config.clean = CleanConfig(drop_duplicates=True)
    preprocess(config)
    twice = replace(config, train=[config.train, config.train], out_dir=f"{config.out_dir}2")
    preprocess(twice)
    assert read_manifest(config.out_dir).fingerprint == read_manifest(twice.out_dir).fingerprint


@pytest.mark.parametrize("after_bpe", [True, False])
def test_lengths_are_counted_in_tokens_or_pieces(config: PreprocessConfig, after_bpe: bool, tmp_path: Path) -> None:
    preprocess(config)
    store = TokenStore.open(tmp_path / "data" / "train")
    lengths = np.maximum(store.src_lengths, store.tgt_lengths) - 1
    limit = int(np.median(lengths))
    cleaned = replace(config, clean=CleanConfig(max_length=limit, after_bpe=after_bpe), out_dir=f"{config.out_dir}2")
    stats = preprocess(cleaned).stats["splits"]["train"]
    num_long = int((lengths > limit).sum()) if after_bpe else 0
    assert stats["dropped"]["too_long"] == num_long
    assert stats["pairs"] == len(TokenStore.open(tmp_path / "data2" / "train")) == len(PAIRS) - num_long > 0


def test_stats_describe_the_stores(config: PreprocessConfig, tmp_path: Path) -> None:
    config.bpe = BpeConfig(vocab_size=100, byte_fallback=False)
    stats = preprocess(config).stats
    assert stats == json.loads((tmp_path / "data" / "stats.json").read_text())
    assert stats["vocabulary"] == {"joint": True, "en": 100, "de": 100}
    store = TokenStore.open(tmp_path / "data" / "valid")
    side = stats["splits"]["valid"]["sides"]["de"]
    assert side["sentences"] == 4
    assert side["pieces"] == store.num_tgt_tokens - 4
    assert side["unknown"] == sum(int((store.target(i) == 3).sum()) for i in range(4)) > 0
    assert side["unknown_rate"] == pytest.approx(side["unknown"] / side["pieces"], abs=1e-6)
    assert sum(side["length_histogram"].values()) == 4
    assert side["length_histogram"]["0"] == 1
    assert stats["splits"]["valid"]["sides"]["en"]["longest"] == store.src_lengths.max() - 1


def test_histogram_bins() -> None:
    bins = histogram({0: 1, 1: 2, 10: 3, 11: 4, 100: 5, 101: 6, 500: 7, 501: 8, 9999: 9})
    assert {name: count for name, count in bins.items() if count} == {
        "0": 1, "1-10": 5, "11-20": 4, "91-100": 5, "101-150": 6, "201-500": 7, "501+": 17
    }  # fmt: skip


def test_pretokenised_text(config: PreprocessConfig, tmp_path: Path) -> None:
    config.text = TextConfig(tokenization=Tokenization.none)
    config.train = write_corpus(
        tmp_path / "tokens", [("don &apos;t <unk> @-@", f"a{i % 7} <s> ▁ b") for i in range(50)]
    )
    config.bpe = BpeConfig(vocab_size=320)
    preprocess(config)
    text = TextPipeline.load(tmp_path / "data" / "text")
    store = TokenStore.open(tmp_path / "data" / "train")
    assert text.decode_source(store.source(0)) == "don &apos;t <unk> @-@"
    assert text.decode_target(store.target(9)) == "a2 <s> ▁ b"


def test_the_same_run_is_recognised(config: PreprocessConfig, tmp_path: Path) -> None:
    preprocess(config)
    before = contents(config.out_dir)
    os.utime(f"{config.train}.en", (1, 1))  # another time, the same content
    assert "nothing to do" in str(preprocess(replace(config, workers=2)))
    assert contents(config.out_dir) == before
    for changed, name in (
        (replace(config, clean=CleanConfig(ratio=2)), r"clean\.ratio"),
        (replace(config, valid=None), "valid"),
        (replace(config, train=[config.train, config.test[0]]), "train"),
    ):
        with pytest.raises(UserError, match=rf"out_dir=\S+: holds the data of another run \(different: {name}\)"):
            preprocess(changed)
    write_corpus(tmp_path / "train", [*PAIRS[:-1], ("changed", "verändert")])
    with pytest.raises(UserError, match="different: train"):
        preprocess(config)
    assert contents(config.out_dir) == before
    preprocess(replace(config, overwrite=True))
    assert "nothing to do" in str(preprocess(config))
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]


@pytest.mark.parametrize("overwrite", [True, False])
def test_other_files_are_never_touched(config: PreprocessConfig, overwrite: bool, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    preprocess(replace(config, overwrite=overwrite))  # an empty folder will do
    for name in ("thesis.tex", "data.json"):
        folder = tmp_path / f"of_{name}"
        folder.mkdir()
        (folder / name).write_text("{}")
        with pytest.raises(UserError, match="holds other files than this program's data"):
            preprocess(replace(config, out_dir=str(folder), overwrite=overwrite))
        with pytest.raises(UserError, match="is a file"):
            preprocess(replace(config, out_dir=str(folder / name), overwrite=overwrite))
        assert (folder / name).read_text() == "{}"


def test_gzip_gives_the_same(config: PreprocessConfig, tmp_path: Path) -> None:
    preprocess(config)
    for lang in ("en", "de"):
        (tmp_path / f"packed.{lang}.gz").write_bytes(gzip.compress((tmp_path / f"train.{lang}").read_bytes()))
    packed = replace(config, train=str(tmp_path / "packed"), out_dir=f"{config.out_dir}2")
    preprocess(packed)
    one, other = contents(config.out_dir), contents(packed.out_dir)
    assert {name for name in one if one[name] != other[name]} == {"data.json"}


@pytest.mark.skipif(not MULTI30K.is_dir(), reason=f"no real corpus at {MULTI30K}")
def test_real_text(tmp_path: Path) -> None:
    """Multi30k's validation and test sets: all is kept, no unknown piece, and text that comes back as it was."""
    summary = preprocess(
        PreprocessConfig(
            src="en",
            tgt="de",
            train=str(MULTI30K / "val"),
            test=str(MULTI30K / "test_2016_flickr"),
            out_dir=str(tmp_path / "data"),
            bpe=BpeConfig(vocab_size=3000),
        )
    )
    splits = summary.stats["splits"]
    assert (splits["train"]["pairs"], splits["test"]["pairs"]) == (1014, 1000)
    assert sum(splits[split]["sides"][lang]["unknown"] for split in splits for lang in ("en", "de")) == 0
    text = TextPipeline.load(tmp_path / "data" / "text")
    store = TokenStore.open(tmp_path / "data" / "test")
    raw = list(read_lines(tmp_path / "data" / "test" / "raw.de"))
    same = sum(text.decode_target(store.target(i)) == " ".join(line.split()) for i, line in enumerate(raw))
    assert same >= 950


def test_held_out_pairs_stay_whatever_cleaning_says(config: PreprocessConfig, tmp_path: Path) -> None:
    config.clean = CleanConfig(max_length=30, after_bpe=True)
    preprocess(config)
    assert len(TokenStore.open(tmp_path / "data" / "valid")) == 4


def test_another_corpus_of_the_same_size_is_another_run(config: PreprocessConfig, tmp_path: Path) -> None:
    preprocess(config)
    write_corpus(tmp_path / "train", [*PAIRS[:-1], (PAIRS[-1][0].swapcase(), PAIRS[-1][1])])
    os.utime(f"{config.train}.en", (1, 1))
    with pytest.raises(UserError, match="different: train"):
        preprocess(config)
