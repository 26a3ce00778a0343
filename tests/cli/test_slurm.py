"""scripts/slurm_train.sh, with stand-ins for Slurm's own commands."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dynconv_mt.train.checkpoint import newest_sound
from dynconv_mt.train.report import read_metrics

from .conftest import TINY

SRUN = f"""#!/usr/bin/env bash
while [[ $1 != torchrun ]]; do shift; done
shift
exec {sys.executable} -m torch.distributed.run "$@"
"""
SCONTROL = """#!/usr/bin/env bash
if [[ $1 == requeue ]]; then echo "$2" >>"$REQUEUED"; else echo localhost; fi
"""


@pytest.fixture
def environment(root: Path, tmp_path: Path) -> dict[str, str]:
    """A Slurm job of one node, on which two ranks are wanted."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "localhost", "SLURM_NNODES": "1", "RANKS_PER_NODE": "2"}
    paths = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "PYTHONPATH": str(root)}
    return {**os.environ, **job, **paths, "RDZV_PORT": str(port), "REQUEUED": str(tmp_path / "requeued")}


@pytest.mark.slow
def test_a_signal_saves_and_requeues(root: Path, data: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    """And the job that is then begun with the same command ends the run."""
    script, run = ["bash", str(root / "scripts" / "slurm_train.sh")], tmp_path / "run"
    options = [*TINY, f"data_dir={data}", f"out_dir={run}", "threads=1", "train.log_every=1", "train.tensorboard=false"]
    options += ["batch.max_tokens=256", "validate.every_epochs=0", "checkpoint.final=last", "checkpoint.every_epochs=0"]
    log = (tmp_path / "log").open("w+b")
    job = subprocess.Popen([*script, *options, "train.max_epochs=100000"], env=environment, stdout=log, stderr=log)
    try:
        end = time.monotonic() + 300.0
        while not read_metrics(run / "metrics.jsonl"):
            assert job.poll() is None and time.monotonic() < end, (tmp_path / "log").read_text()
            time.sleep(0.05)
        job.send_signal(signal.SIGUSR1)
        assert job.wait(timeout=120.0) == 0, (tmp_path / "log").read_text()
    finally:
        job.kill()
        log.close()
    assert "SIGUSR1: saved after update" in (tmp_path / "log").read_text()
    assert (tmp_path / "requeued").read_text() == "7\n"
    checkpoint, complaints = newest_sound(run)
    assert checkpoint is not None and not complaints
    again = [*script, *options, f"train.max_updates={int(checkpoint.name[5:]) + 2}"]
    result = subprocess.run(again, env={**environment, "SLURM_RESTART_COUNT": "1"}, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert f"continuing after update {int(checkpoint.name[5:]):,}" in result.stderr
    assert (run / "model" / "model.safetensors").is_file()
