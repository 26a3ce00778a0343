"""Two processes against one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dynconv_mt.errors import UserError
from dynconv_mt.models.seq2seq import Seq2Seq
from dynconv_mt.train import FitConfig, FitData, fit
from dynconv_mt.train.config import TrainConfig
from dynconv_mt.train.report import read_metrics

SCRIPT = """
import json, os, sys, torch
from dynconv_mt.data.config import BatchConfig
from dynconv_mt.data.store import TokenStore
from dynconv_mt.models.config import config_from_dict
from dynconv_mt.models.seq2seq import build_model
from dynconv_mt.train import FitConfig, FitData, fit
from dynconv_mt.train.config import *
job = json.loads(sys.argv[1])
torch.manual_seed(7 + int(os.environ["RANK"]))  # rank 0's weights count
model = build_model(config_from_dict(json.loads(sys.argv[2])))
data = FitData(*(TokenStore.open(folder) for folder in sys.argv[3:]))
sections = dict(batch=BatchConfig, train=TrainConfig, optim=OptimConfig, schedule=ScheduleConfig,
                validate=ValidateConfig, checkpoint=CheckpointConfig)
fit(FitConfig(**{k: sections[k](**v) if k in sections else v for k, v in job.items()}), model, data,
    lambda model: {"score": 1.5})
"""


def run_two(job: FitConfig, model: Seq2Seq, data: FitData) -> str:
    import json

    from dynconv_mt.models.config import config_to_dict
    from dynconv_mt.train.run_folder import job_to_json

    assert data.valid is not None
    arguments = [json.dumps(job_to_json(job)), json.dumps(config_to_dict(model.config))]
    script = Path(job.out_dir).parent / "two.py"
    script.write_text(SCRIPT)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*torchrun, str(script), *arguments, str(data.train.folder), str(data.valid.folder)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert result.returncode == 0, result.stderr
    return result.stderr


@pytest.mark.slow
def test_two_ranks_equal_one(
    data: FitData, new_model: Callable[..., Seq2Seq], new_job: Callable[..., FitConfig]
) -> None:
    """With dropout off, the same plan gives the same weights, also where the last update lacks a batch for rank 1."""
    one, two = new_job("one", train__update_freq=1), new_job("two", train__update_freq=1)
    for job in (one, two):
        job.train.batches_per_update, job.train.max_updates = 4, 12
        job.optim.eps = 1e-3  # large: the bias of attention keys has a gradient of rounding noise
    fit(one, new_model(dropout=0.0), data)
    said = run_two(two, new_model(dropout=0.0), data)
    assert "2 ranks" in said
    first, second = (load_file(Path(job.out_dir) / "model" / "model.safetensors") for job in (one, two))
    torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-5)
    lines = [[line["loss"] for line in read_metrics(Path(job.out_dir) / "metrics.jsonl")] for job in (one, two)]
    assert lines[0] == pytest.approx(lines[1], rel=1e-4)
    valid = [line for line in read_metrics(Path(two.out_dir) / "metrics.jsonl") if line["kind"] == "valid"]
    assert all(line["score"] == 1.5 for line in valid)


def test_batches_per_update_must_divide() -> None:
    assert TrainConfig(batches_per_update=128).micro_batches(8) == 16
    assert TrainConfig(update_freq=3).micro_batches(8) == 3
    with pytest.raises(UserError, match=r"train\.batches_per_update=128: cannot be shared evenly by 3 ranks"):
        TrainConfig(batches_per_update=128).micro_batches(3)
    with pytest.raises(UserError, match=r"train\.update_freq=2"):
        TrainConfig(batches_per_update=128, update_freq=2)
