"""Ranks: one process each, started by torchrun. With one process nothing here does anything."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dynconv_mt.compute import Compute


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is. Rank 0 alone writes files and prints."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0  # on this machine
    local_world_size: int = 1

    @classmethod
    def from_environment(cls) -> Ranks:
        """Read what torchrun sets; one rank where it set nothing."""
        names = {"rank": "RANK", "world_size": "WORLD_SIZE", "local_rank": "LOCAL_RANK"}
        values = {name: int(os.environ[key]) for name, key in names.items() if key in os.environ}
        return cls(**values, local_world_size=int(os.environ.get("LOCAL_WORLD_SIZE", values.get("world_size", 1))))

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Add up `tensor` over all ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def max(self, number: int) -> int:
        """Return the largest `number` of any rank. Through the CPU: a GPU is not waited for."""
        if self.world_size == 1:
            return number
        tensor = torch.tensor(number)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return int(tensor)

    def from_main(self, value: Any) -> Any:
        """Return rank 0's `value` (JSON) on all ranks."""
        if self.world_size == 1:
            return value
        data = json.dumps(value).encode() if self.is_main else b""
        size = self.max(len(data))
        buffer = torch.frombuffer(bytearray(data or bytes(size)), dtype=torch.uint8)
        dist.broadcast(buffer, src=0)
        return json.loads(bytes(buffer.tolist()))

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        self.max(0)


@contextmanager
def process_group(ranks: Ranks, compute: Compute) -> Iterator[None]:
    """Join the other ranks: gloo for CPU tensors, NCCL for those of GPUs."""
    if ranks.world_size == 1:
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if compute.device.type == "cuda" else "gloo"
    dist.init_process_group(backend)
    try:
        yield
    finally:
        dist.destroy_process_group()


def parallelise(model: nn.Module, ranks: Ranks, compute: Compute) -> nn.Module:
    """Return `model` with gradients averaged over the ranks in backward, and rank 0's weights on all of them."""
    if ranks.world_size == 1:
        return model
    device_ids = [compute.device] if compute.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=device_ids, gradient_as_bucket_view=True)


def accumulate(model: nn.Module, is_last: bool) -> AbstractContextManager[None]:
    """Return a context for forward and backward of a micro-batch: gradients meet in the last one of an update."""
    if isinstance(model, DistributedDataParallel) and not is_last:
        return model.no_sync()
    return nullcontext()
