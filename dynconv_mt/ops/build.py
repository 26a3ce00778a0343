"""Compile the operators' kernels, `csrc/`, with the system's compilers: `python -m dynconv_mt.ops.build [--cuda]`.

The results are `_C.so` and `_C_cuda.so` beside this file. They use nothing but PyTorch's stable ABI (torch 2.10 and
newer) and nothing of Python, so one library serves all versions of both, and neither needs a torch with CUDA to be
compiled. The kernels for x86 are compiled once per instruction set, and the processor is asked when they first run.

Kernels for GPUs are compiled on demand alone, whether or not there is a GPU: `--cuda`, or the environment variable
DYNCONV_MT_CUDA_ARCHS with the architectures, such as "80;90;100". Code for the last one is added as PTX too, which the
driver compiles for any later GPU.

Environment: `CXX` and `NVCC` name the compilers; `CXXFLAGS`, `NVCCFLAGS` and `LDFLAGS` add options.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

TARGET = Path(__file__).parent / "_C.so"
CUDA_TARGET = Path(__file__).parent / "_C_cuda.so"
CSRC = Path(__file__).parents[2] / "csrc"
ANY_MACHINE: dict[str, tuple[str, ...]] = {
    "cpu/operators.cpp": (),
    "cpu/decoding.cpp": (),
    "cpu/choice.cpp": (),
    "cpu/kernels_portable.cpp": (),
}
X86: dict[str, tuple[str, ...]] = {
    **ANY_MACHINE,
    "cpu/kernels_avx2.cpp": ("-mavx2", "-mfma", "-mf16c"),
    "cpu/kernels_avx512.cpp": ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mf16c"),
}
CUDA_HOST = ("cuda/operators.cpp", "cuda/decoding.cpp")
CUDA_DEVICE = "cuda/kernels.cu"
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra")
CPU_FLAGS = ("-ffp-contract=fast", "-Wno-psabi")
NVCC_FLAGS = ("-std=c++17", "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wextra")
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020a000000000000"  # 2.10, the oldest torch that the library runs with
ARCHS_VARIABLE = "DYNCONV_MT_CUDA_ARCHS"
LAUNCHERS = ("ccache", "sccache", "distcc")  # what may stand before a compiler
ARCHS = "80;90;100"  # A100, H100 and H200, B200


# of a compiler, an assembler ("Error: ...") or a linker
_ERROR = re.compile(r"\berror\b.*:|cannot find|undefined reference", re.IGNORECASE)


class BuildError(Exception):
    """Why kernels were not compiled, in one line."""


def find_compiler(variable: str = "CXX", default: str = "c++") -> list[str]:
    """Return the command of a compiler: what the environment variable says, or the system's."""
    command = flags_of(variable) or [default]
    if shutil.which(command[0]) is None:
        language = {"CXX": "C++", "NVCC": "CUDA"}[variable]
        raise BuildError(f"no {language} compiler: {command[0]!r} is not on the PATH; install one or set {variable}")
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


def flags_of(variable: str) -> list[str]:
    """Return the words of an environment variable, as a shell would part them."""
    text = os.environ.get(variable, "")
    try:
        return shlex.split(text)
    except ValueError as error:
        raise BuildError(f"{variable}={text}: {error}") from None


def run_all(commands: Sequence[Sequence[str]]) -> None:
    """Run commands side by side, and raise BuildError with the first error that one of them prints."""
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for command in commands
    ]
    outputs = [process.communicate()[0] for process in running]
    for command, process, output in zip(commands, running, outputs, strict=True):
        if process.returncode:
            # collect2's own line only says that the linker failed, whose lines stand before it
            lines = [line for line in output.splitlines() if not line.startswith("collect2:")]
            lines = [line for line in lines if _ERROR.search(line)] or lines
            raise BuildError(f"{command[0]} failed: {lines[0].strip() if lines else shlex.join(command)}")


