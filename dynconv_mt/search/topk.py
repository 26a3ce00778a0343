"""The largest few of many numbers.

Shapes: R rows, V numbers in each, k wanted, G groups, M columns (V = G·M + tail).
"""

from __future__ import annotations

import torch
from torch import Tensor

GROUPS = 32


def topk(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest of each row of x (R, V), largest first, and their indices, (R, k) each.

    Equal numbers come in the order of their indices; which that equal the k-th are left out is not said. As torch.topk,
    but on CPU several times faster for large V: the numbers are read once, for the maximum of every column of a (G, M)
    arrangement, and the k largest numbers can only stand in the k columns with the largest maxima.
    """
    num_columns = x.shape[1] // GROUPS
    indices = x.topk(k).indices if num_columns < 4 * k else _topk_by_columns(x, k, num_columns)
    indices = indices.sort(dim=1).values
    values, order = x.gather(1, indices).sort(dim=1, descending=True, stable=True)
    return values, indices.gather(1, order)


def _topk_by_columns(x: Tensor, k: int, num_columns: int) -> Tensor:
    """Return the indices (R, k) of the k largest numbers of each row."""
    body = x[:, : GROUPS * num_columns].view(-1, GROUPS, num_columns)
    columns = body.amax(dim=1).topk(k, sorted=False).indices  # (R, k)
    starts = torch.arange(0, GROUPS * num_columns, num_columns, device=x.device)
    tail = torch.arange(GROUPS * num_columns, x.shape[1], device=x.device).expand(x.shape[0], -1)
    indices = torch.cat([(starts[:, None] + columns[:, None]).flatten(1), tail], dim=1)  # (R, G·k + tail)
    return indices.gather(1, x.gather(1, indices).topk(k, sorted=False).indices)
