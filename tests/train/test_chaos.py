"""SIGKILL, at any file operation of a run and at random instants of real commands: afterwards not one bit differs."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from dynconv_mt.models.seq2seq import Seq2Seq
from dynconv_mt.train import FitConfig, FitData, fit
from dynconv_mt.train.checkpoint import list_checkpoints
from dynconv_mt.train.config import Final

NewModel = Callable[..., Seq2Seq]
NewJob = Callable[..., FitConfig]
OPERATIONS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree"}
SAMPLE = 16  # operations at which the run below is killed


@pytest.fixture(scope="module")
def compare_runs(root: Path) -> ModuleType:
    """The script of that name."""
    spec = spec_from_file_location("compare_runs", root / "scripts" / "compare_runs.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Forked:
    """Trains in forked processes, each in a folder of its own, where it may be killed at a file operation."""

    def __init__(self, job: FitConfig, new_model: NewModel, data: FitData) -> None:
        self.job, self.new_model, self.data = job, new_model, data

    def train(self, folder: Path, kill_at: int | None = None) -> int | None:
        """Return the number of file operations in the run folder; None when the process was killed at `kill_at`."""
        folder.mkdir(exist_ok=True)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            self._child(folder, kill_at, writer)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            counted = pipe.read()
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL
            return None
        assert status == 0, (folder / "log.txt").read_text()
        return int(counted)

    def _child(self, folder: Path, kill_at: int | None, writer: int) -> None:
        """Never returns."""
        code = 1
        try:
            os.chdir(folder)
            with Path("log.txt").open("a") as log, redirect_stderr(log):
                counter = count_operations(kill_at)
                fit(self.job, self.new_model(), self.data)
            os.write(writer, str(counter[0]).encode())
            code = 0
        finally:
            os._exit(code)


def count_operations(kill_at: int | None) -> list[int]:
    """Count this process's file operations below ./run from now on, and kill it just before number `kill_at`."""
    counter, here = [0], os.getcwd()

    def on_event(event: str, arguments: tuple[object, ...]) -> None:
        if event not in OPERATIONS:
            return
        path = os.fspath(arguments[0]) if isinstance(arguments[0], (str, os.PathLike)) else ""
        is_relative_to_open_folder = event in ("os.remove", "os.rmdir") and "/" not in path  # as rmtree does it
        if is_relative_to_open_folder or os.path.join(here, path).startswith(os.path.join(here, "run")):
            counter[0] += 1
            if counter[0] == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(on_event)
    return counter


@pytest.fixture
def forked(
    data: FitData, new_model: NewModel, new_job: NewJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Forked:
    """Six updates with dropout, accumulation, moving average, validations, and a save and a removal at each second."""
    job = new_job(
        train__max_updates=6,
        train__log_every=1,
        validate__every=3,
        checkpoint__every=2,
        checkpoint__keep_last=1,
        checkpoint__final=Final.last,
        out_dir="run",
    )
    monkeypatch.setattr("dynconv_mt.train.loop.draw_curves", lambda run: run)  # it takes longer than all the rest
    fit(replace(job, out_dir=str(tmp_path / "warm")), new_model(), data)  # what is imported late, once for all children
    return Forked(job, new_model, data)


@pytest.mark.slow
def test_killed_at_any_file_operation(forked: Forked, tmp_path: Path, compare_runs: ModuleType) -> None:
    """Killed before a file or folder is opened, made, renamed or removed, then again early in the next session."""
    count = forked.train(tmp_path / "peace")
    assert count is not None and count > 100
    chance = random.Random(count)
    points = sorted(chance.sample(range(1, count + 1), SAMPLE))
    for point in points:
        folder = tmp_path / f"killed_at_{point}"
        assert forked.train(folder, point) is None
        again = chance.randrange(1, 60)
        if forked.train(folder, again) is None:
            assert forked.train(folder) is not None
        differences, _ = compare_runs.compare(tmp_path / "peace" / "run", folder / "run")
        assert not differences, (point, again)
        shutil.rmtree(folder)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def change_line(path: Path) -> None:
    lines = path.read_text().splitlines()
    record = json.loads(lines[2])
    record["loss"] *= 1.0 + 1e-15
    path.write_text("\n".join([*lines[:2], json.dumps(record), *lines[3:]]) + "\n")


def double_line(path: Path) -> None:
    path.write_text(path.read_text() + path.read_text().splitlines()[-1] + "\n")


def test_the_comparison_notices_everything(forked: Forked, tmp_path: Path, compare_runs: ModuleType) -> None:
    forked.train(tmp_path / "peace")
    run = tmp_path / "peace" / "run"
    other = Path(shutil.copytree(run, tmp_path / "other"))
    differences, compared = compare_runs.compare(run, other)
    assert not differences and len(compared) == 8
    newest = list_checkpoints(other)[-1]

    changes: list[tuple[Path, Callable[[Path], None]]] = [
        (newest / "model.safetensors", flip),
        (newest / "state" / "model.safetensors", flip),
        (newest / "state" / "optimizer.safetensors", flip),
        (other / "model" / "model.safetensors", flip),
        (other / "metrics.jsonl", change_line),
        (other / "metrics.jsonl", double_line),
        (other / "checkpoints" / ".tmp_step_00000008", Path.touch),
        (other / "finished.json", Path.unlink),
    ]
    for path, change in changes:
        sound = path.read_bytes() if path.exists() else None
        change(path)
        differences, _ = compare_runs.compare(run, other)
        assert any(path.name in line for line in differences)
        path.unlink() if sound is None else path.write_bytes(sound)
    assert not compare_runs.compare(run, other)[0]


@pytest.mark.slow
def test_real_commands_under_fire(root: Path, tmp_path: Path) -> None:
    """The script in its short form; docs/benchmarks has the long one."""
    script, out = root / "scripts" / "chaos_train.py", tmp_path / "report.md"
    command = [sys.executable, str(script), "--kills", "3", "--updates", "24", "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(root), "TMPDIR": str(tmp_path)}
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr
    found = json.loads(out.with_suffix(".json").read_text())
    assert len(found["kills"]) == 3 and not found["differences"] and not found["lost"]
    assert found["compared"]["optimizer state"] > 100_000 and found["reference"]["state"]["update"] == 24
    assert "3 kills in" in out.read_text()