def link_flags(torch: Path) -> list[str]:
    """Return the linker's options. torch's libraries are in memory when ours is loaded: no path is written into it."""
    if sys.platform == "darwin":
        return ["-shared", "-undefined", "dynamic_lookup"]
    return ["-shared", f"-L{torch / 'lib'}", "-ltorch_cpu"]


def is_current(target: Path, csrc: Path, part: str) -> bool:
    """Return whether the library is newer than the sources of its part of `csrc`, cpu or cuda, and than this file."""
    if not (target.is_file() and csrc.is_dir()):
        return False
    sources = [Path(__file__), *csrc.glob("*.h"), *(csrc / part).iterdir()]
    return max(path.stat().st_mtime for path in sources) < target.stat().st_mtime


def build_in(target: Path, csrc: Path, compile_to: Callable[[Path], None]) -> None:
    """Let `compile_to` write the library into a folder of its own, then put it in its place.

    A process that has loaded the old one keeps it, and it stays if compiling fails.
    """
    if not csrc.is_dir():
        raise BuildError(f"{csrc} does not exist: kernels are compiled in a checkout or from an sdist")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".build-") as folder:
            library, started = Path(folder) / target.name, time.time()
            compile_to(library)
            os.utime(library, (started, started))  # what is edited meanwhile is newer
            os.replace(library, target)
    except OSError as error:  # of the folder, or of a compiler that is no program
        raise BuildError(str(error)) from None


def build(target: Path = TARGET, csrc: Path = CSRC) -> bool:
    """Compile the kernels for the CPU to the library `target`, unless it is there and newer than its sources.

    Returns whether it was compiled. Raises BuildError where it cannot be done; what was there before stays.
    """
    if is_current(target, csrc, "cpu"):
        return False

    def compile_to(library: Path) -> None:
        compiler, torch, folder = find_compiler(), find_torch(), library.parent
        is_x86 = platform.machine().lower() in {"x86_64", "amd64"}
        sources = X86 if is_x86 else ANY_MACHINE
        common = [*FLAGS, *CPU_FLAGS, STABLE_ABI, *(["-DDYNCONV_MT_X86"] if is_x86 else [])]
        common += ["-isystem", str(torch / "include"), *flags_of("CXXFLAGS")]
        objects = {name: f"{folder}/{Path(name).stem}.o" for name in sources}
        run_all([[*compiler, *common, *sources[name], "-c", str(csrc / name), "-o", objects[name]] for name in sources])
        run_all([[*compiler, *objects.values(), *link_flags(torch), *flags_of("LDFLAGS"), "-o", str(library)]])

    build_in(target, csrc, compile_to)
    return True


def chosen_archs(option: str | None) -> list[str]:
    """Return the architectures to compile for, from the option or else the environment; none without either.

    Raises BuildError, which names where they stand, for one that is not like 90 or 90a.
    """
    name, text = ("--cuda", option) if option else (ARCHS_VARIABLE, os.environ.get(ARCHS_VARIABLE, ""))
    archs = re.findall(r"[^;,\s]+", text)
    for arch in archs:
        if not re.fullmatch(r"\d{2,3}[af]?", arch):
            raise BuildError(f"{name}={text}: {arch!r} is no architecture such as 90; several read {ARCHS!r}")
    return archs


def arch_flags(archs: Sequence[str]) -> list[str]:
    """Return nvcc's options for machine code for every architecture, and PTX of the last."""
    flags = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs[:-1]]
    return [*flags, f"-gencode=arch=compute_{archs[-1]},code=[sm_{archs[-1]},compute_{archs[-1]}]"]


