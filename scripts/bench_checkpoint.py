"""Measure what a checkpoint costs: the stall of a save at IWSLT size, and the time a resume takes to its first update.

    python scripts/bench_checkpoint.py [--folder /tmp/bench_checkpoint] [--big-store FOLDER] [--out FILE.md]

The model is that of IWSLT'14 German-English, the data are generated ids: 160,000 pairs, and for the second resume
4.5 million (made in --folder unless --big-store names a token store; some minutes). A save costs a stall, for which the
loop waits, and a slowdown of the updates made while files are written. Both count against an epoch, the default
interval between checkpoints. A resume is timed from the start of the process on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

START = time.time()  # of the child, before torch is imported

sys.path.insert(0, str(Path(__file__).parents[1]))
from scripts.bench_report import commit, cpu_name  # noqa: E402

IWSLT_PAIRS, BIG_PAIRS, VOCAB = 160_000, 4_500_000, 10_000
PRESET = "dynamicconv_iwslt_de_en"


def write_store(folder: Path, num_pairs: int) -> Path:
    """Write a token store of generated ids with lengths as in IWSLT, unless it is there."""
    import numpy as np

    from dynconv_mt.data.store import StoreWriter

    if (folder / "index.json").exists():
        return folder
    random = np.random.default_rng(1)
    with StoreWriter(folder, "generated") as writer:
        for _ in range(0, num_pairs, 10_000):
            src_lengths = np.clip(random.gamma(2.2, 11.0, 10_000), 2, 150).astype(int)
            tgt_lengths = np.clip(src_lengths * random.normal(1.0, 0.15, 10_000), 2, 150).astype(int)
            src, tgt = (random.integers(4, VOCAB, n.sum()).tolist() for n in (src_lengths, tgt_lengths))
            ends = zip(src_lengths.cumsum().tolist(), tgt_lengths.cumsum().tolist(), strict=True)
            src_start = tgt_start = 0
            for src_end, tgt_end in ends:
                writer.add(src[src_start:src_end], tgt[tgt_start:tgt_end])
                src_start, tgt_start = src_end, tgt_end
    return folder


def new_job(run: Path, max_updates: int) -> Any:
    """Return the options of a run: those of the recipe, on the CPU."""
    from dynconv_mt.data.config import BatchConfig
    from dynconv_mt.train import FitConfig
    from dynconv_mt.train.config import CheckpointConfig, Final, TrainConfig

    return FitConfig(
        out_dir=str(run),
        device="cpu",
        threads=1,
        batch=BatchConfig(max_tokens=4000),
        train=TrainConfig(max_updates=max_updates, tensorboard=False),
        checkpoint=CheckpointConfig(final=Final.last),
    )


def new_model(vocab_size: int) -> Any:
    """Return the IWSLT model."""
    from dynconv_mt.models.presets import preset
    from dynconv_mt.models.seq2seq import build_model

    return build_model(replace(preset(PRESET), src_vocab_size=vocab_size, tgt_vocab_size=vocab_size))


@dataclass
class SaveTimes:
    """Seconds, and what an epoch is made of."""

    update: float  # a quiet update
    in_the_way: float  # a save as it would be with nothing in the background
    stall: float
    slowdown: float  # of all updates made while files are written
    updates_per_epoch: int
    megabytes: float

    @property
    def share(self) -> float:
        """Part of an epoch's time that a save costs."""
        cost = self.stall + self.slowdown
        return cost / (self.updates_per_epoch * self.update + cost)


def time_saves(folder: Path, repeat: int, num_updates: int) -> SaveTimes:
    """Make updates with and without a save before them; medians."""
    from dynconv_mt.compute import keep_freed_memory, resolve_compute
    from dynconv_mt.data.loader import Loader
    from dynconv_mt.data.store import TokenStore
    from dynconv_mt.train.checkpoint import list_checkpoints, write_folder
    from dynconv_mt.train.distributed import Ranks
    from dynconv_mt.train.resume import take_snapshot, write_snapshot
    from dynconv_mt.train.saving import Saver
    from dynconv_mt.train.state import TrainerState
    from dynconv_mt.train.step import UpdateStep

    job, store = new_job(folder / "saves", 1), TokenStore.open(write_store(folder / "iwslt", IWSLT_PAIRS))
    compute = resolve_compute(job)
    keep_freed_memory()
    step = UpdateStep(new_model(VOCAB), job, compute, Ranks())
    loader = Loader(store, job.batch, 1)
    update = next(iter(loader.epoch(0)))
    saver = Saver(Path(job.out_dir), step, None, None)

    def make(state: TrainerState) -> float:
        start = time.perf_counter()
        step(state.update, update)
        state.update += 1
        return time.perf_counter() - start

    def save_at_once(state: TrainerState) -> float:
        start = time.perf_counter()
        snapshot = take_snapshot(step)
        assert snapshot is not None
        at_once = Path(job.out_dir) / "at_once"
        write_folder(at_once, lambda path: write_snapshot(path, snapshot, state.to_json(), None, {}))
        return time.perf_counter() - start

    state, rows = TrainerState(), []
    for _ in range(repeat + 1):
        state.saved.append(state.update)
        quiet = median([make(state) for _ in range(num_updates)])
        in_the_way = save_at_once(state)
        make(state)
        start = time.perf_counter()
        saver.save(state)
        stall, slowdown = time.perf_counter() - start, 0.0
        while saver.is_busy():
            slowdown += make(state) - quiet
        saver.join()
        rows.append((quiet, in_the_way, stall, max(0.0, slowdown)))
    update_seconds, in_the_way, stall, slowdown = map(median, zip(*rows[1:], strict=True))  # the first one warms up
    newest = list_checkpoints(Path(job.out_dir))[-1]
    size = sum(path.stat().st_size for path in newest.rglob("*") if path.is_file())
    return SaveTimes(update_seconds, in_the_way, stall, slowdown, loader.num_updates, size / 1e6)


