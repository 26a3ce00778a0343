"""A model over several ranks: each holds it whole (DDP), or a part of its weights, gradients and moments (FSDP2).

A weight that is held in parts is a DTensor; `whole` and `assign` are all that the rest needs to know of it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from dynconv_mt.compute import Compute
from dynconv_mt.models.seq2seq import Seq2Seq
from dynconv_mt.train.config import Parallel
from dynconv_mt.train.distributed import Ranks

# FSDP2 warns of in-place operations on what a module returns; there are none in our models
warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")


def parallelise(model: Seq2Seq, ranks: Ranks, compute: Compute, parallel: Parallel) -> nn.Module:
    """Return `model` with gradients averaged over the ranks in backward, and rank 0's weights on all of them.

    With FSDP it is `model` itself, its parameters now DTensors: build the optimizer afterwards.
    """
    if ranks.world_size == 1:
        return model
    if parallel is Parallel.fsdp:
        _shard(model, ranks, compute)
        return model
    device_ids = [compute.device] if compute.device.type == "cuda" else None
    shared = DistributedDataParallel(model, device_ids=device_ids, gradient_as_bucket_view=True)
    shared.broadcast_buffers = False  # they are the same everywhere; and forward, free of exchange, can be tried again
    return shared


def _shard(model: Seq2Seq, ranks: Ranks, compute: Compute) -> None:
    """Shard each layer by itself, so that one at a time is gathered, and the rest (embeddings) with the model."""
    for parameter in model.parameters():
        dist.broadcast(parameter.detach(), src=0)
    mesh = init_device_mesh(compute.device.type, (ranks.world_size,))
    for layer in (*model.encoder.layers, *model.decoder.layers):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)


@contextmanager
def _postponed(model: FSDPModule) -> Iterator[None]:
    model.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        model.set_requires_gradient_sync(True)


def accumulate(model: nn.Module, is_last: bool) -> AbstractContextManager[None]:
    """Return a context for forward and backward of a micro-batch: gradients meet in the last one of an update."""
    if is_last:
        return nullcontext()
    if isinstance(model, DistributedDataParallel):
        return model.no_sync()
    return _postponed(model) if isinstance(model, FSDPModule) else nullcontext()


def is_sharded(model: nn.Module) -> bool:
    """Whether the weights of `model` lie in parts on several ranks."""
    return isinstance(model, FSDPModule)


@contextmanager
def scattered_again(model: nn.Module) -> Iterator[None]:
    """Let each rank have its part alone when the block has ended, in which forward passes may have gathered weights.

    FSDP keeps those of the model itself gathered after a forward pass without a backward one, and would go on with them
    whatever has become of the parts: the embeddings, for one.
    """
    try:
        yield
    finally:
        if isinstance(model, FSDPModule):
            model.reshard()


def whole(tensor: Tensor) -> Tensor:
    """Return all of a tensor of which this rank may hold a part; then all ranks call it together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def assign(target: Tensor, value: Tensor) -> None:
    """Copy `value`, which every rank has whole, into `target`, of which this rank may hold a part."""
    if isinstance(target, DTensor):
        value = like(value, target)
    target.copy_(value)


def like(value: Tensor, target: Tensor) -> Tensor:
    """Return `value`, which every rank has whole, on the device of `target` and divided as it is."""
    value = value.to(target.device)
    if isinstance(target, DTensor):
        return distribute_tensor(value, target.device_mesh, target.placements, src_data_rank=None)
    return value
