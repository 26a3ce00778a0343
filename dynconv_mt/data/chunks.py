"""The two jobs that worker processes do on a piece of a corpus: lines to tokens, tokens to ids."""

from __future__ import annotations

import functools
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dynconv_mt.data.stats import SideStats
from dynconv_mt.text.bpe import SentencePieceBpe, learn_bpe
from dynconv_mt.text.clean import Cleaner, Drop, pair_hash
from dynconv_mt.text.config import BpeConfig, CleanConfig
from dynconv_mt.text.moses import LineTokenizer
from dynconv_mt.text.pipeline import TextPipeline, TextSide
from dynconv_mt.text.vocab import UNK


@dataclass(frozen=True)
class TokenizeJob:
    """How to tokenise; the options are the same for all chunks of a split."""

    source: LineTokenizer
    target: LineTokenizer
    clean: CleanConfig | None  # None: a held-out split, of which every pair stays


@dataclass
class TokenizedChunk:
    """Pairs kept, each a line `source tokens TAB target tokens`; no token contains a blank, so no token has a tab."""

    read: int
    lines: list[str] = field(default_factory=list)
    hashes: list[int] = field(default_factory=list)  # of the same pairs; empty unless duplicates are to go
    drops: Counter[Drop] = field(default_factory=Counter)
    src_words: Counter[str] = field(default_factory=Counter)  # words of a training split, for BPE
    tgt_words: Counter[str] = field(default_factory=Counter)


def tokenize_chunk(job: TokenizeJob, pairs: list[tuple[str, str]]) -> TokenizedChunk:
    """Tokenise raw line pairs; clean and count words if they are training pairs."""
    chunk = TokenizedChunk(read=len(pairs))
    cleaner = Cleaner(job.clean) if job.clean is not None else None
    for raw_src, raw_tgt in pairs:
        src, tgt = job.source.tokenize(raw_src), job.target.tokenize(raw_tgt)
        if cleaner is not None:
            reason = cleaner.before_bpe(src, tgt)
            if reason is not None:
                chunk.drops[reason] += 1
                continue
            chunk.src_words.update(src.split(" "))
            chunk.tgt_words.update(tgt.split(" "))
            if cleaner.config.drop_duplicates:
                chunk.hashes.append(pair_hash(src, tgt))
        chunk.lines.append(f"{src}\t{tgt}")
    return chunk


def drop_duplicates(chunk: TokenizedChunk, seen: set[int]) -> None:
    """Take out of the chunk what occurred before, in it or in `seen`; `seen` then knows what stays."""
    kept = []
    for line, pair in zip(chunk.lines, chunk.hashes, strict=True):
        if pair not in seen:
            seen.add(pair)
            kept.append(line)
            continue
        src, tgt = line.split("\t")
        chunk.src_words.subtract(src.split(" "))
        chunk.tgt_words.subtract(tgt.split(" "))
        chunk.drops[Drop.duplicate] += 1
    chunk.lines = kept


@dataclass(frozen=True)
class LearnJob:
    """What one BPE model is learned from."""

    words: Counter[str]
    config: BpeConfig
    side: str  # how errors call the text


def learn_model(job: LearnJob) -> SentencePieceBpe:
    """Learn a BPE model (in a worker process, where it can be stopped at any time)."""
    return learn_bpe(job.words, job.config, job.side)


@dataclass(frozen=True)
class EncodeJob:
    """How to encode a split. Workers load the pipeline from its folder, once each."""

    tokens: Path  # the tokenised split, in lines as of TokenizedChunk
    text_folder: Path
    fingerprint: str
    clean: CleanConfig | None  # lengths in pieces to clean by; None: every pair stays


@dataclass
class EncodedSide:
    """Ids of one side of a chunk, one sentence after the other, without `</s>`."""

    ids: array[int] = field(default_factory=lambda: array("I"))
    lengths: list[int] = field(default_factory=list)
    tokens: int = 0

    def add(self, tokens: str, ids: list[int]) -> None:
        """Append a sentence."""
        self.ids.extend(ids)
        self.lengths.append(len(ids))
        self.tokens += tokens.count(" ") + 1 if tokens else 0

    def sentences(self) -> Iterator[array[int]]:
        """Yield the ids of each sentence."""
        start = 0
        for length in self.lengths:
            yield self.ids[start : start + length]
            start += length

    def stats(self, side: TextSide) -> SideStats:
        """Count what was added."""
        pieces = Counter(self.ids)
        num_bytes = sum(number for piece, number in pieces.items() if side.subword.is_byte(piece))
        return SideStats(
            len(self.lengths), self.tokens, len(self.ids), pieces[UNK], num_bytes, lengths=Counter(self.lengths)
        )


@dataclass
class EncodedChunk:
    """Ids and counts of the pairs kept."""

    src: EncodedSide
    tgt: EncodedSide
    src_stats: SideStats
    tgt_stats: SideStats
    drops: Counter[Drop]


def encode_chunk(job: EncodeJob, span: tuple[int, int]) -> EncodedChunk:
    """Encode the lines in the bytes `span` (start, size) of the tokenised split."""
    pipeline = _pipeline(job.text_folder, job.fingerprint)
    cleaner = Cleaner(job.clean) if job.clean is not None else None
    src, tgt = EncodedSide(), EncodedSide()
    drops: Counter[Drop] = Counter()
    with open(job.tokens, "rb") as file:
        file.seek(span[0])
        lines = file.read(span[1]).decode("utf-8").split("\n")[:-1]
    for line in lines:
        src_tokens, tgt_tokens = line.split("\t")
        src_ids, tgt_ids = pipeline.source.encode_tokens(src_tokens), pipeline.target.encode_tokens(tgt_tokens)
        if cleaner is not None:
            reason = cleaner.lengths(len(src_ids), len(tgt_ids))
            if reason is not None:
                drops[reason] += 1
                continue
        src.add(src_tokens, src_ids)
        tgt.add(tgt_tokens, tgt_ids)
    return EncodedChunk(src, tgt, src.stats(pipeline.source), tgt.stats(pipeline.target), drops)


@functools.lru_cache(maxsize=1)
def _pipeline(folder: Path, fingerprint: str) -> TextPipeline:
    """The pipeline of this run; the fingerprint is part of the key because folders come and go."""
    pipeline = TextPipeline.load(folder)
    assert pipeline.fingerprint == fingerprint
    return pipeline
