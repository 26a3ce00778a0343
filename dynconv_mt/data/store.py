"""Sentence pairs as ids on disk: a folder of bounded shards and an index, read through a memory map.

    STORE/index.json                 written last: a folder without it is no store
    STORE/shard_00000.safetensors    see shard.py

A sentence lies whole in one shard and ends in `</s>`. Only the lengths are held in memory (eight bytes a pair); tokens
are read by the page cache when asked for, so a corpus may be larger than memory.
"""

from __future__ import annotations

import hashlib
import json
import re
import resource
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dynconv_mt.data.shard import Ids, Shard, ShardEntry, damaged, open_shard, verify_shard, write_shard
from dynconv_mt.errors import UserError
from dynconv_mt.files import write_file
from dynconv_mt.text.vocab import EOS, PAD

FORMAT = 1
SHARD_TOKENS = 1 << 24  # ids of both sides together; 32 MB of uint16
_INDEX = "index.json"
_OTHER_FILES = 256  # that a process may have open beside its shards, each of which takes one
_SHARD_NAME = re.compile(r"shard_\d{5,}\.safetensors")


class _Side:
    """The sentences of one language that wait for their shard."""

    def __init__(self) -> None:
        self.tokens = array("I")
        self.offsets = array("I", [0])

    def add(self, ids: Sequence[int]) -> None:
        self.tokens.extend(ids)
        self.tokens.append(EOS)
        self.offsets.append(len(self.tokens))

    def arrays(self) -> tuple[Ids, Ids]:
        """Tokens, as narrow as they allow, and offsets."""
        tokens = np.array(self.tokens, dtype=np.uint32)
        offsets = np.array(self.offsets, dtype=np.uint32)
        if np.count_nonzero(tokens == EOS) != len(offsets) - 1 or bool((tokens == PAD).any()):
            raise ValueError(f"a sentence to store contains </s> ({EOS}) or <pad> ({PAD}) among its ids")
        return tokens.astype(np.uint16) if tokens.max() < 1 << 16 else tokens, offsets


class StoreWriter:
    """Writes a token store; use as a context manager.

    Memory is bounded by `shard_tokens` (about ten bytes each while a shard is written). Leaving the block by an
    exception removes the shards written so far.
    """

    def __init__(self, folder: Path | str, fingerprint: str, shard_tokens: int = SHARD_TOKENS) -> None:
        """`fingerprint` is the text pipeline's; `shard_tokens` bounds the ids of a shard, both sides together."""
        if not 0 < shard_tokens < 1 << 31:
            raise ValueError(f"shard_tokens={shard_tokens}: must lie between 1 and 2^31 - 1")
        self.folder = Path(folder)
        self.fingerprint = fingerprint
        self.shard_tokens = shard_tokens
        self._src, self._tgt = _Side(), _Side()
        self._shards: list[ShardEntry] = []
        self._max_ids = [0, 0]
        self._closed = False
        self.folder.mkdir(parents=True, exist_ok=True)
        if (self.folder / _INDEX).exists():
            raise UserError(f"{self.folder}: already holds a token store; remove it or choose another folder")

    def add(self, src_ids: Sequence[int], tgt_ids: Sequence[int]) -> None:
        """Add a pair; ids come without `</s>`, which is appended here. Either side may be empty."""
        waiting = len(self._src.tokens) + len(self._tgt.tokens)
        if waiting and waiting + len(src_ids) + len(tgt_ids) + 2 > self.shard_tokens:
            self._flush()
        self._src.add(src_ids)
        self._tgt.add(tgt_ids)

    def add_many(self, pairs: Iterable[tuple[Sequence[int], Sequence[int]]]) -> None:
        """Add pairs in their order."""
        for src_ids, tgt_ids in pairs:
            self.add(src_ids, tgt_ids)

    def close(self) -> None:
        """Write what waits and, last, the index. A second call does nothing."""
        if self._closed:
            return
        self._flush()
        self._closed = True
        index = {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "src_max_id": self._max_ids[0],
            "tgt_max_id": self._max_ids[1],
            "shards": [asdict(entry) for entry in self._shards],
        }
        write_file(self.folder / _INDEX, json.dumps(index, indent=1) + "\n")

    def abort(self) -> None:
        """Remove what was written; nothing that looks whole is left."""
        self._closed = True
        for entry in self._shards:
            (self.folder / entry.file).unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def _flush(self) -> None:
        if len(self._src.offsets) == 1:
            return
        src_tokens, src_offsets = self._src.arrays()
        tgt_tokens, tgt_offsets = self._tgt.arrays()
        self._src, self._tgt = _Side(), _Side()
        self._max_ids = [max(self._max_ids[0], int(src_tokens.max())), max(self._max_ids[1], int(tgt_tokens.max()))]
        path = self.folder / f"shard_{len(self._shards):05d}.safetensors"
        shard = Shard(src_tokens, src_offsets, tgt_tokens, tgt_offsets)
        self._shards.append(write_shard(path, shard, self.fingerprint))


