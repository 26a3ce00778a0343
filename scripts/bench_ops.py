"""Measure the convolution operators beside their reference, their alternatives and the machine's limits, in one run.

    python scripts/bench_ops.py [--device cuda] [--threads 2] [--compile] [--only TEXT] [--out FILE]

Shapes: B sentences, T positions, C channels, H heads, K taps, W beam slots. Times are the shortest of many interleaved
calls, in milliseconds: forward / forward and backward. A factor such as "× SDPA" says how many times as long the other
takes. The floor of a case is the larger of two times: that of reading every input and writing every output once at the
speed of `Tensor.copy_` between tensors that take as much memory as x, y and their gradients (caches hold as much of
them), and that of its multiplications at the speed of a large matrix product or, on a CPU, of a 3 x 3 convolution where
that is faster (on a CPU in float32, in which it computes whatever x is in). The calls that find these speeds take turns
with all others, and so meet caches in the same state. No time includes projections.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import platform
import re
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dynconv_mt.compute import Compute, keep_freed_memory
from dynconv_mt.data.batch import Batch
from dynconv_mt.models.presets import preset
from dynconv_mt.models.seq2seq import build_model
from dynconv_mt.ops import ConvState, backend, reference
from dynconv_mt.ops.build import TARGET
from dynconv_mt.runtime import Precision
from dynconv_mt.train.config import OptimConfig
from dynconv_mt.train.loss import batch_loss
from dynconv_mt.train.optim import build_optimizer

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from scripts.bench_peers import (  # noqa: E402
    OPERATORS,
    Case,
    Pairs,
    Run,
    attention,
    attention_backend,
    convolutions,
    depthwise,
    fairseq,
)
from scripts.bench_report import Report, commit, cpu_name  # noqa: E402

Pair = tuple[float, float]  # milliseconds of forward, of forward and backward
GPU_PAUSE = 2_000_000  # cycles, about a millisecond: for that long a GPU waits, and the CPU asks for what is measured


def cases(device: str) -> Iterator[Case]:
    """Yield the issue's shapes: on a CPU 4,096 positions of the base and the big model, on a GPU 16k and 64k."""
    for dtype in (torch.float32, torch.bfloat16):
        for operator in ("dynamic", "light"):
            if device == "cpu":
                yield Case(operator, 256, 16, 512, 4, 7, dtype)
                for taps in (3, 7, 15, 31):
                    yield Case(operator, 16, 256, 512, 4, taps, dtype, is_causal=taps == 31)
                yield Case(operator, 64, 64, 1024, 16, 31, dtype)
                if operator == "light":  # a head to a channel: the paper's plain depthwise convolution
                    yield from (Case(operator, 16, 256, 512, 512, taps, dtype) for taps in (3, 31))
            else:
                for taps in (3, 7, 15, 31):
                    yield Case(operator, 512, 32, 1024, 16, taps, dtype, device=device)
                yield Case(operator, 32, 512, 1024, 16, 31, dtype, is_causal=True, device=device)
                yield Case(operator, 128, 512, 1024, 16, 31, dtype, is_causal=True, device=device)


def growing(device: str) -> Iterator[list[Case]]:
    """Yield the same number of positions as fewer and longer sentences, at the base and the big size."""
    total, dtype = (8192, torch.float32) if device == "cpu" else (65536, torch.bfloat16)
    for channels, heads in ((512, 8), (1024, 16)):
        lengths = (32, 64, 256, 1024, 4096, 8192)
        yield [Case("dynamic", total // t, t, channels, heads, 31, dtype, device=device) for t in lengths]


def milliseconds(run: Run, device: str) -> float:
    """Return how long a call takes; on a GPU as its own clock tells, which waits until all is asked for."""
    if device == "cpu":
        start = time.perf_counter()
        run()
        return 1e3 * (time.perf_counter() - start)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda._sleep(GPU_PAUSE)
    begin.record()
    run()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))


