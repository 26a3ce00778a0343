"""The operators against tensors that the paper's first implementation wrote (fixtures, absent from a plain clone).

Shapes: B sentences, T positions, C channels, H heads, K taps.
"""

from typing import Any

import pytest
import torch
from shared import SHARED
from torch import Tensor
from torch.nn import functional as F

from dynconv_mt.ops import ConvState, dynamic_conv, dynamic_conv_step, light_conv, light_conv_step

FIXTURES = SHARED / "parity" / "modules.pt"
pytestmark = pytest.mark.skipif(not FIXTURES.is_file(), reason=f"{FIXTURES} is absent")


def load_cases() -> list[dict[str, Any]]:
    """Return the cases that our operators mean to reproduce: all but those that renormalise at the edges."""
    if not FIXTURES.is_file():
        return []
    cases: list[dict[str, Any]] = torch.load(FIXTURES, weights_only=True)["cases"]
    return [case for case in cases if not case["cfg"]["renorm_padding"]]


def describe(case: dict[str, Any]) -> str:
    """Return a short name for a test."""
    cfg = case["cfg"]
    flags = [name for name in ("weight_softmax", "bias", "in_proj") if cfg[name]]
    return "-".join([case["kind"], f"K{cfg['kernel_size']}", f"left{cfg['padding_l']}", f"T{case['T']}", *flags])


def inputs_of_convolution(case: dict[str, Any], x: Tensor, weights: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return what goes into our operator: x (B, T, C) and weight (H, K), or logits (B, T, H·K)."""
    x = x.transpose(0, 1)
    if case["kind"] == "light":
        return x, weights["weight"].squeeze(1)
    projected = F.linear(x, weights["weight_linear.weight"], weights.get("weight_linear.bias"))
    if case["cfg"]["in_proj"]:
        num_channels = case["cfg"]["input_size"]
        x, projected = projected.split([num_channels, projected.shape[2] - num_channels], dim=2)
    return x, projected


@pytest.mark.parametrize("case", load_cases(), ids=describe)
def test_outputs_and_gradients(case: dict[str, Any]) -> None:
    cfg = case["cfg"]
    x = case["x"].clone().requires_grad_()
    weights = {name: tensor.clone().requires_grad_() for name, tensor in case["state_dict"].items()}
    inputs = inputs_of_convolution(case, x, weights)
    if case["kind"] == "light":
        y = light_conv(*inputs, cfg["padding_l"], softmax=cfg["weight_softmax"])
    else:
        y = dynamic_conv(*inputs, cfg["kernel_size"], cfg["padding_l"], softmax=cfg["weight_softmax"])
    y = y.transpose(0, 1)
    for bias in ("bias", "conv_bias"):
        y = y + weights[bias] if bias in weights else y
    y.backward(case["grad_out"])
    torch.testing.assert_close(y, case["expanded"]["out"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(x.grad, case["expanded"]["grad_x"], atol=1e-4, rtol=1e-4)
    for name, gradient in case["expanded"]["grads"].items():
        torch.testing.assert_close(weights[name].grad, gradient, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("case", [case for case in load_cases() if case["causal"]], ids=describe)
def test_steps(case: dict[str, Any]) -> None:
    kernel_size, softmax, weights = case["cfg"]["kernel_size"], case["cfg"]["weight_softmax"], case["state_dict"]
    x, taps = inputs_of_convolution(case, case["x"], weights)
    state = ConvState.empty(len(x), 1, kernel_size, x)
    steps = []
    for t in range(case["T"]):
        new = x[:, None, t : t + 1]
        if case["kind"] == "light":
            steps.append(light_conv_step(new, taps, state, softmax=softmax))
        else:
            steps.append(dynamic_conv_step(new, taps[:, None, t : t + 1], state, softmax=softmax))
    y = torch.cat(steps, dim=2).squeeze(1).transpose(0, 1)
    for bias in ("bias", "conv_bias"):
        y = y + weights[bias] if bias in weights else y
    torch.testing.assert_close(y, case["incremental_out"], atol=1e-5, rtol=1e-5)
