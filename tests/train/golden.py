"""A short run whose losses are kept, so that a change of numbers is never an accident.

    python tests/train/golden.py        writes golden_losses.json anew; say in the commit why they changed

It has a bit of everything: attention, light and dynamic convolutions, dropout, DropConnect, accumulation, clipping,
the moving average. Its pairs are drawn by Python's `random.random`, which stays the same from version to version.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from dynconv_mt.data.config import BatchConfig
from dynconv_mt.data.store import StoreWriter, TokenStore
from dynconv_mt.models.config import DynamicConvConfig, LightConvConfig, ModelConfig, StackConfig
from dynconv_mt.models.seq2seq import Seq2Seq, build_model
from dynconv_mt.ops import backend
from dynconv_mt.runtime import Precision
from dynconv_mt.train import FitConfig, FitData, fit
from dynconv_mt.train.config import CheckpointConfig, Final, OptimConfig, ScheduleConfig, TrainConfig, ValidateConfig
from dynconv_mt.train.report import read_metrics

FILE = Path(__file__).with_name("golden_losses.json")
UPDATES, PAIRS, VOCAB = 100, 200, 40


def environment() -> dict[str, Any]:
    """What the last bits depend on."""
    return {
        "torch": torch.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "processor": _processor(),
        "threads": 1,
        "kernels": backend("cpu"),
    }


def _processor() -> list[str]:
    """Vendor, family and model: matrix libraries choose their kernels by them. Empty where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    entries = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return [entries.get(name, "") for name in ("vendor_id", "cpu family", "model")]


def losses(folder: Path) -> list[float]:
    """Train in `folder` and return the loss per target token of every update, nats."""
    data = FitData(_write_store(folder / "data"))
    config = FitConfig(
        out_dir=str(folder / "run"),
        device="cpu",
        precision=Precision.fp32,
        threads=1,
        batch=BatchConfig(max_tokens=200),
        train=TrainConfig(max_updates=UPDATES, update_freq=2, log_every=1, ema_decay=0.99, tensorboard=False),
        optim=OptimConfig(lr=1e-2, eps=1e-3, clip_norm=1.0),  # a large eps: it damps what rounding begins
        schedule=ScheduleConfig(warmup_updates=20),
        validate=ValidateConfig(every_epochs=0),
        checkpoint=CheckpointConfig(every_epochs=0, final=Final.last),
    )
    fit(config, _new_model(), data)
    records = read_metrics(folder / "run" / "metrics.jsonl")
    return [float(record["loss"]) for record in records]


def _write_store(folder: Path) -> TokenStore:
    """Pairs whose target is the source backwards, each id moved by one."""
    stream = random.Random(1)
    with StoreWriter(folder, "golden") as writer:
        for _ in range(PAIRS):
            src = [4 + int(stream.random() * (VOCAB - 5)) for _ in range(2 + int(stream.random() * 10))]
            writer.add(src, [number + 1 for number in reversed(src)])
    return TokenStore.open(folder)


def _new_model() -> Seq2Seq:
    options: dict[str, Any] = {"heads": 4, "kernel_sizes": [3, 5], "weight_dropout": 0.1}
    encoder, decoder = (StackConfig(2, 64, mixer(**options)) for mixer in (LightConvConfig, DynamicConvConfig))
    decoder.layers, decoder.mixer.kernel_sizes = 1, [3]  # type: ignore[attr-defined]
    torch.manual_seed(1)
    model = build_model(
        ModelConfig(32, encoder, decoder, cross_heads=4, src_vocab_size=VOCAB, tgt_vocab_size=VOCAB, max_positions=32)
    )
    assert isinstance(model, Seq2Seq)
    return model


def main() -> None:
    """Write the file."""
    with tempfile.TemporaryDirectory() as folder:
        found = losses(Path(folder))
    data = {"environment": environment(), "losses": found}
    FILE.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    print(f"{FILE}: {found[0]:.4f} to {found[-1]:.4f} in {UPDATES} updates", file=sys.stderr)


if __name__ == "__main__":
    main()
