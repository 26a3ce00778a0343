"""The operators in plain torch, for every device: what they mean, and what runs where nothing was compiled.

Shapes: B sentences, T positions, C channels, H heads, E = C / H channels of a head, K taps; in steps also W beam slots
and N new positions.

They run without autograd, so each forward has its gradients beside it. Arithmetic is in float32 at least (float64 for
float64), results have the dtype of the tensor they belong to. The options are those of `functional`; `decoding` says
what the buffer and the slots of a step hold.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dynconv_mt.ops.bands import band, convolve, convolve_transposed, correlate
from dynconv_mt.ops.dropconnect import drop_connect_mask

VECTOR = 8  # numbers in a vector register; torch's softmax is five times slower over rows that do not fill whole ones


def dynamic_conv(
    x: Tensor,
    logits: Tensor,
    seed: Tensor | None,
    lengths: Tensor | None,
    *,
    kernel_size: int,
    padding_left: int,
    softmax: bool,
    dropout: float,
) -> Tensor:
    """Return y (B, T, C) of x (B, T, C) and logits (B, T, H·K)."""
    taps = normalise(as_taps(logits, kernel_size), softmax)
    taps = multiply(taps, drop_mask(taps, dropout, seed))
    return convolve(read(x, taps.shape[2], lengths), taps, padding_left).flatten(2).to(x.dtype)


def dynamic_conv_backward(
    grad_y: Tensor,
    x: Tensor,
    logits: Tensor,
    seed: Tensor | None,
    lengths: Tensor | None,
    *,
    kernel_size: int,
    padding_left: int,
    softmax: bool,
    dropout: float,
) -> tuple[Tensor, Tensor]:
    """Return the gradients by x and by logits, shaped like them."""
    taps = normalise(as_taps(logits, kernel_size), softmax)
    mask = drop_mask(taps, dropout, seed)
    grad_x, grad_taps = gradients(grad_y, x, lengths, multiply(taps, mask), padding_left)
    grad_logits = normalise_backward(multiply(grad_taps, mask), taps, softmax)
    return grad_x, grad_logits.flatten(2).to(logits.dtype)


def light_conv(
    x: Tensor,
    weight: Tensor,
    seed: Tensor | None,
    lengths: Tensor | None,
    *,
    padding_left: int,
    softmax: bool,
    dropout: float,
) -> Tensor:
    """Return y (B, T, C) of x (B, T, C) and weight (H, K)."""
    taps = normalise(weight.to(compute_dtype(x)), softmax)
    if dropout == 0.0:
        return depthwise(zero_padding(x, lengths).to(taps.dtype), taps, padding_left).to(x.dtype)
    taps = taps.expand(*x.shape[:2], -1, -1)
    taps = multiply(taps, drop_mask(taps, dropout, seed))
    return convolve(read(x, taps.shape[2], lengths), taps, padding_left).flatten(2).to(x.dtype)


def light_conv_backward(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor,
    seed: Tensor | None,
    lengths: Tensor | None,
    *,
    padding_left: int,
    softmax: bool,
    dropout: float,
) -> tuple[Tensor, Tensor]:
    """Return the gradients by x and by weight, shaped like them."""
    num_heads, kernel_size = weight.shape
    taps = normalise(weight.to(compute_dtype(x)), softmax)
    if dropout == 0.0:
        grad_x = depthwise(grad_y.to(taps.dtype), taps.flip(1), kernel_size - 1 - padding_left)
        grad_x = zero_padding(grad_x, lengths).to(x.dtype)
        grad_taps = correlate(read(grad_y, num_heads), read(x, num_heads, lengths), kernel_size, padding_left)
    else:
        each = taps.expand(*x.shape[:2], -1, -1)
        mask = drop_mask(each, dropout, seed)
        grad_x, grad_taps = gradients(grad_y, x, lengths, multiply(each, mask), padding_left)
        grad_taps = multiply(grad_taps, mask)
    return grad_x, normalise_backward(grad_taps.sum((0, 1)), taps, softmax).to(weight.dtype)


def dynamic_conv_step(
    x: Tensor, logits: Tensor, buffer: Tensor, slots: Tensor, *, position: int, softmax: bool
) -> Tensor:
    """Return y (B, W, N, C) of new inputs x (B, W, N, C) and logits (B, W, N, H·K), and append x to the buffer."""
    taps = normalise(as_taps(logits, buffer.shape[2] + 1), softmax)
    return step(x, taps, buffer, slots, position)


def light_conv_step(
    x: Tensor, weight: Tensor, buffer: Tensor, slots: Tensor, *, position: int, softmax: bool
) -> Tensor:
    """Return y (B, W, N, C) of new inputs x (B, W, N, C) and weight (H, K), and append x to the buffer."""
    taps = normalise(weight.to(compute_dtype(x)), softmax)
    return step(x, taps.expand(*x.shape[:3], -1, -1), buffer, slots, position)


def step(x: Tensor, taps: Tensor, buffer: Tensor, slots: Tensor, position: int) -> Tensor:
    """Return y (B, W, N, C) of inputs x (B, W, N, C), number `position` … of their slots, with taps (B, W, N, H, K)."""
    num_heads, num_past, num_new = taps.shape[3], buffer.shape[2], x.shape[2]
    bands = band(taps.flatten(0, 1), 0, num_past + num_new)  # (B·W·H, N, K - 1 + N), columns in order of time
    past, new = bands.split([num_past, num_new], dim=2)
    heads = (*x.shape[:2], num_heads)
    y: Tensor = torch.bmm(new, read(x.flatten(0, 1), num_heads).flatten(0, 1)).unflatten(0, heads)  # (B, W, H, N, E)
    y = y.transpose(2, 3)
    if num_past:
        y = y + past_sums(past.unflatten(0, heads), buffer, slots, position)
        append(x, buffer, slots, position)
    return y.flatten(3).to(x.dtype)


def past_sums(taps: Tensor, buffer: Tensor, slots: Tensor, position: int) -> Tensor:
    """Return the sums (B, W, N, H, E) of the buffered inputs times taps (B, W, H, N, K - 1), the oldest input first.

    Each sentence's whole buffer is the right side of a matrix product, as it lies. The left side has the tap of every
    input in the column of the row where it was written and zeros elsewhere: indices move, states do not. (And an Inf or
    NaN in one hypothesis reaches all of its sentence, as one in a tile does without compiled kernels.)
    """
    num_slots, num_heads, num_new, num_past = taps.shape[1:]
    columns = slots[:, :num_slots] * num_past + torch.arange(num_past, device=taps.device)  # (B, W, K - 1)
    columns = columns[:, :, None, None].expand(taps.shape)
    rows = buffer.to(taps.dtype).flatten(1, 2).unflatten(2, (num_heads, -1))  # (B, beam·(K - 1), H, E)
    matrix = taps.new_zeros(*taps.shape[:4], rows.shape[1])
    matrix.scatter_(4, columns, taps.roll(position, 4))  # the ring's oldest row is number position % (K - 1)
    matrix = matrix.transpose(2, 3).flatten(1, 2)  # (B, W·N, H, beam·(K - 1))
    products = [torch.bmm(matrix[:, :, head], rows[:, :, head]) for head in range(num_heads)]  # (B, W·N, E) each
    sums: Tensor = torch.stack(products, dim=2).unflatten(1, (num_slots, num_new))
    return sums


def append(x: Tensor, buffer: Tensor, slots: Tensor, position: int) -> None:
    """Write the last new inputs of x (B, W, N, C), K - 1 at most, over the oldest ones."""
    num_rows, end = buffer.shape[2], position + x.shape[2]
    x = x[:, :, max(x.shape[2] - num_rows, 0) :]
    num_slots, num_new = x.shape[1:3]
    rows = torch.arange(end - num_new, end, device=x.device) % num_rows
    buffer[:, :num_slots, rows] = x.to(buffer.dtype)
    slots[:, :num_slots, rows] = torch.arange(num_slots, device=x.device)[:, None]


def gradients(
    grad_y: Tensor, x: Tensor, lengths: Tensor | None, taps: Tensor, padding_left: int
) -> tuple[Tensor, Tensor]:
    """Return the gradients by x (B, T, C) and by the final taps (B, T, H, K) of their convolution."""
    num_heads, kernel_size = taps.shape[2:]
    grad_y = read(grad_y, num_heads)
    grad_x = convolve_transposed(grad_y, taps, padding_left).flatten(2)
    grad_taps = correlate(grad_y, read(x, num_heads, lengths), kernel_size, padding_left)
    return zero_padding(grad_x, lengths).to(x.dtype), grad_taps


def depthwise(x: Tensor, taps: Tensor, padding_left: int) -> Tensor:
    """Return the convolution (B, T, C) of x (B, T, C) with the same taps (H, K) at every position.

    torch's depthwise convolution reads our layout as an image of height 1 with its channels last, without a copy.
    """
    if x.numel() == 0:
        return x.new_zeros(x.shape)
    (num_heads, kernel_size), (num_positions, num_channels) = taps.shape, x.shape[1:]
    padding_left = max(-num_positions, min(padding_left, num_positions + kernel_size))  # beyond that all are zeros
    margin = max(padding_left, kernel_size - 1 - padding_left)  # it pads both ends alike; the surplus is cut off
    kernels = taps.repeat_interleave(num_channels // num_heads, 0)[:, None, None]  # (C, 1, 1, K)
    y = F.conv2d(x.mT.unsqueeze(2), kernels, padding=(0, margin), groups=num_channels)  # (B, C, 1, ≥ T)
    return y.squeeze(2).mT.narrow(1, margin - padding_left, x.shape[1]).contiguous()


def compute_dtype(x: Tensor) -> torch.dtype:
    """Return the precision to compute in: float64 for float64, else float32."""
    return torch.promote_types(x.dtype, torch.float32)


def as_taps(logits: Tensor, kernel_size: int) -> Tensor:
    """Return logits (…, H·K), head by head, as (…, H, K) in the precision to compute in."""
    taps: Tensor = logits.unflatten(-1, (logits.shape[-1] // kernel_size, kernel_size))
    return taps.to(compute_dtype(logits))


def normalise(logits: Tensor, softmax: bool) -> Tensor:
    """Return the taps (…, K) of logits (…, K): their softmax over all K, or themselves."""
    if not softmax:
        return logits
    kernel_size = logits.shape[-1]
    return F.pad(logits, (0, -kernel_size % VECTOR), value=-torch.inf).softmax(-1)[..., :kernel_size]


def normalise_backward(grad_taps: Tensor, taps: Tensor, softmax: bool) -> Tensor:
    """Return the gradient (…, K) by the logits, given that by the taps."""
    if not softmax:
        return grad_taps
    return taps * (grad_taps - (taps * grad_taps).sum(-1, keepdim=True))


def drop_mask(taps: Tensor, dropout: float, seed: Tensor | None) -> Tensor | None:
    """Return DropConnect's factors (B, T, H, K) for taps of that shape, None without dropout."""
    if dropout == 0.0:
        return None
    assert seed is not None, "functional checks it"
    return drop_connect_mask(taps.shape, dropout, seed, taps.dtype)


def multiply(taps: Tensor, mask: Tensor | None) -> Tensor:
    """Return taps · mask, where there is one."""
    return taps if mask is None else taps * mask


def zero_padding(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Return x (B, T, C) with zeros at and beyond each sentence's length (B,), whatever stood there.

    Bits are cleared by `&`: a product would keep NaN and Inf, and `masked_fill` takes seven times as long.
    """
    if lengths is None:
        return x
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.dtype.itemsize]
    is_token = torch.arange(x.shape[1], device=x.device) < lengths[:, None]  # (B, T)
    return (x.view(integer) & -is_token[..., None].to(integer)).view(x.dtype)  # -1 is all ones


def read(x: Tensor, num_heads: int, lengths: Tensor | None = None) -> Tensor:
    """Return x (B, T, C) as (B, H, T, E), contiguous, in the precision to compute in, padding zeroed."""
    x = zero_padding(x, lengths).to(compute_dtype(x))
    heads: Tensor = x.unflatten(-1, (num_heads, x.shape[-1] // num_heads))  # (B, T, H, E)
    return heads.transpose(1, 2).contiguous()
