"""fairseq's dictionaries and subword-nmt's merges as a text pipeline."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from dynconv_mt.errors import UserError
from dynconv_mt.models.config import ModelConfig, Tying
from dynconv_mt.text.config import TextConfig, Tokenization
from dynconv_mt.text.pipeline import TextPipeline
from dynconv_mt.text.subword_nmt import SubwordNmtBpe
from dynconv_mt.text.vocab import SPECIAL_PIECES

_PIECES = (b"@@ ", "▁".encode())  # what only a dictionary of pieces holds: of subword-nmt, of SentencePiece


@dataclass(frozen=True)
class TextFiles:
    """Where the text of a model is described."""

    folder: Path  # dict.<src>.txt and dict.<tgt>.txt
    codes: Path | None  # merges of both languages; None: the text is split into pieces already
    src: str
    tgt: str


def read_text(files: TextFiles, config: TextConfig, model: ModelConfig) -> TextPipeline:
    """Return the pipeline of the dictionaries in a folder; equal ones are a joint vocabulary.

    Without merges, text whose dictionary has pieces (subword-nmt's `@@` or SentencePiece's `▁`) is taken as it comes.
    Raises UserError where a file is missing or of another form, or a dictionary has another size than the model's.
    """
    codes = None if files.codes is None else _read(files.codes, "bpe_codes")
    contents = {lang: _read(_dictionary(files, lang), "dict") for lang in (files.src, files.tgt)}
    if codes is None and any(mark in content for content in contents.values() for mark in _PIECES):
        if config.aggressive_hyphens:
            raise UserError(
                f"text.aggressive_hyphens=true: has no effect, since the dictionaries in dict={files.folder} are of "
                "pieces, and text comes in pieces without bpe_codes="
            )
        config = replace(config, tokenization=Tokenization.none)
    if config.tokenization is Tokenization.none:
        config = replace(config, escape=False)
    if model.tying is Tying.all and len(set(contents.values())) > 1:
        raise UserError(
            f"dict={files.folder}: the dictionaries of {files.src} and {files.tgt} differ, and this model has one for "
            "both sides; give those that it was trained with"
        )
    subwords = {content: _subword(files, lang, content, codes) for lang, content in contents.items()}
    source, target = (subwords[contents[lang]] for lang in (files.src, files.tgt))
    for lang, side, found, expected in (
        (files.src, "source", source.vocab_size, model.src_vocab_size),
        (files.tgt, "target", target.vocab_size, model.tgt_vocab_size),
    ):
        if found != expected:
            raise UserError(
                f"{_dictionary(files, lang)}: has {found} types, the four special ones included, and the model's "
                f"{side} vocabulary {expected}; give the dictionary that the model was trained with"
            )
    return TextPipeline(files.src, files.tgt, config, source, target)


def guess_languages(folder: Path, model: ModelConfig) -> tuple[str, str] | None:
    """Return the (source, target) languages of the two dictionaries in a folder, for a checkpoint that names none.

    Their sizes tell which is which; where both files are the same, the order of their names decides.
    None where there are not two, or they do not tell.
    """
    paths = sorted(folder.glob("dict.*.txt"))
    if len(paths) != 2:
        return None
    first, second = (path.name.removeprefix("dict.").removesuffix(".txt") for path in paths)
    contents = [_read(path, "dict") for path in paths]
    sizes = tuple(content.count(b"\n") + len(SPECIAL_PIECES) for content in contents)
    expected = (model.src_vocab_size, model.tgt_vocab_size)
    if contents[0] == contents[1]:
        return first, second
    if sizes[0] == sizes[1] or expected not in (sizes, sizes[::-1]):
        return None
    return (first, second) if sizes == expected else (second, first)


def has_capitals(pipeline: TextPipeline) -> bool:
    """Whether any piece but the special ones holds a capital letter; a model without was trained in lower case."""
    subwords = (pipeline.source.subword, pipeline.target.subword)
    return any(
        piece != piece.lower()
        for subword in subwords
        for piece in subword.pieces(range(len(SPECIAL_PIECES), subword.vocab_size))
    )


def _dictionary(files: TextFiles, lang: str) -> Path:
    return files.folder / f"dict.{lang}.txt"


def _read(path: Path, option: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{option}={path}: cannot be read ({error.strerror})") from None


def _subword(files: TextFiles, lang: str, dictionary: bytes, codes: bytes | None) -> SubwordNmtBpe:
    try:
        return SubwordNmtBpe(dictionary, codes)
    except ValueError as error:
        names = f"{_dictionary(files, lang)}" + ("" if files.codes is None else f", {files.codes}")
        raise UserError(f"{names}: {error}") from None
