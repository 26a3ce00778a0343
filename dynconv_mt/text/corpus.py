"""Reading parallel text: plain or gzip, UTF-8 checked line by line, two sides in step."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from dynconv_mt.errors import UserError

_GZIP_MAGIC = b"\x1f\x8b"
_DAMAGE = (gzip.BadGzipFile, EOFError, zlib.error)  # what reading a damaged gzip file raises
_BYTE_ORDER_MARK = "\ufeff"
_BLOCK = 1 << 20  # bytes


@dataclass(frozen=True)
class ParallelFile:
    """The two files of one prefix; line i of one translates line i of the other."""

    src: Path
    tgt: Path


def find_side(prefix: str, lang: str, option: str = "") -> Path:
    """Return `prefix.lang` or, where that is missing, `prefix.lang.gz`.

    `option` (such as `train`) is named in the UserError that says that neither exists.
    """
    plain = Path(f"{prefix}.{lang}")
    packed = Path(f"{prefix}.{lang}.gz")
    for path in (plain, packed):
        if path.is_file():
            return path
    typed = f"{option}={prefix}: " if option else ""
    raise UserError(f"{typed}neither {plain} nor {packed} is a file; give the part of the name before .{lang}")


def find_pair(prefix: str, src: str, tgt: str, option: str = "") -> ParallelFile:
    """Return the two files of `prefix`. Raises UserError as `find_side` does."""
    return ParallelFile(find_side(prefix, src, option), find_side(prefix, tgt, option))


def open_text(path: Path) -> IO[bytes]:
    """Open a file for reading bytes; gzip is told by its first two bytes, not by its name."""
    try:
        with open(path, "rb") as file:
            is_packed = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
        return cast(IO[bytes], gzip.open(path, "rb")) if is_packed else open(path, "rb")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def decode_lines(stream: IO[bytes], name: Path | str) -> Iterator[str]:
    """Yield the lines of a stream of UTF-8, as they come, without their line ends.

    Only a line feed ends a line (a carriage return before it is dropped), so that line numbers are those of `wc -l`
    whatever characters a line contains. A byte order mark at the start is dropped.
    Raises UserError naming the stream and the line for text that is not UTF-8, and in the end for a single line with
    carriage returns inside, which was many.
    """
    number, raw = 0, b""
    for number, raw in enumerate(stream, start=1):
        try:
            line = raw.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{name}, line {number}: not UTF-8 (byte 0x{error.object[error.start]:02x} at position "
                f"{error.start + 1} of the line); convert the file, for example with iconv"
            ) from None
        yield line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line
    if number == 1:
        _check_line_end(name, raw)


def _check_line_end(name: Path | str, last: bytes) -> None:
    """Refuse a single line that ends without a line feed, and has other ends of lines in it: `last` bytes of it."""
    if b"\r" in last and not last.endswith(b"\n"):
        raise UserError(f"{name}: its lines end in carriage returns alone; convert it, for example with tr '\\r' '\\n'")


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file, plain or gzip, as `decode_lines` does.

    Raises UserError naming file and line for text that is not UTF-8, and for a damaged gzip file.
    """
    with open_text(path) as file:
        yield from _decode(file, path)


def read_stream(stream: io.BufferedReader, name: str) -> Iterator[str]:
    """Do as `read_lines` does, for standard input or a pipe."""
    first = stream.peek(len(_GZIP_MAGIC))
    if not first:  # at a terminal, reading on would ask for another end of file
        return
    is_packed = first.startswith(_GZIP_MAGIC)
    yield from _decode(cast(IO[bytes], gzip.GzipFile(fileobj=stream) if is_packed else stream), name)


def _decode(stream: IO[bytes], name: Path | str) -> Iterator[str]:
    number = 0
    try:
        for line in decode_lines(stream, name):
            number += 1
            yield line
    except _DAMAGE as error:
        raise _damaged(name, number, error) from None


def count_pairs(files: ParallelFile) -> int:
    """Return the number of line pairs, at the speed of reading.

    Raises UserError for an empty file, for different line counts, naming both files and both counts, and for a damaged
    gzip file.
    """
    num_src, num_tgt = _count_lines(files.src), _count_lines(files.tgt)
    _check_counts(files, num_src, num_tgt)
    return num_src


def _count_lines(path: Path) -> int:
    """As many as `read_lines` yields; the last one may lack its line feed."""
    number, last = 0, b""
    with open_text(path) as file:
        try:
            while block := file.read(_BLOCK):
                number += block.count(b"\n")
                last = block
        except _DAMAGE as error:
            raise _damaged(path, number, error) from None
    if number == 0:
        _check_line_end(path, last)
    return number + (last[-1:] not in (b"", b"\n"))


def _damaged(path: Path | str, number: int, error: Exception) -> UserError:
    return UserError(f"{path}, after line {number}: damaged gzip file ({error})")


def read_parallel(files: ParallelFile) -> Iterator[tuple[str, str]]:
    """Yield the line pairs of one pair of files.

    Raises UserError for an empty file and for different line counts, naming both files and both counts.
    """
    sides = read_lines(files.src), read_lines(files.tgt)
    count = 0
    while True:
        src, tgt = next(sides[0], None), next(sides[1], None)
        if src is None or tgt is None:
            break
        count += 1
        yield src, tgt
    num_src = count + (src is not None) + sum(1 for _ in sides[0])
    num_tgt = count + (tgt is not None) + sum(1 for _ in sides[1])
    _check_counts(files, num_src, num_tgt)


def _check_counts(files: ParallelFile, num_src: int, num_tgt: int) -> None:
    for path, num_lines in ((files.src, num_src), (files.tgt, num_tgt)):
        if num_lines == 0:
            raise UserError(f"{path}: is empty; it should hold one sentence a line")
    if num_src != num_tgt:
        raise UserError(
            f"{files.src} has {num_src} lines and {files.tgt} has {num_tgt}: line i of one must be the translation of "
            "line i of the other"
        )


def read_pairs(prefixes: str | Sequence[str], src: str, tgt: str) -> Iterator[tuple[str, str]]:
    """Yield (source line, target line) of every prefix in turn. Raises UserError as the functions above do."""
    names = [prefixes] if isinstance(prefixes, str) else prefixes
    for files in [find_pair(name, src, tgt) for name in names]:  # all of them, before the first line is read
        yield from read_parallel(files)
