"""Byte-pair encoding by SentencePiece, on text that is already tokens separated by single blanks.

sentencepiece is imported on first use.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self

from dynconv_mt.errors import UserError
from dynconv_mt.text.config import BpeConfig
from dynconv_mt.text.subword import register_subword
from dynconv_mt.text.vocab import BOS, EOS, PAD, SPECIAL_PIECES, UNK

_MODEL = "model"  # the one file of a SentencePiece model
_MAX_COUNT = 2**31 - 1  # SentencePiece reads larger counts as 0

# Text that SentencePiece would take for its own signs: it writes a blank as U+2581, skips words with U+2585 when it
# learns, and leaves the names of special pieces unlearned. Tokens never contain control characters that count as
# blanks (str.split() parts them), so three of those can stand in for the first character of each. (Not U+001F, nor the
# tab: the trainer has its own use for them.)
_BLANK_SIGN, _UNKNOWN_SIGN = "\u2581", "\u2585"
_STANDS_FOR = {"\x1c": _BLANK_SIGN, "\x1e": _UNKNOWN_SIGN, "\x1d": "<"}
_BRACKETED = re.compile(r"<(?=(?:s|/s|pad|unk|0x[0-9A-F]{2})>)")
_UNHIDE = str.maketrans(_STANDS_FOR)


def _hide(tokens: str) -> str:
    """Replace what SentencePiece would misread by characters that no token contains."""
    if _BLANK_SIGN in tokens or _UNKNOWN_SIGN in tokens:
        tokens = tokens.replace(_BLANK_SIGN, "\x1c").replace(_UNKNOWN_SIGN, "\x1e")
    return _BRACKETED.sub("\x1d", tokens) if "<" in tokens else tokens


@register_subword("sentencepiece")
class SentencePieceBpe:
    """A SentencePiece model as a `Subword`."""

    kind: ClassVar[str]

    def __init__(self, model: bytes) -> None:
        """`model` is a serialised SentencePiece model. Raises ValueError where it is none, or has other special ids."""
        from sentencepiece import SentencePieceProcessor

        self.model = model
        try:
            self._processor: Any = SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise ValueError(f"not a SentencePiece model ({error})") from None
        self.vocab_size = int(self._processor.get_piece_size())
        self._pieces: list[str] = [
            piece.translate(_UNHIDE) for piece in self._processor.id_to_piece([*range(self.vocab_size)])
        ]
        if tuple(self._pieces[: len(SPECIAL_PIECES)]) != SPECIAL_PIECES:
            raise ValueError(f"a SentencePiece model whose first pieces are not {' '.join(SPECIAL_PIECES)}")

    def __reduce__(self) -> tuple[type[SentencePieceBpe], tuple[bytes]]:
        return SentencePieceBpe, (self.model,)

    def encode(self, tokens: str) -> list[int]:
        """Return the ids of a line of tokens. Runs of blanks count as one; no text becomes a special piece."""
        hidden = _hide(" ".join(tokens.split()))
        try:
            ids: list[int] = self._processor.encode(hidden)
        except (RuntimeError, UnicodeError):  # half a surrogate pair, which only a Python string can hold: to U+FFFD
            ids = self._processor.encode(hidden.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
        return ids

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """Return the piece of each id. A piece that begins a token begins with U+2581."""
        return [self._pieces[int(i)] for i in ids]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the tokens, separated by single blanks. `<unk>` is written as a token U+2047 (a double question mark).

        `decode(encode(tokens)) == tokens` with byte fallback, and without for text of known characters.
        """
        text: str = self._processor.decode([int(i) for i in ids if i not in (BOS, PAD, EOS)])
        return " ".join(text.translate(_UNHIDE).split())  # byte pieces may spell a line feed; it ends no line here

    def is_byte(self, piece: int) -> bool:
        """Whether the id is one of the 256 pieces of byte fallback."""
        return bool(self._processor.is_byte(piece))

    def files(self) -> Mapping[str, bytes]:
        """Return the model as its one file, which SentencePiece's own tools can read."""
        return {_MODEL: self.model}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Self:
        """Return the model in `files`. Raises ValueError where it is missing or no such model."""
        if _MODEL not in files:
            raise ValueError("no SentencePiece model")
        return cls(files[_MODEL])


def learn_bpe(words: Mapping[str, int], config: BpeConfig, side: str = "the training text") -> SentencePieceBpe:
    """Return the BPE model of a text, given as the count of each of its words (tokens).

    Counts are all that BPE needs: the model is that of the whole text, while time and memory depend on the number of
    different words. It depends on nothing but `words` and `config`.
    Raises UserError where the vocabulary is too large or too small for the text, which `side` names.
    """
    from sentencepiece import SentencePieceTrainer

    if not words:
        raise UserError(f"bpe: {side} has no words to learn from")
    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=(f"{_hide(word)}\t{min(words[word], _MAX_COUNT)}" for word in sorted(words)),
            input_format="tsv",
            model_writer=model,
            model_type="bpe",
            vocab_size=config.vocab_size,
            character_coverage=config.character_coverage,
            byte_fallback=config.byte_fallback,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=True,  # so that a word has the same pieces at the start of a line as elsewhere
            split_by_unicode_script=False,  # tokenisation has split what should be apart: "'s" may be one piece
            split_by_number=False,
            max_sentencepiece_length=64,  # characters; the default of 16 is short of German compounds
            bos_id=BOS,
            pad_id=PAD,
            eos_id=EOS,
            unk_id=UNK,
            num_threads=1,  # stands in the model file, which must not depend on the machine
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _too_large_or_small(str(error), config, side) from None
    return SentencePieceBpe(model.getvalue())


def _too_large_or_small(message: str, config: BpeConfig, side: str) -> Exception:
    """What a failure of SentencePiece's trainer means to the user."""
    typed = f"bpe.vocab_size={config.vocab_size}"
    largest = re.search(r"set it to a value <= (\d+)", message)
    if largest:
        return UserError(
            f"{typed}: more pieces than {side} can fill; the largest possible value for it is {largest[1]}"
        )
    least = re.search(r"smaller than required_chars\. \d+ vs (\d+)", message)
    if least:
        return UserError(
            f"{typed}: too small for the characters of {side}; it needs at least {least[1]} pieces. Raise it, or lower "
            f"bpe.character_coverage={config.character_coverage}"
            + (" (bpe.byte_fallback takes 256 pieces)" if config.byte_fallback else "")
        )
    return RuntimeError(f"SentencePiece could not learn BPE from {side}: {message}")
