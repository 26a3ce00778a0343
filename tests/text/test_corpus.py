"""Reading parallel text: line ends, gzip, and every way in which files can be wrong."""

import gzip
import io
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynconv_mt.errors import UserError
from dynconv_mt.text.corpus import (
    ParallelFile,
    count_pairs,
    find_pair,
    find_side,
    read_lines,
    read_pairs,
    read_parallel,
    read_stream,
)

LINES = st.lists(st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"])))


def write_pair(prefix: Path, src: str, tgt: str) -> str:
    Path(f"{prefix}.en").write_bytes(src.encode())
    Path(f"{prefix}.de").write_bytes(tgt.encode())
    return str(prefix)


@settings(deadline=None)
@given(LINES, st.booleans())
def test_only_a_line_feed_ends_a_line(tmp_path_factory: pytest.TempPathFactory, lines: list[str], packed: bool) -> None:
    path = tmp_path_factory.mktemp("lines") / "file"
    data = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(data) if packed else data)
    expected = [lines[0].removeprefix("\ufeff"), *lines[1:]] if lines else []
    assert list(read_lines(path)) == expected


@settings(deadline=None)
@given(LINES.filter(bool), st.booleans(), st.booleans())
def test_pairs_are_counted_as_they_are_read(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], packed: bool, ends: bool
) -> None:
    paths = [tmp_path_factory.mktemp("lines") / f"file.{lang}" for lang in ("en", "de")]
    data = "\n".join(lines).encode() + b"\n" * (ends or not lines[-1])
    for path in paths:
        path.write_bytes(gzip.compress(data) if packed else data)
    files = ParallelFile(*paths)
    assert count_pairs(files) == len(list(read_parallel(files))) == len(lines)


def test_windows_line_ends_and_a_missing_last_line_feed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes("\ufeffone\r\ntwo\u2028still two\r\n\r\nfour".encode())
    assert list(read_lines(path)) == ["one", "two\u2028still two", "", "four"]


def test_plain_is_preferred_to_gzip_and_either_is_found(tmp_path: Path) -> None:
    (tmp_path / "train.en.gz").write_bytes(gzip.compress(b"packed\n"))
    assert find_side(str(tmp_path / "train"), "en") == tmp_path / "train.en.gz"
    (tmp_path / "train.en").write_text("plain\n")
    assert list(read_lines(find_side(str(tmp_path / "train"), "en"))) == ["plain"]


def test_several_corpora_follow_each_other(tmp_path: Path) -> None:
    names = [write_pair(tmp_path / "a", "1\n2\n", "x\ny\n"), write_pair(tmp_path / "b", "3", "z")]
    assert list(read_pairs(names, "en", "de")) == [("1", "x"), ("2", "y"), ("3", "z")]


@pytest.mark.parametrize(("src", "tgt"), [("1\n2\n3\n", "x\n"), ("1\n", "x\ny\nz"), ("1\n2\n", "x\n")])
def test_different_line_counts_are_named(tmp_path: Path, src: str, tgt: str) -> None:
    counts = [len(text.rstrip("\n").split("\n")) for text in (src, tgt)]
    expected = rf"c\.en has {counts[0]} lines and \S*c\.de has {counts[1]}"
    with pytest.raises(UserError, match=expected):
        list(read_pairs(write_pair(tmp_path / "c", src, tgt), "en", "de"))
    with pytest.raises(UserError, match=expected):
        count_pairs(find_pair(str(tmp_path / "c"), "en", "de"))


def test_a_file_of_carriage_returns_is_no_single_line(tmp_path: Path) -> None:
    (tmp_path / "a.en").write_bytes(b"one\rtwo\rthree\r")
    with pytest.raises(UserError, match=r"a\.en: its lines end in carriage returns alone"):
        list(read_lines(tmp_path / "a.en"))
    (tmp_path / "a.de").write_bytes(b"eins\nzwei\ndrei\n")
    with pytest.raises(UserError, match=r"a\.en: its lines end in carriage returns alone"):
        count_pairs(find_pair(str(tmp_path / "a"), "en", "de"))
    (tmp_path / "a.en").write_bytes(b"one\rtwo\n")
    assert list(read_lines(tmp_path / "a.en")) == ["one\rtwo"]
    (tmp_path / "a.en").write_bytes(b"one\rtwo\nthree\r\n")
    assert list(read_lines(tmp_path / "a.en")) == ["one\rtwo", "three"]


def test_one_end_of_file_at_a_terminal_is_enough() -> None:
    class Terminal(io.RawIOBase):
        lines: ClassVar = [b"one\n", b"two\n", b"", b"three\n", b""]

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            line = self.lines.pop(0)
            buffer[: len(line)] = line
            return len(line)

    stream: Any = io.BufferedReader(Terminal())
    assert list(read_stream(stream, "standard input")) == ["one", "two"]
    assert list(read_stream(stream, "standard input")) == ["three"]
    assert Terminal.lines == []


def test_invalid_utf8_names_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "bad.en").write_bytes(b"good\nna\xefve\n")
    with pytest.raises(UserError, match=r"bad\.en, line 2: not UTF-8 \(byte 0xef at position 3"):
        list(read_lines(tmp_path / "bad.en"))


@pytest.mark.parametrize(("src", "tgt", "name"), [("", "x\n", "e.en"), ("x\n", "", "e.de"), ("", "", "e.en")])
def test_an_empty_file_is_named(tmp_path: Path, src: str, tgt: str, name: str) -> None:
    with pytest.raises(UserError, match=rf"{name}: is empty"):
        list(read_pairs(write_pair(tmp_path / "e", src, tgt), "en", "de"))
    with pytest.raises(UserError, match=rf"{name}: is empty"):
        count_pairs(find_pair(str(tmp_path / "e"), "en", "de"))


def test_a_missing_file_names_what_was_tried(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train=\S+/no: neither \S+/no\.en nor \S+/no\.en\.gz is a file"):
        find_side(str(tmp_path / "no"), "en", "train")


def test_a_truncated_gzip_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "cut.en.gz"
    path.write_bytes(gzip.compress("".join(f"line {i}\n" for i in range(10_000)).encode())[:-2000])
    with pytest.raises(UserError, match=r"cut\.en\.gz, after line \d+: damaged gzip"):
        list(read_lines(path))
    with pytest.raises(UserError, match=r"cut\.en\.gz, after line \d+: damaged gzip"):
        count_pairs(ParallelFile(path, path))
