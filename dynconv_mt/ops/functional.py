"""The public face of the operators: `light_conv` and `dynamic_conv`.

Shapes: B sentences, T positions, C channels, H heads, K taps. Channel c belongs to head c // (C / H).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

from dynconv_mt.ops import library  # registers the operators

OPERATORS = getattr(torch.ops, library.NAMESPACE)
FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
INTEGERS = (torch.int64, torch.int32)


def dynamic_conv(
    x: Tensor,
    logits: Tensor,
    kernel_size: int,
    padding_left: int,
    *,
    softmax: bool = True,
    dropout: float = 0.0,
    seed: Tensor | None = None,
    lengths: Tensor | None = None,
) -> Tensor:
    """Return the convolution of x with kernels of its own at every position (paper, section 4, DynamicConv):

        y[b, t, c] = Σ_k w[b, t, h(c), k] · x[b, t + k - padding_left, c],     w = DropConnect(softmax_k(logits))

    Args:
        x: (B, T, C), float32, float64, bfloat16 or float16. Positions outside 0 … T - 1 are zeros.
        logits: (B, T, H·K), head by head, dtype of x; autocast casts both. The softmax is over all K taps, also those
            that fall outside.
        kernel_size: K, at least 1.
        padding_left: taps before the current position: K - 1 is causal, K // 2 centred; any integer works.
        softmax: False takes the logits themselves as taps.
        dropout: probability in [0, 1) that a tap of one sentence, position and head is set to zero; the others are
            divided by 1 - dropout.
        seed: int64 tensor of one number that the dropped taps are a function of (see `dropconnect`): draw a new one
            from torch's generator for every call. None without dropout.
        lengths: (B,) integers. Positions of x at or beyond a sentence's length are read as zeros, whatever they hold,
            and get zero gradient. Outputs there are the sums that the formula gives; nobody should need them.

    Returns:
        y: (B, T, C), contiguous, dtype of x. Sums are in float32 at least. Memory is linear in T.

    Raises:
        ValueError: names the argument that does not fit, and what was found.
    """
    check_x(x)
    if kernel_size < 1:
        raise ValueError(f"kernel_size={kernel_size}: a kernel has at least 1 tap")
    if logits.dim() != 3 or logits.shape[:2] != x.shape[:2] or logits.shape[2] % kernel_size or logits.shape[2] == 0:
        expected = f"({x.shape[0]}, {x.shape[1]}, H·{kernel_size}) for x {sizes(x)} and kernel_size={kernel_size}"
        raise ValueError(f"logits: expected shape {expected}, found {sizes(logits)}")
    check_heads(x, logits.shape[2] // kernel_size, "logits")
    check_dtype(x, "logits", logits)
    check_device(x, "logits", logits)
    refuse_tangents(x, logits)
    options = {"kernel_size": kernel_size, "padding_left": padding_left, "softmax": softmax, "dropout": dropout}
    y: Tensor = OPERATORS.dynamic_conv(
        x, logits, checked_seed(x, seed, dropout), checked_lengths(x, lengths), **options
    )
    return y


def light_conv(
    x: Tensor,
    weight: Tensor,
    padding_left: int,
    *,
    softmax: bool = True,
    dropout: float = 0.0,
    seed: Tensor | None = None,
    lengths: Tensor | None = None,
) -> Tensor:
    """Return the convolution of x with one kernel per head for all positions (paper, section 3, LightConv):

        y[b, t, c] = Σ_k w[h(c), k] · x[b, t + k - padding_left, c],     w = DropConnect(softmax_k(weight))

    Args:
        x: (B, T, C), float32, float64, bfloat16 or float16. Positions outside 0 … T - 1 are zeros.
        weight: (H, K), dtype of x, or float32 beside bfloat16 and float16.
        padding_left, softmax, lengths: as for `dynamic_conv`.
        dropout, seed: as for `dynamic_conv`: taps are dropped at each sentence and position apart.

    Returns:
        y: (B, T, C), contiguous, dtype of x. Sums are in float32 at least. Memory is linear in T.

    Raises:
        ValueError: names the argument that does not fit, and what was found.
    """
    check_x(x)
    if weight.dim() != 2 or weight.numel() == 0:
        raise ValueError(f"weight: expected shape (H, K), found {sizes(weight)}")
    check_heads(x, weight.shape[0], "weight")
    if weight.dtype != torch.float32 or x.dtype == torch.float64:
        check_dtype(x, "weight", weight)
    check_device(x, "weight", weight)
    refuse_tangents(x, weight)
    options = {"padding_left": padding_left, "softmax": softmax, "dropout": dropout}
    y: Tensor = OPERATORS.light_conv(x, weight, checked_seed(x, seed, dropout), checked_lengths(x, lengths), **options)
    return y


def refuse_tangents(*inputs: Tensor) -> None:
    """Raise NotImplementedError under forward-mode differentiation of an input, which would else come out as zero."""
    if torch.compiler.is_compiling() or forward_ad._current_level < 0:
        return
    if any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in inputs):
        raise NotImplementedError("light_conv and dynamic_conv have no forward-mode derivatives (jvp, jacfwd)")


def sizes(tensor: Tensor) -> tuple[int, ...]:
    """Return a shape as messages print it."""
    return tuple(tensor.shape)


def check_x(x: Tensor) -> None:
    """Raise ValueError unless x is (B, T, C) and floating."""
    if x.dim() != 3:
        raise ValueError(f"x: expected shape (B, T, C), found {sizes(x)}")
    if x.dtype not in FLOATS:
        raise ValueError(f"x: expected float32, float64, bfloat16 or float16, found {x.dtype}")


def check_heads(x: Tensor, num_heads: int, name: str) -> None:
    """Raise ValueError unless there are heads of the argument `name`, and they divide the channels of x."""
    if num_heads < 1 or x.shape[2] % num_heads:
        raise ValueError(f"{name}: its {num_heads} heads do not divide the {x.shape[2]} channels of x {sizes(x)}")


def check_dtype(x: Tensor, name: str, tensor: Tensor) -> None:
    """Raise ValueError unless the argument `name` has the dtype of x, or gets it from autocast."""
    if tensor.dtype == x.dtype:
        return
    if torch.float64 in (x.dtype, tensor.dtype) or not library.is_autocast(x.device.type):
        raise ValueError(f"{name}: expected {x.dtype}, the dtype of x, found {tensor.dtype}")


def check_device(x: Tensor, name: str, tensor: Tensor) -> None:
    """Raise ValueError unless the argument `name` is on the device of x."""
    if tensor.device != x.device:
        raise ValueError(f"{name}: expected on {x.device}, the device of x, found on {tensor.device}")


def checked_seed(x: Tensor, seed: Tensor | None, dropout: float) -> Tensor | None:
    """Return the seed as kernels take it, (1,) int64, or None where nothing is dropped."""
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout={dropout}: a probability of at least 0 and below 1")
    if dropout == 0.0:
        return None
    if not isinstance(seed, Tensor):
        found = "" if seed is None else f", found {seed!r}"
        raise ValueError(f"seed: needed for dropout={dropout}; pass torch.randint(2**62, (1,), device=x.device){found}")
    if seed.dtype != torch.int64 or seed.numel() != 1:
        raise ValueError(f"seed: expected one number of torch.int64, found {sizes(seed)} of {seed.dtype}")
    check_device(x, "seed", seed)
    return seed.reshape(1)


def checked_lengths(x: Tensor, lengths: Tensor | None) -> Tensor | None:
    """Return the lengths as kernels take them: (B,) int64, or None."""
    if lengths is None:
        return None
    if not isinstance(lengths, Tensor):
        raise ValueError(f"lengths: expected a tensor of ({x.shape[0]},) integers, found {lengths!r}")
    if lengths.dtype not in INTEGERS or lengths.shape != x.shape[:1]:
        found = f"{sizes(lengths)} of {lengths.dtype}"
        raise ValueError(f"lengths: expected ({x.shape[0]},) integers (int64 or int32) for x {sizes(x)}, found {found}")
    check_device(x, "lengths", lengths)
    return lengths.to(torch.int64)
