"""The steps of preprocessing: tokenise and clean, learn BPE, encode into token stores, describe.

Only a bounded part of the corpus is in memory at a time; what grows is the count of each different word and, with
`clean.drop_duplicates`, a hash per pair.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import IO

import sacremoses  # noqa: F401  # half a second; worker processes that are forked after this need not wait for it
import sentencepiece  # noqa: F401  # likewise

import dynconv_mt
from dynconv_mt.data.chunks import (
    EncodeJob,
    LearnJob,
    TokenizedChunk,
    TokenizeJob,
    drop_duplicates,
    encode_chunk,
    learn_model,
    tokenize_chunk,
)
from dynconv_mt.data.manifest import Manifest, SplitInfo, describe_inputs, write_manifest
from dynconv_mt.data.preprocess import STATS, SUMMARY, TEXT, PreprocessConfig
from dynconv_mt.data.stats import SplitStats, summarize
from dynconv_mt.data.store import StoreWriter
from dynconv_mt.data.workers import Workers
from dynconv_mt.errors import UserError
from dynconv_mt.files import hash_file, write_file
from dynconv_mt.progress import Bar
from dynconv_mt.text.corpus import ParallelFile, count_pairs, read_parallel
from dynconv_mt.text.moses import LineTokenizer
from dynconv_mt.text.pipeline import TextPipeline

Files = Mapping[str, Sequence[ParallelFile]]  # split -> its files, a pair per prefix
_CHUNK = 1000  # pairs that a worker is given at a time,
_CHUNK_SIZE = 2**20  # or as many as have so many characters, where lines are long
_TRAIN = "train"
_TOKENIZED = "tokenized"  # folder of the tokenised splits, gone in the end


@dataclass
class TokenizedSplit:
    """A split on disk as tokens, and what BPE needs to know of it."""

    path: Path
    spans: list[tuple[int, int]] = field(default_factory=list)  # (first byte, bytes) of each chunk
    stats: SplitStats = field(default_factory=SplitStats)
    src_words: Counter[str] = field(default_factory=Counter)
    tgt_words: Counter[str] = field(default_factory=Counter)

    def add(self, chunk: TokenizedChunk, file: IO[bytes]) -> None:
        """Append a chunk; `file` is the open `path`."""
        data = "".join(f"{line}\n" for line in chunk.lines).encode()
        self.spans.append((file.tell(), len(data)))
        file.write(data)
        self.stats.read += chunk.read
        self.stats.drops.update(chunk.drops)
        self.src_words.update(chunk.src_words)
        self.tgt_words.update(chunk.tgt_words)


def build_data(
    config: PreprocessConfig, text: TextPipeline | None, files: Files, folder: Path, workers: Workers
) -> int:
    """Write everything that a data folder holds into `folder`; return the number of pairs read.

    `text` None: learn the subword models. Otherwise `config.text` is that of `text`.
    """
    builder = _Builder(config, folder, workers)
    (folder / _TOKENIZED).mkdir()
    tokenized = {split: builder.tokenize(split, files[split]) for split in files}
    text = text or builder.learn(tokenized[_TRAIN])
    tokenized[_TRAIN].src_words.clear()  # at a hundred bytes a word
    tokenized[_TRAIN].tgt_words.clear()
    text.save(folder / TEXT)
    for split in tokenized:
        builder.encode(split, tokenized[split], text)
    shutil.rmtree(folder / _TOKENIZED)
    stats = {split: tokenized[split].stats for split in (_TRAIN, "valid", "test") if split in tokenized}
    _describe(config, text, stats, folder)
    write_manifest(folder, _manifest(config, files, text, stats, folder))
    return sum(split.read for split in stats.values())


class _Builder:
    """The three steps, which share options, place and workers."""

    def __init__(self, config: PreprocessConfig, folder: Path, workers: Workers) -> None:
        self.config = config
        self.folder = folder
        self.workers = workers

    def tokenize(self, split: str, files: Sequence[ParallelFile]) -> TokenizedSplit:
        """Tokenise a split into a temporary file, for learning and encoding alike; clean it if it is for training."""
        config = self.config
        result = TokenizedSplit(self.folder / _TOKENIZED / split)
        clean = config.clean if split == _TRAIN else None
        job = TokenizeJob(LineTokenizer(config.src, config.text), LineTokenizer(config.tgt, config.text), clean)
        total = sum(map(count_pairs, files))  # unequal sides show here, before the work
        pairs: Iterator[tuple[str, str]] = chain.from_iterable(map(read_parallel, files))
        seen: set[int] = set()
        with ExitStack() as stack:
            if split != _TRAIN:
                pairs = stack.enter_context(_RawCopy(self.folder / split, config)).copy(pairs)
            file = stack.enter_context(open(result.path, "wb"))
            bar = stack.enter_context(Bar(desc=f"tokenise {split}", total=total, unit=" pairs"))
            for chunk in self.workers.map(partial(tokenize_chunk, job), _chunks(pairs)):
                if chunk.hashes:
                    drop_duplicates(chunk, seen)
                result.add(chunk, file)
                bar.update(chunk.read)
        self._check_kept(split, result.stats)
        return result

    def learn(self, train: TokenizedSplit) -> TextPipeline:
        """Learn BPE from the words that are left after cleaning."""
        config = self.config
        src_words, tgt_words = train.src_words, train.tgt_words
        if config.clean.drop_duplicates:
            src_words, tgt_words = +src_words, +tgt_words  # without those that only duplicates had
        if config.bpe.joint:
            jobs = [LearnJob(src_words + tgt_words, config.bpe, "the training text")]
        else:
            jobs = [
                LearnJob(src_words, config.bpe, f"the source side ({config.src})"),
                LearnJob(tgt_words, config.bpe, f"the target side ({config.tgt})"),
            ]
        what = f"learn BPE from {len(src_words) + len(tgt_words):,} words"
        bar = Bar(self.workers.map(learn_model, jobs), desc=what, total=len(jobs), unit=" models")
        models = list(bar)
        return TextPipeline(config.src, config.tgt, config.text, models[0], models[-1])

    def encode(self, split: str, tokenized: TokenizedSplit, text: TextPipeline) -> None:
        """Encode a tokenised split into its store; clean by length in pieces where that was asked for."""
        clean = self.config.clean if split == _TRAIN and self.config.clean.after_bpe else None
        job = EncodeJob(tokenized.path, self.folder / TEXT, text.fingerprint, clean)
        stats = tokenized.stats
        num_pairs = stats.read - stats.drops.total()
        with (
            StoreWriter(self.folder / split, text.fingerprint) as store,
            Bar(desc=f"encode {split}", total=num_pairs, unit=" pairs") as bar,
        ):
            for chunk in self.workers.map(partial(encode_chunk, job), tokenized.spans):
                store.add_many(zip(chunk.src.sentences(), chunk.tgt.sentences(), strict=True))
                stats.src.add(chunk.src_stats)
                stats.tgt.add(chunk.tgt_stats)
                stats.drops.update(chunk.drops)
                bar.update(chunk.src_stats.sentences + chunk.drops.total())
            self._check_kept(split, stats)

    def _check_kept(self, split: str, stats: SplitStats) -> None:
        if stats.drops.total() == stats.read:
            raise UserError(
                f"{split}={','.join(self.config.prefixes(split))}: cleaning drops all {stats.read} pairs "
                f"({stats.describe_drops()}); look at the files, and at the options clean.*"
            )


class _RawCopy:
    """Copies the raw lines of a held-out split into `raw.<language>` while they are read."""

    def __init__(self, folder: Path, config: PreprocessConfig) -> None:
        folder.mkdir()
        paths = [folder / f"raw.{lang}" for lang in (config.src, config.tgt)]
        self._files = [open(path, "w", encoding="utf-8", newline="\n") for path in paths]  # noqa: SIM115

    def copy(self, pairs: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        """Yield the pairs."""
        for pair in pairs:
            for file, line in zip(self._files, pair, strict=True):
                file.write(f"{line}\n")
            yield pair

    def __enter__(self) -> _RawCopy:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()


def _chunks(pairs: Iterator[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    chunk: list[tuple[str, str]] = []
    size = 0
    for pair in pairs:
        chunk.append(pair)
        size += len(pair[0]) + len(pair[1])
        if len(chunk) == _CHUNK or size >= _CHUNK_SIZE:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _describe(config: PreprocessConfig, text: TextPipeline, splits: Mapping[str, SplitStats], folder: Path) -> None:
    """Write stats.json and summary.txt."""
    stats = {
        "vocabulary": {"joint": text.joint, text.src: text.src_vocab_size, text.tgt: text.tgt_vocab_size},
        "splits": {name: split.to_json(text.src, text.tgt) for name, split in splits.items()},
    }
    write_file(folder / STATS, json.dumps(stats, indent=2) + "\n")
    kind = f"joint BPE, {text.src_vocab_size:,} pieces"
    if not text.joint:
        kind = f"BPE, {text.src_vocab_size:,} and {text.tgt_vocab_size:,} pieces"
    if config.text_from is not None:
        kind += f" of {config.text_from}"
    title = f"{config.src} to {config.tgt}: {kind}, fingerprint {text.fingerprint[:12]}"
    write_file(folder / SUMMARY, summarize(title, splits, config.src, config.tgt))


def _manifest(
    config: PreprocessConfig, files: Files, text: TextPipeline, stats: Mapping[str, SplitStats], folder: Path
) -> Manifest:
    splits = {
        name: SplitInfo(
            split.src.sentences, split.src.pieces + split.src.sentences, split.tgt.pieces + split.tgt.sentences
        )
        for name, split in stats.items()
    }
    versions = {name: version(name) for name in ("sacremoses", "sentencepiece")}
    versions["dynconv-mt"] = dynconv_mt.__version__
    return Manifest(
        src=config.src,
        tgt=config.tgt,
        fingerprint=text.fingerprint,
        splits=splits,
        config=config.content_options()
        | {"text_from": config.text_from}
        | {name: config.prefixes(name) for name in stats},
        inputs=describe_inputs(files),
        versions=versions,
        raw={path.relative_to(folder).as_posix(): hash_file(path) for path in sorted(folder.glob("*/raw.*"))},
    )
