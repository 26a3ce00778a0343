"""A folder that appears whole or not at all: built beside its place and renamed when it is finished."""

from __future__ import annotations

import os
import re
import shutil
import signal
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from dynconv_mt.errors import UserError
from dynconv_mt.files import beyond_link, broken_link, flush_folder, writing

_HOST = os.uname().nodename  # on a shared disk, other hosts' processes are not ours to judge


def check_folder(option: str, name: str, *, is_renamed: bool = False) -> None:
    """Raise UserError where the folder that an option names, or one above it, is a file or a link that leads nowhere.

    `is_renamed`: the folder will be built beside its place, which may then be such a link, and no mount point.
    """
    for path in (Path(name), *Path(name).parents):
        subject = "" if path == Path(name) else f"{path} "
        if path.exists() and not path.is_dir():
            raise UserError(f"{option}={name}: {subject}is a file; name a folder to make")
        if (fault := broken_link(path)) and (subject or not is_renamed):
            raise UserError(f"{option}={name}: {subject}{fault}")
    if is_renamed and os.path.ismount(name):
        raise UserError(f"{option}={name}: is a mount point, which no finished folder can replace; name one within it")


def foreign_entries(folder: Path, own: Collection[str]) -> list[str]:
    """Return what a folder holds besides its `own` entries, by name; nothing where there is no folder."""
    return sorted(path.name for path in folder.iterdir() if path.name not in own) if folder.is_dir() else []


def check_replaceable(option: str, folder: Path, own: Collection[str]) -> None:
    """Raise UserError where a folder that is to be replaced holds entries besides its `own`."""
    if others := foreign_entries(folder, own):
        raise UserError(
            f"{option}={folder}: holds something else besides ({others[0]}), which overwrite=true would remove; move "
            "that away, or choose another folder"
        )


@contextmanager
def build_folder(folder: Path, replace: bool = False, option: str = "out_dir=") -> Iterator[Path]:
    """Yield a temporary sibling of `folder` that takes its place when the block ends without exception.

    The sibling is called `folder.partial-<process id>@<host>`; on any exception, SIGTERM included, it is removed. Those
    of this host's processes that were killed are removed at the start. `replace` puts it in the place of a folder that
    exists. Where `folder` is a symbolic link, all this happens to what it names. `option` stands before it in errors.
    """
    folder = beyond_link(folder)
    clean_stale(folder)
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}@{_HOST}")
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{option}{folder}: cannot be written ({error.strerror}: {error.filename})") from None
    try:
        with _sigterm_raises(), writing(folder):
            yield partial
            flush_folder(partial)
            _put_in_place(partial, folder, replace, option)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _put_in_place(partial: Path, folder: Path, replace: bool, option: str) -> None:
    old = partial.with_name(f"{partial.name}-old")
    try:
        if replace and folder.exists():
            os.replace(folder, old)
        os.replace(partial, folder)  # takes the place of an empty folder, and of nothing else
    except BaseException as error:  # Ctrl-C between the two renames too
        if old.exists() and not folder.exists():
            os.replace(old, folder)
        if not isinstance(error, OSError):
            raise
        raise UserError(f"{option}{folder}: cannot be put in place ({error.strerror}); choose another folder") from None
    shutil.rmtree(old, ignore_errors=True)


def clean_stale(folder: Path) -> None:
    """Remove what processes of this host that no longer run have left half built; what they had set aside goes back.

    A process killed between the two renames of `_put_in_place` leaves the old folder, whole, under its other name. One
    of this very number ran before this one, in a container that was started again.
    """
    name = re.compile(re.escape(f"{folder.name}.partial-") + r"(\d+)" + re.escape(f"@{_HOST}") + "(-old)?")
    for path in list(folder.parent.iterdir()) if folder.parent.is_dir() else ():
        match = name.fullmatch(path.name)
        if match is None or (match[1] != str(os.getpid()) and _is_running(int(match[1]))):
            continue
        if match[2] and not folder.exists():
            os.replace(path, folder)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Let SIGTERM unwind the stack, as Ctrl-C does, so that clean-up runs. Only the main thread can arrange that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous if previous is not None else signal.SIG_DFL)


def _exit(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)