def shortest(runs: dict[str, Run], seconds: float, device: str) -> dict[str, float]:
    """Return the shortest time of each, in milliseconds; they take turns, so that all see the same machine.

    Each has its share of the time. All end with the first of ours whose share is used: a copy that outlasted them would
    run alone at last, and find in the caches what it had left there.
    """
    if device != "cpu":
        for run in runs.values():
            run()  # the first call loads kernels
    best = dict.fromkeys(runs, float("inf"))
    left = dict.fromkeys(runs, 1e3 * seconds / len(runs))
    ours = [name for name in runs if name.startswith("ours")] or list(runs)
    while all(left[name] > 0 for name in ours):
        for name in (name for name in runs if left[name] > 0):
            start = time.perf_counter()
            best[name] = min(best[name], milliseconds(runs[name], device))
            left[name] -= 1e3 * (time.perf_counter() - start)
    return best


@dataclass(frozen=True)
class Ceilings:
    """What the machine does at most."""

    bytes_per_ms: float  # read and written by a copy
    operations_per_ms: float  # multiplications and additions

    def floor(self, case: Case) -> Pair:
        """Return the times that nothing can beat."""
        x = case.sentences * case.positions * case.channels
        taps = case.heads * case.taps * (case.sentences * case.positions if case.operator == "dynamic" else 1)
        size = case.dtype.itemsize
        forward = max((2 * x + taps) * size / self.bytes_per_ms, 2 * x * case.taps / self.operations_per_ms)
        backward = max((3 * x + 2 * taps) * size / self.bytes_per_ms, 4 * x * case.taps / self.operations_per_ms)
        return forward, forward + backward


class Probes:
    """Calls that reach the ceilings: a copy within the memory that a case takes, x, y and their gradients; products.

    The products are a large matrix product and, on a CPU, a 3 x 3 convolution: one library or the other may not use the
    processor's widest vectors, as MKL on AMD's processors.
    """

    def __init__(self, case: Case) -> None:
        x = case.random(2 * case.sentences, case.positions, case.channels)
        y = torch.empty_like(x)
        size, dtype = (1024, torch.float32) if case.device == "cpu" else (4096, case.dtype)
        a, b, c = (torch.randn(size, size, device=case.device).to(dtype) for _ in range(3))
        self.runs: dict[str, Run] = {"copy": lambda: y.copy_(x), "matrix product": lambda: torch.mm(a, b, out=c)}
        self.bytes = 2 * x.numel() * x.element_size()
        self.operations = {"matrix product": 2 * size**3}
        if case.device == "cpu":
            images, filters = torch.randn(16, 256, 16, 16), torch.randn(256, 256, 3, 3)
            self.runs["convolution"] = lambda: F.conv2d(images, filters, padding=1)
            self.operations["convolution"] = 2 * images.numel() * 256 * 9

    def ceilings(self, best: dict[str, float]) -> Ceilings:
        """Return what the shortest times of the calls come to."""
        rates = [number / best[name] for name, number in self.operations.items()]
        return Ceilings(self.bytes / best["copy"], max(rates))


def measure(
    case: Case, pairs: Pairs, others: dict[str, Run], seconds: float
) -> tuple[dict[str, Pair], dict[str, float]]:
    """Return both times of each pair, and the time of each of the others; all take turns."""
    runs = {f"{name} {part}": pair[part] for name, pair in pairs.items() for part in (0, 1)}
    best = shortest(runs | others, seconds, case.device)
    return {name: (best[f"{name} 0"], best[f"{name} 1"]) for name in pairs}, best


def times(pair: Pair) -> str:
    """Return forward / both."""
    return "{:.2f} / {:.2f}".format(*pair)


def factors(pairs: dict[str, Pair], name: str) -> str:
    """Return how many times as long as ours another takes, nothing where it was not measured."""
    if name not in pairs:
        return ""
    return " / ".join(f"{other / own:.1f}" for other, own in zip(pairs[name], pairs["ours"], strict=True))


SHAPES = ["case", "ours, ms", "over the floor", "× fairseq's algorithm", "× reference", "× reference compiled"]
SHAPES += ["× conv1d", "× SDPA", "copy GB/s, products GFLOP/s"]


