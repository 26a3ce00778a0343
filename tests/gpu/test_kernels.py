"""On a GPU the kernels are the reference, for any sizes, layouts and options, to the last bit every time.

Shapes: B sentences, T positions, C channels, H heads, E = C / H, K taps.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from ops import test_compiled
from ops.cuda_cases import HEAD_WIDTHS, KERNEL_SIZES, NUM_POSITIONS
from ops.test_compiled import LAYOUTS, TOLERANCES, Options, all_results, random_inputs
from ops.test_decoding import random_step
from torch import Tensor

from dynconv_mt.ops import reference

pytestmark = pytest.mark.gpu
OPERATORS = torch.ops.dynconv_mt
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
MOST_WORK = 1e8  # multiplications of the reference on the CPU


def to_gpu(tensor: Tensor) -> Tensor:
    """Return a copy on the GPU with the same strides."""
    copy = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cuda")
    return copy.copy_(tensor)


def on_gpu(options: Options) -> Options:
    """Return the options with their tensors on the GPU."""
    return {name: value.cuda() if isinstance(value, Tensor) else value for name, value in options.items()}


def results(operators: Any, *tensors: Tensor, **options: Any) -> Options:
    """Return the reference's results, computed on the CPU, or those of the GPU, brought back."""
    if operators is reference:
        return all_results(reference, *tensors, **options)
    found = all_results(operators, *(to_gpu(tensor) for tensor in tensors), **on_gpu(options))
    assert all(result.is_cuda for result in found.values())
    return {name: result.cpu() for name, result in found.items()}


