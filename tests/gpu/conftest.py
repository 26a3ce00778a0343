"""Tests here need a GPU and the kernels compiled for it: `python -m dynconv_mt.ops.build --cuda`."""

import pytest

from dynconv_mt.ops import backend


@pytest.fixture(autouse=True)
def compiled_kernels() -> None:
    """Skip where the reference runs on the GPU."""
    if backend("cuda") == "reference":
        pytest.skip("no kernels compiled for GPUs")