def shape_rows(case: Case, options: argparse.Namespace) -> Iterator[list[str]]:
    """Yield the row of a shape."""
    probes = Probes(case)
    pairs = convolutions(case, options.compile) | {"fairseq": fairseq(case), "SDPA": attention(case)}
    if case.operator == "light":
        pairs["conv1d"] = depthwise(case)
    found, best = measure(case, pairs, probes.runs, options.seconds)
    ceilings = probes.ceilings(best)
    floor = ceilings.floor(case)
    over = f"{found['ours'][0] / floor[0]:.2f} / {found['ours'][1] / floor[1]:.2f}"
    others = [factors(found, name) for name in ("fairseq", "reference", "compiled", "conv1d", "SDPA")]
    others[-1] += f" ({attention_backend(case)})"
    limits = f"{ceilings.bytes_per_ms / 1e6:.0f}, {ceilings.operations_per_ms / 1e6:.0f}"
    yield [str(case), times(found["ours"]), over, *others, limits]


GROWTH = ["case", "ours, ms", "ns a position", "× SDPA"]


def growth_rows(cases: list[Case], options: argparse.Namespace) -> Iterator[list[str]]:
    """Yield a row for each length of a size; all lengths take turns, since they are compared with one another."""
    pairs: Pairs = {}
    for case in cases:
        pairs |= {f"ours {case}": convolutions(case, False)["ours"], f"SDPA {case}": attention(case)}
    found, _ = measure(cases[0], pairs, {}, options.seconds * len(cases))
    for case in cases:
        times_of = {name: found[f"{name} {case}"] for name in ("ours", "SDPA")}
        num_positions = case.sentences * case.positions
        nanoseconds = "{:.0f} / {:.0f}".format(*(1e6 * t / num_positions for t in times_of["ours"]))
        beside = f"{factors(times_of, 'SDPA')} ({attention_backend(case)})"
        yield [str(case), times(times_of["ours"]), nanoseconds, beside]


STEPS = ["decoding step, beam 5, C=512, K=31, with reordering", "ours, µs", "× reference"]


def step(operators: Any, x: Tensor, logits: Tensor, state: ConvState, parents: Tensor) -> None:
    """Decode one position and move the beam."""
    operators.dynamic_conv_step(x, logits, state.buffer, state.slots, position=state.position, softmax=True)
    state.position += x.shape[2]
    state.reorder(parents)


def step_rows(device: str, options: argparse.Namespace) -> Iterator[list[str]]:
    """Yield rows of one new position of every hypothesis."""
    for dtype in (torch.float32, torch.bfloat16):
        for sentences, heads in ((1, 4), (1, 8), (32, 4), (32, 8)):
            x = torch.randn(sentences, 5, 1, 512, device=device).to(dtype)
            logits = torch.randn(sentences, 5, 1, heads * 31, device=device).to(dtype)
            parents = torch.randint(5, (sentences, 5), device=device)
            state = ConvState.empty(sentences, 5, 31, x)
            runs: dict[str, Run] = {
                "ours": partial(step, OPERATORS, x, logits, state, parents),
                "reference": partial(step, reference, x, logits, state, parents),
            }
            best = shortest(runs, options.seconds / 4, device)
            name = f"B={sentences}, H={heads}, {str(dtype).removeprefix('torch.')}"
            yield [name, f"{1e3 * best['ours']:.0f}", f"{best['reference'] / best['ours']:.1f}"]


TRAINING = ["training step of dynamicconv_iwslt_de_en", "ms", "of it the operators, ms", "their share"]
VOCAB, SENTENCES, LENGTH = 10_000, 64, 32


def operators_time(step: Run, device: str) -> float:
    """Return the milliseconds of a step inside the operators. Under autocast an operator calls itself."""
    with torch.profiler.profile() as profile:
        step()
    spent = 0.0
    for event in profile.events():
        callers = set()
        caller = event.cpu_parent
        while caller is not None:
            callers.add(caller.name)
            caller = caller.cpu_parent
        if event.name.startswith("dynconv_mt::") and event.name not in callers:
            spent += event.cpu_time_total if device == "cpu" else event.device_time_total
    return spent / 1e3


