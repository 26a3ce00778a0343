"""Sizes at which the CUDA kernels take another way: several heads or several chunks of one to a block, few positions,
kernels too wide for shared memory. `test_cuda_on_host` runs them where the kernels run as plain C++.

Shapes: B sentences, T positions, C channels, H heads, E = C / H, K taps.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from ops.test_compiled import LAYOUTS, OPERATORS, TOLERANCES, Options, all_results, compare, random_inputs

from dynconv_mt.ops import reference

KERNEL_SIZES = [*range(1, 10), 15, 16, 31, 32, 63, 64, 127, 255, 600, 1300]
NUM_POSITIONS = [1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 100, 127, 128, 129, 255, 257, 300]
HEAD_WIDTHS = [1, 2, 4, 8, 16, 20, 32, 64, 128, 136, 200, 300]
MOST_WORK = 6e6  # multiplications: seconds


@settings(max_examples=100)
@given(st.data())
def test_agree_at_any_blocks(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(list(TOLERANCES)), "dtype")
    kernel_size = data.draw(st.sampled_from(KERNEL_SIZES), "K")
    num_heads, width = data.draw(st.sampled_from([1, 2, 3, 5, 8, 16, 40]), "H"), data.draw(st.sampled_from(HEAD_WIDTHS))
    num_sentences, num_positions = data.draw(st.integers(1, 2), "B"), data.draw(st.sampled_from(NUM_POSITIONS), "T")
    shape = (num_sentences, num_positions, num_heads * width)
    assume(torch.Size(shape).numel() * kernel_size < MOST_WORK)
    x, logits, weight, grad_y = random_inputs(shape, num_heads, kernel_size, dtype)
    lay_out = data.draw(st.sampled_from(LAYOUTS), "layout")
    dropout = data.draw(st.sampled_from([0.0, 0.3]), "dropout")
    lengths = data.draw(st.lists(st.integers(0, num_positions), min_size=num_sentences, max_size=num_sentences))
    usual = st.sampled_from([kernel_size - 1, kernel_size // 2, 0])
    options: Options = {
        "padding_left": data.draw(usual | st.integers(-400, 700), "padding_left"),
        "softmax": data.draw(st.booleans(), "softmax"),
        "dropout": dropout,
        "seed": torch.tensor([data.draw(st.integers(-(2**62), 2**62), "seed")]) if dropout else None,
        "lengths": torch.tensor(lengths) if data.draw(st.booleans(), "has lengths") else None,
    }
    compare((lay_out(x), lay_out(logits), weight, lay_out(grad_y)), options)


@pytest.mark.parametrize("kernel_size", [3, 7, 15, 31, 5, 20])
@pytest.mark.parametrize("num_heads", [4, 16])
def test_agree_at_the_models_sizes(num_heads: int, kernel_size: int) -> None:
    """Heads of 32 and 128 channels, in bfloat16; the first block of positions is full, the second is not."""
    x, logits, weight, grad_y = random_inputs((1, 150, 512), num_heads, kernel_size, torch.bfloat16)
    for padding_left in (kernel_size - 1, kernel_size // 2):
        options: Options = {"padding_left": padding_left, "softmax": True, "dropout": 0.1, "seed": torch.tensor([9])}
        compare((x, logits, weight.float(), grad_y), {**options, "lengths": torch.tensor([140])})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_taps_keep_their_precision(dtype: torch.dtype) -> None:
    """Tensor cores take taps in two parts. With the first alone, four results in ten are rounded differently."""
    tensors = random_inputs((2, 150, 128), 2, 31, dtype)
    options: Options = {"padding_left": 30, "softmax": True, "dropout": 0.1, "seed": torch.tensor([3]), "lengths": None}
    found, expected = (all_results(operators, *tensors, **options) for operators in (OPERATORS, reference))
    for name in ("dynamic y", "dynamic grad_x", "light y", "light grad_x"):
        assert (found[name] == expected[name]).float().mean() > 0.99, name
