"""A corpus, a data folder and a run of a few updates, made by the commands themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynconv_mt.cli.commands import COMMANDS
from dynconv_mt.cli.main import run
from dynconv_mt.data.toy import Sizes, write_corpus

TINY = ["model=lightconv_tiny", "model.encoder.layers=1", "model.encoder.mixer.kernel_sizes=[3]", "model.dim=32"]


def call(section: str, *argv: object) -> int:
    """Run a command in this process; return its exit code."""
    return run(COMMANDS[section], [str(argument) for argument in argv])


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, Sizes(train=200, valid=20, test=20))
    return folder


@pytest.fixture(scope="session")
def data(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "DATA"
    splits = [f"{split}={corpus}/{split}" for split in ("train", "valid", "test")]
    assert call("preprocess", "src=en", "tgt=de", *splits, "bpe.vocab_size=400", "workers=1", f"out_dir={folder}") == 0
    return folder


def train_arguments(data: Path, out: Path) -> list[str]:
    """A run of two updates, validated with BLEU."""
    short = [
        "train.max_updates=2",
        "checkpoint.every=1",
        "checkpoint.final=last",
        "train.tensorboard=false",
        "threads=1",
    ]
    scored = ["validate.bleu=true", "search.beam=1", "search.max_length_b=3", "batch.max_tokens=512"]
    return [*TINY, f"data_dir={data}", f"out_dir={out}", *short, *scored]


@pytest.fixture(scope="session")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "RUN"
    assert call("train", *train_arguments(data, folder)) == 0
    return folder
