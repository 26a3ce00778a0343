"""Compile the operators' kernels, `csrc/`, with the system's C++ compiler: `python -m dynconv_mt.ops.build`.

The result is `_C.so` beside this file. It uses nothing but PyTorch's stable ABI (torch 2.10 and newer) and nothing of
Python, so one library serves all versions of both. The kernels for x86 are compiled once per instruction set, and the
processor is asked when they first run. Environment: `CXX` names the compiler, `CXXFLAGS` and `LDFLAGS` add options.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

TARGET = Path(__file__).parent / "_C.so"
CSRC = Path(__file__).parents[2] / "csrc"
ANY_MACHINE: dict[str, tuple[str, ...]] = {"cpu/operators.cpp": (), "cpu/kernels_portable.cpp": ()}
X86: dict[str, tuple[str, ...]] = {
    **ANY_MACHINE,
    "cpu/kernels_avx2.cpp": ("-mavx2", "-mfma", "-mf16c"),
    "cpu/kernels_avx512.cpp": ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mf16c"),
}
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=fast", "-Wall", "-Wextra", "-Wno-psabi")
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020a000000000000"  # 2.10, the oldest torch that the library runs with


class BuildError(Exception):
    """Why there are no compiled kernels, in one line."""


def find_compiler() -> list[str]:
    """Return the command that compiles C++: $CXX, or the system's."""
    command = shlex.split(os.environ.get("CXX", "")) or ["c++"]
    if shutil.which(command[0]) is None:
        raise BuildError(f"no C++ compiler: {command[0]!r} is not on the PATH; install one or set CXX")
    return command


def find_torch() -> Path:
    """Return the folder of the installed torch, which has the headers, without importing it."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        raise BuildError("torch is not installed here; with pip, add --no-build-isolation")
    folder = Path(spec.submodule_search_locations[0])
    if not (folder / "include/torch/csrc/stable/ops.h").is_file():
        raise BuildError(f"{folder} has no headers of the stable ABI; torch 2.10 or newer is needed")
    return folder


def run_all(commands: Sequence[Sequence[str]]) -> None:
    """Run commands side by side, and raise BuildError with the first error that one of them prints."""
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for command in commands
    ]
    outputs = [process.communicate()[0] for process in running]
    for command, process, output in zip(commands, running, outputs, strict=True):
        if process.returncode:
            lines = [line for line in output.splitlines() if "error" in line.lower()] or output.splitlines()
            raise BuildError(f"{command[0]} failed: {lines[0].strip() if lines else shlex.join(command)}")


def link_flags(torch: Path) -> list[str]:
    """Return the linker's options. torch's libraries are in memory when ours is loaded: no path is written into it."""
    if sys.platform == "darwin":
        return ["-shared", "-undefined", "dynamic_lookup"]
    return ["-shared", f"-L{torch / 'lib'}", "-ltorch_cpu"]


def is_current(target: Path, csrc: Path) -> bool:
    """Return whether the library is newer than all its sources and this file."""
    if not target.is_file():
        return False
    sources = [Path(__file__), *csrc.rglob("*.h"), *csrc.rglob("*.cpp")]
    return max(path.stat().st_mtime for path in sources) < target.stat().st_mtime


def build(target: Path = TARGET, csrc: Path = CSRC) -> bool:
    """Compile `csrc` to the library `target` and return True, or False where it was there and newer than its sources.

    Raises BuildError where it cannot be done; a library that was there before stays.
    """
    if not csrc.is_dir():
        raise BuildError(f"{csrc} does not exist: kernels are compiled in a checkout or from an sdist")
    if is_current(target, csrc):
        return False
    compiler, torch = find_compiler(), find_torch()
    is_x86 = platform.machine().lower() in {"x86_64", "amd64"}
    sources = X86 if is_x86 else ANY_MACHINE
    common = [*FLAGS, STABLE_ABI, *(["-DDYNCONV_MT_X86"] if is_x86 else []), "-isystem", str(torch / "include")]
    common += shlex.split(os.environ.get("CXXFLAGS", ""))
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".build-") as folder:
        objects = {name: f"{folder}/{Path(name).stem}.o" for name in sources}
        run_all([[*compiler, *common, *sources[name], "-c", str(csrc / name), "-o", objects[name]] for name in sources])
        library = f"{folder}/{target.name}"
        extra = shlex.split(os.environ.get("LDFLAGS", ""))
        run_all([[*compiler, *objects.values(), *link_flags(torch), *extra, "-o", library]])
        os.replace(library, target)  # a process that has loaded the old one keeps it
    return True


def main() -> int:
    """Compile in place, and say in one line what came of it."""
    try:
        print(f"{TARGET}: {'compiled' if build() else 'up to date'}")
    except BuildError as error:
        print(f"no compiled kernels, so the slower reference operators run: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
