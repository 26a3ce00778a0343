"""The compiled CPU kernels are the reference, on every instruction set that this machine has and on any threads.

Shapes: B sentences, T positions, C channels, H heads, E = C / H, K taps.
"""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dynconv_mt.ops import backend, reference

pytestmark = pytest.mark.skipif(backend("cpu") == "reference", reason="no compiled kernels")

OPERATORS = torch.ops.dynconv_mt
TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 8e-3, torch.float16: 1e-3}
KERNEL_SIZES = [1, 2, 3, 4, 7, 8, 15, 16, 31, 33, 100, 255]
Options = dict[str, Any]


def leave(tensor: Tensor) -> Tensor:
    """Return the tensor, contiguous."""
    return tensor


def time_first(tensor: Tensor) -> Tensor:
    """Return it as fairseq lays it out, time before sentences."""
    return tensor.transpose(0, 1).contiguous().transpose(0, 1)


def scattered(tensor: Tensor) -> Tensor:
    """Return it with neighbours two numbers apart."""
    return torch.stack([tensor, tensor], dim=-1)[..., 0]


def half_of_it(tensor: Tensor) -> Tensor:
    """Return it as one half of wider rows, which the convolution's GLU reads."""
    return torch.cat([tensor, tensor], dim=-1)[..., : tensor.shape[-1]]


LAYOUTS: list[Callable[[Tensor], Tensor]] = [leave, time_first, scattered, half_of_it]


def light_results(operators: Any, x: Tensor, _: Tensor, weight: Tensor, grad_y: Tensor, **options: Any) -> Options:
    """Return y and the gradients of light_conv by name, as `operators` (torch's, or the reference) compute them."""
    inputs = options.pop("seed"), options.pop("lengths")
    y = operators.light_conv(x, weight, *inputs, **options)
    grad_x, grad_weight = operators.light_conv_backward(grad_y, x, weight, *inputs, **options)
    return {"light y": y, "light grad_x": grad_x, "grad_weight": grad_weight}


def all_results(operators: Any, x: Tensor, logits: Tensor, weight: Tensor, grad_y: Tensor, **options: Any) -> Options:
    """Return those of both operators."""
    results = light_results(operators, x, logits, weight, grad_y, **options)
    inputs, options["kernel_size"] = (options.pop("seed"), options.pop("lengths")), weight.shape[1]
    y = operators.dynamic_conv(x, logits, *inputs, **options)
    grad_x, grad_logits = operators.dynamic_conv_backward(grad_y, x, logits, *inputs, **options)
    return {**results, "dynamic y": y, "dynamic grad_x": grad_x, "grad_logits": grad_logits}


def compare(tensors: tuple[Tensor, ...], options: Options, results: Callable[..., Options] = all_results) -> None:
    """Compare all `results` with the reference's, in dtype and layout too; errors are relative to the largest number.

    The gradient by light_conv's weight is a difference of sums over all positions and channels of a head, and keeps
    what these were rounded by, however small it is itself.
    """
    found, expected = (results(operators, *tensors, **options) for operators in (OPERATORS, reference))
    tolerance = TOLERANCES[tensors[0].dtype]
    x, _, weight, _ = tensors
    rounding = 2e-7 * (x.numel() / len(weight)) ** 0.5 if x.dtype is not torch.float64 else 0.0
    for name, result in expected.items():
        assert found[name].is_contiguous()
        assert (found[name].dtype, found[name].shape) == (result.dtype, result.shape)
        scale = result.abs().max().item() if result.numel() else 1.0
        message = f"{name}: {{}}".format
        allowed = tolerance * scale + 1e-7 + (rounding if name == "grad_weight" else 0.0)
        torch.testing.assert_close(found[name], result, rtol=0.0, atol=allowed, msg=message)


def random_inputs(shape: tuple[int, int, int], num_heads: int, kernel_size: int, dtype: torch.dtype) -> list[Tensor]:
    """Return x, logits, weight and grad_y."""
    generator = torch.Generator().manual_seed(kernel_size)
    sizes = (shape, (*shape[:2], num_heads * kernel_size), (num_heads, kernel_size), shape)
    return [torch.randn(size, generator=generator, dtype=torch.float64).to(dtype) for size in sizes]


