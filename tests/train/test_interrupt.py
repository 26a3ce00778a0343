"""Signals in training, validation and saving: real processes, real signals."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from train.launch import Launch
from train.runs import NewJob, NewModel, metrics, names, tensors

from dynconv_mt.train import FitConfig, FitData, fit
from dynconv_mt.train.interrupt import Interrupted, interrupts

Start = Callable[..., list[subprocess.Popen[str]]]

IN_TRAINING = """
def wait():  # for the signal, however late it comes
    reached("there")
    while not (run.parent / "there.sent").exists():
        time.sleep(0.01)
at_update(14, wait)
"""
IN_VALIDATION = """
calls = []
def validate(model):
    calls.append(model)
    if len(calls) == 2:  # after update 12
        reached("there")
        time.sleep(600.0)
    return {"score": 1.5}
"""
IN_SAVING = """
from dynconv_mt.train import saving
write = saving.write_snapshot
def write_slowly(folder, snapshot, state, *rest):
    write(folder, snapshot, state, *rest)
    if state["update"] == 12:
        reached("there")
        time.sleep(2.0)
saving.write_snapshot = write_slowly
"""


@pytest.fixture
def start(data: FitData, new_model: NewModel) -> Iterator[Start]:
    """Start ranks; return their processes when rank 0 has reached the place that the lines of Python name."""
    launches: list[Launch] = []

    def begin(job: FitConfig, extra: str, ranks: int = 1) -> list[subprocess.Popen[str]]:
        launches.append(Launch(job, new_model(), data, extra))
        processes = launches[-1].start(ranks)
        launches[-1].wait_for("there")
        return processes

    yield begin
    for launch in launches:
        launch.kill()


def told(process: subprocess.Popen[str], seconds: float = 240.0) -> str:
    """Wait for the end of a process; return its standard error."""
    return process.communicate(timeout=seconds)[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "number", "update"),
    [
        (IN_TRAINING, signal.SIGTERM, 15),
        (IN_TRAINING, signal.SIGINT, 15),
        (IN_VALIDATION, signal.SIGUSR1, 12),
        (IN_SAVING, signal.SIGTERM, None),
    ],
    ids=["training", "ctrl-c", "validation", "saving"],
)
def test_a_signal_saves_and_the_same_command_goes_on(
    data: FitData,
    new_model: NewModel,
    new_job: NewJob,
    start: Start,
    place: str,
    number: signal.Signals,
    update: int | None,
) -> None:
    """It ends with 0 and the command; then the run ends as one that was never interrupted."""
    whole, broken = new_job("whole", train__tensorboard=True), new_job("broken", train__tensorboard=True)
    fit(whole, new_model(), data, lambda model: {"score": 1.5})
    (process,) = start(broken, place)
    sent = time.monotonic()
    for _ in range(3):  # schedulers repeat themselves
        process.send_signal(number)
    Path(broken.out_dir).with_name("there.sent").touch()
    said = told(process)
    assert process.returncode == 0, said
    assert f"{number.name}: saved after update" in said and "the same command goes on: " in said
    assert time.monotonic() - sent < 60.0
    assert update is None or names(broken.out_dir)[-1] == f"step_{update:08d}"
    if place == IN_VALIDATION:
        assert [line["update"] for line in metrics(broken.out_dir) if line["kind"] == "valid"] == [6]
    if place == IN_SAVING:
        assert "step_00000012" in names(broken.out_dir)
    fit(broken, new_model(), data, lambda model: {"score": 1.5})
    expected, found = tensors(whole.out_dir), tensors(broken.out_dir)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert metrics(whole.out_dir) == metrics(broken.out_dir)
    assert names(whole.out_dir) == names(broken.out_dir)


@pytest.mark.slow
def test_ranks_agree(data: FitData, new_model: NewModel, new_job: NewJob, start: Start) -> None:
    """A signal to rank 1 alone, while rank 0 alone is at work in validation, stops both at the same update."""
    job = new_job("two")
    processes = start(job, IN_VALIDATION.replace("600.0", "100.0"), ranks=2)
    processes[1].send_signal(signal.SIGTERM)
    said = [told(process) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert "SIGTERM: saved after update 12" in said[0] and said[1] == ""
    assert [line["update"] for line in metrics(job.out_dir) if line["kind"] == "valid"] == [6]


def test_raising_inside_the_block_only() -> None:
    with interrupts() as interrupt:
        with pytest.raises(Interrupted), interrupt.raising():
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # again, and outside: noted, no more
        assert interrupt.name == "SIGTERM"
        with pytest.raises(Interrupted), interrupt.raising():
            pytest.fail("what came before counts as well")
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_ctrl_c_after_another_signal_is_a_first_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dynconv_mt.train.interrupt.PATIENCE", -1.0)
    with interrupts() as interrupt:
        signal.raise_signal(signal.SIGTERM)
        monkeypatch.setattr("dynconv_mt.train.interrupt.PATIENCE", 60.0)
        signal.raise_signal(signal.SIGINT)
        assert interrupt.name == "SIGTERM"


def test_a_second_ctrl_c_counts_when_it_is_a_second_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with interrupts():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        monkeypatch.setattr("dynconv_mt.train.interrupt.PATIENCE", -1.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
