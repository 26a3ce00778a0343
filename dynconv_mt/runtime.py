"""Where and how precisely to compute: the options `device=`, `precision=` and `threads=` of every command."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from enum import StrEnum

from dynconv_mt.errors import UserError, one_of

MAX_THREADS = 1024
ZERO_IS_AUTO = {"words": {"auto": 0}}  # what the command line takes for 0


class Precision(StrEnum):
    """Arithmetic of matrix products. auto: bf16 where fast (a CPU: from width 128 on), else fp16, or fp32 on a CPU."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


def num_cores() -> int:
    """Return how many cores this process may use; not every system can tell, and then all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(kw_only=True)
class RuntimeConfig:
    """Options that every command which runs a model has at its top level."""

    device: str = "auto"  # auto, cpu, cuda, cuda:1, ...
    precision: Precision = Precision.auto
    threads: int = field(default=0, metadata=ZERO_IS_AUTO)  # CPU threads; 0 or auto: OMP_NUM_THREADS, else all cores

    def __post_init__(self) -> None:
        """Raise UserError for an arithmetic or a number of threads that there is not."""
        self.precision = one_of(Precision, "precision", self.precision)
        if not 0 <= self.threads <= MAX_THREADS:
            raise UserError(f"threads={self.threads}: must be at least 0 (auto) and at most {MAX_THREADS}")