def training_rows(device: str, options: argparse.Namespace) -> Iterator[list[str]]:
    """Yield a row for each precision: the operators' time, forward and backward, as torch's profiler counts it."""
    precisions = [Precision.fp32]
    if device != "cpu" or torch.cpu._is_avx512_bf16_supported():
        precisions.append(Precision.bf16)
    tokens = torch.randint(4, VOCAB, (SENTENCES, LENGTH))
    lengths = torch.full((SENTENCES,), LENGTH)
    batch = Batch(tokens, lengths, tokens, tokens, SENTENCES * LENGTH, tuple(range(SENTENCES)))
    for precision in precisions:
        model = build_model(replace(preset("dynamicconv_iwslt_de_en"), src_vocab_size=VOCAB, tgt_vocab_size=VOCAB))
        model.to(device)
        optimizer, compute = build_optimizer(model, OptimConfig()), Compute(torch.device(device), precision)

        def step(model: Any = model, optimizer: Any = optimizer, compute: Compute = compute) -> None:
            batch_loss(model, batch, compute, 0.1).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        step()
        best = shortest({"step": step}, 4 * options.seconds, device)["step"]
        spent = min(operators_time(step, device) for _ in range(5))
        name = f"{SENTENCES * LENGTH} source and target tokens, {precision}"
        yield [name, f"{best:.0f}", f"{spent:.1f}", f"{100 * spent / best:.2f} %"]


def instruction_set() -> str:
    """Return what the compiled kernels use on this machine."""
    function = ctypes.CDLL(str(TARGET)).dynconv_mt_cpu
    function.restype = ctypes.c_char_p
    return str(function().decode())


def machine(device: str) -> str:
    """Return the name of what was measured."""
    return cpu_name() if device == "cpu" else torch.cuda.get_device_name()


def describe(device: str) -> list[str]:
    """Return the head of the report."""
    kernels = f"{instruction_set()} kernels, {torch.get_num_threads()} thread(s)" if device == "cpu" else "CUDA kernels"
    return [
        f"# The operators on {machine(device)}",
        "",
        f"{datetime.date.today()}. {kernels}, torch {torch.__version__}, Python {platform.python_version()},"
        f" commit {commit()}.",
        "",
        "```",
        shlex.join(["python", "scripts/bench_ops.py", *sys.argv[1:]]),
        "```",
        "",
        *" ".join((__doc__ or "").split("Times are")[1].split()).join(("Times are ", "")).splitlines(),
    ]


def parse_options() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of a CPU (default: all cores)")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each row, but for calls that take longer")
    parser.add_argument("--compile", action="store_true", help="also the reference under torch.compile: takes minutes")
    parser.add_argument("--only", default="", help="rows of shapes whose description contains this, nothing else")
    parser.add_argument("--out", type=Path, help="file to write (default: in docs/benchmarks; none with --only)")
    return parser.parse_args()


def main() -> int:
    """Print the report and write it to a file."""
    options = parse_options()
    device: str = options.device
    if backend(device) != "compiled":
        print(f"there are no compiled kernels for {device}: see python -m dynconv_mt.ops.build --help", file=sys.stderr)
        return 1
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    keep_freed_memory()  # as in training; else most of a short call is the kernel clearing new pages
    name = re.sub(r"[^A-Za-z0-9]+", "-", machine(device)).strip("-")
    default = None if options.only else ROOT / f"docs/benchmarks/{datetime.date.today()}_ops_{name}.md"
    report = Report(options.out or default)
    report.add(*describe(device))
    chosen = [case for case in cases(device) if options.only in str(case)]
    report.table("Shapes of the models", SHAPES, (row for case in chosen for row in shape_rows(case, options)))
    if not options.only:
        growth = (row for sizes in growing(device) for row in growth_rows(sizes, options))
        report.table("Growing length, the same number of positions", GROWTH, growth)
        report.table("Decoding", STEPS, step_rows(device, options))
        report.table("Training", TRAINING, training_rows(device, options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
