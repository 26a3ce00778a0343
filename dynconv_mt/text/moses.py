"""Lines of one language to tokens and back: the Moses steps, through sacremoses.

sacremoses is imported on first use, since it takes half a second.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

from dynconv_mt.text.config import TextConfig, Tokenization, base_language

# Emoji made of several characters: flags, keycaps, and pictures with variation selectors, skin tones, tags or joined by
# zero-width joiners. Moses would set them apart, and with non-printing characters removed they fall to pieces for good.
_PICTURE = "[\u00a9\u00ae\u203c-\u3299\U0001f000-\U0001faff]"
_MODIFIER = "[\ufe0f\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]"
_FLAG = "[\U0001f1e6-\U0001f1ff]{2}"
_EMOJI = re.compile(f"({_FLAG}|[0-9#*]\ufe0f?\u20e3|{_PICTURE}(?:{_MODIFIER}+|\u200d{_PICTURE})+)")
_MAX_PROTECTED = 1000  # sacremoses refuses more in a line
_DOTS_QUOTE = r'(\.+)"'  # a rule that takes the square of a row of dots to find that no quotation mark follows

# Chinese and Japanese punctuation, which Moses sets apart and sacremoses does not put back
_BLANKS_AT_FULL_WIDTH = re.compile(" *([\u3001-\u303f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65]) *")
_CONTROL_BLANKS = re.compile("[\t\x0b\x0c\r\x1c-\x1f\x85]")  # blanks that are control characters as well


class LineTokenizer:
    """Both directions for one language. A language that sacremoses does not know is treated by its general rules."""

    def __init__(self, lang: str, config: TextConfig) -> None:
        self.lang = lang
        self.config = config
        self._base = base_language(lang)
        self._is_raw = config.tokenization is Tokenization.moses
        self._normalize = _normalizer(self._base) if self._is_raw and config.normalize_punctuation else None
        self._remove_non_printing = _non_printing_remover() if self._is_raw and config.remove_non_printing else None
        self._moses = _moses_tokenizer(self._base) if self._is_raw else None

    def __reduce__(self) -> tuple[type[LineTokenizer], tuple[str, TextConfig]]:
        return LineTokenizer, (self.lang, self.config)

    def tokenize(self, line: str) -> str:
        """Return the tokens of a line, separated by single blanks; no token contains a blank of any kind."""
        if self._normalize is not None:
            line = self._normalize(line)
        if self._remove_non_printing is not None:
            line = self._remove_non_printing(line)
        if self._moses is not None:
            line = self._split(line)
        if self.config.lowercase:
            line = line.lower()
        return " ".join(line.split())

    def detokenize(self, tokens: str) -> str:
        """Return the text that the tokens make, as this language writes it."""
        if not self._is_raw:
            return tokens
        words = tokens.split()
        try:
            text = str(_moses_detokenizer(self._base).detokenize(words, unescape=self.config.escape))
        except TypeError:  # sacremoses 0.2.0 fails on Czech words such as "je-li"; its general rules do not
            text = str(_moses_detokenizer("").detokenize(words, unescape=self.config.escape))
        return _BLANKS_AT_FULL_WIDTH.sub(r"\1", text) if self._base in ("zh", "ja") else text

    def _split(self, line: str) -> str:
        protected = None
        if not line.isascii() and 0 < len(_EMOJI.findall(line)) <= _MAX_PROTECTED:
            line = _EMOJI.sub(r" \1 ", line)
            protected = [_EMOJI.pattern]
        tokens = self._moses.tokenize(  # type: ignore[union-attr]  # only called with a tokenizer
            line,
            aggressive_dash_splits=self.config.aggressive_hyphens,
            return_str=True,
            escape=self.config.escape,
            protected_patterns=protected,
        )
        return str(tokens)


def _normalizer(lang: str) -> Callable[[str], str]:
    """Moses' normalize-punctuation. The same substitutions as `MosesPunctNormalizer.normalize`, compiled once."""
    from sacremoses import MosesPunctNormalizer

    rules = [
        ('."' if pattern.startswith(_DOTS_QUOTE) else "", re.compile(pattern), template)
        for pattern, template in MosesPunctNormalizer(lang).substitutions
    ]  # what a line must hold for a rule to be tried, and the rule

    def normalize(line: str) -> str:
        line = line.replace("\r", " ")  # which Moses' first rule would take out from between two words
        for needed, pattern, template in rules:
            if needed in line:
                line = pattern.sub(template, line)
        return line.strip()

    return normalize


def _non_printing_remover() -> Callable[[str], str]:
    """Removes Unicode category C (control, format, unassigned, private use) outside of emoji.

    Control characters that separate words, such as the tab, become a blank; sacremoses would join the words.
    """
    from sacremoses import MosesPunctNormalizer

    remove: Callable[[str], str] = MosesPunctNormalizer().remove_control_chars

    def remove_non_printing(line: str) -> str:
        line = _CONTROL_BLANKS.sub(" ", line)
        if line.isascii():
            return remove(line)
        parts = _EMOJI.split(line)  # text, emoji, text, emoji, ..., text
        return "".join(part if i % 2 else remove(part) for i, part in enumerate(parts))

    return remove_non_printing


@functools.cache
def _moses_tokenizer(lang: str) -> Any:
    """The `MosesTokenizer` of a language, with its set look-ups made quick."""
    from sacremoses import MosesTokenizer

    lower, alpha = frozenset(MosesTokenizer.IsLower), frozenset(MosesTokenizer(lang).IsAlpha)

    class Tokenizer(MosesTokenizer):  # type: ignore[misc]  # sacremoses has no types
        """As its base, which builds a set of all letters of Unicode for every abbreviation that it meets.

        Its patterns for Chinese, Japanese and Korean name each of 90,000 letters, one after the other.
        """

        def __init__(self, lang: str) -> None:
            super().__init__(lang)
            letters = "".join(_ranges(self.IsAlnum))
            for name in ("PAD_NOT_ISALNUM", "AGGRESSIVE_HYPHEN_SPLIT", "INTRATOKEN_SLASHES"):
                pattern, template = getattr(self, name)
                source = pattern if isinstance(pattern, str) else pattern.pattern
                setattr(self, name, (re.compile(source.replace(self.IsAlnum, letters)), template))

        def islower(self, text: str) -> bool:
            return lower.issuperset(text)

        def isanyalpha(self, text: str) -> bool:
            return not alpha.isdisjoint(text)

    return Tokenizer(lang)


def _ranges(characters: str) -> Iterator[str]:
    """Yield characters as the ranges of a class in a regular expression."""
    codes = sorted(map(ord, set(characters)))
    for _, run in itertools.groupby(enumerate(codes), lambda pair: pair[1] - pair[0]):
        consecutive = [chr(code) for _, code in run]
        yield consecutive[0] if len(consecutive) == 1 else f"{consecutive[0]}-{consecutive[-1]}"


@functools.cache
def _moses_detokenizer(lang: str) -> Any:
    from sacremoses import MosesDetokenizer

    return MosesDetokenizer(lang)
