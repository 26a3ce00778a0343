"""From the options `device=`, `precision=` and `threads=` to what torch understands."""

from __future__ import annotations

import ctypes
import logging
import os
import re
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass

import torch

from dynconv_mt.errors import UserError
from dynconv_mt.runtime import Precision, RuntimeConfig, num_cores

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # of mallopt(3)
logger = logging.getLogger(__name__)
MIN_BF16_WIDTH = 128  # on a CPU; of narrower layers nobody has measured that products save more than conversions take
_DTYPES = {Precision.bf16: torch.bfloat16, Precision.fp16: torch.float16}


@dataclass(frozen=True)
class Compute:
    """A device, and the arithmetic of its matrix products."""

    device: torch.device
    precision: Precision  # never auto

    def autocast(self) -> AbstractContextManager[object]:
        """Return a context in which the forward pass runs in the chosen precision; weights stay fp32."""
        if self.precision is Precision.fp32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=_DTYPES[self.precision])

    def __str__(self) -> str:
        """Describe it in a line of a log."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else ""
        threads = f"{torch.get_num_threads()} threads" if self.device.type == "cpu" else name
        return f"{self.device} ({threads}), {self.precision}"


def resolve_compute(
    config: RuntimeConfig, local_rank: int = 0, local_world_size: int = 1, *, width: int | None = None
) -> Compute:
    """Return where and how to compute, and set torch's number of CPU threads.

    The `local_world_size` processes of this machine share its cores and take one GPU each, by `local_rank`. `width`:
    channels of the model's layers, by which precision=auto decides on a CPU (default: as for a wide model).
    Raises UserError for a device that is not there, or a precision that it lacks.
    """
    torch.set_num_threads(config.threads or _num_threads(local_world_size))
    device = _device(config.device, local_rank, local_world_size)
    return Compute(device, _precision(config.precision, device, width))


def _num_threads(local_world_size: int) -> int:
    """How many threads are for this process, where no option says so."""
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if local_world_size == 1 and asked.isdecimal() and int(asked):  # of several ranks torchrun sets it, to 1
        return int(asked)
    return max(1, num_cores() // local_world_size)


def keep_freed_memory() -> None:
    """Let the C library keep freed blocks for the next update instead of handing them back to the kernel.

    Else every update gets its large tensors as new pages, which the kernel clears one by one, on one core: an eighth
    of the time of a small model on a CPU. Does nothing where the C library is not glibc.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 2**26)):
        set_option(option, value)


def trim_freed_memory() -> None:
    """Hand what the C library has kept of freed memory back to the kernel, where it is glibc."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _device(typed: str, local_rank: int, local_world_size: int) -> torch.device:
    name = typed
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d{1,9})?", name):
        raise UserError(f"device={name}: no such device; give auto, cpu, cuda or cuda:<number>")
    device = torch.device(name)
    if device.type == "cuda":
        device = torch.device("cuda", _gpu(typed, device.index, local_rank, local_world_size))
        torch.cuda.set_device(device)
    return device


def _gpu(typed: str, index: int | None, local_rank: int, local_world_size: int) -> int:
    """The index of this rank's GPU. It depends on shared facts only: either all ranks raise or none does."""
    count = torch.cuda.device_count()
    if index is not None and local_world_size > 1:
        raise UserError(
            f"device={typed}: names a single GPU, but each of the {local_world_size} ranks here needs its own; "
            "use device=cuda"
        )
    if (index is not None and index >= count) or count == 0:
        raise UserError(f"device={typed}: torch sees {count} GPUs; use device=cpu or auto")
    if index is None and local_world_size > count:
        raise UserError(
            f"device={typed}: torch sees {count} GPUs, but each of the {local_world_size} ranks here needs its own; "
            f"start at most {count} here, or use device=cpu"
        )
    return local_rank if index is None else index


def _precision(precision: Precision, device: torch.device, width: int | None) -> Precision:
    if device.type == "cuda":
        return _gpu_precision(precision, device)
    if precision is Precision.fp16:
        raise UserError("precision=fp16: is for GPUs; on a CPU give precision=bf16, fp32 or auto")
    has_fast_bf16 = torch.cpu._is_avx512_bf16_supported()
    if precision is Precision.bf16 and not has_fast_bf16:
        logger.warning("precision=bf16: this CPU computes bf16 slowly; precision=auto would take fp32, which is faster")
    if precision is not Precision.auto:
        return precision
    is_narrow = width is not None and width < MIN_BF16_WIDTH
    return Precision.bf16 if has_fast_bf16 and not is_narrow else Precision.fp32


def _gpu_precision(precision: Precision, device: torch.device) -> Precision:
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    if precision is Precision.bf16 and not has_bf16:
        raise UserError("precision=bf16: this GPU lacks it; give precision=fp16, fp32 or auto")
    if precision is not Precision.auto:
        return precision
    if has_bf16:
        return Precision.bf16
    return Precision.fp16 if torch.cuda.get_device_capability(device) >= (7, 0) else Precision.fp32
