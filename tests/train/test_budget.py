"""batch.max_tokens=auto."""

from __future__ import annotations

import json
import math
import mmap
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dynconv_mt.compute import Compute
from dynconv_mt.data.config import AUTO
from dynconv_mt.errors import UserError
from dynconv_mt.models.seq2seq import Seq2Seq
from dynconv_mt.runtime import Precision
from dynconv_mt.train import FitConfig, FitData, fit
from dynconv_mt.train import meter as meters
from dynconv_mt.train.budget import MAX_BUDGET, Trial, find_budget, settle_budget, worst_batch, worst_shapes
from dynconv_mt.train.config import Parallel
from dynconv_mt.train.distributed import Ranks
from dynconv_mt.train.meter import HostMeter

NewModel = Callable[..., Seq2Seq]
NewJob = Callable[..., FitConfig]
CPU = Compute(torch.device("cpu"), Precision.fp32)
MIB, GIB = 2**20, 2**30


class SimulatedTrial(Trial):
    """A computation that takes so many bytes for itself and each token, in limited memory."""

    def __init__(self, fixed: float, per_token: float, memory: float = math.inf) -> None:
        self.fixed, self.per_token, self.memory = fixed, per_token, memory
        self.largest, self.count = 0.0, 0

    def bytes(self, rows: int, shape: tuple[int, int]) -> float:
        self.count += 1
        taken = self.fixed + rows * max(shape) * self.per_token
        self.largest = max(self.largest, taken)
        return taken if taken <= self.memory else math.inf

    def holds(self, rows: int, shape: tuple[int, int], beside: int) -> bool:
        return self.fixed + rows * max(shape) * self.per_token + beside <= self.memory


@pytest.mark.parametrize("longest", [3, 50, 300, 5000])
@pytest.mark.parametrize("room", [0.6 * GIB, 2 * GIB, 7 * GIB])
@pytest.mark.parametrize("per_token", [20e3, 200e3, 1e6])
def test_the_line_leads_to_the_room(longest: int, room: float, per_token: float) -> None:
    """The budget fits, one pair more would not, and no trial was larger than the room."""
    trial = SimulatedTrial(100 * MIB, per_token)
    budget = find_budget(trial, (longest, longest), int(room), 0)
    exact = (room - 100 * MIB) / per_token
    if longest > exact:
        assert budget == 0
    elif exact > 1.05 * max(MAX_BUDGET, longest):
        assert budget == max(MAX_BUDGET, longest)
    else:
        least = exact if trial.count > 1 else exact / 2  # there was room for one trial only: a rougher line
        assert least - longest - 64 <= budget <= exact or budget == max(MAX_BUDGET, longest)
        assert trial.largest <= room


def test_a_gpu_tries_what_the_line_says() -> None:
    trial = SimulatedTrial(0.0, MIB, memory=2 * GIB)
    budget = find_budget(trial, (32, 32), 4 * GIB, 512 * MIB)
    assert 0.75 * 0.9 * 1536 <= budget <= 1536
    assert find_budget(SimulatedTrial(3 * GIB, MIB, memory=2 * GIB), (32, 32), 4 * GIB, 0) == 0


def test_worst_shapes(data: FitData) -> None:
    shapes = worst_shapes(data.train)
    assert shapes[0] == (data.train.src_lengths.max(), data.train.tgt_lengths.max())
    assert all(source == target for source, target in shapes[1:])
    batch = worst_batch(3, 5, 4)
    assert batch.src.shape == (3, 5) and batch.tgt.shape == batch.prev_tgt.shape == (3, 4)
    assert batch.num_target_tokens == 12 and batch.prev_tgt[0, 0] == batch.tgt[0, -1] == 2


def test_the_trial_leaves_nothing(data: FitData, new_model: NewModel, new_job: NewJob) -> None:
    model = new_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    settled = settle_budget(new_job(batch__max_tokens=AUTO), model, data.train, CPU, Ranks())
    assert settled.batch.max_tokens == MAX_BUDGET  # a tiny model
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_too_little_memory_for_a_pair(
    data: FitData, new_model: NewModel, new_job: NewJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HostMeter, "room", lambda *_: 1000)
    with pytest.raises(UserError, match=r"batch\.max_tokens=auto: .*longest pair has 9"):
        settle_budget(new_job(batch__max_tokens=AUTO), new_model(), data.train, CPU, Ranks())


