"""The text pipeline: everything between a user's line and a model's ids, in both directions and for both languages.

    TEXT/pipeline.json       languages, options, the kind of subword model, and each file's SHA-256; written last
    TEXT/joint.model         the subword model of both sides, or
    TEXT/source.model, TEXT/target.model

A saved pipeline is all that a model needs to translate raw text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dynconv_mt.errors import UserError
from dynconv_mt.files import to_json, write_file
from dynconv_mt.text import bpe, subword_nmt  # noqa: F401  # register their kinds of subword models
from dynconv_mt.text.config import FOLDER, TextConfig, Tokenization
from dynconv_mt.text.moses import LineTokenizer
from dynconv_mt.text.subword import SUBWORDS, Subword

FORMAT = 1
DESCRIPTION = "pipeline.json"
_JOINT, _SOURCE, _TARGET = "joint", "source", "target"


class TextSide:
    """One language of the pipeline."""

    def __init__(self, lang: str, config: TextConfig, subword: Subword) -> None:
        self.lang = lang
        self.subword = subword
        self._lines = LineTokenizer(lang, config)

    def tokenize(self, line: str) -> str:
        """Return a raw line's tokens, separated by single blanks: what BPE sees."""
        return self._lines.tokenize(line)

    def encode(self, line: str) -> list[int]:
        """Return the ids of a raw line, without `</s>`."""
        return self.subword.encode(self.tokenize(line))

    def encode_tokens(self, tokens: str) -> list[int]:
        """Return the ids of a line that `tokenize` has already been through."""
        return self.subword.encode(tokens)

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """Return the piece of each id."""
        return self.subword.pieces(ids)

    def decode_tokens(self, ids: Iterable[int]) -> str:
        """Return the tokens that ids spell, separated by single blanks."""
        return self.subword.decode(ids)

    def detokenize(self, tokens: str) -> str:
        """Return the text that tokens make in this language."""
        return self._lines.detokenize(tokens)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text that ids spell; `<s>`, `<pad>` and `</s>` are skipped."""
        return self.detokenize(self.decode_tokens(ids))


class TextPipeline:
    """Both sides. Saved in a data folder and in every model directory, as `text/`."""

    def __init__(self, src: str, tgt: str, config: TextConfig, source: Subword, target: Subword) -> None:
        """`src` and `tgt` are language codes; the same object twice is a joint vocabulary."""
        self.src = src
        self.tgt = tgt
        self.config = config
        self.joint = source is target
        self.source = TextSide(src, config, source)
        self.target = TextSide(tgt, config, target)
        self._files = self._model_files()
        self.fingerprint = _hash(_canonical(self._description()))  # SHA-256 over all that decides a line's ids

    @property
    def src_vocab_size(self) -> int:
        """Pieces of the source vocabulary, the four special ones included."""
        return self.source.subword.vocab_size

    @property
    def tgt_vocab_size(self) -> int:
        """Pieces of the target vocabulary, the four special ones included."""
        return self.target.subword.vocab_size

    def tokenize_source(self, line: str) -> str:
        """Return a raw source line's tokens, separated by single blanks."""
        return self.source.tokenize(line)

    def tokenize_target(self, line: str) -> str:
        """Return a raw target line's tokens, separated by single blanks."""
        return self.target.tokenize(line)

    def encode_source(self, line: str) -> list[int]:
        """Return the ids of a raw source line, without `</s>`."""
        return self.source.encode(line)

    def encode_target(self, line: str) -> list[int]:
        """Return the ids of a raw target line, without `</s>`."""
        return self.target.encode(line)

    def source_pieces(self, ids: Iterable[int]) -> list[str]:
        """Return the source piece of each id."""
        return self.source.pieces(ids)

    def target_pieces(self, ids: Iterable[int]) -> list[str]:
        """Return the target piece of each id."""
        return self.target.pieces(ids)

    def decode_source(self, ids: Iterable[int]) -> str:
        """Return the source text that ids spell; `<s>`, `<pad>` and `</s>` are skipped."""
        return self.source.decode(ids)

    def decode_target(self, ids: Iterable[int]) -> str:
        """Return the target text that ids spell; `<s>`, `<pad>` and `</s>` are skipped."""
        return self.target.decode(ids)

    def save(self, folder: Path) -> None:
        """Write the pipeline into `folder`, which is made if need be; the description comes last."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self._files.items():
            write_file(folder / name, content)
        description = {"format": FORMAT} | self._description() | {"fingerprint": self.fingerprint}
        write_file(folder / DESCRIPTION, to_json(description))

    @classmethod
    def load(cls, folder: Path) -> TextPipeline:
        """Return the pipeline that `save` wrote. Raises UserError where a file is missing or was altered."""
        description = _read_description(folder)
        models = {name: _read_model(folder, name, entry) for name, entry in description["subword"].items()}
        try:
            source = models[_JOINT] if _JOINT in models else models[_SOURCE]
            target = models[_JOINT] if _JOINT in models else models[_TARGET]
            text = dict(description["text"])
            config = TextConfig(**text | {"tokenization": Tokenization(text["tokenization"])})
            pipeline = cls(description["src"], description["tgt"], config, source, target)
        except (KeyError, TypeError, ValueError) as error:
            raise _altered(folder / DESCRIPTION, repr(error)) from None
        if pipeline.fingerprint != description["fingerprint"]:
            raise _altered(folder / DESCRIPTION, "its fingerprint is that of another content")
        return pipeline

    def _sides(self) -> dict[str, Subword]:
        source, target = self.source.subword, self.target.subword
        return {_JOINT: source} if self.joint else {_SOURCE: source, _TARGET: target}

    def _model_files(self) -> dict[str, bytes]:
        return {f"{side}.{name}": data for side, model in self._sides().items() for name, data in model.files().items()}

    def _description(self) -> dict[str, Any]:
        subword = {
            side: {"kind": model.kind, "files": {name: _hash(data) for name, data in model.files().items()}}
            for side, model in self._sides().items()
        }
        return {"src": self.src, "tgt": self.tgt, "text": asdict(self.config), "subword": subword}


def find_text(path: str, option: str) -> Path:
    """Return the pipeline's folder within the data folder, finished run, checkpoint or model directory at `path`.

    Raises UserError, naming the option, where there is none.
    """
    for folder in (Path(path) / FOLDER, Path(path) / "model" / FOLDER):
        if (folder / DESCRIPTION).is_file():
            return folder
    what = "holds no text pipeline" if Path(path).exists() else "no such folder"
    raise UserError(f"{option}={path}: {what}; name a data folder, a finished run, a checkpoint or a model directory")


def _read_description(folder: Path) -> dict[str, Any]:
    """The parsed `pipeline.json`, its outer shape checked."""
    path = folder / DESCRIPTION
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder}: no text pipeline here ({DESCRIPTION} is missing)") from None
    except (OSError, ValueError, RecursionError) as error:
        raise _altered(path, str(error)) from None
    if not isinstance(data, dict) or not isinstance(data.get("subword"), dict) or "fingerprint" not in data:
        raise _altered(path, "it does not describe a text pipeline")
    if data.get("format") != FORMAT:
        raise UserError(
            f"{path}: format {data.get('format')}, and this version reads format {FORMAT}; upgrade dynconv-mt"
        )
    return data


def _read_model(folder: Path, side: str, entry: Mapping[str, Any]) -> Subword:
    """The subword model of `side`, its files compared with the hashes in its entry of `pipeline.json`."""
    try:
        kind, hashes = entry["kind"], dict(entry["files"])
    except (KeyError, TypeError, ValueError):
        raise _altered(folder / DESCRIPTION, f"it does not describe the model {side}") from None
    if kind not in SUBWORDS:
        raise UserError(f"{folder / DESCRIPTION}: subword kind {kind!r}, and this version knows {', '.join(SUBWORDS)}")
    files = {}
    for name, expected in hashes.items():
        path = folder / f"{side}.{name}"
        try:
            files[name] = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); the text pipeline is incomplete") from None
        if _hash(files[name]) != expected:
            raise _altered(path, f"its hash is not the one in {DESCRIPTION}")
    try:
        return SUBWORDS[kind].from_files(files)
    except ValueError as error:
        raise _altered(folder / f"{side}.*", str(error)) from None


def _altered(path: Path, reason: str) -> UserError:
    return UserError(f"{path}: was altered or damaged ({reason}); restore the folder from its source")


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