def build_cuda(archs: Sequence[str], target: Path = CUDA_TARGET, csrc: Path = CSRC) -> bool:
    """Compile the kernels for GPUs, for at least one architecture; else like `build`."""
    if is_current(target, csrc, "cuda") and mark_of(archs) in target.read_bytes():
        return False

    def compile_to(library: Path) -> None:
        compiler, nvcc, torch = find_compiler(), find_compiler("NVCC", "nvcc"), find_torch()
        folder = library.parent
        include = ["-isystem", str(torch / "include")]
        common = [*FLAGS, STABLE_ABI, "-DUSE_CUDA", f'-DDYNCONV_MT_ARCHS="{";".join(archs)}"', *include]
        nvcc_flags = [*NVCC_FLAGS, *host_flags(compiler), *include, *arch_flags(archs), *flags_of("NVCCFLAGS")]
        objects = {name: f"{folder}/{Path(name).stem}.o" for name in (*CUDA_HOST, CUDA_DEVICE)}
        common += flags_of("CXXFLAGS")
        commands = [[*compiler, *common, "-c", str(csrc / name), "-o", objects[name]] for name in CUDA_HOST]
        commands.append([*nvcc, *nvcc_flags, "-c", str(csrc / CUDA_DEVICE), "-o", objects[CUDA_DEVICE]])
        # libtorch_cuda.so is not there beside a torch for the CPU: a library of that name lets ours ask for it
        stand_in = ["-shared", "-x", "c++", os.devnull, "-Wl,-soname,libtorch_cuda.so"]
        run_all([*commands, [*compiler, *stand_in, "-o", f"{folder}/libtorch_cuda.so"]])
        # CUDA's runtime becomes a hidden part of the library: it may differ from torch's
        hidden = ["-cudart=static", *host_flags(compiler), "-Xlinker=--no-as-needed,--exclude-libs=ALL"]
        link = [*objects.values(), *link_flags(torch), f"-L{folder}", "-ltorch_cuda", *hidden, *flags_of("LDFLAGS")]
        run_all([[*nvcc, *link, "-o", str(library)]])

    build_in(target, csrc, compile_to)
    return True


def host_flags(compiler: Sequence[str]) -> list[str]:
    """Return nvcc's options for the C++ compiler, which it takes without a launcher and with its options apart."""
    program, *flags = compiler[1:] if len(compiler) > 1 and Path(compiler[0]).name in LAUNCHERS else compiler
    return [f"-ccbin={program}", *(f"-Xcompiler={flag}" for flag in flags)]


def mark_of(archs: Sequence[str]) -> bytes:
    """Return what a library compiled for these architectures has in it (csrc/cuda/operators.cpp)."""
    return f"dynconv_mt archs {';'.join(archs)}\0".encode()


def consequence(target: Path, error: BuildError) -> str:
    """Return one line that says why the library `target` was not compiled, and what runs therefore."""
    what = "kernels for GPUs" if target.name == CUDA_TARGET.name else "kernels"
    if target.is_file():
        return f"{target.name} stays as it was: {error}"
    return f"no compiled {what}, so the slower reference operators run: {error}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile in place, and say in one line what came of it."""
    parser = argparse.ArgumentParser(prog="python -m dynconv_mt.ops.build", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--cuda",
        nargs="?",
        const="",
        metavar="ARCHS",
        help=f"also for GPUs of these architectures: {ARCHS!r} if none are named, neither here nor in {ARCHS_VARIABLE}",
    )
    options = parser.parse_args(arguments)
    target = TARGET
    try:
        print(f"{TARGET}: {'compiled' if build(TARGET, CSRC) else 'up to date'}", flush=True)
        target = CUDA_TARGET
        if archs := chosen_archs(options.cuda) or (ARCHS.split(";") if options.cuda == "" else []):
            is_new = build_cuda(archs, CUDA_TARGET, CSRC)
            print(f"{CUDA_TARGET}: {'compiled' if is_new else 'up to date'} for {', '.join(archs)}")
        elif CUDA_TARGET.is_file() and not is_current(CUDA_TARGET, CSRC, "cuda"):
            print(f"{CUDA_TARGET}: is older than its sources; compile it with --cuda ARCHS, or remove it")
    except BuildError as error:
        print(consequence(target, error), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
