"""Progress: a bar on a terminal, lines in a file, nothing of short work."""

from __future__ import annotations

import os
import pty
import sys

import pytest

from dynconv_mt import progress
from dynconv_mt.progress import Bar


def test_a_log_file_gets_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 1e-9)
    with Bar(desc="translate", total=4000, unit=" lines") as bar:
        bar.update(1000)
        bar.update(3000)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" lines, ")[0] for line in lines] == [
        "translate: 1,000 of 4,000",
        "translate: 4,000 of 4,000",
    ]
    assert all(" lines/s, left 00:00" in line for line in lines)


def test_what_has_no_known_end_has_no_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 1e-9)
    assert list(Bar(iter("ab"), desc="count words", unit=" lines")) == ["a", "b"]
    first, *_ = capsys.readouterr().err.splitlines()
    assert first.startswith("count words: 1 lines, ")
    assert "left" not in first


def test_a_pipe_that_is_closed_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 1e-9)
    theirs, ours = os.pipe()
    os.close(theirs)
    monkeypatch.setattr(sys, "stderr", os.fdopen(ours, "w"))
    with Bar(desc="translate", total=2, unit=" lines") as bar:
        bar.update()
        bar.update()


def test_short_work_says_nothing_there(capsys: pytest.CaptureFixture[str]) -> None:
    with Bar(desc="translate", total=2, unit=" lines") as bar:
        bar.update(2)
    assert list(Bar(range(3), desc="translate")) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with Bar(desc="translate", total=2, unit=" lines", ncols=80, nrows=24) as bar:
            bar.update(2)
        drawn = os.read(ours, 10_000).decode()
    os.close(ours)
    assert "\r" in drawn
    assert "100%" in drawn
