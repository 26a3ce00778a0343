"""DropConnect's random mask, a pure function of a seed and of a tap's place, so that nothing needs to be stored.

Shapes: B sentences, T positions, H heads, K taps.

Every implementation of the operators, in whatever language, draws the same 32 bits for the same tap. With all numbers
unsigned, `^` exclusive or, and sums and products modulo 2^32:

    mix(v):   v ^= v >> 16;  v *= 0x7FEB352D;  v ^= v >> 15;  v *= 0x846CA68B;  v ^= v >> 16;  return v
    GOLDEN    = 0x9E3779B9
    row       = (b·T + t)·H + h                                 64 bits; b, t, h from 0, T as given, padding included
    state     = GOLDEN;  for word in (low half of seed, high half of seed, high half of row, low half of row):
                             state = mix(state ^ word)                                        halves of 32 bits each
    bits      = mix(state + k·GOLDEN)                                                              k from 0
    dropped   if bits < floor(p · 2^32), p in double precision; else the tap is multiplied by 1 / (1 - p)

`mix` is the two-round hash "lowbias32" of Chris Wellons' hash-prospector (public domain).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

GOLDEN = 0x9E3779B9
LOW_32 = 0xFFFFFFFF


def signed(word: int) -> int:
    """Return the int32 with the bits of an unsigned 32-bit number."""
    return word - (1 << 32) if word >> 31 else word


def mix(v: Tensor) -> Tensor:
    """Return `mix` of int32 numbers, in place. Arithmetic wraps; `&` clears the sign that `>>` copies."""
    v ^= (v >> 16) & 0xFFFF
    v *= 0x7FEB352D
    v ^= (v >> 15) & 0x1FFFF
    v *= signed(0x846CA68B)
    v ^= (v >> 16) & 0xFFFF
    return v


def low_word(v: Tensor) -> Tensor:
    """Return the low 32 bits of int64 numbers, as int32."""
    return (v & LOW_32).to(torch.int32)


def random_bits(shape: Sequence[int], seed: Tensor) -> Tensor:
    """Return the bits drawn for the taps of `shape` (B, T, H, K), as int32 numbers. `seed`: one int64 number."""
    num_rows, kernel_size = math.prod(shape[:3]), shape[3]
    rows = torch.arange(num_rows, device=seed.device)
    seed = seed.reshape(1)
    state = torch.full_like(seed, signed(GOLDEN), dtype=torch.int32)
    for word in (seed, seed >> 32, rows >> 32, rows):
        state = mix(state ^ low_word(word))
    steps = low_word(torch.arange(kernel_size, device=seed.device) * GOLDEN)
    return mix(state[:, None] + steps).view(shape)


def drop_connect_mask(shape: Sequence[int], dropout: float, seed: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the factors (B, T, H, K) = `shape`: 0 with probability `dropout`, else 1 / (1 - dropout)."""
    threshold = math.floor(dropout * 2.0**32) - 2**31
    bits = random_bits(shape, seed) ^ signed(1 << 31)  # the top bit flipped: unsigned order becomes signed
    is_kept = bits >= threshold
    return is_kept.to(dtype).mul_(1.0 / (1.0 - dropout))
