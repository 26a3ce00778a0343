"""The operators compute the paper's formula and its gradients, on whatever backend runs them.

Shapes: B sentences, T positions, C channels, H heads, K taps.
"""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ops import definition
from torch import Tensor

from dynconv_mt.ops import dynamic_conv, light_conv


def random_inputs(shape: tuple[int, int, int], num_heads: int, kernel_size: int) -> dict[str, Tensor]:
    """Return x, logits, weight and grad_y in float64 for x of `shape` (B, T, C)."""
    generator = torch.Generator().manual_seed(kernel_size)
    sizes = {
        "x": shape,
        "logits": (*shape[:2], num_heads * kernel_size),
        "weight": (num_heads, kernel_size),
        "grad_y": shape,
    }
    return {name: torch.randn(size, generator=generator, dtype=torch.float64) for name, size in sizes.items()}


def with_gradients(
    function: Callable[[Tensor, Tensor], Tensor], x: Tensor, taps: Tensor, grad_y: Tensor
) -> list[Tensor]:
    """Return y and its gradients by x and taps."""
    x, taps = x.detach().requires_grad_(), taps.detach().requires_grad_()
    y = function(x, taps)
    return [y, *torch.autograd.grad(y, (x, taps), grad_y)]


def check(shape: tuple[int, int, int], num_heads: int, kernel_size: int, padding_left: int, softmax: bool) -> None:
    """Compare both operators with the definition, with and without lengths."""
    inputs = random_inputs(shape, num_heads, kernel_size)
    x, grad_y = inputs["x"], inputs["grad_y"]
    for lengths in (None, torch.arange(shape[0]) % (shape[1] + 1)):
        options = {"softmax": softmax, "lengths": lengths}
        torch.testing.assert_close(
            with_gradients(lambda x, w: light_conv(x, w, padding_left, **options), x, inputs["weight"], grad_y),
            with_gradients(
                lambda x, w: definition.light_conv(x, w, padding_left, **options), x, inputs["weight"], grad_y
            ),
        )
        torch.testing.assert_close(
            with_gradients(
                lambda x, w: dynamic_conv(x, w, kernel_size, padding_left, **options), x, inputs["logits"], grad_y
            ),
            with_gradients(
                lambda x, w: definition.dynamic_conv(x, w, kernel_size, padding_left, **options),
                x,
                inputs["logits"],
                grad_y,
            ),
        )


