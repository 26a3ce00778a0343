"""Byte-pair encoding with the files of other tools: subword-nmt's merges and fairseq's dictionaries.

A word is split into characters, and of the pairs of neighbours that the merges know the earliest in the file is joined,
wherever it stands, until there is none (Sennrich, Haddow and Birch, 2016, algorithm 1). All pieces but a word's last
end in `@@`.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Self

from dynconv_mt.text.subword import register_subword
from dynconv_mt.text.vocab import BOS, EOS, PAD, SPECIAL_PIECES, UNK

_CODES, _DICT = "codes", "dict.txt"  # the files of a model; without codes words are pieces
_END_OF_WORD = "</w>"
_CONTINUES = "@@"
_OVERWRITE = "#fairseq:overwrite"
_CACHED_WORDS = 2**16


@register_subword("subword_nmt")
class SubwordNmtBpe:
    """Merges and a dictionary as a `Subword`."""

    kind: ClassVar[str]

    def __init__(self, dictionary: bytes, codes: bytes | None = None) -> None:
        """`dictionary` is the content of fairseq's dict.xx.txt, `codes` that of subword-nmt's file of merges.

        Without codes the text is taken to be split into pieces already. Raises ValueError, naming the line, for content
        of another form.
        """
        self.dictionary, self.codes = dictionary, codes
        self._pieces, ids = read_dictionary(dictionary)
        self._ids = {piece: i for piece, i in ids.items() if i not in (BOS, PAD, EOS)}  # which no text becomes
        self._merges = None if codes is None else Merges(codes)
        self._word_ids = functools.lru_cache(_CACHED_WORDS)(self._split_word)

    def __reduce__(self) -> tuple[type[SubwordNmtBpe], tuple[bytes, bytes | None]]:
        return SubwordNmtBpe, (self.dictionary, self.codes)

    @property
    def vocab_size(self) -> int:
        """Number of pieces, the special ones included."""
        return len(self._pieces)

    def encode(self, tokens: str) -> list[int]:
        """Return the ids of a line of tokens; what the dictionary does not hold becomes `<unk>`."""
        return [piece for word in tokens.split() for piece in self._word_ids(word)]

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """Return the piece of each id."""
        return [self._pieces[int(i)] for i in ids]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the tokens, separated by single blanks. `<unk>` is written as it is."""
        pieces = self.pieces(i for i in ids if i not in (BOS, PAD, EOS))
        return f"{' '.join(pieces)} ".replace(f"{_CONTINUES} ", "").strip()

    def is_byte(self, piece: int) -> bool:
        """No piece stands for a byte."""
        return False

    def files(self) -> Mapping[str, bytes]:
        """Return the two files, or the dictionary alone."""
        codes = {} if self.codes is None else {_CODES: self.codes}
        return {_DICT: self.dictionary, **codes}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Self:
        """Return the model in `files`. Raises ValueError where the dictionary is missing or a file of another form."""
        if _DICT not in files:
            raise ValueError("no dictionary")
        return cls(files[_DICT], files.get(_CODES))

    def _split_word(self, word: str) -> list[int]:
        pieces = [word] if self._merges is None else self._merges.split(word)
        return [self._ids.get(piece, UNK) for piece in pieces]


class Merges:
    """The merges of subword-nmt, format 0.1 or 0.2."""

    def __init__(self, codes: bytes) -> None:
        """Raises ValueError, naming the line, where `codes` is no such file."""
        lines = _lines(codes, "the file of merges")
        header = lines[0].split() if lines and lines[0].startswith("#version:") else None
        if header not in (None, ["#version:", "0.1"], ["#version:", "0.2"]):
            raise ValueError(f"merges of {lines[0].strip()}; 0.1 and 0.2 are known")
        self.has_joined_end = header == ["#version:", "0.2"]  # else the end of a word is a symbol of its own
        self.ranks: dict[tuple[str, str], int] = {}
        first = 1 if header is None else 2
        for rank, line in enumerate(lines[first - 1 :]):
            left, *rest = line.strip("\r ").split(" ")
            if len(rest) != 1:
                raise ValueError(f"line {rank + first} of the file of merges: must be two symbols, and is {line!r}")
            self.ranks.setdefault((left, rest[0]), rank)

    def split(self, word: str) -> list[str]:
        """Return the pieces of a word, all but the last with their `@@`."""
        if len(word) == 1:
            return [word]
        symbols = [*word[:-1], word[-1] + _END_OF_WORD] if self.has_joined_end else [*word, _END_OF_WORD]
        while len(symbols) > 1:
            pairs = itertools.pairwise(symbols)
            best = min(pairs, key=lambda pair: self.ranks.get(pair, math.inf))
            if best not in self.ranks:
                break
            symbols = _join(symbols, best)
        symbols[-1] = symbols[-1].removesuffix(_END_OF_WORD)
        *others, last = symbols if symbols[-1] else symbols[:-1]  # where the end has stayed a symbol of its own
        return [*(symbol + _CONTINUES for symbol in others), last]


def _join(symbols: Sequence[str], pair: tuple[str, str]) -> list[str]:
    """The symbols with every occurrence of the pair joined, from the left."""
    joined, i = [], 0
    while i < len(symbols):
        if tuple(symbols[i : i + 2]) == pair:
            joined.append(symbols[i] + symbols[i + 1])
            i += 2
        else:
            joined.append(symbols[i])
            i += 1
    return joined


def read_dictionary(content: bytes) -> tuple[list[str], dict[str, int]]:
    """Return the pieces by id and the id of each piece, for the content of fairseq's dict.xx.txt.

    Each line holds a piece and its count; the first has id 4. A piece that stands there already, such as `<unk>`, may
    come again with the flag `#fairseq:overwrite`, and from there on has the new id. Entries that fill the size up
    (`madeupword0000 0`) are pieces like others. Raises ValueError, naming the line, for any other form.
    """
    pieces = list(SPECIAL_PIECES)
    ids = {piece: i for i, piece in enumerate(pieces)}
    for number, line in enumerate(_lines(content, "the dictionary"), start=1):
        piece, _, count = line.rstrip().rpartition(" ")
        is_overwritten = count == _OVERWRITE
        if is_overwritten:
            piece, _, count = piece.rpartition(" ")
        if not piece or not count.lstrip("-").isdecimal():
            raise ValueError(f"line {number} of the dictionary: must be a piece and its count, and is {line!r}")
        if piece in ids and not is_overwritten:
            raise ValueError(f"line {number} of the dictionary: {piece!r} has come before (without {_OVERWRITE})")
        ids[piece] = len(pieces)
        pieces.append(piece)
    return pieces, ids


def _lines(content: bytes, name: str) -> list[str]:
    """The lines of a file. Raises ValueError for what is not UTF-8."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not UTF-8 (byte 0x{content[error.start]:02x} at {error.start})") from None
    return text.removesuffix("\n").split("\n") if text else []
