"""Ranks: one process each, started by torchrun. With one process nothing here does anything."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from dynconv_mt.compute import Compute
from dynconv_mt.errors import SystemFailure, UserError
from dynconv_mt.train.heartbeat import AFTER_DEATH, Heartbeat
from dynconv_mt.train.interrupt import Interrupt

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

JOIN = timedelta(minutes=10)  # until all ranks have come, and for an exchange of gradients
LONG = timedelta(days=7)  # for what waits while rank 0 saves or translates: whether it lives, the heartbeat says
ADDRESS = ("MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is. Rank 0 alone writes files and prints."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0  # on this machine
    local_world_size: int = 1
    # where ranks agree: through the CPU, with time to wait
    control: dist.ProcessGroup | None = field(default=None, repr=False, compare=False)

    @classmethod
    def from_environment(cls) -> Ranks:
        """Read what torchrun sets; one rank where it set nothing. Raises UserError for what is half set."""
        world_size = _variable("WORLD_SIZE", 1)
        local_world_size = _variable("LOCAL_WORLD_SIZE", world_size)
        if world_size > 1 and (missing := [name for name in ("RANK", *ADDRESS) if not os.environ.get(name)]):
            raise UserError(f"WORLD_SIZE={world_size}: needs {missing[0]} beside it; torchrun sets them all")
        ranks = cls(_variable("RANK", 0), world_size, _variable("LOCAL_RANK", 0), local_world_size)
        for name, rank, size in (
            ("RANK", ranks.rank, world_size),
            ("LOCAL_RANK", ranks.local_rank, local_world_size),
        ):
            if rank >= size and (world_size > 1 or name == "RANK"):  # a process alone may choose its GPU so
                raise UserError(f"{name}={rank}: must be below {size}, the number of processes; torchrun sets both")
        return ranks

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
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=self.control)
        return int(tensor)

    def broadcast(self, value: Any, src: int = 0) -> Any:
        """Return the `value` (JSON) of rank `src` on all ranks. Signals are noticed while waiting, however long."""
        if self.world_size == 1:
            return value
        data = json.dumps(value).encode() if self.rank == src else b""
        size = torch.tensor(len(data))
        work = dist.broadcast(size, src=src, group=self.control, async_op=True)
        while not work.is_completed():
            time.sleep(0.01)  # in Python, which runs the handlers of signals
        work.wait()
        buffer = torch.frombuffer(bytearray(data or bytes(int(size))), dtype=torch.uint8)
        dist.broadcast(buffer, src=src, group=self.control)
        return json.loads(bytes(buffer.tolist()))

    def lowest(self, holds: bool) -> int:
        """Return the lowest rank on which something holds, the number of ranks where it holds on none."""
        return self.world_size - self.max(self.world_size - self.rank if holds else 0)

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        self.max(0)


def _variable(name: str, default: int) -> int:
    """Return the number in one of torchrun's environment variables, `default` where it is not set or empty."""
    value = os.environ.get(name, "")
    if not value:
        return default
    if not value.isascii() or not value.isdecimal():
        raise UserError(f"{name}={value}: must be a whole number, as torchrun sets it; unset it for a single process")
    return int(value)


@contextmanager
def process_group(ranks: Ranks, compute: Compute, interrupt: Interrupt) -> Iterator[Ranks]:
    """Join the other ranks inside the block: gloo for CPU tensors, NCCL for those of GPUs.

    Raises SystemFailure when another rank dies, or ends the process where it is beyond reach; within a minute.
    """
    if ranks.world_size == 1:
        yield ranks
        return
    backend = "cpu:gloo,cuda:nccl" if compute.device.type == "cuda" else "gloo"
    with _failures(ranks):
        store, rank, world_size = next(rendezvous("env://", timeout=JOIN))
        store = own_part(store, ranks)
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=JOIN)
        ranks = replace(ranks, control=dist.new_group(backend="gloo", timeout=LONG))
        heartbeat = Heartbeat(store.clone(), rank, world_size, interrupt)  # type: ignore[attr-defined]
        ranks.barrier()
        heartbeat.start()
        try:
            yield ranks
        finally:
            heartbeat.stop()
        ranks.barrier()  # a rank that leaves early would look dead to the others
        dist.destroy_process_group()


def own_part(store: Store, ranks: Ranks) -> Store:
    """Return a part of `store` for the processes of this start alone.

    Where torchrun starts a job anew it hands out the same store, with the addresses of the dead in it (torch 2.13), and
    what it counts differs between nodes. So each rank shows rank 0 a number just drawn and waits for it to be answered.
    """
    drawn, end = uuid.uuid4().hex, time.monotonic() + JOIN.total_seconds()
    if not ranks.is_main:
        store.set(f"dynconv_mt/come/{ranks.rank}", drawn)
        answer = ["", ""]
        while answer[0] != drawn:
            answer = store.get(f"dynconv_mt/answer/{ranks.rank}").decode().split()
            _pause(end)
        store.set(f"dynconv_mt/heard/{ranks.rank}", answer[1])
        return PrefixStore(f"dynconv_mt/{answer[1]}", store)
    for other in range(1, ranks.world_size):
        heard = f"dynconv_mt/heard/{other}"
        while not (store.check([heard]) and store.get(heard).decode() == drawn):
            store.set(f"dynconv_mt/answer/{other}", f"{store.get(f'dynconv_mt/come/{other}').decode()} {drawn}")
            _pause(end)
    return PrefixStore(f"dynconv_mt/{drawn}", store)


def _pause(end: float) -> None:
    if time.monotonic() > end:
        raise SystemFailure(
            f"a rank has not come within {JOIN.total_seconds() / 60:g} minutes; its own output says why"
        )
    time.sleep(0.02)


@contextmanager
def _failures(ranks: Ranks) -> Iterator[None]:
    """Turn what gloo and NCCL raise when the other side is gone into SystemFailure."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, SystemFailure) or not _is_of_connection(error):
            raise
        reason = str(error).splitlines()[0]
        raise SystemFailure(
            f"rank {ranks.rank}: lost the connection to another rank. {AFTER_DEATH} ({reason})"
        ) from error


def _is_of_connection(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or "gloo/" in str(error)
