"""The options `text.*`, `bpe.*` and `clean.*`: what happens to a line before it is ids."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from dynconv_mt.errors import UserError, one_of
from dynconv_mt.text.vocab import SPECIAL_PIECES

FOLDER = "text"  # of the pipeline, in a data folder and in every model directory
BYTE_PIECES = 256  # what byte fallback adds to a vocabulary
MAX_VOCAB_SIZE = 10_000_000


# ISO 639-3 and 639-2/B codes, as in FLORES' and Tatoeba's file names, of the languages for which there are rules
_THREE_LETTERS = (
    "asm:as ben:bn bur:my cat:ca ces:cs chi:zh cmn:zh cze:cs deu:de dut:nl ell:el eng:en est:et fin:fi fra:fr fre:fr "
    "ger:de gle:ga gre:el guj:gu hin:hi hun:hu ice:is isl:is ita:it jpn:ja kan:kn khm:km kor:ko lao:lo lav:lv lit:lt "
    "lvs:lv mal:ml mar:mr mya:my nld:nl ori:or ory:or pan:pa pol:pl por:pt ron:ro rum:ro rus:ru slk:sk slo:sk slv:sl "
    "spa:es swe:sv tam:ta tel:te tha:th zho:zh"
)
_TWO_LETTERS = dict(pair.split(":") for pair in _THREE_LETTERS.split())


def base_language(code: str) -> str:
    """Return the language whose rules and tokenisers are those of a code: de for de_AT and deu_Latn, zh for zh-Hans."""
    language = re.split("[-_]", code, maxsplit=1)[0].lower()
    return _TWO_LETTERS.get(language, language)


class Tokenization(StrEnum):
    """moses: raw text in and out. none: tokens separated by blanks in and out, taken as they are."""

    moses = "moses"
    none = "none"


@dataclass
class TextConfig:
    """Steps before BPE, in this order. With `tokenization=none` only `lowercase` counts."""

    normalize_punctuation: bool = True  # Moses' normalize-punctuation: one kind of quote, dash and blank
    remove_non_printing: bool = True  # control and format characters go, but for those inside an emoji
    tokenization: Tokenization = Tokenization.moses  # how a line becomes tokens, and output becomes text again
    aggressive_hyphens: bool = False  # split hyphened compounds: "a-b" becomes "a @-@ b"
    escape: bool = False  # write & | < > ' " [ ] as entities in the tokens (and back in the output)
    lowercase: bool = False  # lower-case the tokens

    def __post_init__(self) -> None:
        """Raise UserError for what is no way to tokenise."""
        self.tokenization = one_of(Tokenization, "text.tokenization", self.tokenization)

    def check(self) -> None:
        """Raise UserError for options that contradict each other."""
        if self.tokenization is Tokenization.none:
            for name in ("aggressive_hyphens", "escape"):
                if getattr(self, name):
                    raise UserError(
                        f"text.{name}=true: has no effect with text.tokenization=none, which takes tokens as they are; "
                        f"leave it out, or use text.tokenization=moses"
                    )


@dataclass
class BpeConfig:
    """The SentencePiece BPE model or models, learned on the cleaned, tokenised training text."""

    vocab_size: int = 8000  # pieces per vocabulary, the 4 special ones and the 256 of byte_fallback included
    joint: bool = True  # one vocabulary for both languages; false: one each, of vocab_size pieces each
    character_coverage: float = 1.0  # share of the text's characters that get a piece of their own; from 0.98 to 1
    byte_fallback: bool = True  # spell characters without a piece as UTF-8 bytes; false: they become <unk>

    def check(self) -> None:
        """Raise UserError for values that no vocabulary could have."""
        least = len(SPECIAL_PIECES) + (BYTE_PIECES if self.byte_fallback else 0) + 1
        if self.vocab_size < least:
            raise UserError(
                f"bpe.vocab_size={self.vocab_size}: must be at least {least} with "
                f"bpe.byte_fallback={str(self.byte_fallback).lower()}, and one more for each character of the text"
            )
        if self.vocab_size > MAX_VOCAB_SIZE:
            raise UserError(f"bpe.vocab_size={self.vocab_size}: must be at most {MAX_VOCAB_SIZE:,}")
        if not 0.98 <= self.character_coverage <= 1:  # as SentencePiece demands
            raise UserError(
                f"bpe.character_coverage={self.character_coverage}: must be at least 0.98 and at most 1 (0.9995 leaves "
                "out the rarest characters)"
            )


@dataclass
class CleanConfig:
    """Which training pairs are dropped, as Moses' clean-corpus-n does. Pairs with an empty side always are."""

    min_length: int = 1  # tokens, of either side, at least (pieces with after_bpe)
    max_length: int = 175  # tokens, of either side, at most (pieces with after_bpe)
    ratio: float | None = 9.0  # longer side / shorter side, at most; null: any
    max_word_length: int = 1000  # characters of a token, at most
    after_bpe: bool = False  # lengths and ratio are counted in BPE pieces, not in tokens
    drop_duplicates: bool = False  # keep only the first of pairs whose tokens are equal on both sides
    drop_identical: bool = False  # drop pairs whose two sides are the same

    def check(self) -> None:
        """Raise UserError for limits that no pair, or the wrong ones, could meet."""
        if self.min_length < 1:
            raise UserError(f"clean.min_length={self.min_length}: must be at least 1 (empty lines are always dropped)")
        if self.max_length < self.min_length:
            raise UserError(f"clean.max_length={self.max_length}: must be at least clean.min_length={self.min_length}")
        if self.max_word_length < 1:
            raise UserError(f"clean.max_word_length={self.max_word_length}: must be at least 1")
        if self.ratio is not None and not self.ratio >= 1:
            raise UserError(f"clean.ratio={self.ratio}: must be at least 1 (longer side / shorter side), or null")