def test_a_run_keeps_the_number(
    data: FitData,
    new_model: NewModel,
    new_job: NewJob,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It stands in config.json, and a restart takes it, whatever there is then."""
    job = new_job(batch__max_tokens=AUTO, train__max_updates=6)
    with monkeypatch.context() as patch:
        patch.setattr("dynconv_mt.train.budget.MAX_BUDGET", 128)
        fit(job, new_model(), data)
    assert "batch.max_tokens=auto: 128 tokens, by trial" in capsys.readouterr().err
    config = Path(job.out_dir) / "config.json"
    assert json.loads(config.read_text())["job"]["batch"]["max_tokens"] == 128
    assert fit(new_job(batch__max_tokens=AUTO, train__max_updates=12), new_model(), data).update == 12
    assert fit(new_job(batch__max_tokens=128, train__max_updates=18), new_model(), data).update == 18
    shutil.rmtree(Path(job.out_dir) / "checkpoints")  # finished, and kept for its model alone
    assert fit(new_job(batch__max_tokens=AUTO, train__max_updates=18), new_model(), data).update == 18
    assert json.loads(config.read_text())["job"]["batch"]["max_tokens"] == 128


def test_shards_are_not_estimated(data: FitData, new_model: NewModel, new_job: NewJob) -> None:
    """A run that has its number already may shard what it has not sharded before."""
    job = new_job(batch__max_tokens=AUTO, train__parallel=Parallel.fsdp)
    with pytest.raises(UserError, match=r"batch\.max_tokens=auto: is estimated for whole weights"):
        settle_budget(job, new_model(), data.train, CPU, Ranks(0, 2))
    assert fit(new_job(batch__max_tokens=AUTO, train__max_updates=6), new_model(), data).update == 6
    job = new_job(batch__max_tokens=AUTO, train__max_updates=12, train__parallel=Parallel.fsdp)
    assert fit(job, new_model(), data).update == 12


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /proc and a /sys/fs/cgroup of our own: 8 GiB available, in the group /outer/inner."""
    monkeypatch.setattr(meters, "PROC", tmp_path / "proc")
    monkeypatch.setattr(meters, "CGROUPS", tmp_path / "cgroup")
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable:   {8 * 2**20} kB\n")
    (tmp_path / "proc" / "self" / "status").write_text("Name:\tx\nVmHWM:\t 7 kB\nVmRSS:\t 5 kB\n")
    (tmp_path / "proc" / "self" / "cgroup").write_text("0::/outer/inner\n")
    return tmp_path


def limit_group(folder: Path, limit: str, current: int, inactive: int, version: int = 2) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = {1: ("memory.limit_in_bytes", "memory.usage_in_bytes"), 2: ("memory.max", "memory.current")}[version]
    for name, value in zip(names, (limit, str(current)), strict=True):
        (folder / name).write_text(f"{value}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{'total_' * (version == 1)}inactive_file {inactive}\n")


def test_memory_of_the_machine_is_shared_and_half_left(system: Path) -> None:
    assert HostMeter().room(1) == 4 * GIB
    assert HostMeter().room(4) == 1 * GIB


def test_limits_of_control_groups(system: Path) -> None:
    limit_group(system / "cgroup" / "outer" / "inner", "max", 1 * GIB, 0)
    assert HostMeter().room(1) == 4 * GIB
    limit_group(system / "cgroup" / "outer", str(5 * GIB), 4 * GIB, 1 * GIB)
    assert HostMeter().room(1) == 1 * GIB  # 5 - (4 - 1), halved
    limit_group(system / "cgroup", str(3 * GIB), 2 * GIB, 0)
    assert HostMeter().room(1) == 0.5 * GIB


def test_limits_of_control_groups_version_1(system: Path) -> None:
    (system / "proc" / "self" / "cgroup").write_text("3:cpu:/\n2:memory:/job\n")
    limit_group(system / "cgroup" / "memory" / "job", str(6 * GIB), 4 * GIB, 0, version=1)
    assert HostMeter().room(1) == 1 * GIB


def test_a_system_that_does_not_say(system: Path) -> None:
    (system / "proc" / "meminfo").unlink()
    with pytest.raises(UserError, match=r"batch\.max_tokens=auto: .*MemAvailable.*give a number"):
        HostMeter().room(1)


def test_the_peak_is_measured() -> None:
    """Also where most of it is given back before the end."""
    meter = HostMeter()

    def take() -> None:
        with mmap.mmap(-1, 100 * MIB) as memory:
            for page in range(0, len(memory), mmap.PAGESIZE):
                memory[page] = 1

    assert 95 * MIB < meter.growth(take) < 140 * MIB
    assert meter.growth(lambda: None) < 50 * MIB
