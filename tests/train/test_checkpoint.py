"""Folders that appear whole or not at all."""

import json
import os
from pathlib import Path

import pytest

from dynconv_mt.train.checkpoint import (
    checkpoint_folder,
    clean_temporary,
    find_damage,
    list_checkpoints,
    newest_sound,
    prune,
    write_folder,
)


def fill(folder: Path) -> None:
    (folder / "state").mkdir()
    (folder / "model.safetensors").write_bytes(bytes(range(200)))
    (folder / "state" / "trainer.json").write_text("{}")


def save(run: Path, *updates: int) -> None:
    for update in updates:
        write_folder(checkpoint_folder(run, update), fill)


def test_a_whole_one_is_sound(tmp_path: Path) -> None:
    save(tmp_path, 5, 100)
    assert [find_damage(folder) for folder in list_checkpoints(tmp_path)] == [None, None]
    assert newest_sound(tmp_path) == (checkpoint_folder(tmp_path, 100), [])


def test_a_failed_save_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        fill(folder)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_folder(checkpoint_folder(tmp_path, 5), fail)
    assert list((tmp_path / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "add", "manifest", "lie"])
def test_damage_is_found(tmp_path: Path, damage: str) -> None:
    save(tmp_path, 5, 6)
    folder = checkpoint_folder(tmp_path, 6)
    weights, manifest = folder / "model.safetensors", folder / "manifest.json"
    if damage == "truncate":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif damage == "flip":
        weights.write_bytes(bytes([weights.read_bytes()[0] ^ 1]) + weights.read_bytes()[1:])
    elif damage == "remove":
        weights.unlink()
    elif damage == "add":
        (folder / "state" / "evil.pt").touch()
    elif damage == "manifest":
        manifest.unlink()
    else:
        manifest.write_text(json.dumps({"format": 1, "files": []}))
    sound, complaints = newest_sound(tmp_path)
    assert sound == checkpoint_folder(tmp_path, 5)
    assert len(complaints) == 1 and str(folder) in complaints[0]


def test_replaced_whole(tmp_path: Path) -> None:
    save(tmp_path, 5)
    (checkpoint_folder(tmp_path, 5) / "stray").touch()
    save(tmp_path, 5)
    assert find_damage(checkpoint_folder(tmp_path, 5)) is None


def test_what_a_killed_replacement_had_set_aside_is_no_hindrance(tmp_path: Path) -> None:
    save(tmp_path, 5)
    aside = checkpoint_folder(tmp_path, 5).with_name(".tmp_replaced_step_00000005")
    aside.mkdir()
    (aside / "file").touch()
    save(tmp_path, 5)
    assert find_damage(checkpoint_folder(tmp_path, 5)) is None
    assert not aside.exists()


def test_killed_between_two_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint that was being replaced, perhaps the only one, is put back at the next start."""

    class Killed(BaseException):
        pass

    save(tmp_path, 5)
    folder = checkpoint_folder(tmp_path, 5)
    rename = os.rename

    def die(source: Path, target: Path) -> None:
        if Path(source).name == ".tmp_step_00000005":
            monkeypatch.setattr(os, "rename", lambda *_: pytest.fail("a dead process renames nothing"))
            monkeypatch.setattr("dynconv_mt.train.checkpoint._put_back", lambda _: None)
            monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)
            raise Killed
        rename(source, target)

    monkeypatch.setattr(os, "rename", die)
    with pytest.raises(Killed):
        save(tmp_path, 5)
    monkeypatch.undo()
    assert list_checkpoints(tmp_path) == []
    assert clean_temporary(tmp_path) == [".tmp_step_00000005"]
    assert newest_sound(tmp_path) == (folder, [])


def test_leftovers_are_no_checkpoints_and_are_cleaned(tmp_path: Path) -> None:
    save(tmp_path, 5)
    leftover = tmp_path / "checkpoints" / ".tmp_step_00000009"
    leftover.mkdir()
    fill(leftover)
    assert list_checkpoints(tmp_path) == [checkpoint_folder(tmp_path, 5)]
    assert clean_temporary(tmp_path) == [leftover.name]
    assert not leftover.exists()


def test_of_a_link_only_the_link_is_removed(tmp_path: Path) -> None:
    """Somebody may have moved a checkpoint to a larger disk."""
    save(tmp_path, 1, 2)
    folder, moved = checkpoint_folder(tmp_path, 1), tmp_path / "moved"
    folder.rename(moved)
    folder.symlink_to(moved)
    (tmp_path / "checkpoints" / ".tmp_removed").symlink_to(moved)
    prune(tmp_path, set())
    assert list_checkpoints(tmp_path) == [checkpoint_folder(tmp_path, 2)]
    assert clean_temporary(tmp_path) == [".tmp_removed"]
    assert clean_temporary(tmp_path) == []
    assert find_damage(moved) is None


def test_prune_keeps_the_newest_whatever_is_asked(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 3, 4)
    prune(tmp_path, {2})
    assert list_checkpoints(tmp_path) == [checkpoint_folder(tmp_path, update) for update in (2, 4)]


def test_all_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed, fsync, rename = list[str](), os.fsync, os.rename

    def note(descriptor: int) -> None:
        flushed.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def check(source: Path, target: Path) -> None:
        assert {str(path) for path in Path(source).rglob("*")} - {*flushed, f"{source}/manifest.json"} == set()
        rename(source, target)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(os, "rename", check)
    write_folder(checkpoint_folder(tmp_path, 5), fill)
    assert str(tmp_path / "checkpoints") in flushed
