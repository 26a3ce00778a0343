"""Runs `fit` in processes of its own, for tests that need several ranks, signals or deaths."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from dynconv_mt.models.config import config_to_dict
from dynconv_mt.models.seq2seq import Seq2Seq
from dynconv_mt.train import FitConfig, FitData
from dynconv_mt.train.run_folder import job_to_json

SCRIPT = """
import json, os, signal, sys, time
from pathlib import Path
import torch
from dynconv_mt.cli.main import final, guarded
from dynconv_mt.data.config import BatchConfig
from dynconv_mt.data.store import TokenStore
from dynconv_mt.models.config import config_from_dict
from dynconv_mt.models.seq2seq import build_model
from dynconv_mt.train import FitConfig, FitData, checkpoint, fit, heartbeat
from dynconv_mt.train.config import *
from dynconv_mt.train.step import UpdateStep
job, model = (json.loads(text) for text in sys.argv[1:3])
data = FitData(*(TokenStore.open(Path(folder)) for folder in sys.argv[3:]))
rank, run = int(os.environ.get("RANK", 0)), Path(job["out_dir"])
torch.manual_seed(7 + rank)  # rank 0's weights count
model = build_model(config_from_dict(model))
sections = dict(batch=BatchConfig, train=TrainConfig, optim=OptimConfig, schedule=ScheduleConfig,
                validate=ValidateConfig, checkpoint=CheckpointConfig)
config = FitConfig(**{k: sections[k](**v) if k in sections else v for k, v in job.items()})
make_update = UpdateStep.__call__

def at_update(number, action):
    "Do something in the middle of training, before update `number` (from 0)."
    def call(self, n, update):
        if n == number:
            action()
        make_update(self, n, update)
    UpdateStep.__call__ = call

def reached(name):
    "Tell the test, which waits for it, that we are there."
    (run.parent / f"{name}.{rank}").touch()

def validate(model):
    return {"score": 1.5}

##
sys.exit(final(guarded(lambda: fit(config, model, data, validate) and 0, "test")))
"""


@dataclass
class Launch:
    """A job to be started as one process or several, with some lines of Python before `fit`."""

    job: FitConfig
    model: Seq2Seq
    data: FitData
    extra: str = ""
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def command(self) -> list[str]:
        """The command without what launches it."""
        assert self.data.valid is not None
        folder = Path(self.job.out_dir).parent
        script = folder / f"{Path(self.job.out_dir).name}.py"
        script.write_text(SCRIPT.replace("##", self.extra))
        arguments = [
            json.dumps({k: v for k, v in job_to_json(self.job, self.model.config).items() if k != "model"}),
            json.dumps(config_to_dict(self.model.config)),
        ]
        return [str(script), *arguments, str(self.data.train.folder), str(self.data.valid.folder)]

    def start(self, ranks: int = 1) -> list[subprocess.Popen[str]]:
        """Start as many plain processes, as srun would."""
        address = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(ranks)}
        for rank in range(ranks):
            numbers = {**address, "RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks > 1 else {}
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, *self.command()],
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                    env=environment(numbers),
                )
            )
        return self.processes

    def torchrun(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Run to the end under torchrun; two ranks unless `options` say something else."""
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *options]
        command = [*launcher, *self.command()]
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment({})
        )
        try:
            said = process.communicate(timeout=240)[1]
        except subprocess.TimeoutExpired:
            process.terminate()  # torchrun ends what it has started
            raise AssertionError(f"the job does not end: {process.communicate()[1]}") from None
        return subprocess.CompletedProcess(command, process.returncode, "", said)

    def wait_for(self, name: str, ranks: int = 1) -> None:
        """Wait until the first `ranks` processes have said reached(name)."""
        end = time.monotonic() + 240.0
        places = [Path(self.job.out_dir).parent / f"{name}.{rank}" for rank in range(ranks)]
        while not all(place.exists() for place in places):
            assert time.monotonic() < end, f"nobody has reached {name}"
            for process in self.processes:
                assert process.poll() is None, process.communicate()[1]
            time.sleep(0.02)

    def kill(self) -> None:
        """End what is left."""
        for process in self.processes:
            process.kill()
            process.communicate()


def environment(more: dict[str, str]) -> dict[str, str]:
    """The environment of a child, which finds the package and this folder."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    return {**kept, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1", **more}


def free_port() -> int:
    """A TCP port that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return int(listener.getsockname()[1])
