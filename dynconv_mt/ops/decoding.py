"""The causal convolutions a few positions at a time, over a ring buffer of the inputs that they still need.

Shapes: B sentences, W beam slots, N new positions, C channels, H heads, E = C / H, K taps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dynconv_mt.ops.bands import band
from dynconv_mt.ops.functional import check_heads, check_x, sizes
from dynconv_mt.ops.reference import as_taps, compute_dtype, normalise, read


@dataclass
class ConvState:
    """The last K - 1 inputs of every hypothesis; its size does not depend on how many positions have gone by.

    Input number p of slot w was written to `buffer[:, w, p % (K - 1)]`. When the beam moves, inputs stay where they
    are: `slots[b, w, r]` is the slot that row r of hypothesis w of sentence b was written by, its ancestor then.
    """

    buffer: Tensor  # (B, W, K - 1, C); zeros where nothing has been written, as the convolution reads them
    slots: Tensor  # (B, W, K - 1) int64
    position: int = 0  # how many inputs every hypothesis has had

    @classmethod
    def empty(cls, num_sentences: int, beam: int, kernel_size: int, like: Tensor) -> ConvState:
        """Return the state before the first position, for inputs (B, up to W, N, C) like `like` (…, C)."""
        if min(beam, kernel_size) < 1:
            raise ValueError(f"beam={beam}, kernel_size={kernel_size}: both must be at least 1")
        shape = (num_sentences, beam, kernel_size - 1)
        own = torch.arange(beam, device=like.device)[:, None].expand(shape)
        return cls(like.new_zeros(*shape, like.shape[-1]), own.contiguous())

    def select(self, sentences: Tensor) -> None:
        """Keep these sentences (B',) int64, in this order."""
        self.buffer, self.slots = self.buffer[sentences], self.slots[sentences]

    def reorder(self, parents: Tensor) -> None:
        """Let slot w of sentence b continue from slot parents[b, w]; parents (B, W') int64, W' at most W."""
        self.slots = self.slots.gather(1, parents[..., None].expand(-1, -1, self.slots.shape[2]))

    def append(self, x: Tensor) -> None:
        """Write N new inputs (B, up to W, N, C) over the oldest ones."""
        self.position += x.shape[2]
        num_rows = self.buffer.shape[2]
        x = x[:, :, max(x.shape[2] - num_rows, 0) :]
        num_slots, num_new = x.shape[1:3]
        if num_rows == 0:
            return
        rows = torch.arange(self.position - num_new, self.position, device=x.device) % num_rows
        self.buffer[:, :num_slots, rows] = x.to(self.buffer.dtype)
        self.slots[:, :num_slots, rows] = torch.arange(num_slots, device=x.device)[:, None]


def dynamic_conv_step(x: Tensor, logits: Tensor, state: ConvState, *, softmax: bool = True) -> Tensor:
    """Return what `dynamic_conv` with padding_left = K - 1 returns at N new positions, and append them to `state`.

    x (B, W', N, C) with W' at most the beam of the state; logits (B, W', N, H·K), dtype of x; y (B, W', N, C). Not
    differentiable. Raises ValueError where shapes do not fit.
    """
    kernel_size = state.buffer.shape[2] + 1
    if x.dim() != 4 or logits.dim() != 4 or logits.shape[:3] != x.shape[:3] or logits.shape[3] % kernel_size:
        expected = f"({', '.join(map(str, x.shape[:3]))}, H·{kernel_size})"
        raise ValueError(f"logits: expected shape {expected} for x {sizes(x)}, found {sizes(logits)}")
    check_input(x, logits.shape[3] // kernel_size, "logits", state)
    return step(x, normalise(as_taps(logits, kernel_size), softmax), state)


def light_conv_step(x: Tensor, weight: Tensor, state: ConvState, *, softmax: bool = True) -> Tensor:
    """Return what `light_conv` with padding_left = K - 1 returns at N new positions, and append them to `state`.

    x (B, W', N, C) with W' at most the beam of the state; weight (H, K); y (B, W', N, C). Not differentiable. Raises
    ValueError where shapes do not fit.
    """
    kernel_size = state.buffer.shape[2] + 1
    if weight.dim() != 2 or weight.shape[1] != kernel_size:
        raise ValueError(f"weight: expected shape (H, {kernel_size}) for this state, found {sizes(weight)}")
    check_input(x, weight.shape[0], "weight", state)
    return step(x, normalise(weight.to(compute_dtype(x)), softmax).expand(*x.shape[:3], -1, -1), state)


@torch.no_grad()
def step(x: Tensor, taps: Tensor, state: ConvState) -> Tensor:
    """Return y (B, W, N, C) of N new inputs x (B, W, N, C) with taps (B, W, N, H, K), and append them to `state`."""
    num_heads, num_past, num_new = taps.shape[3], state.buffer.shape[2], x.shape[2]
    bands = band(taps.flatten(0, 1), 0, num_past + num_new)  # (B·W·H, N, K - 1 + N), columns in order of time
    past, new = bands.split([num_past, num_new], dim=2)
    heads = (*x.shape[:2], num_heads)
    y: Tensor = torch.bmm(new, read(x.flatten(0, 1), num_heads).flatten(0, 1)).unflatten(0, heads)  # (B, W, H, N, E)
    y = y.transpose(2, 3)
    if num_past:
        y = y + past_sums(past.unflatten(0, heads), state)
    state.append(x)
    return y.flatten(3).to(x.dtype)


def past_sums(taps: Tensor, state: ConvState) -> Tensor:
    """Return the sums (B, W, N, H, E) of the buffered inputs times taps (B, W, H, N, K - 1), the oldest input first.

    Each sentence's whole buffer is the right side of a matrix product, as it lies. The left side has the tap of every
    input in the column of the row where it was written and zeros elsewhere: indices move, states do not.
    """
    num_slots, num_heads, num_new, num_past = taps.shape[1:]
    columns = state.slots[:, :num_slots] * num_past + torch.arange(num_past, device=taps.device)  # (B, W, K - 1)
    columns = columns[:, :, None, None].expand(taps.shape)
    rows = state.buffer.to(taps.dtype).flatten(1, 2).unflatten(2, (num_heads, -1))  # (B, beam·(K - 1), H, E)
    matrix = taps.new_zeros(*taps.shape[:4], rows.shape[1])
    matrix.scatter_(4, columns, taps.roll(state.position, 4))  # the ring's oldest row is number position % (K - 1)
    matrix = matrix.transpose(2, 3).flatten(1, 2)  # (B, W·N, H, beam·(K - 1))
    products = [torch.bmm(matrix[:, :, head], rows[:, :, head]) for head in range(num_heads)]  # (B, W·N, E) each
    sums: Tensor = torch.stack(products, dim=2).unflatten(1, (num_slots, num_new))
    return sums


def check_input(x: Tensor, num_heads: int, name: str, state: ConvState) -> None:
    """Raise ValueError unless x (B, W', N, C) fits the state and the heads of argument `name` divide its channels."""
    num_sentences, beam, _, num_channels = state.buffer.shape
    is_fitting = x.dim() == 4 and (x.shape[0], x.shape[3]) == (num_sentences, num_channels) and x.shape[1] <= beam
    if not is_fitting:
        expected = f"({num_sentences}, at most {beam}, N, {num_channels})"
        raise ValueError(f"x: expected shape {expected} for this state, found {sizes(x)}")
    check_x(x.flatten(0, 1))
    check_heads(x.flatten(0, 1), num_heads, name)
