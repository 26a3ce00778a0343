"""Files that are whole or absent, and copies of folders."""

import errno
import json
import os
import threading
from pathlib import Path

import pytest

from dynconv_mt.errors import UserError
from dynconv_mt.files import GrowingFile, copy_folder, growing_files, to_json, write_file, writing


def test_a_folder_in_which_nothing_can_be_made(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gone/a: cannot be made"):
        write_file(tmp_path / "gone" / "a", "text")


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_file(tmp_path / "a", "ä")
    assert (tmp_path / "a").read_bytes() == "ä".encode()
    with pytest.raises(UnicodeEncodeError):
        write_file(tmp_path / "a", "\ud800")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == "ä".encode()


def test_links_stay_links_and_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    write_file(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"
    pipe, received = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()))
    reader.start()
    write_file(pipe, "through")
    reader.join()
    assert received == [b"through"]
    assert pipe.is_fifo()


def test_a_file_that_grows_has_its_name_when_it_is_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    with growing_files([tmp_path / "link", tmp_path / ("x" * 255)]) as (one, other):
        one.write("ä")
        other.write("b")
        assert (tmp_path / "target").read_text() == "old" and not other.path.exists()
        one.commit()
        other.commit()
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == "ä\n".encode()
    with pytest.raises(KeyboardInterrupt), growing_files([tmp_path / "out", tmp_path / "empty"]) as (one, other):
        one.write("a beginning")
        raise KeyboardInterrupt
    assert "out: is not finished; what was written is in" in caplog.text
    assert (tmp_path / "out.partial").read_text() == "a beginning\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "out.partial", "target", "x" * 255]
    device = GrowingFile(Path(os.devnull))
    device.write("nothing")
    assert device.abandon() is None


def test_json_holds_file_names_that_are_no_utf8() -> None:
    name = os.fsdecode(b"caf\xe9 \xc3\xa4")
    text = to_json({"data_dir": name})
    assert "ä" in text
    text.encode("utf-8")
    assert json.loads(text) == {"data_dir": name}


def test_a_copy_leaves_out_what_it_is_told_to(tmp_path: Path) -> None:
    for name in ("a", "sub/b", "state/c"):
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    copy_folder(tmp_path / "source", tmp_path / "target", leave_out=["state"])
    copies = {path.relative_to(tmp_path / "target").as_posix(): path for path in (tmp_path / "target").rglob("*")}
    assert {name for name, path in copies.items() if path.is_file()} == {"a", "sub/b"}
    assert copies["sub/b"].read_text() == "sub/b"


def test_an_error_names_what_was_written() -> None:
    with pytest.raises(OSError, match="place") as caught, writing(Path("place")):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(FileNotFoundError, match="nothing"), writing(Path("place")):
        Path("nothing").read_text()
