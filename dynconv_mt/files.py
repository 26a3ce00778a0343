"""Files and folders that are whole or absent, copies, hashes, and errors that name what they are about."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dynconv_mt.errors import UserError


def beyond_link(path: Path) -> Path:
    """Return what a symbolic link names, and any other path as it is: what a renaming may replace."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def write_file(path: Path, data: bytes | str | Iterable[str]) -> None:
    """Write a file so that it is whole or absent: under a temporary name in its folder, then renamed. Text is UTF-8.

    A symbolic link stays one, and the file that it names is written. A pipe or a device (`/dev/null`) has no halves and
    must not be replaced: it is written into. Raises UserError in a folder in which nothing can be made, such as /proc.
    """
    parts = [data] if isinstance(data, bytes | str) else data
    if path.exists() and not path.is_file():
        _write(path, parts)
        return
    path = beyond_link(path)
    temporary = path.with_name(f".{os.urandom(8).hex()}.tmp")  # short: the name itself may be as long as names can be
    try:
        _write(temporary, parts)
        os.replace(temporary, path)
    except FileNotFoundError:
        raise UserError(f"{path}: cannot be made; choose another folder") from None
    finally:
        temporary.unlink(missing_ok=True)


def _write(path: Path, parts: Iterable[bytes | str]) -> None:
    with path.open("wb") as file:
        for part in parts:
            file.write(part.encode("utf-8") if isinstance(part, str) else part)


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