def child(run: Path, store_folder: Path, max_updates: int) -> Iterator[tuple[str, float]]:
    """Open the data and train, as dc-train does; yields what is reached, with seconds since the process began."""
    from dynconv_mt.data.store import TokenStore
    from dynconv_mt.train import FitData, fit
    from dynconv_mt.train import loop as loop_module
    from dynconv_mt.train.step import UpdateStep

    import_seconds = time.time() - START
    marks = [("import", import_seconds)]
    store = TokenStore.open(store_folder)
    store.verify()
    marks.append(("data", time.time() - START))
    model = new_model(max(store.src_max_id, store.tgt_max_id) + 1)
    marks.append(("model", time.time() - START))
    loop: Any = loop_module
    restore, make = loop.restore_step, UpdateStep.__call__

    def timed_restore(*args: Any) -> None:
        start = time.time()
        restore(*args)
        marks.append(("of which loading weights and moments", time.time() - start))

    def timed_update(*args: Any) -> None:
        marks.append(("everything up to the first update", time.time() - START))
        make(*args)
        marks.append(("first update made", time.time() - START))

    loop.restore_step = timed_restore
    UpdateStep.__call__ = timed_update  # type: ignore[method-assign,assignment]
    fit(new_job(run, max_updates), model, FitData(store))
    yield from marks


def time_resume(run: Path, store: Path) -> dict[str, float]:
    """Train one update in a new process, then go on in another; return what that one reached, and when."""
    times: dict[str, float] = {}
    from dynconv_mt.train.checkpoint import checkpoint_update, list_checkpoints

    done = max(map(checkpoint_update, list_checkpoints(run)), default=0)
    for max_updates in (done + 1, done + 2):
        command = [sys.executable, __file__, "--child", str(run), str(store), str(max_updates)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        times = json.loads(output.splitlines()[-1])
    return times


def describe() -> list[str]:
    """Return the head of the report: where and with what."""
    import torch

    return [
        "# Checkpoints: what a save and a resume cost",
        "",
        f"{time.strftime('%Y-%m-%d')}. {cpu_name()}, one thread, Python {platform.python_version()}, torch "
        f"{torch.__version__}, commit {commit()}; load average {os.getloadavg()[0]:.1f}. Generated data.",
        "",
        "```",
        "python scripts/bench_checkpoint.py",
        "```",
    ]


def describe_saves(saves: SaveTimes) -> list[str]:
    """Return the part of the report on saves."""
    epoch = saves.updates_per_epoch * saves.update
    return [
        "",
        f"## A save ({PRESET}, {saves.megabytes:,.0f} MB)",
        "",
        "| | seconds |",
        "|---|---|",
        f"| an update of 4,000 tokens | {saves.update:.2f} |",
        f"| an epoch of {saves.updates_per_epoch:,} updates, the default interval | {epoch:,.0f} |",
        f"| a save in the way: copy, write, flush, hash | {saves.in_the_way:.2f} |",
        f"| stall of a save in the background (the copy) | {saves.stall:.2f} |",
        f"| what updates lose while it is written | {saves.slowdown:.2f} |",
        "",
        f"Share of the time of an epoch: **{saves.share:.3%}** (aim: 1 %). On a faster device, the stall is 1 % of an "
        f"epoch of {99 * saves.stall:.0f} s; a save in the way would be 1 % of one of {99 * saves.in_the_way:.0f} s.",
    ]


def describe_resumes(resumes: dict[str, dict[str, float]]) -> list[str]:
    """Return the part of the report on resumes."""
    lines = [
        "",
        "## A resume, from the start of the process",
        "",
        f"| seconds until | {' | '.join(resumes)} |",
        f"|---|{'---|' * len(resumes)}",
    ]
    for mark in next(iter(resumes.values())):
        lines.append(f"| {mark} | {' | '.join(f'{times[mark]:.1f}' for times in resumes.values())} |")
    return lines


def num_pairs(store: Path) -> str:
    """Return how many pairs a token store has, as text."""
    from dynconv_mt.data.store import TokenStore

    return f"{len(TokenStore.open(store)):,} pairs"


def main() -> None:
    """Measure, print, and write with --out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/bench_checkpoint"))
    parser.add_argument("--big-store", type=Path, help="a token store of 4.5 million pairs; made where it is missing")
    parser.add_argument("--repeat", type=int, default=5, help="saves to take the median of")
    parser.add_argument("--updates", type=int, default=3, help="quiet updates per save")
    parser.add_argument("--out", type=Path, help="write the results there as well")
    parser.add_argument("--child", nargs=3, metavar=("RUN", "STORE", "UPDATES"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        run, store, max_updates = args.child
        print(json.dumps(dict(child(Path(run), Path(store), int(max_updates)))))
        return
    big = args.big_store or write_store(args.folder / "big", BIG_PAIRS)
    iwslt = write_store(args.folder / "iwslt", IWSLT_PAIRS)
    lines = describe() + describe_saves(time_saves(args.folder, args.repeat, args.updates))
    print("\n".join(lines), flush=True)
    resumes = {num_pairs(store): time_resume(args.folder / f"run_{store.name}", store) for store in (iwslt, big)}
    print("\n".join(describe_resumes(resumes)))
    if args.out:
        args.out.write_text("\n".join([*lines, *describe_resumes(resumes), ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
