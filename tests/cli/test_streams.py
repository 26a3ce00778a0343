"""Standard streams that are closed, packed or break off, and outputs of which one fails."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from .conftest import call, train_arguments

FAST = ["threads=1", "search.beam=1", "search.max_length_b=3"]
TEXT = b"A boy sleeps.\nThe dog runs.\n"


def command(section: str, *argv: object) -> list[str]:
    return [sys.executable, "-m", "dynconv_mt.cli", section, *map(str, argv)]


def test_packed_text_is_read_from_standard_input_and_pipes(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(TEXT)))
    assert call("generate", f"model_dir={trained}", "input=-", *FAST) == 0
    translated = capsys.readouterr().out
    packed = gzip.compress(TEXT)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(packed)))
    assert call("generate", f"model_dir={trained}", "input=-", *FAST) == 0
    assert capsys.readouterr().out == translated
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(packed,))
    writer.start()
    assert call("generate", f"model_dir={trained}", f"input={pipe}", *FAST) == 0
    writer.join()
    assert capsys.readouterr().out == translated
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(packed[:-9])))
    assert call("generate", f"model_dir={trained}", "input=-", *FAST) == 2
    assert "standard input, after line 1: damaged gzip file" in capsys.readouterr().err


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_end_nothing(trained: Path, tmp_path: Path, closed: str) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.write_bytes(TEXT)
    generate = command("generate", f"model_dir={trained}", f"input={source}", f"output={out}", *FAST)
    done = subprocess.run(["bash", "-c", f'"$@" {closed}', "-", *generate], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert out.read_text().count("\n") == 2


def test_lines_outlive_a_standard_error_that_is_full(trained: Path, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_bytes(TEXT)
    score = command("score", f"model_dir={trained}", f"src={text}", f"tgt={text}", "threads=1")
    done = subprocess.run(["bash", "-c", '"$@" 2> /dev/full', "-", *score], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.count("\n")) == (0, 2)


def test_an_output_that_fails_costs_none_of_the_others(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out, scores = tmp_path / "source", tmp_path / "out", tmp_path / "scores.json"
    source.write_bytes(TEXT)
    both = [
        "generate",
        f"model_dir={trained}",
        f"input={source}",
        f"reference={source}",
        f"scores_json={scores}",
        *FAST,
    ]
    assert call(*both, f"output={out}", "details=/dev/full") == 2
    assert "No space left on device" in capsys.readouterr().err
    assert out.read_text().count("\n") == 2
    assert json.loads(scores.read_text())["scores"]


def test_a_reader_that_goes_away_does_not_cost_the_scores(trained: Path, tmp_path: Path) -> None:
    source, scores = tmp_path / "source", tmp_path / "scores.json"
    source.write_bytes(TEXT)
    both = [f"model_dir={trained}", f"input={source}", f"reference={source}", f"scores_json={scores}", *FAST]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command("generate", *both), stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, "Traceback" in done.stderr) == (141, False)
    assert json.loads(scores.read_text())["scores"]


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"RANK": "1"}, "RANK=1: must be below 1, the number of processes"),
        ({"RANK": "first"}, "RANK=first: must be a whole number"),
        ({"LOCAL_RANK": "1"}, None),  # a process alone may be told its GPU so
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2: needs RANK beside it"),
        ({"RANK": "", "WORLD_SIZE": "", "LOCAL_RANK": ""}, None),
    ],
)
def test_torchruns_variables(
    variables: dict[str, str],
    words: str | None,
    trained: Path,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert call("train", *train_arguments(data, trained)) == (2 if words else 0)
    assert (words or "this run has finished") in capsys.readouterr().err
