"""Products with a banded matrix, one small tile at a time: the arithmetic of the reference operators.

Shapes: B sentences, T positions, H heads, E channels of a head, K taps, R rows of a tile, N columns that it reads.

The convolution y[t] = Σ_k taps[t, k] · x[t + k - padding_left] is a matrix product whose T × T matrix has the taps of
position t in row t, beginning at column t - padding_left. Only the band is ever built, R rows at a time:

    columns   0 1 2 3 4 5           R = 4 positions with K = 3 taps each read R + K - 1 = 6 positions.
    row 0     w w w . . .           In memory a row of taps followed by R zeros is R + K numbers long; read with
    row 1     . w w w . .           a row length of R + K - 1, each row begins one column further right.
    row 2     . . w w w .
    row 3     . . . w w w

Columns before the first and after the last position of the sequence are cut off, so nothing needs padding, and any
`padding_left` works. Zeros of the band multiply real inputs: an Inf or NaN in x reaches all rows of its tile.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

MIN_ROWS = 24  # measured: below it the products are too small to be fast, above it too much of them is zeros


class Tile(NamedTuple):
    """R rows of the banded matrix and the N columns that they read."""

    rows: slice  # positions of y
    columns: slice  # positions of x
    skip: int  # columns of the band that are cut off on the left

    @property
    def width(self) -> int:
        """N, at most R + K - 1."""
        return int(self.columns.stop - self.columns.start)


def tiles(num_positions: int, kernel_size: int, padding_left: int) -> Iterator[Tile]:
    """Cut the matrix for `num_positions` into tiles of equal size, but for the last: one tile if they are few."""
    num_tiles = -(-num_positions // max(MIN_ROWS, kernel_size))
    size = -(-num_positions // max(num_tiles, 1))
    for start in range(0, num_positions, max(size, 1)):
        stop = min(start + size, num_positions)
        first = start - padding_left
        begin = min(max(first, 0), num_positions)
        end = min(max(stop + kernel_size - 1 - padding_left, begin), num_positions)
        yield Tile(slice(start, stop), slice(begin, end), begin - first if begin < end else 0)


def band(taps: Tensor, skip: int, width: int) -> Tensor:
    """Return the band (B·H, R, N) of taps (B, R, H, K): its columns `skip` to `skip + width`."""
    num_sentences, num_rows, num_heads, kernel_size = taps.shape
    length = num_rows + kernel_size
    rows = taps.new_zeros(num_sentences, num_heads, num_rows, length)
    rows[..., :kernel_size] = taps.transpose(1, 2)
    shape = (num_sentences * num_heads, num_rows, width)
    return rows.as_strided(shape, (num_rows * length, length - 1, 1), skip)


def diagonals(products: Tensor, skip: int, shape: torch.Size) -> Tensor:
    """Return the numbers (B, R, H, K) = `shape` of products (B·H, R, N) that lie where `band` puts taps."""
    num_rows, num_heads, kernel_size = shape[1:]
    length = num_rows + kernel_size - 1
    if products.shape[2] < length:
        products = F.pad(products, (skip, length - skip - products.shape[2]))
    size = num_rows * length
    return products.as_strided(shape, (num_heads * size, length + 1, size, 1))


def convolve(x: Tensor, taps: Tensor, padding_left: int) -> Tensor:
    """Return y (B, T, H, E) of x (B, H, T, E) and taps (B, T, H, K): the banded matrix times x."""
    num_sentences, num_heads, num_positions, width = x.shape
    y = x.new_empty(num_sentences, num_positions, num_heads, width)
    x = x.flatten(0, 1)
    for tile in tiles(num_positions, taps.shape[3], padding_left):
        product = torch.bmm(band(taps[:, tile.rows], tile.skip, tile.width), x[:, tile.columns])  # (B·H, R, E)
        y[:, tile.rows] = product.unflatten(0, (num_sentences, num_heads)).transpose(1, 2)
    return y


def convolve_transposed(grad_y: Tensor, taps: Tensor, padding_left: int) -> Tensor:
    """Return the gradient (B, T, H, E) of `convolve` by x: the transposed matrix times grad_y (B, H, T, E)."""
    num_sentences, num_heads, num_positions, width = grad_y.shape
    grad_x = grad_y.new_zeros(num_sentences, num_positions, num_heads, width)
    grad_y = grad_y.flatten(0, 1)
    for tile in tiles(num_positions, taps.shape[3], padding_left):
        transposed = band(taps[:, tile.rows], tile.skip, tile.width).mT
        product = torch.bmm(transposed, grad_y[:, tile.rows])  # (B·H, N, E)
        grad_x[:, tile.columns] += product.unflatten(0, (num_sentences, num_heads)).transpose(1, 2)
    return grad_x


def correlate(grad_y: Tensor, x: Tensor, kernel_size: int, padding_left: int) -> Tensor:
    """Return the gradient (B, T, H, K) of `convolve` by taps: the band of grad_y times xᵀ, both (B, H, T, E)."""
    num_sentences, num_heads, num_positions, _ = x.shape
    grad_taps = x.new_empty(num_sentences, num_positions, num_heads, kernel_size)
    x, grad_y = x.flatten(0, 1), grad_y.flatten(0, 1)
    for tile in tiles(num_positions, kernel_size, padding_left):
        target = grad_taps[:, tile.rows]
        products = torch.bmm(grad_y[:, tile.rows], x[:, tile.columns].mT)  # (B·H, R, N)
        target.copy_(diagonals(products, tile.skip, target.shape))
    return grad_taps
