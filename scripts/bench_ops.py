"""Measure the convolution operators beside their reference, their alternatives and the machine's limits, in one run.

    python scripts/bench_ops.py [--threads 1] [--out docs/benchmarks/ops_MACHINE_DATE.md]

Shapes: B sentences, T positions, C channels, H heads, K taps. Times are the shortest of many interleaved calls, in
milliseconds: forward / forward and backward. The floor of a case is the larger of two times: that of reading every
input and writing every output once at the speed of `Tensor.copy_` for tensors of the size of x, and that of its
multiplications at the speed of a large matrix product in float32.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from dynconv_mt.ops import backend, reference
from dynconv_mt.ops.build import TARGET

OPERATORS = torch.ops.dynconv_mt
NO_OPTIONS = (None, None)  # seed and lengths
Pair = tuple[float, float]  # milliseconds of forward, of forward and backward
Run = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """A shape and what is measured at it."""

    operator: str  # dynamic or light
    sentences: int
    positions: int
    channels: int
    heads: int
    taps: int
    dtype: torch.dtype = torch.float32
    is_causal: bool = False

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        causal = " causal" if self.is_causal else ""
        shape = f"{self.sentences}×{self.positions}, C={self.channels}, H={self.heads}, K={self.taps}"
        return f"{self.operator} {shape}{causal}, {dtype}"


def cases() -> Iterator[Case]:
    """Yield the issue's shapes, the base and the big model's, and growing lengths."""
    for dtype in (torch.float32, torch.bfloat16):
        for operator in ("dynamic", "light"):
            yield Case(operator, 256, 16, 512, 4, 7, dtype)
            for taps in (3, 7, 15, 31):
                yield Case(operator, 16, 256, 512, 4, taps, dtype, is_causal=taps == 31)
            yield Case(operator, 64, 64, 1024, 16, 31, dtype)


def growing() -> Iterator[Case]:
    """Yield the same number of positions as fewer and longer sentences."""
    for channels, heads in ((512, 8), (1024, 16)):
        for positions in (32, 64, 256, 1024, 4096, 8192):
            yield Case("dynamic", 8192 // positions, positions, channels, heads, 31)


def shortest(runs: dict[str, Run], seconds: float) -> dict[str, float]:
    """Return the shortest time of each, in milliseconds; they take turns, so that all see the same machine."""
    best = dict.fromkeys(runs, float("inf"))
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < 3 or time.perf_counter() < end:
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            best[name] = min(best[name], 1e3 * (time.perf_counter() - start))
        rounds += 1
    return best


@dataclass(frozen=True)
class Ceilings:
    """What the machine does at most."""

    bytes_per_ms: float  # read and written by a copy
    operations_per_ms: float  # multiplications and additions of a matrix product

    @classmethod
    def measure(cls, case: Case, seconds: float) -> Ceilings:
        """Measure them for tensors of the size of x."""
        x = torch.randn(case.sentences, case.positions, case.channels, dtype=case.dtype)
        y = torch.empty_like(x)
        a, b, c = (torch.randn(1024, 1024) for _ in range(3))
        times = shortest({"copy": lambda: y.copy_(x), "product": lambda: torch.mm(a, b, out=c)}, seconds)
        return cls(2 * x.numel() * x.element_size() / times["copy"], 2 * 1024**3 / times["product"])

    def floor(self, case: Case) -> Pair:
        """Return the times that nothing can beat."""
        x = case.sentences * case.positions * case.channels
        taps = case.heads * case.taps * (case.sentences * case.positions if case.operator == "dynamic" else 1)
        forward = max(
            (2 * x + taps) * case.dtype.itemsize / self.bytes_per_ms, 2 * x * case.taps / self.operations_per_ms
        )
        backward = max(
            (3 * x + 2 * taps) * case.dtype.itemsize / self.bytes_per_ms, 4 * x * case.taps / self.operations_per_ms
        )
        return forward, forward + backward


def convolutions(case: Case) -> dict[str, Run]:
    """Return our operators and their reference."""
    shape = (case.sentences, case.positions, case.channels)
    x, grad_y = torch.randn(shape).to(case.dtype), torch.randn(shape).to(case.dtype)
    options: dict[str, object] = {"padding_left": case.taps - 1 if case.is_causal else case.taps // 2}
    options |= {"softmax": True, "dropout": 0.0}
    if case.operator == "dynamic":
        options["kernel_size"] = case.taps
        taps = torch.randn(*shape[:2], case.heads * case.taps).to(case.dtype)
    else:
        taps = torch.randn(case.heads, case.taps)
    runs: dict[str, Run] = {}
    for name, operators in (("ours", OPERATORS), ("reference", reference)):
        forward = getattr(operators, f"{case.operator}_conv")
        backward = getattr(operators, f"{case.operator}_conv_backward")
        runs[f"{name} forward"] = lambda f=forward: f(x, taps, *NO_OPTIONS, **options)  # type: ignore[misc]
        runs[f"{name} backward"] = lambda f=backward: f(grad_y, x, taps, *NO_OPTIONS, **options)  # type: ignore[misc]
    return runs


def with_backward(name: str, function: Callable[..., Tensor], *inputs: Tensor) -> dict[str, Run]:
    """Return a function's forward alone, and its forward with its backward through autograd."""
    leaves = [tensor.requires_grad_() for tensor in inputs]
    grad = torch.randn_like(function(*leaves))

    def forward() -> None:
        with torch.no_grad():
            function(*leaves)

    return {f"{name} forward": forward, f"{name} both": lambda: torch.autograd.grad(function(*leaves), leaves, grad)}


