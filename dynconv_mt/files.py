"""Files and folders that are whole or absent, copies, hashes, and errors that name what they are about."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dynconv_mt.errors import UserError

logger = logging.getLogger(__name__)


def beyond_link(path: Path) -> Path:
    """Return what a symbolic link names, and any other path as it is: what a renaming may replace."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def broken_link(path: Path) -> str | None:
    """Return what is wrong with a symbolic link that leads nowhere, None for any other path.

    It may lead to a disk that is not mounted, and must not look like a place where nothing is.
    """
    if path.is_symlink() and not path.exists():
        return f"is a link to {os.readlink(path)}, which is not there"
    return None


def write_file(path: Path, data: bytes | str) -> None:
    """Write a file so that it is whole or absent: under a temporary name in its folder, then renamed. Text is UTF-8.

    A symbolic link stays one, and the file that it names is written. A pipe or a device (`/dev/null`) has no halves and
    must not be replaced: it is written into. Raises UserError in a folder in which nothing can be made, such as /proc.
    """
    content = data.encode("utf-8") if isinstance(data, str) else data
    if _is_special(path):
        path.write_bytes(content)
        return
    path = beyond_link(path)
    temporary = path.with_name(f".{os.urandom(8).hex()}.tmp")  # short: the name itself may be as long as names can be
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except FileNotFoundError:
        raise UserError(f"{path}: cannot be made; choose another folder") from None
    finally:
        temporary.unlink(missing_ok=True)


def _is_special(path: Path) -> bool:
    return path.exists() and not path.is_file()


class GrowingFile:
    """A file of lines that takes long to write: NAME.partial until `commit`, and from then on NAME. Text is UTF-8.

    What was written stays in NAME.partial when the program is ended before. Links, pipes and devices are dealt with as
    by `write_file`.
    """

    def __init__(self, path: Path) -> None:
        self.path = self.partial = path
        if not _is_special(path):
            self.path = beyond_link(path)
            stem = os.fsdecode(os.fsencode(self.path.name)[:247])  # names have 255 bytes at most
            self.partial = self.path.with_name(f"{stem}.partial")
        with writing(self.partial):
            self._file = self.partial.open("w", encoding="utf-8", newline="\n")

    def write(self, line: str) -> None:
        """Add a line, which has no line feed yet."""
        with writing(self.partial):
            self._file.write(f"{line}\n")

    def commit(self) -> None:
        """Give the file its name."""
        with writing(self.path):
            self._file.close()
            if self.partial != self.path:
                os.replace(self.partial, self.path)

    def abandon(self) -> str | None:
        """Close the file where it is; return where that is, None if nothing was written, and then nothing is left."""
        with suppress(OSError):
            self._file.close()
        if self.partial == self.path or not self.partial.exists():
            return None
        if self.partial.stat().st_size:
            return str(self.partial)
        self.partial.unlink()
        return None


@contextmanager
def growing_files(paths: Iterable[Path]) -> Iterator[list[GrowingFile]]:
    """Yield a file for each path, to be committed in the block; after an exception, say what is left of the others."""
    files: list[GrowingFile] = []
    try:
        for path in paths:
            files.append(GrowingFile(path))
        yield files
    except BaseException:
        for file in files:
            if left := file.abandon():
                logger.warning(f"{file.path}: is not finished; what was written is in {left}")
        raise


def to_json(data: Any, indent: int = 2) -> str:
    """Return JSON text, readable in any language, that UTF-8 can hold.

    A byte of a file name that is no UTF-8 is half of a surrogate pair to Python, and becomes JSON's escape for that.
    """
    text = json.dumps(data, indent=indent, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def files_below(folder: Path) -> list[Path]:
    """Return all files below a folder."""
    return [path for path in folder.rglob("*") if path.is_file()]


def flush(path: Path) -> None:
    """Wait until a file or a folder, its list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_folder(folder: Path) -> None:
    """Flush every file and folder below `folder`, and itself, to the disk."""
    for path in [*files_below(folder), *(path for path in folder.rglob("*") if path.is_dir()), folder]:
        flush(path)


def copy_folder(source: Path, target: Path, leave_out: Collection[str] = ()) -> None:
    """Copy the files below `source` but for what its entries named in `leave_out` are or hold.

    Unlike shutil.copytree, which gathers errors, it raises the first OSError as it is.
    """
    for path in files_below(source):
        place = path.relative_to(source)
        if place.parts[0] not in leave_out:
            (target / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / place)


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Let an OSError inside the block name `path` unless it names a file, as that of a full disk does not."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            error.filename = error.filename or str(path)
        raise
