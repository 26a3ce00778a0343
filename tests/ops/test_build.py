"""Compiling the kernels, or saying why not; and choosing which run."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
import torch

from dynconv_mt.errors import UserError
from dynconv_mt.ops import build, library


def sources(folder: Path, text: str) -> Path:
    """Return a `csrc` all of whose files hold `text`."""
    for name in (*build.X86, *build.CUDA_HOST, build.CUDA_DEVICE):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text(text)
    return folder


def script(path: Path, text: str) -> str:
    """Make `path` a shell script, and return it."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    with pytest.raises(build.BuildError, match="no C\\+\\+ compiler: 'no-such-compiler' is not on the PATH"):
        build.build(tmp_path / "_C.so", sources(tmp_path / "csrc", ""))


def test_without_nvcc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "true")
    monkeypatch.setenv("NVCC", "no-such-nvcc")
    with pytest.raises(build.BuildError, match=r"no CUDA compiler: 'no-such-nvcc' is not on the PATH; .* set NVCC"):
        build.build_cuda(["90"], tmp_path / "_C_cuda.so", sources(tmp_path / "csrc", ""))


def test_without_sources(tmp_path: Path) -> None:
    with pytest.raises(build.BuildError, match="csrc does not exist"):
        build.build(tmp_path / "_C.so", tmp_path / "csrc")


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [("CXX", "'c++", r"CXX='c\+\+: No closing quotation"), ("CXXFLAGS", '"', 'CXXFLAGS=": No closing quotation')],
)
def test_options_that_no_shell_would_read(
    variable: str, value: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(build.BuildError, match=message):
        build.build(tmp_path / "_C.so", sources(tmp_path / "csrc", ""))


def test_a_compiler_that_is_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "compiler").write_bytes(b"\0\0 no machine code")
    (tmp_path / "compiler").chmod(0o755)
    monkeypatch.setenv("CXX", str(tmp_path / "compiler"))
    with pytest.raises(build.BuildError, match="Exec format error"):
        build.build(tmp_path / "_C.so", sources(tmp_path / "csrc", ""))


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(build.BuildError, match="file"):
        build.build(tmp_path / "file" / "_C.so", sources(tmp_path / "csrc", ""))


def test_a_library_without_sources_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in an installed wheel."""
    monkeypatch.setattr(build, "CSRC", tmp_path / "csrc")
    monkeypatch.setattr(build, "TARGET", tmp_path / "_C.so")
    (tmp_path / "_C.so").write_text("machine code")
    assert build.main([]) == 1
    assert capsys.readouterr().err.startswith("_C.so stays as it was: ")
    assert (tmp_path / "_C.so").read_text() == "machine code"


def test_a_compiler_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first error is told in one line, a library that was there stays, and nothing else is left behind."""
    said = ["some note", "some error in a sentence", "x.cpp:1: error: it is broken", "error: two"]
    text = "\n".join([*(f"echo '{line}'" for line in said), "exit 1"])
    monkeypatch.setenv("CXX", script(tmp_path / "compiler", text))
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
    assert not build.is_current(target, csrc, "cpu")
    target.write_text("")
    os.utime(target, (2**33, 2**33))
    assert build.is_current(target, csrc, "cpu")
    assert not build.build(target, csrc)


def test_what_is_edited_while_it_compiles_is_compiled_again(tmp_path: Path) -> None:
    csrc, target = sources(tmp_path / "csrc", ""), tmp_path / "_C.so"
    for path in csrc.rglob("*"):
        os.utime(path, (1, 1))

    def compile_to(library: Path) -> None:
        library.write_text("of the old source")
        for path in csrc.rglob("*"):
            path.touch()

    build.build_in(target, csrc, compile_to)
    assert target.is_file() and not build.is_current(target, csrc, "cpu")


def test_a_library_older_than_its_sources_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "_C.so").write_bytes(b"no machine code")
    os.utime(tmp_path / "_C.so", (1, 1))
    monkeypatch.setattr(library, "CSRC", sources(tmp_path / "csrc", ""))
    with pytest.warns(UserWarning) as warned:
        library.load_compiled(tmp_path)
    assert "is older than its sources; run python -m dynconv_mt.ops.build" in str(warned[0].message)


