"""A tiny corpus that can be learnt, a tiny model with dropout, and a short job."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dynconv_mt.data.config import BatchConfig
from dynconv_mt.data.store import StoreWriter, TokenStore
from dynconv_mt.models.config import AttentionConfig, ModelConfig, StackConfig
from dynconv_mt.models.seq2seq import Seq2Seq, build_model
from dynconv_mt.runtime import Precision
from dynconv_mt.train import FitConfig, FitData
from dynconv_mt.train.config import CheckpointConfig, OptimConfig, ScheduleConfig, TrainConfig, ValidateConfig

VOCAB = 24


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


def write_store(folder: Path, num_pairs: int, seed: int) -> TokenStore:
    random = np.random.default_rng(seed)
    with StoreWriter(folder, "tiny") as writer:
        for _ in range(num_pairs):
            src = random.integers(4, VOCAB, random.integers(2, 9)).tolist()
            writer.add(src, [VOCAB + 3 - i for i in src])
    return TokenStore.open(folder)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> FitData:
    folder = tmp_path_factory.mktemp("data")
    return FitData(write_store(folder / "train", 120, 1), write_store(folder / "valid", 20, 2))


@pytest.fixture
def new_model() -> Callable[..., Seq2Seq]:
    def build(dropout: float = 0.2) -> Seq2Seq:
        torch.manual_seed(7)
        stack = StackConfig(1, 32, AttentionConfig(2, dropout))
        config = ModelConfig(
            16, stack, stack, 2, dropout, dropout, max_positions=32, src_vocab_size=VOCAB, tgt_vocab_size=VOCAB
        )
        model = build_model(config)
        assert isinstance(model, Seq2Seq)
        return model

    return build


@pytest.fixture
def new_job(tmp_path: Path) -> Callable[..., FitConfig]:
    def build(name: str = "run", **options: Any) -> FitConfig:
        """Options are given as typed, with __ for the dot: train__max_updates=8."""
        job = FitConfig(
            out_dir=str(tmp_path / name),
            device="cpu",
            precision=Precision.fp32,  # auto takes bf16 on some processors
            threads=1,
            batch=BatchConfig(max_tokens=60),
            train=TrainConfig(max_updates=24, update_freq=2, log_every=5, ema_decay=0.9, tensorboard=False),
            optim=OptimConfig(lr=0.01, clip_norm=1.0),
            schedule=ScheduleConfig(warmup_updates=8),
            validate=ValidateConfig(every=6, every_epochs=0),
            checkpoint=CheckpointConfig(every=6, every_epochs=0, keep_last=3),
        )
        for option, value in options.items():
            section, _, field = option.rpartition("__")
            setattr(getattr(job, section) if section else job, field, value)
        return job

    return build
