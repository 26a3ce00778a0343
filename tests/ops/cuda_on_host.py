"""The CUDA kernels compiled as plain C++, where blocks and threads are loops (csrc/cuda/platform.h), behind the CPU.

As a plugin of pytest, `-p ops.cuda_on_host`, it loads the library that DYNCONV_MT_ON_HOST names. Shared memory is then
exactly as large as a kernel asked for, begins as NaN, and asynchronous copies arrive when they are waited for. With
DYNCONV_MT_REVERSED, threads run last to first: results that do not change need no barrier that is not there.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from dynconv_mt.ops import build, library

VARIABLE = "DYNCONV_MT_ON_HOST"
FLAGS = ("-std=c++17", "-O1", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-DDYNCONV_MT_ON_HOST")


def compile_to(target: Path) -> None:
    """Compile the library. Raises BuildError without a compiler."""
    folder = build.find_torch()
    flags = [*build.find_compiler(), *FLAGS, build.STABLE_ABI, "-isystem", f"{folder / 'include'}"]
    flags += build.flags_of("CXXFLAGS")
    sources = [str(build.CSRC / name) for name in (*build.CUDA_HOST, build.CUDA_DEVICE)]
    objects = [f"{target}.{i}.o" for i in range(len(sources))]
    build.run_all([[*flags, "-x", "c++", "-c", source, "-o", to] for source, to in zip(sources, objects, strict=True)])
    build.run_all([[*flags, *objects, *build.link_flags(folder), "-o", str(target)]])


def pytest_configure() -> None:
    """Put the kernels behind the operators for the CPU."""
    assert library.backend("cpu") == "reference", "set DYNCONV_MT_OPS=reference"
    torch.ops.load_library(os.environ[VARIABLE])
    assert library.backend("cpu") == "compiled"
