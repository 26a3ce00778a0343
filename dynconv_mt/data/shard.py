"""One shard of a token store: a safetensors file, written whole and read through a memory map.

Four tensors: `src_tokens` and `tgt_tokens` hold the sentences end to end, `src_offsets` and `tgt_offsets` (one more
than there are sentences) say where each begins. Slicing through the safetensors library copies, so the header is read
here and the tensors are views of one map of the file.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from dynconv_mt.errors import UserError
from dynconv_mt.files import hash_file, write_file

Ids = NDArray[np.integer[Any]]

_TOKEN_TYPES = {"U16": "<u2", "U32": "<u4"}
_OFFSET_TYPES = {"U32": "<u4"}
_MAX_HEADER = 1 << 20  # bytes; ours is a few hundred


@dataclass(frozen=True)
class ShardEntry:
    """What the store's index says of one shard."""

    file: str
    bytes: int
    sha256: str
    sentences: int
    src_tokens: int  # </s> included
    tgt_tokens: int


@dataclass(frozen=True)
class Shard:
    """Read-only views of one shard's arrays."""

    src_tokens: Ids
    src_offsets: Ids
    tgt_tokens: Ids
    tgt_offsets: Ids


def damaged(path: Path, what: str) -> UserError:
    """The error for a store file that is not what was written."""
    return UserError(f"{path}: {what}. The data folder is damaged or incomplete: make it again with dc-preprocess")


def write_shard(path: Path, shard: Shard, fingerprint: str) -> ShardEntry:
    """Write a shard and return its index entry; the fingerprint goes into the file as well."""
    tensors = {name: np.ascontiguousarray(value) for name, value in vars(shard).items()}
    data = safetensors.numpy.save(tensors, {"fingerprint": fingerprint})
    write_file(path, data)
    return ShardEntry(
        file=path.name,
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        sentences=len(shard.src_offsets) - 1,
        src_tokens=len(shard.src_tokens),
        tgt_tokens=len(shard.tgt_tokens),
    )


def open_shard(path: Path, entry: ShardEntry, fingerprint: str) -> Shard:
    """Map a shard, checking existence, size and header (not the hash) against its index entry.

    Raises UserError naming the file when anything differs.
    """
    try:
        size = path.stat().st_size
        if size != entry.bytes:
            raise damaged(path, f"has {size} bytes where {entry.bytes} were written")
        content = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
    except FileNotFoundError:
        raise damaged(path, "is missing") from None
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):  # each file that is mapped stays open
            raise UserError(f"{path}: cannot be opened ({error.strerror}); raise the limit: ulimit -n") from None
        raise damaged(path, f"cannot be read ({error.strerror or error})") from error
    header, start = _read_header(path, content)
    if header.get("__metadata__") != {"fingerprint": fingerprint}:
        raise damaged(path, "belongs to another preprocessing run than the index beside it")
    body = content[start:]
    shard = Shard(
        src_tokens=_view(path, body, header.get("src_tokens"), _TOKEN_TYPES, entry.src_tokens),
        src_offsets=_view(path, body, header.get("src_offsets"), _OFFSET_TYPES, entry.sentences + 1),
        tgt_tokens=_view(path, body, header.get("tgt_tokens"), _TOKEN_TYPES, entry.tgt_tokens),
        tgt_offsets=_view(path, body, header.get("tgt_offsets"), _OFFSET_TYPES, entry.sentences + 1),
    )
    _check_offsets(path, shard.src_offsets, entry.src_tokens)
    _check_offsets(path, shard.tgt_offsets, entry.tgt_tokens)
    return shard


def verify_shard(path: Path, entry: ShardEntry) -> None:
    """Read the whole file and raise UserError when its hash is not the one in the index."""
    try:
        found = hash_file(path)
    except OSError as error:
        raise damaged(path, f"cannot be read ({error.strerror or error})") from error
    if found != entry.sha256:
        raise damaged(path, "was altered after it was written (its SHA-256 differs from the index)")


def _read_header(path: Path, content: NDArray[np.uint8]) -> tuple[dict[str, Any], int]:
    """Return the safetensors header and where the data begins."""
    length = int.from_bytes(content[:8].tobytes(), "little")
    if len(content) < 8 or length > min(_MAX_HEADER, len(content) - 8):
        raise damaged(path, "is not a safetensors file")
    try:
        header = json.loads(content[8 : 8 + length].tobytes())
    except ValueError as error:
        raise damaged(path, "has a header that cannot be read") from error
    if not isinstance(header, dict):
        raise damaged(path, "has a header that is not a table of tensors")
    return header, 8 + length


def _view(path: Path, body: NDArray[np.uint8], info: object, types: Mapping[str, str], count: int) -> Ids:
    """View one tensor of `count` elements; everything the header says of it must fit."""
    if not isinstance(info, dict) or info.get("dtype") not in types or info.get("shape") != [count]:
        raise damaged(path, "does not hold the arrays that its index names")
    dtype = np.dtype(types[info["dtype"]])
    match info.get("data_offsets"):
        case [int(begin), int(end)] if 0 <= begin <= end <= len(body) and end - begin == count * dtype.itemsize:
            return body[begin:end].view(dtype)
        case _:
            raise damaged(path, "has a header whose offsets do not fit the file")


def _check_offsets(path: Path, offsets: Ids, num_tokens: int) -> None:
    if offsets[0] != 0 or offsets[-1] != num_tokens or bool((offsets[1:] <= offsets[:-1]).any()):
        raise damaged(path, "has sentence boundaries that do not fit its tokens")