compare = partial(test_compiled.compare, results=results)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kernel_size", [1, 3, 4, 7, 15, 20, 31, 63, 255, 1300])
@pytest.mark.parametrize("num_positions", [1, 8, 100, 300])
def test_agree(dtype: torch.dtype, kernel_size: int, num_positions: int) -> None:
    """Over heads, paddings, lengths, and everything else turned on."""
    shape = (2, num_positions, 256)
    lengths = torch.tensor([num_positions, num_positions // 2])
    options: Options = {"softmax": True, "dropout": 0.1, "seed": torch.tensor([2**40 + 3])}
    plain: Options = {"softmax": False, "dropout": 0.0, "seed": None, "lengths": None}
    for num_heads in (2, 16):
        x, logits, weight, grad_y = random_inputs(shape, num_heads, kernel_size, dtype)
        tensors = x, logits, weight.float(), grad_y
        for padding_left in {kernel_size - 1, kernel_size // 2, -2}:
            compare(tensors, {**options, "padding_left": padding_left, "lengths": lengths})
        compare(tensors, {**options, "padding_left": kernel_size // 2, "dropout": 0.0, "seed": None, "lengths": None})
        compare(tensors, {**plain, "padding_left": kernel_size - 1})


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_agree_for_any_sizes(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(list(TOLERANCES)), "dtype")
    kernel_size = data.draw(st.sampled_from(KERNEL_SIZES), "K")
    num_heads, width = data.draw(st.sampled_from([1, 2, 3, 8, 16, 40]), "H"), data.draw(st.sampled_from(HEAD_WIDTHS))
    num_sentences, num_positions = data.draw(st.integers(1, 3), "B"), data.draw(st.sampled_from(NUM_POSITIONS), "T")
    shape = (num_sentences, num_positions, num_heads * width)
    assume(torch.Size(shape).numel() * kernel_size < MOST_WORK)
    x, logits, weight, grad_y = random_inputs(shape, num_heads, kernel_size, dtype)
    lay_out = data.draw(st.sampled_from(LAYOUTS), "layout")
    dropout = data.draw(st.sampled_from([0.0, 0.3]), "dropout")
    lengths = data.draw(st.lists(st.integers(0, num_positions), min_size=num_sentences, max_size=num_sentences))
    options: Options = {
        "padding_left": data.draw(st.integers(-400, 700), "padding_left"),
        "softmax": data.draw(st.booleans(), "softmax"),
        "dropout": dropout,
        "seed": torch.tensor([data.draw(st.integers(-(2**62), 2**62), "seed")]) if dropout else None,
        "lengths": torch.tensor(lengths) if data.draw(st.booleans(), "has lengths") else None,
    }
    compare((lay_out(x), lay_out(logits), weight, lay_out(grad_y)), options)


def some_inputs(num_positions: int = 700) -> tuple[list[Tensor], Options]:
    """Return inputs of the big model's width on the GPU, with options."""
    tensors = [to_gpu(tensor) for tensor in random_inputs((3, num_positions, 1024), 16, 31, torch.bfloat16)]
    lengths = torch.tensor([num_positions, 5, num_positions - 1])
    options = {"padding_left": 30, "softmax": True, "dropout": 0.1, "seed": torch.tensor([1]), "lengths": lengths}
    return tensors, on_gpu(options)


def test_every_run_gives_the_same_bits() -> None:
    """A race would show sooner or later; memory in between is filled with what must not be read."""
    tensors, options = some_inputs()
    expected = all_results(OPERATORS, *tensors, **options)
    for value in (float("nan"), 1e30):
        for _ in range(20):
            rubbish = [torch.full((2**20,), value, device="cuda") for _ in range(4)]
            del rubbish  # its memory is what the operators get next
            found = all_results(OPERATORS, *tensors, **options)
            assert all(torch.equal(found[name], result) for name, result in expected.items())


def test_the_current_stream_is_used() -> None:
    """On another stream the operators wait for what that stream does before."""
    tensors, options = some_inputs(200)
    expected = all_results(OPERATORS, *tensors, **options)
    empty = [torch.zeros_like(tensor) for tensor in tensors]
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(20_000_000)  # clock cycles, some 10 ms
        for to, tensor in zip(empty, tensors, strict=True):
            to.copy_(tensor)
        found = all_results(OPERATORS, *empty, **options)
    torch.cuda.synchronize()
    assert all(torch.equal(found[name], result) for name, result in expected.items())


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_the_device_of_the_inputs_is_used() -> None:
    tensors, options = some_inputs(100)
    expected = all_results(OPERATORS, *tensors, **options)
    moved = {name: value.to("cuda:1") if isinstance(value, Tensor) else value for name, value in options.items()}
    found = all_results(OPERATORS, *(tensor.to("cuda:1") for tensor in tensors), **moved)
    assert all(torch.equal(found[name].cpu(), result.cpu()) for name, result in expected.items())


@pytest.mark.parametrize("name", ["dynamic", "light"])
def test_more_numbers_than_32_bits_count(name: str) -> None:
    """The last positions of 2^31 numbers and more are those of short inputs."""
    width, kernel_size, ends = 1024, 7, 64
    num_positions = 2**21 + 1000
    if torch.cuda.mem_get_info()[0] < 10 * num_positions * width * 2:
        pytest.skip("too little memory on the GPU")
    generator = torch.Generator("cuda").manual_seed(0)
    shape = (1, num_positions, width)
    x, grad_y = (torch.randn(shape, generator=generator, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    taps_shape = (1, num_positions, 4 * kernel_size) if name == "dynamic" else (4, kernel_size)
    taps = torch.randn(taps_shape, generator=generator, device="cuda", dtype=x.dtype)
    options: Options = {"padding_left": 6, "softmax": True, "dropout": 0.0}
    if name == "dynamic":
        options["kernel_size"] = kernel_size
    forward, backward = getattr(OPERATORS, f"{name}_conv"), getattr(OPERATORS, f"{name}_conv_backward")
    tail = taps[:, -ends:] if name == "dynamic" else taps
    y = forward(x, taps, None, None, **options)[:, 6 - ends :]
    assert torch.equal(y, forward(x[:, -ends:], tail, None, None, **options)[:, 6:])
    found = backward(grad_y, x, taps, None, None, **options)
    expected = backward(grad_y[:, -ends:], x[:, -ends:], tail, None, None, **options)
    assert torch.equal(found[0][:, 6 - ends :], expected[0][:, 6:])
    if name == "dynamic":
        torch.testing.assert_close(found[1][:, 6 - ends :], expected[1][:, 6:])  # blocks differ, and so do sums


def test_many_short_sentences() -> None:
    """The sizes of training at the word level: one head after the other, few positions."""
    for num_positions, kernel_size in itertools.product((1, 3, 16, 33), (3, 31)):
        x, logits, weight, grad_y = random_inputs((64, num_positions, 512), 4, kernel_size, torch.bfloat16)
        options: Options = {"padding_left": kernel_size // 2, "softmax": True, "dropout": 0.1}
        compare((x, logits, weight, grad_y), {**options, "seed": torch.tensor([4]), "lengths": None})


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_steps_agree(data: st.DataObject) -> None:
    """In results and in what becomes of the state."""
    dtype = data.draw(st.sampled_from(list(TOLERANCES)), "dtype")
    (x, logits, weight, buffer, slots), options = random_step(data, dtype)
    for name, taps in (("dynamic_conv_step", logits), ("light_conv_step", weight)):
        on_cpu, there = (buffer.clone(), slots.clone()), (buffer.cuda(), slots.cuda())
        found = getattr(OPERATORS, name)(x.cuda(), taps.cuda(), *there, **options)
        expected = getattr(reference, name)(x, taps, *on_cpu, **options)
        assert all(torch.equal(mine.cpu(), other) for mine, other in zip(there, on_cpu, strict=True))
        tolerance = TOLERANCES[dtype] * max(expected.abs().max().item(), 1.0)
        torch.testing.assert_close(found.cpu(), expected, rtol=0.0, atol=tolerance)
