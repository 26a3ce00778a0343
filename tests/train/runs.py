"""What a run has left behind, in a form that can be compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dynconv_mt.models.seq2seq import Seq2Seq
from dynconv_mt.train import FitConfig
from dynconv_mt.train.checkpoint import list_checkpoints
from dynconv_mt.train.report import read_metrics
from dynconv_mt.train.step import UpdateStep

NewModel = Callable[..., Seq2Seq]
NewJob = Callable[..., FitConfig]
TIMES = ("seconds", "tokens_per_second")


def tensors(run: str | Path) -> dict[str, torch.Tensor]:
    """Every tensor of the newest checkpoint and of the final model."""
    files = [*list_checkpoints(Path(run))[-1].rglob("*.safetensors"), Path(run) / "model" / "model.safetensors"]
    return {f"{path.parent.name}/{path.name}/{k}": v for path in files for k, v in load_file(path).items()}


def metrics(run: str | Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what depends on the clock."""
    records = read_metrics(Path(run) / "metrics.jsonl")
    return [{name: value for name, value in record.items() if name not in TIMES} for record in records]


def names(run: str | Path) -> list[str]:
    """The names of the checkpoints, oldest first."""
    return [folder.name for folder in list_checkpoints(Path(run))]


class Crash(Exception):
    """Stands for a process that dies."""


def crash_at(monkeypatch: pytest.MonkeyPatch, update: int) -> None:
    """Let update number `update` die in the middle of a run."""
    make = UpdateStep.__call__

    def crash(self: UpdateStep, number: int, *rest: Any) -> None:
        if number == update:
            raise Crash
        make(self, number, *rest)

    monkeypatch.setattr(UpdateStep, "__call__", crash)
