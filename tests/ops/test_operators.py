"""The operators compute the paper's formula and its gradients, on whatever backend runs them.

Shapes: B sentences, T positions, C channels, H heads, K taps.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ops import definition
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dynconv_mt.ops import dynamic_conv, light_conv, reference

Shape = tuple[int, int, int]


class Inputs(NamedTuple):
    """Random inputs of both operators."""

    x: Tensor  # (B, T, C)
    logits: Tensor  # (B, T, H·K)
    weight: Tensor  # (H, K)
    grad_y: Tensor  # (B, T, C)


def random_inputs(shape: Shape, num_heads: int, kernel_size: int) -> Inputs:
    """Return inputs in float64, always the same, for x of `shape`."""
    generator = torch.Generator().manual_seed(kernel_size)
    sizes = (shape, (*shape[:2], num_heads * kernel_size), (num_heads, kernel_size), shape)
    return Inputs(*(torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes))


def with_gradients(operator: Callable[..., Tensor], x: Tensor, taps: Tensor, grad_y: Tensor) -> list[Tensor]:
    """Return y and its gradients by x and taps."""
    x, taps = x.detach().requires_grad_(), taps.detach().requires_grad_()
    y = operator(x, taps)
    return [y, *torch.autograd.grad(y, (x, taps), grad_y)]


def check(shape: Shape, num_heads: int, kernel_size: int, padding_left: int, softmax: bool = True) -> None:
    """Compare both operators with the definition, with and without lengths."""
    x, logits, weight, grad_y = random_inputs(shape, num_heads, kernel_size)
    for lengths in (None, torch.arange(shape[0]) % (shape[1] + 1)):
        found, expected = (
            with_gradients(partial(f, padding_left=padding_left, softmax=softmax, lengths=lengths), x, weight, grad_y)
            for f in (light_conv, definition.light_conv)
        )
        torch.testing.assert_close(found, expected)
        taps = {"kernel_size": kernel_size, "padding_left": padding_left, "softmax": softmax}
        found, expected = (
            with_gradients(partial(f, lengths=lengths, **taps), x, logits, grad_y)  # type: ignore[arg-type]
            for f in (dynamic_conv, definition.dynamic_conv)
        )
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kernel_size", [1, 2, 3, 7, 8, 15, 31, 80])
@pytest.mark.parametrize("num_positions", [1, 2, 5, 24, 25, 67])
def test_they_are_the_definition(num_positions: int, kernel_size: int) -> None:
    for padding_left in {kernel_size - 1, kernel_size // 2, 0}:
        check((3, num_positions, 12), 3, kernel_size, padding_left)


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
    x, logits, weight, _ = (tensor.requires_grad_() for tensor in random_inputs((2, num_positions, 4), 2, 3))
    seed, lengths = torch.tensor([3]), torch.tensor([num_positions, 2])
    dynamic = partial(dynamic_conv, kernel_size=3, padding_left=1, dropout=0.4, seed=seed, lengths=lengths)
    light = partial(light_conv, padding_left=2, dropout=0.4, seed=seed, lengths=lengths)
    assert torch.autograd.gradcheck(dynamic, (x, logits), fast_mode=True)
    assert torch.autograd.gradcheck(light, (x, weight), fast_mode=True)
    assert torch.autograd.gradcheck(partial(light_conv, padding_left=2), (x, weight), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("weight_dtype", [None, torch.float32])
def test_other_precisions_sum_in_float32(dtype: torch.dtype, weight_dtype: torch.dtype | None) -> None:
    """Their only error is that of rounding inputs and results once."""
    x, logits, weight, grad_y = (tensor.to(dtype) for tensor in random_inputs((2, 40, 8), 2, 31))
    weight = weight.to(weight_dtype or dtype)
    light, dynamic = partial(light_conv, padding_left=15), partial(dynamic_conv, kernel_size=31, padding_left=15)
    found = [*with_gradients(light, x, weight, grad_y), *with_gradients(dynamic, x, logits, grad_y)]
    x, logits, weight, grad_y = (tensor.double() for tensor in (x, logits, weight, grad_y))
    expected = with_gradients(partial(definition.light_conv, padding_left=15), x, weight, grad_y)
    expected += with_gradients(partial(definition.dynamic_conv, kernel_size=31, padding_left=15), x, logits, grad_y)
    assert [result.dtype for result in found] == [dtype, dtype, weight_dtype or dtype, dtype, dtype, dtype]
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close([result.double() for result in found], expected, rtol=eps, atol=max(eps / 2, 1e-5))


@pytest.mark.parametrize("lengths", [None, torch.tensor([30, 30, 30])])
def test_strides_do_not_matter(lengths: Tensor | None) -> None:
    x, logits, weight, grad_y = random_inputs((3, 30, 8), 2, 5)
    light = partial(light_conv, padding_left=2, lengths=lengths)
    dynamic = partial(dynamic_conv, kernel_size=5, padding_left=2, lengths=lengths)
    expected = [*with_gradients(light, x, weight, grad_y), *with_gradients(dynamic, x, logits, grad_y)]
    x, weight = torch.stack([x, x], dim=-1)[..., 0], weight.t().contiguous().t()
    logits, grad_y = (tensor.transpose(0, 1).contiguous().transpose(0, 1) for tensor in (logits, grad_y))
    found = [*with_gradients(light, x, weight, grad_y), *with_gradients(dynamic, x, logits, grad_y)]
    torch.testing.assert_close(found, expected)
    summed = with_gradients(dynamic, x, logits, torch.ones(()).expand(3, 30, 8).double())  # as y.sum() gives it
    torch.testing.assert_close(summed, with_gradients(dynamic, x, logits, torch.ones(3, 30, 8).double()))


def test_padding_is_zero_whatever_it_holds() -> None:
    x, logits, weight, grad_y = random_inputs((3, 40, 6), 2, 7)
    lengths = torch.tensor([40, 7, 0])
    is_padding = (torch.arange(40) >= lengths[:, None])[..., None]
    operators = (
        (partial(light_conv, padding_left=3), weight),
        (partial(dynamic_conv, kernel_size=7, padding_left=3), logits),
    )
    for operator, taps in operators:
        found = with_gradients(partial(operator, lengths=lengths), x.masked_fill(is_padding, torch.nan), taps, grad_y)
        expected = with_gradients(operator, x.masked_fill(is_padding, 0.0), taps, grad_y)
        expected[1] = expected[1].masked_fill(is_padding, 0.0)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("shape", [(0, 5, 4), (2, 0, 4), (2, 5, 0)])
def test_nothing_to_do(shape: Shape) -> None:
    x, logits, weight, grad_y = random_inputs(shape, 2, 3)
    y, grad_x, grad_weight = with_gradients(partial(light_conv, padding_left=1), x, weight, grad_y)
    assert (y.shape, grad_x.shape) == (shape, shape)
    assert not grad_weight.any()
    y, grad_x, grad_logits = with_gradients(partial(dynamic_conv, kernel_size=3, padding_left=1), x, logits, grad_y)
    assert (y.shape, grad_x.shape, grad_logits.shape) == (shape, shape, logits.shape)
    assert not grad_logits.any()


def test_long_sequences() -> None:
    check((1, 16384, 4), 1, 31, 30)


class Largest(TorchDispatchMode):
    """Notes how many numbers the largest tensor has that any operation makes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation."""
        result = func(*args, **(kwargs or {}))
        self.numel = max(self.numel, *(leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)), 0)
        return result


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_no_tensor_outgrows_the_inputs(dropout: float) -> None:
    """The reference holds no T × T band and no copy of x for every tap."""
    x, logits, weight, grad_y = random_inputs((1, 4096, 64), 4, 31)
    options: dict[str, Any] = {"padding_left": 30, "softmax": True, "dropout": dropout}
    seed = torch.tensor([1])
    with Largest() as largest:  # of the reference itself: a mode does not see inside an operator
        reference.light_conv(x, weight, seed, None, **options)
        reference.light_conv_backward(grad_y, x, weight, seed, None, **options)
        reference.dynamic_conv(x, logits, seed, None, kernel_size=31, **options)
        reference.dynamic_conv_backward(grad_y, x, logits, seed, None, kernel_size=31, **options)
    assert logits.numel() <= largest.numel <= 4 * logits.numel()


@pytest.mark.parametrize("padding_left", [-(2**40), -17, 17 + 5, 2**40])
def test_padding_beyond_the_sentence(padding_left: int) -> None:
    """All taps fall outside: zeros, in memory that does not depend on how far."""
    x, logits, weight = torch.randn(2, 17, 4), torch.randn(2, 17, 10), torch.randn(2, 5)
    for tensor in (
        *with_gradients(partial(dynamic_conv, kernel_size=5, padding_left=padding_left), x, logits, x),
        *with_gradients(partial(light_conv, padding_left=padding_left), x, weight, x),
    ):
        assert not tensor.any()
