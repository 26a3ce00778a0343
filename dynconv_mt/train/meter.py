"""How much memory there is, and how much a computation takes at its peak: of a GPU, or of this machine (Linux)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Protocol

import torch

from dynconv_mt.compute import trim_freed_memory
from dynconv_mt.errors import UserError

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
_RESET_PEAK = "5"  # what /proc/PID/clear_refs takes for: let VmHWM begin anew


class Meter(Protocol):
    """Measures memory in bytes."""

    def room(self, num_processes: int) -> int:
        """Return what may be planned with now, where so many processes of this machine plan at once."""

    def growth(self, action: Callable[[], object]) -> int:
        """Do something; return by how much memory in use was larger at its peak than when the meter was made."""


class DeviceMeter:
    """The memory of one GPU, which no other process of the job uses; exact as far as torch's allocator goes."""

    def __init__(self, device: torch.device) -> None:
        """Measure from here on."""
        self.device = device
        self._before = torch.cuda.memory_allocated(device)

    def room(self, num_processes: int) -> int:
        """Return nine tenths of what is free or kept by torch for later; the rest is lost between the blocks."""
        free, _ = torch.cuda.mem_get_info(self.device)
        kept = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return int(0.9 * (free + kept))

    def growth(self, action: Callable[[], object]) -> int:
        """Do something and return the largest growth of what is allocated."""
        torch.cuda.reset_peak_memory_stats(self.device)
        action()
        return torch.cuda.max_memory_allocated(self.device) - self._before


class HostMeter:
    """The memory of this machine, of which the process may have a part: its control groups are heeded."""

    def __init__(self) -> None:
        """Measure from here on. Raises UserError where the system does not say."""
        trim_freed_memory()
        self._before = _read_table(PROC / "self" / "status", "VmRSS")

    def room(self, num_processes: int) -> int:
        """Return each one's share of half of what the kernel could still give.

        It kills who asks for more than there is, other programs take theirs at any time, and the system wants some
        for its file cache: so half is left alone.
        """
        available = min(_read_table(PROC / "meminfo", "MemAvailable"), *_group_rests())
        return max(0, int(0.5 * available / num_processes))

    def growth(self, action: Callable[[], object]) -> int:
        """Do something and return the largest growth of the resident set."""
        trim_freed_memory()  # of an earlier and larger trial, which this one would be taken for
        try:
            (PROC / "self" / "clear_refs").write_text(_RESET_PEAK)
            entry = "VmHWM"
        except OSError:  # not allowed here; freed memory is kept (see compute.py), so the end is about the peak
            entry = "VmRSS"
        action()
        return max(0, _read_table(PROC / "self" / "status", entry) - self._before)


def _read_table(path: Path, name: str) -> int:
    """Return an entry of a table of /proc, given there as `Name:   123 kB`, in bytes."""
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key == name:
                return int(value.split()[0]) * 1024
    except (OSError, ValueError):
        pass
    raise UserError(
        f"batch.max_tokens=auto: this system does not say how much memory there is ({name} of {path}); give a number"
    )


def _group_rests() -> Iterator[float]:
    """Yield, for each control group that this process is in, limit - use; page cache that can be dropped is no use."""
    yield float("inf")
    for folder, limit, use, cache in _groups():
        try:
            most = (folder / limit).read_text().strip()
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            if most != "max":
                yield int(most) - int((folder / use).read_text()) + int(stat.get(cache, 0))
        except (OSError, ValueError):
            continue  # without such a limit, or hidden


def _groups() -> Iterator[tuple[Path, str, str, str]]:
    """Yield folder and file names of all control groups that limit memory, version 1 and 2, innermost first."""
    try:
        lines = (PROC / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, names = CGROUPS, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root = CGROUPS / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        inner = PurePosixPath(os.path.normpath(path)).relative_to("/")
        for group in (inner, *inner.parents):  # in a container the path may be the host's, and only the root is there
            yield (root / group, *names)
