"""What `bench_ops.py` compares: our operators, their reference, and what else a layer could compute in their place.

Shapes: B sentences, T positions, C channels, H heads, E = C / H, K taps. Every function returns two calls for a case:
what computes the forward alone, and what computes forward and backward.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend

from dynconv_mt.ops import reference

OPERATORS = torch.ops.dynconv_mt
NO_OPTIONS = (None, None)  # seed and lengths
Run = Callable[[], object]
Pairs = dict[str, tuple[Run, Run]]


@dataclass(frozen=True)
class Case:
    """A shape and where it is measured."""

    operator: str  # dynamic or light
    sentences: int
    positions: int
    channels: int
    heads: int
    taps: int
    dtype: torch.dtype = torch.float32
    is_causal: bool = False
    device: str = "cpu"

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        causal = " causal" if self.is_causal else ""
        shape = f"{self.sentences}×{self.positions}, C={self.channels}, H={self.heads}, K={self.taps}"
        return f"{self.operator} {shape}{causal}, {dtype}"

    def random(self, *shape: int) -> Tensor:
        """Return a tensor of this dtype and device."""
        return torch.randn(shape, device=self.device).to(self.dtype)


def differentiated(function: Callable[..., Tensor], *inputs: Tensor) -> tuple[Run, Run]:
    """Return a function's forward alone, and its forward with its backward through autograd."""
    leaves = [tensor.requires_grad_() for tensor in inputs]
    grad = torch.randn_like(function(*leaves))

    def forward() -> None:
        with torch.no_grad():
            function(*leaves)

    return forward, lambda: torch.autograd.grad(function(*leaves), leaves, grad)


def convolutions(case: Case, is_compiling: bool) -> Pairs:
    """Return our operators, and their reference: eager, and on demand compiled by torch."""
    x = case.random(case.sentences, case.positions, case.channels)
    grad_y = torch.randn_like(x)
    options: dict[str, Any] = {"padding_left": case.taps - 1 if case.is_causal else case.taps // 2}
    options |= {"softmax": True, "dropout": 0.0}
    if case.operator == "dynamic":
        options["kernel_size"] = case.taps
        taps = case.random(case.sentences, case.positions, case.heads * case.taps)
    else:
        taps = torch.randn(case.heads, case.taps, device=case.device)
    forward, backward = (getattr(reference, f"{case.operator}_conv{suffix}") for suffix in ("", "_backward"))
    ours = getattr(OPERATORS, f"{case.operator}_conv")
    pairs: Pairs = {
        "ours": differentiated(lambda x, taps: ours(x, taps, *NO_OPTIONS, **options), x.clone(), taps.clone())
    }

    def both(forward: Callable[..., object], backward: Callable[..., object]) -> tuple[Run, Run]:
        """Call the two functions of the reference one after the other."""

        def run() -> None:
            forward(x, taps, *NO_OPTIONS, **options)
            backward(grad_y, x, taps, *NO_OPTIONS, **options)

        return lambda: forward(x, taps, *NO_OPTIONS, **options), run

    pairs["reference"] = both(forward, backward)
    if is_compiling:
        torch._dynamo.reset()
        pairs["compiled"] = both(torch.compile(forward), torch.compile(backward))
        pairs["compiled"][1]()  # it is compiled here
    return pairs


def banded(x: Tensor, taps: Tensor, padding_left: int) -> Tensor:
    """Return y (T, B, C) of x (T, B, C) and taps (T, B, H, K), time first: the algorithm of fairseq's fastest CPU path.

    The whole T × T matrix of every sentence and head is built, a banded one: taps are copied along the diagonals of
    rows of T + K - 1 numbers through a strided view, and what falls outside is cut off. A batched product does the
    rest.
    """
    num_positions, num_sentences, num_heads, kernel_size = taps.shape
    num_matrices, length = num_sentences * num_heads, num_positions + kernel_size - 1
    columns = x.reshape(num_positions, num_matrices, -1).transpose(0, 1)  # (B·H, T, E)
    matrix = taps.new_zeros(num_matrices, num_positions, length)
    diagonals = (num_matrices, num_positions, kernel_size), (num_positions * length, length + 1, 1)
    matrix.as_strided(*diagonals).copy_(taps.flatten(1, 2).transpose(0, 1))
    y = torch.bmm(matrix.narrow(2, padding_left, num_positions), columns)
    return y.transpose(0, 1).reshape(x.shape)


def fairseq(case: Case) -> tuple[Run, Run]:
    """Return fairseq's algorithm, with its softmax, in the layout that it wants."""
    shape = (case.positions, case.sentences, case.heads, case.taps)
    padding_left = case.taps - 1 if case.is_causal else case.taps // 2
    x = case.random(case.positions, case.sentences, case.channels)
    weight = case.random(*(shape if case.operator == "dynamic" else shape[2:]))
    return differentiated(lambda x, w: banded(x, w.softmax(-1).expand(shape), padding_left), x, weight)


def attention(case: Case) -> tuple[Run, Run]:
    """Return the core of self-attention of the same width: no projections, its own layout, heads of 64 channels."""
    inputs = queries(case)
    return differentiated(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=case.is_causal), *inputs)


def queries(case: Case) -> list[Tensor]:
    """Return what goes into attention."""
    return [case.random(case.sentences, case.channels // 64, case.positions, 64) for _ in range(3)]


def attention_backend(case: Case) -> str:
    """Return the name of the kernels that attention takes."""
    inputs = [tensor.requires_grad_() for tensor in queries(case)]
    choice = torch._fused_sdp_choice(*inputs, is_causal=case.is_causal)  # type: ignore[misc, arg-type]
    return str(SDPBackend(choice).name).removesuffix("_ATTENTION").lower()


def depthwise(case: Case) -> tuple[Run, Run]:
    """Return torch's depthwise convolution in its own layout (B, C, T), one kernel per channel, K taps."""
    x = case.random(case.sentences, case.channels, case.positions)
    weight = case.random(case.channels, 1, case.taps)
    return differentiated(lambda x, w: F.conv1d(x, w, padding=case.taps // 2, groups=case.channels), x, weight)