@settings(max_examples=150)
@given(st.data())
def test_agree(data: st.DataObject) -> None:
    """Any sizes, dtypes, paddings, layouts and options."""
    dtype = data.draw(st.sampled_from(list(TOLERANCES)), "dtype")
    kernel_size = data.draw(st.sampled_from(KERNEL_SIZES), "K")
    num_heads = data.draw(st.integers(1, 4), "H")
    width = data.draw(st.sampled_from([1, 2, 3, 4, 7, 8, 9, 16, 24, 32, 33, 64, 65, 100, 128, 129]), "E")
    num_sentences, num_positions = data.draw(st.integers(1, 3), "B"), data.draw(st.integers(1, 80), "T")
    x, logits, weight, grad_y = random_inputs(
        (num_sentences, num_positions, num_heads * width), num_heads, kernel_size, dtype
    )
    lay_out = data.draw(st.sampled_from(LAYOUTS), "layout")
    if dtype.itemsize == 2 and data.draw(st.booleans(), "float32 weight"):
        weight = weight.float()
    dropout = data.draw(st.sampled_from([0.0, 0.1, 0.5]), "dropout")
    lengths = data.draw(st.lists(st.integers(0, num_positions), min_size=num_sentences, max_size=num_sentences))
    options = {
        "padding_left": data.draw(st.one_of(st.integers(0, kernel_size), st.integers(-100, 400)), "padding_left"),
        "softmax": data.draw(st.booleans(), "softmax"),
        "dropout": dropout,
        "seed": torch.tensor([data.draw(st.integers(-(2**62), 2**62), "seed")]) if dropout else None,
        "lengths": torch.tensor(lengths) if data.draw(st.booleans(), "has lengths") else None,
    }
    compare((lay_out(x), lay_out(logits), weight, lay_out(grad_y)), options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_positions", [127, 128, 129, 300])
def test_agree_across_chunks(num_positions: int, dtype: torch.dtype) -> None:
    """A task of the kernels ends after 128 positions."""
    options: Options = {"softmax": True, "dropout": 0.1, "seed": torch.tensor([5])}
    for kernel_size, lengths in itertools.product((7, 31), (None, torch.tensor([num_positions, 128]))):
        x, logits, weight, grad_y = random_inputs((2, num_positions, 24), 3, kernel_size, dtype)
        for padding_left in (kernel_size - 1, kernel_size // 2, -3, kernel_size + 300):
            compare((x, logits, weight, grad_y), {**options, "padding_left": padding_left, "lengths": lengths})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("num_positions", "kernel_size", "width"), [(300, 255, 24), (400, 129, 130), (300, 31, 128), (270, 7, 64)]
)
def test_agree_beyond_a_chunk(num_positions: int, kernel_size: int, width: int, dtype: torch.dtype) -> None:
    """Kernels wider than a chunk of 128 positions, and heads as wide as those of the models, over several chunks."""
    x, logits, weight, grad_y = random_inputs((2, num_positions, 2 * width), 2, kernel_size, dtype)
    lengths = torch.tensor([num_positions, 129])
    options: Options = {"softmax": True, "dropout": 0.1, "seed": torch.tensor([5]), "lengths": lengths}
    for padding_left in (kernel_size - 1, kernel_size // 2, 0):
        compare((x, logits, weight.float(), grad_y), {**options, "padding_left": padding_left})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [1, 3, 8, 16, 17])
def test_agree_with_narrow_heads(width: int, dtype: torch.dtype) -> None:
    """Heads of up to 16 channels are joined, up to 128 channels at a time; the last joined one may have fewer heads.

    Sentences of up to 64 positions share tasks, as many as fit; the last of these have fewer.
    """
    kernel_sizes, shapes = (1, 2, 3, 8, 31, 70), ((7, 2), (19, 16), (3, 45), (2, 150), (1, 300))
    layouts = itertools.cycle(LAYOUTS)
    for (row, kernel_size), (column, shape) in itertools.product(enumerate(kernel_sizes), enumerate(shapes)):
        num_heads = (1, 150 // width, 128 // width, 2 * (128 // width) + 1, 2)[(row + column) % 5]
        x, logits, weight, grad_y = random_inputs((*shape, num_heads * width), num_heads, kernel_size, dtype)
        lengths = shape[1] - torch.arange(shape[0]) * 7 % (shape[1] + 1)
        weight = weight.float() if dtype.itemsize == 2 and row % 2 else weight
        cases = (
            (kernel_size - 1, lengths, 0.0),
            (kernel_size // 2, None, 0.0),
            (kernel_size + 1 if row % 2 else -2, lengths, 0.2 * (column % 2)),
            (kernel_size // 2, lengths, 0.2),
            (shape[1] + 2, lengths, 0.99),
        )
        for padding_left, ends, dropout in cases:
            options: Options = {"padding_left": padding_left, "softmax": (row + column) % 3 > 0, "dropout": dropout}
            options |= {"lengths": ends, "seed": torch.tensor([row]) if dropout else None}
            lay_out = next(layouts)
            compare((lay_out(x), logits, weight, lay_out(grad_y)), options, light_results)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_agree_on_every_half(dtype: torch.dtype) -> None:
    """Every number of 16 bits times 1, and times what has to be rounded, to infinity too: to the nearest."""
    x = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype)
    x = torch.where(x.isfinite(), x, 0).view(1, 512, 128)
    weight = torch.tensor([[1.0], [1.0 + 2**-9]])
    y = OPERATORS.light_conv(x, weight, None, None, padding_left=0, softmax=False, dropout=0.0)
    assert torch.equal(y, (x.float() * weight[:, 0].repeat_interleave(64)).to(dtype))


def test_agree_without_gradient_memory() -> None:
    """y.sum() has a gradient of one number, expanded."""
    x, logits, weight, _ = random_inputs((2, 9, 16), 2, 3, torch.float32)
    options: Options = {"padding_left": 1, "softmax": True, "dropout": 0.0, "seed": None, "lengths": None}
    compare((x, logits, weight, torch.ones(()).expand(2, 9, 16)), options)


@pytest.mark.parametrize("bits", [0x7FC00000, 0x7FC00001, 0x7F800001, 0x7FFFFFFF, -1])
def test_agree_on_every_nan_among_the_logits(bits: int) -> None:
    logits = torch.zeros(1, 2, 3)
    logits[0, 0, 1] = torch.tensor([bits], dtype=torch.int32).view(torch.float32)[0]
    y = OPERATORS.dynamic_conv(
        torch.ones(1, 2, 1), logits, None, None, kernel_size=3, padding_left=1, softmax=True, dropout=0.0
    )
    assert y[0, 0].isnan().all()
    assert not y[0, 1].isnan().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dropout", [0.0, 0.1])  # light_conv has a way of its own without
@pytest.mark.parametrize(("shape", "num_heads"), [((5, 300, 64), 4), ((3, 150, 160), 160), ((40, 30, 150), 75)])
def test_threads_change_nothing(
    shape: tuple[int, int, int], num_heads: int, dropout: float, dtype: torch.dtype
) -> None:
    """Results are the same to the last bit."""
    tensors = random_inputs(shape, num_heads, 15, dtype)
    seed = torch.tensor([1]) if dropout else None
    options: Options = {"padding_left": 7, "softmax": True, "dropout": dropout, "seed": seed, "lengths": None}
    expected = all_results(OPERATORS, *tensors, **options)
    for num_threads in (2, 3, 7):
        torch.set_num_threads(num_threads)
        for _ in range(5):
            found = all_results(OPERATORS, *tensors, **options)
            assert all(torch.equal(found[name], result) for name, result in expected.items())


@pytest.mark.parametrize("kernel_size", [3, 4, 5, 7, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agree_on_what_an_infinite_input_reaches(dtype: torch.dtype, kernel_size: int) -> None:
    """Positions whose taps do not reach it keep their numbers."""
    x, logits, weight, grad_y = random_inputs((1, 60, 8), 2, kernel_size, dtype)
    x[0, 30] = math.inf
    options: Options = {"padding_left": 1, "softmax": True, "dropout": 0.0, "seed": None, "lengths": None}
    results = all_results(OPERATORS, x, logits, weight, grad_y, **options)
    first = torch.arange(60) - 1  # position that is read by the first tap
    is_reached = (first <= 30) & (first + kernel_size > 30)
    for name in ("dynamic y", "light y", "grad_logits"):
        assert torch.equal(~results[name][0].isfinite().all(-1), is_reached), name
    assert results["dynamic grad_x"].isfinite().all() and results["light grad_x"].isfinite().all()


@pytest.mark.parametrize("instructions", ["portable", "avx2"])
def test_agree_on_lesser_machines(instructions: str, root: Path) -> None:
    """The instruction set is chosen once, so this takes a process of its own."""
    environment = {**os.environ, "DYNCONV_MT_CPU": instructions}
    chosen = (
        "import ctypes, torch, dynconv_mt.ops, dynconv_mt.ops.build as build;"
        "name = ctypes.CDLL(str(build.TARGET)).dynconv_mt_cpu; name.restype = ctypes.c_char_p; print(name().decode())"
    )
    done = subprocess.run([sys.executable, "-c", chosen], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() in (instructions, "portable")  # a machine without AVX2 has nothing else
    files = [Path(__file__), Path(__file__).with_name("test_decoding.py")]
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        *files,
        "-k",
        "agree and not lesser",
    ]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


X, LOGITS, WEIGHT = torch.zeros(2, 5, 8), torch.zeros(2, 5, 6), torch.zeros(2, 3)
REST: Options = {"padding_left": 1, "softmax": True}
WRONG: list[tuple[str, tuple[Tensor | None, ...], Options, str]] = [
    ("dynamic_conv", (X[0], LOGITS, None, None), {}, r"x: expected shape \(B, T, C\), found \(5, 8\)"),
    ("dynamic_conv", (X, LOGITS[:, 1:], None, None), {}, r"logits: expected shape \(2, 5, 6\), found \(2, 4, 6\)"),
    ("dynamic_conv", (X, LOGITS, None, None), {"kernel_size": 0}, "logits: a kernel has at least 1 tap, found 0"),
    ("dynamic_conv", (X, LOGITS.double(), None, None), {}, "logits: expected Float, found Double"),
    ("dynamic_conv", (X.long(), LOGITS.long(), None, None), {}, "x: expected a floating dtype, found Long"),
    ("dynamic_conv", (X, LOGITS, None, torch.zeros(3)), {}, r"lengths: expected shape \(2\), found \(3\)"),
    ("dynamic_conv", (X, LOGITS, None, None), {"dropout": 0.1}, "seed: needed for dropout=0.1"),
    ("light_conv", (X, WEIGHT[0], None, None), {}, r"weight: expected shape \(H, K\), found \(3\)"),
    ("light_conv", (X[..., :7], WEIGHT, None, None), {}, "weight: 2 heads do not divide the 7 channels of x"),
    (
        "light_conv_backward",
        (X[:1], X, WEIGHT, None, None),
        {},
        r"grad_y: expected shape \(2, 5, 8\), found \(1, 5, 8\)",
    ),
]


@pytest.mark.parametrize(("name", "inputs", "options", "message"), WRONG)
def test_direct_callers_are_checked_too(
    name: str, inputs: tuple[Tensor | None, ...], options: Options, message: str
) -> None:
    wide = {"kernel_size": 3} if name.startswith("dynamic") else {}
    with pytest.raises(RuntimeError, match=message):
        getattr(OPERATORS, name)(*inputs, **{**REST, "dropout": 0.0, **wide, **options})
