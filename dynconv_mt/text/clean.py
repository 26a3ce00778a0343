"""Which training pairs are dropped, and why: Moses' clean-corpus-n, duplicates, copies."""

from __future__ import annotations

from enum import StrEnum
from hashlib import blake2b

from dynconv_mt.text.config import CleanConfig


class Drop(StrEnum):
    """Why a pair was dropped."""

    empty = "empty"  # a side without tokens
    too_short = "too_short"
    too_long = "too_long"
    ratio = "ratio"
    long_word = "long_word"  # a token that is no word: markup, a table, a file in base64
    identical = "identical"
    duplicate = "duplicate"


class Cleaner:
    """Says whether a pair of lines (tokens separated by single blanks) is kept. Knows nothing of other pairs."""

    def __init__(self, config: CleanConfig) -> None:
        self.config = config

    def before_bpe(self, src: str, tgt: str) -> Drop | None:
        """Return why the pair goes, or None; with `after_bpe` the lengths are left to `lengths`."""
        if not src or not tgt:
            return Drop.empty
        if not self.config.after_bpe:
            reason = self.lengths(src.count(" ") + 1, tgt.count(" ") + 1)
            if reason is not None:
                return reason
        if self._has_long_word(src) or self._has_long_word(tgt):
            return Drop.long_word
        if self.config.drop_identical and src == tgt:
            return Drop.identical
        return None

    def _has_long_word(self, line: str) -> bool:
        limit = self.config.max_word_length
        return len(line) > limit and max(map(len, line.split(" "))) > limit

    def lengths(self, src_length: int, tgt_length: int) -> Drop | None:
        """Return why lengths of at least 1 (both in tokens, or both in pieces) rule the pair out, or None."""
        config = self.config
        short, long = sorted((src_length, tgt_length))
        if short < config.min_length:
            return Drop.too_short
        if long > config.max_length:
            return Drop.too_long
        if config.ratio is not None and long > config.ratio * short:
            return Drop.ratio
        return None


def pair_hash(src: str, tgt: str) -> int:
    """Return 64 bits that stand for the pair: two of 10 million pairs share them with probability 3 in a million."""
    return int.from_bytes(blake2b(f"{src}\t{tgt}".encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