@pytest.mark.parametrize("kernel_size", [1, 2, 3, 7, 8, 15, 31, 80])
@pytest.mark.parametrize("num_positions", [1, 2, 5, 24, 25, 67])
def test_they_are_the_definition(num_positions: int, kernel_size: int) -> None:
    for padding_left in {kernel_size - 1, kernel_size // 2, 0}:
        check((3, num_positions, 12), 3, kernel_size, padding_left, softmax=True)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_they_are_the_definition_for_any_sizes(data: st.DataObject) -> None:
    num_heads, width = data.draw(st.integers(1, 5), "H"), data.draw(st.integers(1, 9), "C / H")
    shape = (data.draw(st.integers(1, 4), "B"), data.draw(st.integers(1, 90), "T"), num_heads * width)
    kernel_size = data.draw(st.integers(1, 40), "K")
    padding_left = data.draw(st.integers(-5, kernel_size + 100), "padding_left")
    check(shape, num_heads, kernel_size, padding_left, data.draw(st.booleans(), "softmax"))


@pytest.mark.parametrize("num_positions", [4, 30])
def test_gradients_by_finite_differences(num_positions: int) -> None:
    inputs = random_inputs((2, num_positions, 4), 2, 3)
    x, logits, weight = (inputs[name].requires_grad_() for name in ("x", "logits", "weight"))
    options = {"dropout": 0.4, "seed": torch.tensor([3]), "lengths": torch.tensor([num_positions, 2])}
    assert torch.autograd.gradcheck(
        lambda x, logits: dynamic_conv(x, logits, 3, 1, **options), (x, logits), fast_mode=True
    )
    assert torch.autograd.gradcheck(lambda x, weight: light_conv(x, weight, 2, **options), (x, weight), fast_mode=True)
    assert torch.autograd.gradcheck(lambda x, weight: light_conv(x, weight, 2), (x, weight), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("weight_dtype", [None, torch.float32])
def test_other_precisions_sum_in_float32(dtype: torch.dtype, weight_dtype: torch.dtype | None) -> None:
    """Their only error is that of rounding inputs and results once."""
    inputs = {name: tensor.to(dtype) for name, tensor in random_inputs((2, 40, 8), 2, 31).items()}
    x, logits, weight, grad_y = (
        inputs["x"],
        inputs["logits"],
        inputs["weight"].to(weight_dtype or dtype),
        inputs["grad_y"],
    )
    found = with_gradients(lambda x, w: light_conv(x, w, 15), x, weight, grad_y)
    found += with_gradients(lambda x, w: dynamic_conv(x, w, 31, 15), x, logits, grad_y)
    x, logits, weight, grad_y = (tensor.double() for tensor in (x, logits, weight, grad_y))
    expected = with_gradients(lambda x, w: definition.light_conv(x, w, 15), x, weight, grad_y)
    expected += with_gradients(lambda x, w: definition.dynamic_conv(x, w, 31, 15), x, logits, grad_y)
    precise = torch.finfo(dtype).eps
    for i, (result, wanted) in enumerate(zip(found, expected, strict=True)):
        assert result.dtype == (weight_dtype or dtype if i == 2 else dtype)
        torch.testing.assert_close(
            result.double(), wanted, rtol=precise, atol=precise / 2 if dtype.itemsize == 2 else 1e-5
        )


def test_strides_do_not_matter() -> None:
    inputs = random_inputs((3, 30, 8), 2, 5)
    x, logits, grad_y = (inputs[name] for name in ("x", "logits", "grad_y"))
    expected = with_gradients(lambda x, w: dynamic_conv(x, w, 5, 2), x, logits, grad_y)
    expected_light = with_gradients(lambda x, w: light_conv(x, w, 2), x, inputs["weight"], grad_y)
    strided = [tensor.transpose(0, 1).contiguous().transpose(0, 1) for tensor in (x, logits, grad_y)]
    strided[0] = torch.stack([x, x], dim=-1)[..., 0]
    weight = inputs["weight"].t().contiguous().t()
    for lengths in (None, torch.tensor([30, 30, 30])):
        options = {"lengths": lengths}
        found = with_gradients(lambda x, w: dynamic_conv(x, w, 5, 2, **options), *strided)
        light = with_gradients(lambda x, w: light_conv(x, w, 2, **options), strided[0], weight, strided[2])
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(light, expected_light)


def test_padding_is_zero_whatever_it_holds() -> None:
    inputs = random_inputs((3, 40, 6), 2, 7)
    lengths = torch.tensor([40, 7, 0])
    is_padding = (torch.arange(40) >= lengths[:, None])[..., None]
    dirty, clean = inputs["x"].masked_fill(is_padding, torch.nan), inputs["x"].masked_fill(is_padding, 0.0)
    for convolve, name in (
        (lambda x, w, n=None: dynamic_conv(x, w, 7, 3, lengths=n), "logits"),
        (
            lambda x, w, n=None: light_conv(x, w, 3, lengths=n),
            "weight",
        ),
    ):
        found = with_gradients(lambda x, w: convolve(x, w, lengths), dirty, inputs[name], inputs["grad_y"])
        expected = with_gradients(convolve, clean, inputs[name], inputs["grad_y"])
        expected[1] = expected[1].masked_fill(is_padding, 0.0)
        torch.testing.assert_close(found, expected)


def test_nothing_to_do() -> None:
    for shape in ((0, 5, 4), (2, 0, 4)):
        inputs = random_inputs(shape, 2, 3)
        found = with_gradients(lambda x, w: light_conv(x, w, 1), inputs["x"], inputs["weight"], inputs["grad_y"])
        assert found[0].shape == shape
        assert not found[2].any()
        found = with_gradients(lambda x, w: dynamic_conv(x, w, 3, 1), inputs["x"], inputs["logits"], inputs["grad_y"])
        assert found[0].shape == shape


def test_long_sequences() -> None:
    """A T × T matrix of this length would need a gigabyte; the ends of the result are those of shorter inputs."""
    x, logits = torch.randn(1, 16384, 4, requires_grad=True), torch.randn(1, 16384, 31, requires_grad=True)
    y = dynamic_conv(x, logits, 31, 30)
    y.sum().backward()
    torch.testing.assert_close(y[:, :100], definition.dynamic_conv(x[:, :100], logits[:, :100], 31, 30))
    tail = definition.dynamic_conv(x[:, -100:], logits[:, -100:], 31, 30)
    torch.testing.assert_close(y[:, -70:], tail[:, -70:])
    weight = torch.randn(1, 31)
    torch.testing.assert_close(
        light_conv(x, weight, 30)[:, -70:], definition.light_conv(x[:, -100:], weight, 30)[:, -70:]
    )
