"""`data.json`: what a data folder holds, and from which options and files it was made. Written last."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import chain
from pathlib import Path
from typing import Any

from dynconv_mt.errors import UserError
from dynconv_mt.files import hash_file, write_file
from dynconv_mt.text.corpus import ParallelFile

FORMAT = 1
MANIFEST = "data.json"


@dataclass
class SplitInfo:
    """Size of a split's token store; tokens are pieces, `</s>` included."""

    sentences: int
    src_tokens: int
    tgt_tokens: int


@dataclass
class Manifest:
    """A data folder's description of itself."""

    src: str  # language codes
    tgt: str
    fingerprint: str  # of the text pipeline in text/, and of every store
    splits: dict[str, SplitInfo]  # train, and valid and test if given
    config: dict[str, Any]  # the options that decide the content: text, bpe, clean
    inputs: dict[str, list[dict[str, Any]]]  # per split and prefix: both files with size, time and SHA-256
    versions: dict[str, str]  # of the packages that made it
    raw: dict[str, str]  # SHA-256 of the raw lines of held-out splits, by file; empty in folders of older versions

    def differences(self, config: Mapping[str, Any], files: Mapping[str, Sequence[ParallelFile]]) -> list[str]:
        """Return the names of what differs from a run with these options and input files; none: the same run."""
        names = [name for name in config if self.config.get(name) != config[name]]
        for split in sorted({*self.inputs, *files}):
            recorded, found = self.inputs.get(split, []), files.get(split, [])
            if len(recorded) != len(found) or not all(map(_is_same_pair, recorded, found)):
                names.append(split)
        return names


def describe_inputs(files: Mapping[str, Sequence[ParallelFile]]) -> dict[str, list[dict[str, Any]]]:
    """Return what `Manifest.inputs` says of these files. Reads each once, for its hash."""
    return {
        split: [{"src": _describe(pair.src), "tgt": _describe(pair.tgt)} for pair in pairs]
        for split, pairs in files.items()
    }


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `data.json`, the last file of a data folder."""
    data = {"format": FORMAT} | asdict(manifest)
    write_file(folder / MANIFEST, json.dumps(data, indent=2) + "\n")


def read_manifest(folder: Path | str) -> Manifest:
    """Return what `data.json` says. Raises UserError where the folder is missing, unfinished or no data folder."""
    path = Path(folder) / MANIFEST
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"data_dir={folder}: no preprocessed data here ({MANIFEST} is missing); make it with dc-preprocess"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({error}); preprocess again") from None
    if not isinstance(data, dict) or data.pop("format", None) != FORMAT:
        raise UserError(f"{path}: is not of format {FORMAT}, which this version reads; preprocess again")
    data.setdefault("raw", {})
    if data.keys() != {field.name for field in fields(Manifest)}:
        raise UserError(f"{path}: was altered (it describes a data folder by other fields); preprocess again")
    try:
        data["splits"] = {name: SplitInfo(**split) for name, split in data["splits"].items()}
        _check_types(data)
    except (AttributeError, TypeError, KeyError) as error:
        raise UserError(f"{path}: was altered ({error}); preprocess again") from None
    return Manifest(**data)


def _check_types(data: Mapping[str, Any]) -> None:
    """Raise TypeError, AttributeError or KeyError where a field of data.json is not what it should be."""
    for name in ("config", "inputs", "raw"):
        if not isinstance(data[name], dict):
            raise TypeError(f"{name} is a {type(data[name]).__name__}")
    for pair in chain.from_iterable(data["inputs"].values()):
        for side in ("src", "tgt"):
            if missing := {"path", "bytes", "mtime_ns", "sha256"} - pair[side].keys():
                raise KeyError(missing.pop())


def _describe(path: Path) -> dict[str, Any]:
    status = path.stat()
    return {
        "path": str(path.absolute()),
        "bytes": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "sha256": hash_file(path),
    }


def _is_same_pair(recorded: Mapping[str, Any], files: ParallelFile) -> bool:
    return _is_same(recorded["src"], files.src) and _is_same(recorded["tgt"], files.tgt)


def _is_same(recorded: Mapping[str, Any], path: Path) -> bool:
    """Whether a file has the recorded content; it is only read where its time of change differs."""
    status = path.stat()
    if status.st_size != recorded["bytes"]:
        return False
    untouched = str(path.absolute()) == recorded["path"] and status.st_mtime_ns == recorded["mtime_ns"]
    return bool(untouched or hash_file(path) == recorded["sha256"])
