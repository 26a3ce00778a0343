"""Compiling the kernels, or saying why not; and choosing which run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dynconv_mt.ops import build, library


def sources(folder: Path, text: str) -> Path:
    """Return a `csrc` all of whose files hold `text`."""
    for name in build.X86:
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text(text)
    return folder


def test_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    with pytest.raises(build.BuildError, match="no C\\+\\+ compiler: 'no-such-compiler' is not on the PATH"):
        build.build(tmp_path / "_C.so", sources(tmp_path / "csrc", ""))


def test_without_sources(tmp_path: Path) -> None:
    with pytest.raises(build.BuildError, match="csrc does not exist"):
        build.build(tmp_path / "_C.so", tmp_path / "csrc")


def test_a_compiler_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first error is told in one line, a library that was there stays, and nothing else is left behind."""
    compiler = tmp_path / "compiler"
    compiler.write_text("#!/bin/sh\necho 'some note'\necho 'x.cpp:1: error: it is broken'\necho 'error: two'\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    target = tmp_path / "out" / "_C.so"
    target.parent.mkdir()
    target.write_text("old")
    os.utime(target, (0, 0))
    with pytest.raises(build.BuildError, match=r"compiler failed: x.cpp:1: error: it is broken$"):
        build.build(target, sources(tmp_path / "csrc", "#error"))
    assert [path.name for path in target.parent.iterdir()] == ["_C.so"]
    assert target.read_text() == "old"


def test_nothing_is_compiled_twice(tmp_path: Path) -> None:
    csrc, target = sources(tmp_path / "csrc", ""), tmp_path / "_C.so"
    assert not build.is_current(target, csrc)
    target.write_text("")
    os.utime(target, (2**33, 2**33))
    assert build.is_current(target, csrc)
    assert not build.build(target, csrc)


def test_the_choice_of_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="DYNCONV_MT_OPS=fast: expected compiled or reference"):
        library.load_chosen("fast")
    library.load_chosen("reference")
    monkeypatch.setattr(library, "load_compiled", lambda folder: None)
    monkeypatch.setattr(library, "backend", lambda device: "reference")
    with pytest.raises(ImportError, match=r"python -m dynconv_mt\.ops\.build"):
        library.load_chosen("compiled")
