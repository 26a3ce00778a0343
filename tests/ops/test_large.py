"""Tensors of more than 2^31 elements: an index of 32 bits would wrap around.

Shapes: T positions, C channels, H heads, K taps.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dynconv_mt.ops import backend

C, H, K = 1024, 2, 3
T = 2**31 // C + 300  # the last 300 positions lie beyond
NEEDED = 10 * 2**20  # KiB: two tensors in bfloat16, and some room
OPERATORS = torch.ops.dynconv_mt


def available_memory() -> int:
    """Return the KiB that Linux could give, 0 elsewhere."""
    file = Path("/proc/meminfo")
    found = re.search(r"MemAvailable:\s+(\d+) kB", file.read_text()) if file.is_file() else None
    return int(found[1]) if found else 0


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.environ.get("DYNCONV_MT_LARGE"), reason="takes a minute: set DYNCONV_MT_LARGE=1"),
    pytest.mark.skipif(backend("cpu") == "reference", reason="no compiled kernels; the reference needs more memory"),
]


def tails(name: str, x: Tensor, taps: Tensor) -> list[Tensor]:
    """Return the last 200 positions of y and of the gradients, with x as the gradient by y; of weights the whole."""
    options: dict[str, Any] = {"padding_left": K - 1, "softmax": True, "dropout": 0.0}
    if name == "dynamic_conv":
        options["kernel_size"] = K
    results = [getattr(OPERATORS, name)(x, taps, None, None, **options)[:, -200:].clone()]
    grad_x, grad_taps = getattr(OPERATORS, f"{name}_backward")(x, x, taps, None, None, **options)
    return [*results, grad_x[:, -200:].clone(), grad_taps[:, -200:] if name == "dynamic_conv" else grad_taps]


@pytest.mark.parametrize("name", ["dynamic_conv", "light_conv"])
def test_the_end_of_a_huge_sentence_is_that_of_a_short_one(name: str) -> None:
    """All is zero but the end, whose results must be those of the end alone."""
    assert available_memory() >= NEEDED, "DYNCONV_MT_LARGE=1 needs 10 GiB of free memory"
    x = torch.zeros(1, T, C, dtype=torch.bfloat16)
    x[:, -200:] = torch.randn(200, C)
    if name == "dynamic_conv":
        logits = torch.randn(1, T, H * K).bfloat16()
        found, expected = tails(name, x, logits), tails(name, x[:, -250:], logits[:, -250:])
    else:
        weight = torch.randn(H, K)
        found, expected = tails(name, x, weight), tails(name, x[:, -250:], weight)
    torch.testing.assert_close(found[:2], expected[:2], rtol=0.0, atol=0.0)
    torch.testing.assert_close(found[2], expected[2], rtol=1e-5, atol=1e-5 * expected[2].abs().max().item())
    assert all(tensor.any() for tensor in found)
