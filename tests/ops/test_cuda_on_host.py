"""The CUDA kernels are the reference, run as plain C++ where there is no GPU; tests/gpu runs them on one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ops import cuda_on_host

from dynconv_mt.ops.build import BuildError


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernels for the host."""
    path = tmp_path_factory.mktemp("cuda") / "on_host.so"
    try:
        cuda_on_host.compile_to(path)
    except BuildError as error:
        if "no C++ compiler" in str(error):
            pytest.skip(str(error))
        raise
    return path


@pytest.mark.slow
@pytest.mark.parametrize("order", ["first to last", "last to first"])
def test_agree_whatever_the_order_of_threads(library: Path, order: str, root: Path) -> None:
    """What the CPU's kernels are tested with, and sizes of the GPU's own."""
    environment = {**os.environ, "DYNCONV_MT_OPS": "reference", "PYTHONPATH": str(root / "tests")}
    environment[cuda_on_host.VARIABLE] = str(library)
    if order == "last to first":
        environment["DYNCONV_MT_REVERSED"] = "1"
    files = [f"tests/ops/{name}.py" for name in ("test_compiled", "test_decoding", "cuda_cases")]
    plugins = ["-p", "ops.cuda_on_host", "-p", "no:cacheprovider"]
    # on a GPU nobody looks what slots hold; the number of the CPU's threads is not that of the kernels
    chosen = ["-k", "not lesser and not numbers and not threads_change"]
    command = [sys.executable, "-m", "pytest", *plugins, *files, *chosen]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