def attention(case: Case) -> dict[str, Run]:
    """Return the core of self-attention of the same width: no projections, its own layout, heads of 64 channels."""
    shape = (case.sentences, case.channels // 64, case.positions, 64)
    inputs = (torch.randn(shape).to(case.dtype) for _ in range(3))
    return with_backward(
        "SDPA", lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=case.is_causal), *inputs
    )


def depthwise(case: Case) -> dict[str, Run]:
    """Return torch's depthwise convolution in its own layout (B, C, T), one kernel per channel, K taps."""
    x = torch.randn(case.sentences, case.channels, case.positions).to(case.dtype)
    weight = torch.randn(case.channels, 1, case.taps).to(case.dtype)
    return with_backward("conv1d", lambda x, w: F.conv1d(x, w, padding=case.taps // 2, groups=case.channels), x, weight)


def measure(case: Case, seconds: float) -> str:
    """Return a row of the table."""
    ceilings = Ceilings.measure(case, seconds / 4)
    runs = {**convolutions(case), **attention(case), **(depthwise(case) if case.operator == "light" else {})}
    best = shortest(runs, seconds)
    floor = ceilings.floor(case)
    pairs: dict[str, Pair] = {}
    for name in ("ours", "reference"):
        forward = best[f"{name} forward"]
        pairs[name] = forward, forward + best[f"{name} backward"]
    for name in ("conv1d", "SDPA"):
        if f"{name} both" in best:
            pairs[name] = best[f"{name} forward"], best[f"{name} both"]
    ours = pairs.pop("ours")
    cells = [str(case), "{:.2f} / {:.2f}".format(*ours)]
    cells.append(f"{ours[0] / floor[0]:.1f} / {ours[1] / floor[1]:.1f}")
    for name in ("reference", "conv1d", "SDPA"):
        times = pairs.get(name)
        cells.append(f"{times[0] / ours[0]:.1f} / {times[1] / ours[1]:.1f}" if times else "")
    cells.append(f"{ceilings.bytes_per_ms / 1e6:.0f}, {ceilings.operations_per_ms / 1e6:.0f}")
    return f"| {' | '.join(cells)} |"


HEADER = """| case | ours, ms | over the floor | × reference | × conv1d | × SDPA | copy GB/s, GEMM GFLOP/s |
|---|---|---|---|---|---|---|"""


def instruction_set() -> str:
    """Return what the compiled kernels use on this machine."""
    function = ctypes.CDLL(str(TARGET)).dynconv_mt_cpu
    function.restype = ctypes.c_char_p
    return str(function().decode())


def describe(threads: int) -> str:
    """Return what was measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    machine = f"{models[0]}, {len(models)} cores" if models else platform.processor()
    return (
        f"{datetime.date.today()}, {machine}, {threads} thread(s), kernels: {instruction_set()}, "
        f"torch {torch.__version__}, Python {platform.python_version()}"
    )


def main() -> int:
    """Print the tables, and write them to a file if one is named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each row")
    parser.add_argument("--only", default="", help="rows whose description contains this")
    parser.add_argument("--out", type=Path, help="append the tables to this file")
    options = parser.parse_args()
    if backend("cpu") != "compiled":
        print("there are no compiled kernels to measure: python -m dynconv_mt.ops.build", file=sys.stderr)
        return 1
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    lines = [describe(options.threads)]
    for title, group in (("Shapes of the models", cases()), ("Growing length, 8,192 positions in all", growing())):
        lines += ["", f"{title}: forward / forward and backward", "", *HEADER.splitlines()]
        print("\n".join(lines[-4:] if len(lines) > 6 else lines), flush=True)
        for case in group:
            if options.only in str(case):
                lines.append(measure(case, options.seconds))
                print(lines[-1], flush=True)
    if options.out:
        with options.out.open("a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
