"""Lines in and out: files and pipes, checked as UTF-8; files appear whole or not at all."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, cast

from dynconv_mt.cli.jobs import STDIO
from dynconv_mt.errors import UserError
from dynconv_mt.files import beyond_link
from dynconv_mt.text.corpus import read_lines, read_stream


def read_input(option: str, name: str) -> list[str]:
    """Return the lines of a file, a named pipe or (`-`) standard input, plain or gzip.

    Raises UserError, naming the option, for a missing or empty one, and naming the line for text that is not UTF-8.
    """
    path = Path(name)
    if name == STDIO:
        lines = list(read_stream(_buffered(sys.stdin.buffer), "standard input"))
    elif path.is_file():
        lines = list(read_lines(path))
    elif path.is_dir():
        raise UserError(f"{option}={name}: is a folder; name a file in it")
    elif path.exists():  # a named pipe, /dev/stdin
        with path.open("rb") as stream:
            lines = list(read_stream(stream, name))
    else:
        raise UserError(f"{option}={name}: no such file")
    if not lines:
        raise UserError(f"{option}={name}: is empty; it should hold one sentence a line")
    return lines


def _buffered(stream: BinaryIO) -> io.BufferedReader:
    """Return standard input as it is, and what a caller has put in its place as something that can be looked into."""
    return stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(cast(io.RawIOBase, stream))


def read_aligned(option: str, name: str, other: str, expected: Sequence[str]) -> list[str]:
    """Return the lines of a file that belong to the lines `expected` of another one, which `other` names as typed.

    Raises UserError where there are more or fewer, and as `read_input` does.
    """
    lines = read_input(option, name)
    if len(lines) != len(expected):
        raise UserError(
            f"{option}={name}: has {len(lines)} lines, and {other} has {len(expected)}; line i of one must belong to "
            "line i of the other"
        )
    return lines


def check_writable(option: str, name: str | None) -> None:
    """Raise UserError, before the work is done, where a file could not be written afterwards."""
    if name is None:
        return
    if name == STDIO:
        raise UserError(f"{option}={name}: name a file; standard output holds other text")
    if name.endswith(".gz"):
        raise UserError(f"{option}={name}: files are not packed while they are written; leave .gz out, and use gzip")
    path = beyond_link(Path(name))
    if path.is_dir():
        raise UserError(f"{option}={name}: is a folder; name a file to write")
    if not path.parent.is_dir():
        raise UserError(f"{option}={name}: there is no folder {path.parent}; make it first")
    target = path if path.exists() and not path.is_file() else path.parent  # a file is replaced, a pipe written into
    if not os.access(target, os.W_OK):
        raise UserError(f"{option}={name}: {target} cannot be written; choose another place")