def test_other_architectures_are_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library knows what it was compiled for."""
    csrc, target = sources(tmp_path / "csrc", ""), tmp_path / "_C_cuda.so"
    target.write_bytes(b"machine code\0" + build.mark_of(["80", "90"]) + b"more")
    os.utime(target, (2**33, 2**33))
    assert not build.build_cuda(["80", "90"], target, csrc)
    monkeypatch.setenv("NVCC", "no-such-nvcc")
    for archs in (["80"], ["90"], ["80", "90", "100"]):
        with pytest.raises(build.BuildError):
            build.build_cuda(archs, target, csrc)


def test_the_architectures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(build.ARCHS_VARIABLE, raising=False)
    assert build.chosen_archs(None) == []
    assert build.chosen_archs("80; 90a,100") == ["80", "90a", "100"]
    monkeypatch.setenv(build.ARCHS_VARIABLE, "90")
    assert build.chosen_archs(None) == ["90"]
    assert build.chosen_archs("80") == ["80"]
    with pytest.raises(build.BuildError, match=r"--cuda=sm_90: 'sm_90' is no architecture such as 90"):
        build.chosen_archs("sm_90")
    monkeypatch.setenv(build.ARCHS_VARIABLE, "all")
    with pytest.raises(build.BuildError, match=r"DYNCONV_MT_CUDA_ARCHS=all: 'all' is no architecture"):
        build.chosen_archs(None)
    assert build.arch_flags(["80", "90"]) == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90,code=[sm_90,compute_90]",
    ]


@pytest.mark.skipif(shutil.which("nvcc") is None or shutil.which("c++") is None, reason="no nvcc, or no C++ compiler")
def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`--cuda` compiles and links, here an empty file; without it, nobody looks for nvcc."""
    built = tmp_path / "_C.so", tmp_path / "_C_cuda.so"
    monkeypatch.setattr(build, "CSRC", sources(tmp_path / "csrc", ""))
    monkeypatch.setattr(build, "TARGET", built[0])
    monkeypatch.setattr(build, "CUDA_TARGET", built[1])
    monkeypatch.delenv(build.ARCHS_VARIABLE, raising=False)
    assert build.main([]) == 0
    assert [path.is_file() for path in built] == [True, False]
    assert build.main(["--cuda", "90"]) == 0
    assert built[1].is_file()
    assert capsys.readouterr().out.splitlines()[1:] == [f"{built[0]}: up to date", f"{built[1]}: compiled for 90"]
    assert build.main(["--cuda", "ninety"]) == 1
    assert capsys.readouterr().err.startswith("_C_cuda.so stays as it was: --cuda=ninety")
    built[1].unlink()
    assert build.main(["--cuda", "ninety"]) == 1
    assert capsys.readouterr().err.startswith("no compiled kernels for GPUs, so the slower reference operators run: ")


def test_kernels_for_gpus_are_loaded_beside_a_torch_with_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "_C_cuda.so").write_bytes(b"no machine code")
    monkeypatch.setattr(torch.version, "cuda", None)
    library.load_compiled(tmp_path)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.warns(UserWarning, match="_C_cuda.so does not load"):
        library.load_compiled(tmp_path)


def test_the_choice_of_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="DYNCONV_MT_OPS=fast: expected compiled or reference"):
        library.load_chosen("fast")
    monkeypatch.setenv("DYNCONV_MT_CPU", "avx1024")
    with pytest.raises(ValueError, match="DYNCONV_MT_CPU=avx1024: expected avx512, avx2 or portable"):
        library.load_chosen("reference")
    monkeypatch.delenv("DYNCONV_MT_CPU")
    library.load_chosen("reference")
    monkeypatch.setattr(library, "load_compiled", lambda folder: None)
    monkeypatch.setattr(library, "backend", lambda device: "reference")
    with pytest.raises(UserError, match=r"DYNCONV_MT_OPS=compiled: .* python -m dynconv_mt\.ops\.build"):
        library.load_chosen("compiled")


@pytest.mark.parametrize(
    ("archs", "capability", "expected"),
    [
        (["80", "90"], (8, 0), True),
        (["80", "90"], (8, 6), True),  # within the major version
        (["80", "90"], (7, 5), False),
        (["80", "90"], (12, 0), True),  # by PTX of the last
        (["90", "80"], (10, 0), True),
        (["90"], (8, 0), False),
        (["86"], (8, 0), False),
        (["90a"], (9, 0), True),
        (["90a"], (10, 0), False),
        (["100"], (10, 3), True),
        (["100f"], (10, 3), True),
        (["100f"], (12, 0), False),
    ],
)
def test_which_gpus_kernels_run_on(archs: list[str], capability: tuple[int, int], expected: bool) -> None:
    assert library.runs_on(archs, capability) is expected


def test_a_gpu_without_kernels_is_named_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(library, "backend", lambda device: "compiled")
    monkeypatch.setattr(library, "compiled_archs", lambda: ["90", "100"])
    gpu = torch.device("cuda", 1)
    with pytest.raises(UserError, match=r"device=cuda:1: is of architecture 80, .* for 90, 100; run .* --cuda 80"):
        library.check_device(gpu)
    monkeypatch.setattr(library, "compiled_archs", lambda: ["80"])
    library.check_device(gpu)
    library.check_device(torch.device("cpu"))
    monkeypatch.setattr(library, "backend", lambda device: "reference")
    monkeypatch.delenv("DYNCONV_MT_OPS", raising=False)
    library.check_device(gpu)
    monkeypatch.setenv("DYNCONV_MT_OPS", "compiled")
    with pytest.raises(UserError, match=r"no kernels for device=cuda; run python -m dynconv_mt\.ops\.build --cuda 80"):
        library.check_device(gpu)


def test_a_compiler_of_several_words() -> None:
    assert build.host_flags(["g++"]) == ["-ccbin=g++"]
    assert build.host_flags(["/usr/bin/ccache", "g++-13", "-m64"]) == ["-ccbin=g++-13", "-Xcompiler=-m64"]


def test_kernels_share_no_code_that_another_machine_could_get(root: Path) -> None:
    """An inline function of a library, compiled for AVX-512, would be one symbol for all instruction sets."""
    waiting, seen, libraries = [f"kernels_{name}.cpp" for name in ("portable", "avx2", "avx512")], set(), set()
    while waiting:
        seen.add(file := waiting.pop())
        for bracket, name in re.findall(r'#\s*include ([<"])([^>"]+)', (root / "csrc" / "cpu" / file).read_text()):
            if bracket == "<":
                libraries.add(name)
            elif name not in seen:
                waiting.append(name)
    assert len(seen) > 8
    assert libraries == {"cstddef", "cstdint", "immintrin.h"}
