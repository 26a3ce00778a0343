"""The causal convolutions a few positions at a time, over a ring buffer of the inputs that they still need.

Shapes: B sentences, W beam slots, N new positions, C channels, H heads, E = C / H, K taps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dynconv_mt.ops.functional import OPERATORS, check_device, check_dtype, check_heads, check_x, sizes
from dynconv_mt.ops.library import cast, is_autocast
from dynconv_mt.ops.reference import compute_dtype


@dataclass
class ConvState:
    """The last K - 1 inputs of every hypothesis; its size does not depend on how many positions have gone by.

    Input number p of slot w was written to `buffer[:, w, p % (K - 1)]`. When the beam moves, inputs stay where they
    are: `slots[b, w, r]` is the slot that row r of hypothesis w of sentence b was written by, its ancestor then.
    """

    buffer: Tensor  # (B, W, K - 1, C); zeros where nothing has been written, as the convolution reads them
    slots: Tensor  # (B, W, K - 1) int64
    position: int = 0  # how many inputs every hypothesis has had; on the host, so that no CUDA graph can count it

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
        num_sentences, beam = self.buffer.shape[:2]
        if parents.dim() != 2 or parents.shape[0] != num_sentences or parents.shape[1] > beam:
            raise ValueError(f"parents: expected shape ({num_sentences}, at most {beam}), found {sizes(parents)}")
        self.slots = self.slots.gather(1, parents[..., None].expand(-1, -1, self.slots.shape[2]))


def dynamic_conv_step(x: Tensor, logits: Tensor, state: ConvState, *, softmax: bool = True) -> Tensor:
    """Return what `dynamic_conv` with padding_left = K - 1 returns at N new positions, and append them to `state`.

    x (B, W', N, C) with W' at most the beam of the state; logits (B, W', N, H·K), dtype of x; y (B, W', N, C). A slot
    that sits a step out has lost its place and comes back by `reorder` only. Not differentiable. Raises ValueError
    where shapes do not fit.
    """
    x, logits = as_autocast_has_it("dynamic_conv_step", x, logits)
    kernel_size = state.buffer.shape[2] + 1
    if x.dim() == 4 and (logits.dim() != 4 or logits.shape[:3] != x.shape[:3] or logits.shape[3] % kernel_size):
        expected = f"({', '.join(map(str, x.shape[:3]))}, H·{kernel_size})"
        raise ValueError(f"logits: expected shape {expected} for x {sizes(x)}, found {sizes(logits)}")
    check_input(x, logits, logits.shape[-1] // kernel_size, "logits", state)
    check_dtype(x, "logits", logits)
    return step("dynamic_conv_step", x, logits, state, softmax)


def light_conv_step(x: Tensor, weight: Tensor, state: ConvState, *, softmax: bool = True) -> Tensor:
    """Return what `light_conv` with padding_left = K - 1 returns at N new positions, and append them to `state`.

    x (B, W', N, C) with W' at most the beam of the state; weight (H, K); y (B, W', N, C). Not differentiable. Raises
    ValueError where shapes do not fit.
    """
    x, weight = as_autocast_has_it("light_conv_step", x, weight)
    kernel_size = state.buffer.shape[2] + 1
    if weight.dim() != 2 or weight.shape[1] != kernel_size:
        raise ValueError(f"weight: expected shape (H, {kernel_size}) for this state, found {sizes(weight)}")
    check_input(x, weight, weight.shape[0], "weight", state)
    if weight.dtype != torch.float32 or x.dtype == torch.float64:
        check_dtype(x, "weight", weight)
    return step("light_conv_step", x, weight, state, softmax)


def as_autocast_has_it(name: str, x: Tensor, taps: Tensor) -> tuple[Tensor, Tensor]:
    """Return x and taps of the operator `name`, cast where autocast is on."""
    return cast(name, x, taps) if is_autocast(x.device.type) and x.is_floating_point() else (x, taps)


@torch.no_grad()
def step(name: str, x: Tensor, taps: Tensor, state: ConvState, softmax: bool) -> Tensor:
    """Return y of the operator `name` at N new inputs x (B, W, N, C), and count them."""
    y: Tensor = getattr(OPERATORS, name)(x, taps, state.buffer, state.slots, position=state.position, softmax=softmax)
    state.position += x.shape[2]
    return y


def check_input(x: Tensor, taps: Tensor, num_heads: int, name: str, state: ConvState) -> None:
    """Raise ValueError unless x (B, W', N, C) fits the state and the heads of `taps`, argument `name`, its channels."""
    num_sentences, _, _, num_channels = state.buffer.shape
    beam = state.slots.shape[1]
    is_fitting = x.dim() == 4 and (x.shape[0], x.shape[3]) == (num_sentences, num_channels) and x.shape[1] <= beam
    if not is_fitting:
        expected = f"({num_sentences}, at most {beam}, N, {num_channels})"
        raise ValueError(f"x: expected shape {expected} for this state, found {sizes(x)}")
    check_x(x.flatten(0, 1))
    check_heads(x.flatten(0, 1), num_heads, name)
    if x.device != state.buffer.device:
        raise ValueError(f"x: expected on {state.buffer.device}, the device of this state, found on {x.device}")
    check_device(x, name, taps)
    check_device(x, "state.slots", state.slots)
    if state.buffer.dtype not in (x.dtype, compute_dtype(x)):
        raise ValueError(f"x: expected {state.buffer.dtype}, the dtype of this state, found {x.dtype}")
