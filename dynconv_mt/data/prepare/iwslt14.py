"""IWSLT'14 German-English: the usual split of the TED talks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from dynconv_mt.data.prepare.layout import Options, Pair, corpus_folder, pair_up, plain_splits, write_pairs
from dynconv_mt.data.prepare.markup import segments, talk_lines
from dynconv_mt.text.clean import Cleaner
from dynconv_mt.text.config import CleanConfig, TextConfig
from dynconv_mt.text.corpus import find_side, read_lines
from dynconv_mt.text.moses import LineTokenizer

SRC, TGT = "de", "en"
TRAIN = "train.tags.de-en"
TEST = ("TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012")
EVERY = 23  # one cleaned pair in so many is for validation
CLEAN = CleanConfig(min_length=1, max_length=175, ratio=1.5)


def prepare(source: Path, out: Path) -> Options:
    """Return the options of dc-preprocess for a folder with IWSLT'14.

    `source` holds the published release (`train.tags.de-en.de` and so on, in itself or in `de-en/`), from which the
    splits are written to `out`; or splits {train,valid,test}.{de,en}, plain or gzip, that are tokenised already.
    """
    for folder in (source, source / "de-en"):
        if any(folder.glob(f"{TRAIN}.*")):
            with corpus_folder(out, (SRC, TGT)) as partial:
                write_splits(folder, partial)
            return plain_splits(out, SRC, TGT)
    return {**plain_splits(source, SRC, TGT), "text.tokenization": "none"}


def write_splits(source: Path, out: Path) -> None:
    """Write {train,valid,test}.{de,en} in raw form from the published release."""
    sides = (talk_lines(read_lines(find_side(str(source / TRAIN), lang))) for lang in (SRC, TGT))
    train, valid = split(clean(pair_up(TRAIN, *sides)))
    test = [pair for name in TEST for pair in _held_out(source, name)]
    for name, pairs in (("train", train), ("valid", valid), ("test", test)):
        write_pairs(out / name, (SRC, TGT), pairs)


def clean(pairs: Iterable[Pair]) -> Iterator[Pair]:
    """Yield the pairs whose Moses tokens number 1 to 175 a side, at a ratio of at most 1.5."""
    options = TextConfig(normalize_punctuation=False, remove_non_printing=False)
    tokenizers = LineTokenizer(SRC, options), LineTokenizer(TGT, options)
    cleaner = Cleaner(CLEAN)
    for pair in pairs:
        src, tgt = (tokenizer.tokenize(line) for tokenizer, line in zip(tokenizers, pair, strict=True))
        if cleaner.before_bpe(src, tgt) is None:
            yield pair


def split(pairs: Iterable[Pair]) -> tuple[list[Pair], list[Pair]]:
    """Return training and validation pairs: the latter are every 23rd."""
    train: list[Pair] = []
    valid: list[Pair] = []
    for number, pair in enumerate(pairs, start=1):
        (train if number % EVERY else valid).append(pair)
    return train, valid


def _held_out(source: Path, name: str) -> list[Pair]:
    paths = (find_side(str(source / f"IWSLT14.{name}.de-en"), f"{lang}.xml") for lang in (SRC, TGT))
    return list(pair_up(name, *(map(_plain_apostrophes, segments(read_lines(path))) for path in paths)))


def _plain_apostrophes(line: str) -> str:
    """As in the literature's test set, whose scores are compared with; the training text has plain ones as well."""
    return line.replace("’", "'")
