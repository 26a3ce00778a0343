"""What is done to lines before tokens are counted, and how a signature says so."""

from __future__ import annotations

import re
from importlib.metadata import version

from dynconv_mt.evaluate.config import EvaluateConfig
from dynconv_mt.text.config import TextConfig, Tokenization
from dynconv_mt.text.moses import LineTokenizer

_HYPHENED = re.compile(rb"(\S)-(\S)")


def split_compounds(tokens: str) -> str:
    r"""Return the tokens with hyphened compounds split: `rich-text` becomes `rich ##AT##-##AT## text`.

    Byte for byte what the literature's `perl -ple 's{(\S)-(\S)}{$1 ##AT##-##AT## $2}g'` does. Matches do not overlap,
    and perl sees bytes: of `a-b-c` only the first hyphen is split, of `a-ü-c`, whose ü has two bytes, both are.
    """
    return _HYPHENED.sub(rb"\1 ##AT##-##AT## \2", tokens.encode("utf-8")).decode("utf-8")


class Treatment:
    """The tokens of lines in one language; each line is tokenised once, however many scores ask for it."""

    def __init__(self, lang: str, config: EvaluateConfig) -> None:
        options = TextConfig(
            normalize_punctuation=config.normalize_punctuation,
            remove_non_printing=False,
            tokenization=config.tokenization,
        )
        self._tokenizer = LineTokenizer(lang, options)
        self._config = config
        self.lang = lang
        self._seen: dict[str, str] = {}

    def tokenize(self, line: str) -> str:
        """Return the tokens of a line, cased, separated by single blanks."""
        tokens = self._seen.get(line)
        if tokens is None:
            tokens = self._seen[line] = self.tokenize_once(line)
        return tokens

    def tokenize_once(self, line: str) -> str:
        """As `tokenize`, for lines of which there are many: nothing is kept."""
        return self._tokenizer.tokenize(line)

    def compounds_split(self, line: str) -> str:
        """Return the tokens of a line with its compounds split."""
        return split_compounds(self.tokenize(line))

    def __str__(self) -> str:
        """Return what was done, in the style of a signature."""
        if self._config.tokenization is Tokenization.none:
            return "tok:none"
        punctuation = "yes" if self._config.normalize_punctuation else "no"
        return f"normpunct:{punctuation}|tok:moses-noescape-{self.lang}|sacremoses:{version('sacremoses')}"
