"""Folders that appear whole or not at all, and the checkpoints of a run.

    RUN/checkpoints/step_00001000/
        model.safetensors  config.json  text/      a model directory
        state/trainer.json  state/*.safetensors    what resuming needs besides
        manifest.json                              size and SHA-256 of every other file; written last

A folder is filled under a temporary name beside its place, flushed to the disk, and renamed. One that it replaces is
set aside until then: between the two renames it is whole under another name, and the next start puts it back.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from dynconv_mt.errors import UserError
from dynconv_mt.files import beyond_link, broken_link, files_below, flush, flush_folder, hash_file, to_json, writing

MANIFEST = "manifest.json"
STATE = "state"
FORMAT = 1
_NAME = re.compile(r"step_(\d{8,})")
_TEMPORARY = ".tmp_"
_REPLACED = f"{_TEMPORARY}replaced_"


def checkpoint_folder(run: Path, update: int) -> Path:
    """Return where the checkpoint after `update` updates belongs."""
    return run / "checkpoints" / f"step_{update:08d}"


def checkpoint_update(folder: Path) -> int:
    """Return the number of updates in a checkpoint's name."""
    match = _NAME.fullmatch(folder.name)
    assert match, f"{folder} is not named as a checkpoint"
    return int(match[1])


def list_checkpoints(run: Path) -> list[Path]:
    """Return the checkpoints of a run, oldest first, sound or not; UserError where their folder cannot be read.

    A link that leads nowhere counts as well: a disk that is not mounted must not look like a run that never saved.
    """
    folder = run / "checkpoints"
    try:
        found = [folder / name for name in os.listdir(folder) if _NAME.fullmatch(name)]
    except FileNotFoundError:
        if fault := broken_link(folder):
            raise UserError(f"{folder}: {fault}") from None
        return []
    except (PermissionError, NotADirectoryError) as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from None
    return sorted((path for path in found if path.is_dir() or path.is_symlink()), key=checkpoint_update)


def newest_sound(run: Path) -> tuple[Path | None, list[str]]:
    """Return the newest checkpoint whose files are as they were written, and what is wrong with the newer ones."""
    complaints: list[str] = []
    for folder in reversed(list_checkpoints(run)):
        damage = find_damage(folder)
        if damage is None:
            return folder, complaints
        complaints.append(f"{folder}: {damage}")
    return None, complaints


def find_damage(folder: Path, entries: Collection[str] | None = None) -> str | None:
    """Return what is wrong with a checkpoint, None if every file has the size and hash of the manifest.

    `entries`: which files and folders of it count; None: all.
    """

    def counts(name: str) -> bool:
        return entries is None or name.split("/")[0] in entries

    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files: dict[str, dict[str, Any]] = dict(manifest["files"])
        if manifest["format"] != FORMAT:
            return f"{MANIFEST} has format {manifest['format']}, and this version reads {FORMAT}"
        expected = {name: (entry["size"], entry["sha256"]) for name, entry in files.items() if counts(name)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"{MANIFEST} is missing or damaged ({type(error).__name__})"
    below = {path.relative_to(folder).as_posix(): path for path in files_below(folder)}
    found = {name: path for name, path in below.items() if name != MANIFEST and counts(name)}
    if odd := sorted(set(found) ^ set(expected)):
        return f"{odd[0]} is {'not in the manifest' if odd[0] in found else 'missing'}"
    for name, path in found.items():
        if difference := _difference(path, *expected[name]):
            return f"{name} {difference}"
    return None


def _difference(path: Path, size: int, sha256: str) -> str | None:
    try:
        if path.stat().st_size != size:
            return f"has {path.stat().st_size} bytes, not {size}"
        return None if hash_file(path) == sha256 else "was altered (its hash differs)"
    except OSError as error:  # of a disk that fails
        return f"cannot be read ({error.strerror})"


def write_folder(folder: Path, fill: Callable[[Path], None], *, with_manifest: bool = True) -> None:
    """Let `fill` write into a new folder, and give it its name when all is on the disk. Replaces an older `folder`."""
    folder = beyond_link(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary, replaced = (folder.parent / f"{prefix}{folder.name}" for prefix in (_TEMPORARY, _REPLACED))
    _put_back(replaced)
    for left in (temporary, replaced):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    temporary.mkdir()
    try:
        with writing(folder):
            fill(temporary)
            flush_folder(temporary)
            if with_manifest:
                _write_manifest(temporary)
            if folder.exists():
                os.rename(folder, replaced)
            os.rename(temporary, folder)
    except BaseException:
        _put_back(replaced)
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    flush(folder.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _put_back(replaced: Path) -> None:
    """Give a folder set aside its name back, unless what was to replace it has come to be."""
    folder = replaced.with_name(replaced.name.removeprefix(_REPLACED))
    if replaced.exists() and not folder.exists():
        os.rename(replaced, folder)


def remove_folder(folder: Path) -> None:
    """Remove a folder; it loses its name first, so that no half of it is ever taken for a whole.

    Of a symbolic link nothing but the link is removed.
    """
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        doomed = folder.parent / f"{_TEMPORARY}removed_{folder.name}"
        shutil.rmtree(doomed, ignore_errors=True)
        os.rename(folder, doomed)
        shutil.rmtree(doomed)


def put_all_back(run: Path) -> None:
    """Give folders of a run that were set aside for others which did not come to be their names back."""
    for parent in (run, run / "checkpoints"):
        for replaced in parent.glob(f"{_REPLACED}*"):
            _put_back(replaced)


def clean_temporary(run: Path) -> list[str]:
    """Do as `put_all_back`, and remove what an interrupted save or removal left in a run folder; return the names."""
    put_all_back(run)
    left = [path for parent in (run, run / "checkpoints") for path in parent.glob(f"{_TEMPORARY}*")]
    for path in left:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return [path.name for path in left]


def prune(run: Path, keep: Collection[int]) -> None:
    """Remove all checkpoints but the newest and those of the updates `keep`."""
    for folder in list_checkpoints(run)[:-1]:
        if checkpoint_update(folder) not in keep:
            remove_folder(folder)


def write_json(path: Path, data: Any) -> None:
    """Write a JSON file under a temporary name, flush it and rename it."""
    write_text(path, to_json(data, indent=1))


def write_text(path: Path, text: str) -> None:
    """Write a text file under a temporary name, flush it and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{_TEMPORARY}{path.name}")
    temporary.write_text(text, encoding="utf-8")
    flush(temporary)
    os.replace(temporary, path)
    flush(path.parent)


def _write_manifest(folder: Path) -> None:
    files = {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": hash_file(path)}
        for path in sorted(files_below(folder))
    }
    write_json(folder / MANIFEST, {"format": FORMAT, "files": files})
