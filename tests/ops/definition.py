"""The paper's formula, written down with no thought of speed, and inputs to try it on.

Shapes: B sentences, T positions, C channels, H heads, K taps.
"""

import torch
from torch import Tensor


def convolve(x: Tensor, taps: Tensor, padding_left: int, lengths: Tensor | None = None) -> Tensor:
    """Return y[b, t, c] = Σ_k taps[b, t, h(c), k] · x[b, t + k - padding_left, c], zeros outside and beyond lengths."""
    num_positions, num_channels = x.shape[1:]
    num_heads, kernel_size = taps.shape[2:]
    source = torch.arange(num_positions)[:, None] + torch.arange(kernel_size) - padding_left  # (T, K)
    ends = torch.full((len(x),), num_positions) if lengths is None else lengths
    is_read = (source >= 0) & (source < ends[:, None, None])  # (B, T, K)
    windows = x[:, source.clamp(0, num_positions - 1)] * is_read[..., None]  # (B, T, K, C)
    of_channel = taps.repeat_interleave(num_channels // num_heads, dim=2)  # (B, T, C, K)
    return torch.einsum("btkc,btck->btc", windows, of_channel)


def normalise(logits: Tensor, softmax: bool) -> Tensor:
    """Return the taps (…, K) of logits (…, K)."""
    return logits.softmax(-1) if softmax else logits


def dynamic_conv(
    x: Tensor, logits: Tensor, kernel_size: int, padding_left: int, softmax: bool = True, lengths: Tensor | None = None
) -> Tensor:
    """Return y (B, T, C) of x (B, T, C) and logits (B, T, H·K)."""
    return convolve(x, normalise(logits.unflatten(2, (-1, kernel_size)), softmax), padding_left, lengths)


def light_conv(
    x: Tensor, weight: Tensor, padding_left: int, softmax: bool = True, lengths: Tensor | None = None
) -> Tensor:
    """Return y (B, T, C) of x (B, T, C) and weight (H, K)."""
    return convolve(x, normalise(weight, softmax).expand(*x.shape[:2], -1, -1), padding_left, lengths)
