"""Compare two ranks of one thread each with one rank of two threads: target tokens a second, side by side.

    python scripts/bench_ranks.py [--model dynamicconv_iwslt_de_en] [--updates 20] [--rounds 3] [--parallel ddp]

Both make the same updates, of two batches; the ranks exchange gradients over gloo under torchrun. Data are generated.
Rounds alternate, and the best of each counts: what disturbs a machine only ever slows it down. Wants two idle cores.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

VOCAB, NUM_PAIRS = 10_000, 20_000


def write_store(folder: Path) -> None:
    """Write pairs of random ids, of 5 to 60 tokens."""
    import numpy as np

    from dynconv_mt.data.store import StoreWriter

    random = np.random.default_rng(1)
    with StoreWriter(folder, "generated") as writer:
        for length in random.integers(5, 60, NUM_PAIRS).tolist():
            writer.add(*random.integers(4, VOCAB, (2, length)).tolist())


def train(args: argparse.Namespace) -> None:
    """Train in this process, one rank of the job or the only one."""
    import torch

    from dynconv_mt.data.config import BatchConfig
    from dynconv_mt.data.store import TokenStore
    from dynconv_mt.models.presets import preset
    from dynconv_mt.models.seq2seq import Seq2Seq, build_model
    from dynconv_mt.train import FitConfig, FitData, fit
    from dynconv_mt.train.config import CheckpointConfig, Final, Parallel, TrainConfig

    torch.manual_seed(1)
    model = build_model(replace(preset(args.model), src_vocab_size=VOCAB, tgt_vocab_size=VOCAB))
    assert isinstance(model, Seq2Seq)
    job = FitConfig(
        out_dir=args.child[1],
        device="cpu",
        threads=2 // int(os.environ.get("WORLD_SIZE", 1)),
        batch=BatchConfig(max_tokens=args.max_tokens),
        train=TrainConfig(
            max_updates=args.updates + WARM_UP,
            batches_per_update=2,
            log_every=WARM_UP,
            tensorboard=False,
            parallel=Parallel(args.parallel),
        ),
        checkpoint=CheckpointConfig(every_epochs=0, final=Final.last),
    )
    fit(job, model, FitData(TokenStore.open(args.child[0])))


WARM_UP = 5  # updates, and those of a line of metrics.jsonl


def measure(args: argparse.Namespace, store: Path, ranks: int) -> float:
    """Return target tokens a second of a job, from its best line of metrics after the first."""
    from dynconv_mt.train.report import read_metrics

    run = Path(tempfile.mkdtemp(dir=store.parent))
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    command = [sys.executable, *torchrun, __file__, *sys.argv[1:], "--child", str(store), str(run)]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment["OMP_WAIT_POLICY"] = "PASSIVE"  # as dc-train has it
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, env=environment)
    rates = [line["tokens_per_second"] for line in read_metrics(run / "metrics.jsonl") if line["update"] > WARM_UP]
    shutil.rmtree(run)
    return float(max(rates))


def main() -> None:
    """Print the rates of both and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="dynamicconv_iwslt_de_en", help="a named architecture")
    parser.add_argument("--max-tokens", type=int, default=2000, help="of a batch")
    parser.add_argument("--updates", type=int, default=20, help="after the warm-up")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parallel", default="ddp", help="ddp or fsdp")
    parser.add_argument("--child", nargs=2, metavar=("STORE", "RUN"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        train(args)
        return
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        write_store(store)
        rates: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(args.rounds):
            for ranks, found in rates.items():
                found.append(measure(args, store, ranks))
    best = {ranks: max(found) for ranks, found in rates.items()}
    print("| job | target tokens/s | all rounds |\n|---|---|---|")
    for ranks, name in ((1, "one rank, two threads"), (2, f"two ranks, one thread each ({args.parallel})")):
        print(f"| {name} | {best[ranks]:,.0f} | {', '.join(f'{rate:,.0f}' for rate in rates[ranks])} |")
    print(f"\ntwo ranks / one rank: {best[2] / best[1]:.0%} (aim: 90 %)")


if __name__ == "__main__":
    main()
