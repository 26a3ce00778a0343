"""The operators on a GPU as citizens of torch: opcheck, compile, autocast, CUDA graphs.

Shapes: B sentences, T positions, C channels, H heads, K taps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dynconv_mt.ops import dynamic_conv, light_conv

pytestmark = pytest.mark.gpu
B, T, C, H, K = 2, 33, 64, 4, 7
OPERATORS = torch.ops.dynconv_mt


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Return x, logits and weight."""
    torch.manual_seed(0)
    return tuple(torch.randn(shape, device="cuda") for shape in ((B, T, C), (B, T, H * K), (H, K)))  # type: ignore[return-value]


def both(x: Tensor, logits: Tensor, weight: Tensor, seed: Tensor, lengths: Tensor) -> Tensor:
    """Return dynamic_conv, then light_conv, with everything on."""
    options: dict[str, Any] = {"dropout": 0.2, "seed": seed, "lengths": lengths}
    return light_conv(dynamic_conv(x, logits, K, 3, **options).relu(), weight, K - 1, **options)


def extras() -> tuple[Tensor, Tensor]:
    """Return a seed and lengths."""
    return torch.tensor([7], device="cuda"), torch.tensor([T, 9], device="cuda")


def gradients(function: Callable[..., Tensor], *tensors: Tensor) -> tuple[Tensor, ...]:
    """Return a function's result and the gradients of its sum."""
    leaves = [tensor.clone().requires_grad_() for tensor in inputs()]
    y = function(*leaves, *tensors)
    return y, *torch.autograd.grad(y.sin().sum(), leaves)


@pytest.mark.parametrize("has_extras", [True, False])
@pytest.mark.parametrize("name", ["dynamic_conv", "light_conv", "dynamic_conv_backward", "light_conv_backward"])
def test_opcheck(name: str, has_extras: bool) -> None:
    x, logits, weight = inputs()
    taps = logits if name.startswith("dynamic") else weight
    options = {"padding_left": 1, "softmax": True, "dropout": 0.2 if has_extras else 0.0}
    if name.startswith("dynamic"):
        options["kernel_size"] = K
    rest = extras() if has_extras else (None, None)
    if name.endswith("backward"):
        arguments = (torch.randn_like(x), x, taps, *rest)
    else:
        arguments = (x.requires_grad_(), taps.requires_grad_(), *rest)
    torch.library.opcheck(getattr(OPERATORS, name).default, arguments, options)


def test_compiled_in_one_graph() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(both, fullgraph=True)
    torch.testing.assert_close(gradients(compiled, *extras()), gradients(both, *extras()))


def test_autocast_leaves_the_light_weight_in_float32() -> None:
    def run(*tensors: Tensor) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            return both(*tensors)

    found = gradients(run, *extras())
    assert [tensor.dtype for tensor in found] == [torch.bfloat16, *[torch.float32] * 3]
    x, logits, weight = inputs()
    seed, lengths = extras()
    assert torch.equal(found[0], both(x.bfloat16(), logits.bfloat16(), weight, seed, lengths))


def test_a_cuda_graph_reads_new_inputs_and_seeds() -> None:
    """Nothing of a call is decided on the CPU, nor kept: replaying it is calling it again."""
    x, logits, weight = leaves = inputs()
    for leaf in leaves:
        leaf.requires_grad_()
    seed, lengths = extras()

    def run() -> tuple[Tensor, ...]:
        y = both(x, logits, weight, seed, lengths)
        return y, *torch.autograd.grad(y.sin().sum(), leaves)

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    for number in range(3):
        with torch.no_grad():
            for leaf in leaves:
                leaf.copy_(torch.randn_like(leaf))
        seed.fill_(number)
        lengths.copy_(torch.tensor([T - number, 3 + number]))
        graph.replay()
        torch.cuda.synchronize()
        assert all(torch.equal(found, expected) for found, expected in zip(captured, run(), strict=True))


def test_tensors_on_the_wrong_device_are_named() -> None:
    x, _, weight = inputs()
    options = {"padding_left": 1, "softmax": True, "dropout": 0.1}
    with pytest.raises(RuntimeError, match="seed: expected on the device of x"):
        OPERATORS.light_conv(x, weight, torch.tensor([1]), None, **options)
    with pytest.raises(RuntimeError, match="lengths: expected on the device of x"):
        OPERATORS.light_conv(x, weight, extras()[0], torch.tensor([1, 2]), **options)
    with pytest.raises(ValueError, match="weight: expected on cuda:0, the device of x, found on cpu"):
        light_conv(x, weight.cpu(), 1)