class TokenStore:
    """A token store open for reading. Sentence `i` is line `i` of what was written."""

    def __init__(self, folder: Path, index: dict[str, Any], entries: list[ShardEntry]) -> None:
        """Use `TokenStore.open`."""
        self.folder = folder
        self.fingerprint: str = index["fingerprint"]  # of the text pipeline that made the ids
        self.src_max_id: int = index["src_max_id"]  # largest id that occurs
        self.tgt_max_id: int = index["tgt_max_id"]
        self._entries = entries
        _allow_open_files(len(entries))
        self._shards = [open_shard(folder / entry.file, entry, self.fingerprint) for entry in entries]
        self._starts = np.cumsum([0, *(entry.sentences for entry in entries)]).tolist()  # first sentence of each shard
        self.src_lengths = _lengths([shard.src_offsets for shard in self._shards])  # (N,) tokens, </s> included
        self.tgt_lengths = _lengths([shard.tgt_offsets for shard in self._shards])

    @classmethod
    def open(cls, folder: Path | str) -> TokenStore:
        """Open a store: existence, sizes and headers of all files are checked, hashes are not (see `verify`).

        Raises UserError naming the file and the remedy when the store is missing, incomplete or altered.
        """
        path = Path(folder) / _INDEX
        try:
            index = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(
                f"{folder}: no token store here ({_INDEX} is missing): make it with dc-preprocess"
            ) from None
        except (OSError, ValueError, RecursionError) as error:
            raise damaged(path, f"cannot be read ({error})") from error
        return cls(Path(folder), index, _entries(path, index))

    def __len__(self) -> int:
        """Number of sentence pairs."""
        return int(self._starts[-1])

    def source(self, i: int) -> Ids:
        """Ids of source sentence `i`, ending in `</s>`: a read-only view of the file."""
        shard, row = self._find(i)
        return shard.src_tokens[shard.src_offsets[row] : shard.src_offsets[row + 1]]

    def target(self, i: int) -> Ids:
        """Ids of target sentence `i`, ending in `</s>`: a read-only view of the file."""
        shard, row = self._find(i)
        return shard.tgt_tokens[shard.tgt_offsets[row] : shard.tgt_offsets[row + 1]]

    @property
    def num_src_tokens(self) -> int:
        """Source tokens of the whole store, `</s>` included."""
        return sum(entry.src_tokens for entry in self._entries)

    @property
    def num_tgt_tokens(self) -> int:
        """Target tokens of the whole store, `</s>` included."""
        return sum(entry.tgt_tokens for entry in self._entries)

    @property
    def digest(self) -> str:
        """A SHA-256 over the hashes of all shards: equal for equal content, known without reading tokens."""
        return hashlib.sha256("\n".join(entry.sha256 for entry in self._entries).encode()).hexdigest()

    def check_fingerprint(self, expected: str) -> None:
        """Raise UserError unless the ids were made by the text pipeline with this fingerprint."""
        if self.fingerprint != expected:
            raise UserError(
                f"{self.folder}: its ids belong to another vocabulary (fingerprint {self.fingerprint[:12]}, the model "
                f"has {expected[:12]}). Use the data folder that the model was trained on, or preprocess the text "
                "again with the model's own pipeline"
            )

    def verify(self) -> None:
        """Read every shard and compare its hash; raises UserError naming the first that was altered."""
        for entry in self._entries:
            verify_shard(self.folder / entry.file, entry)

    def _find(self, i: int) -> tuple[Shard, int]:
        if not 0 <= i < len(self):
            raise IndexError(f"sentence {i} of {len(self)}")
        number = bisect_right(self._starts, i) - 1
        return self._shards[number], i - self._starts[number]


def _lengths(offsets: Sequence[Ids]) -> NDArray[np.int32]:
    """Lengths of all sentences, from the shards' offsets; read-only."""
    parts = [np.diff(part.astype(np.int64)).astype(np.int32) for part in offsets]
    lengths = np.concatenate([np.zeros(0, np.int32), *parts])
    lengths.flags.writeable = False
    return lengths


def _entries(path: Path, index: object) -> list[ShardEntry]:
    """The shards that a parsed index names, every field checked for its type."""
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise damaged(path, f"is not the index of a token store of format {FORMAT}")
    types = {"fingerprint": str, "src_max_id": int, "tgt_max_id": int, "shards": list}
    if not all(isinstance(index.get(name), kind) for name, kind in types.items()):
        raise damaged(path, f"lacks one of {', '.join(types)}")
    entries = []
    for row in index["shards"]:
        if not isinstance(row, dict) or set(row) != {field.name for field in fields(ShardEntry)}:
            raise damaged(path, "describes a shard by other fields than this version writes")
        numbers = [value for name, value in row.items() if name not in ("file", "sha256")]
        if not all(type(value) is int and value > 0 for value in numbers):
            raise damaged(path, "describes a shard by something else than positive numbers")
        if not (isinstance(row["sha256"], str) and _SHARD_NAME.fullmatch(str(row["file"]))):
            raise damaged(path, f"names a shard {row['file']!r}, which this program would not write")
        entries.append(ShardEntry(**row))
    return entries


def _allow_open_files(count: int) -> None:
    """Raise this process' limit on open files, as far as the system lets it, where `count` more would pass it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and wanted > soft:
        wanted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
