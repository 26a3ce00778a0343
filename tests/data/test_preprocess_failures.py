"""Preprocessing that goes wrong: mistakes are named, and nothing half-made is ever left."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dynconv_mt.data import build, output
from dynconv_mt.data.manifest import read_manifest
from dynconv_mt.data.preprocess import PreprocessConfig, preprocess
from dynconv_mt.errors import UserError
from dynconv_mt.text.config import BpeConfig, CleanConfig

PAIRS = [(f"The {i % 9} dogs see cat {i}.", f"Die {i % 9} Hunde sehen Katze {i}.") for i in range(900)]


def write_corpus(prefix: Path, pairs: list[tuple[str, str]]) -> str:
    for side, lang in enumerate(("en", "de")):
        Path(f"{prefix}.{lang}").write_text(
            "".join(f"{pair[side]}\n" for pair in pairs), encoding="utf-8", newline="\n"
        )
    return str(prefix)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PreprocessConfig:
    monkeypatch.setattr(build, "_CHUNK", 64)  # so that the small corpus is many chunks
    train = write_corpus(tmp_path / "train", PAIRS)
    out_dir = str(tmp_path / "data")
    return PreprocessConfig(src="en", tgt="de", train=train, out_dir=out_dir, bpe=BpeConfig(vocab_size=340), workers=1)


def nothing_left(config: PreprocessConfig) -> bool:
    out_dir = Path(config.out_dir)
    return not [path for path in out_dir.parent.iterdir() if path.name.startswith(out_dir.name)]


BAD_OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"src": "de"}, r"src=de tgt=de: must differ"),
    ({"tgt": ""}, r"tgt=: must be a language code"),
    ({"workers": -1}, r"workers=-1: must be"),
    ({"train": []}, r"train=\[\]: must name"),
    ({"out_dir": ""}, r"out_dir=: must name"),
    ({"out_dir": "."}, r"out_dir=\.: must name"),
    ({"out_dir": "a/.."}, r"out_dir=a/\.\.: must name"),
    ({"clean": CleanConfig(ratio=0)}, r"clean\.ratio=0"),
    ({"src": "zh"}, r"clean\.ratio=9: compares numbers of tokens, and src=zh writes no blanks"),
    ({"bpe": BpeConfig(vocab_size=3)}, r"bpe\.vocab_size=3"),
    ({"bpe": BpeConfig(vocab_size=5000)}, r"bpe\.vocab_size=5000: .* largest possible value for it is \d+"),
    ({"bpe": BpeConfig(vocab_size=5001, joint=False)}, r"bpe\.vocab_size=5001: .* the source side \(en\)"),
    ({"clean": CleanConfig(max_length=2)}, r"train=\S+: cleaning drops all 900 pairs \(too_long 900\)"),
    ({"clean": CleanConfig(max_length=2, after_bpe=True)}, r"cleaning drops all 900 pairs \(too_long 900\)"),
    ({"valid": ""}, "valid=: must name a corpus; leave the option out"),
    ({"test": []}, r"test=\[\]: must name a corpus"),
    ({"valid": "/no/such"}, r"valid=/no/such: neither /no/such\.en nor /no/such\.en\.gz"),
]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("changes", "message"), BAD_OPTIONS, ids=[message for _, message in BAD_OPTIONS])
def test_bad_options(config: PreprocessConfig, changes: dict[str, Any], message: str, workers: int) -> None:
    with pytest.raises(UserError, match=message):
        preprocess(replace(config, **{"workers": workers} | changes))
    assert nothing_left(config)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"train\.de: is empty"),
        (b"x\n" * 899, r"train\.en has 900 lines and \S*train\.de has 899"),
        (b"x\n" * 950, r"train\.en has 900 lines and \S*train\.de has 950"),
        (b"x\n" * 800 + b"\xff\n" * 100, r"train\.de, line 801: not UTF-8"),
    ],
)
def test_bad_files(config: PreprocessConfig, data: bytes, message: str, workers: int) -> None:
    Path(f"{config.train}.de").write_bytes(data)
    with pytest.raises(UserError, match=message):
        preprocess(replace(config, workers=workers))
    assert nothing_left(config)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, SystemExit])
def test_nothing_is_left_after_an_interruption(
    config: PreprocessConfig, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise error

    monkeypatch.setattr(build, "write_manifest", interrupted)
    with pytest.raises(error):
        preprocess(replace(config, workers=2))
    assert nothing_left(config)
    assert not multiprocessing.active_children()


def test_a_failed_replacement_leaves_the_old_data(config: PreprocessConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    preprocess(config)
    before = {path: path.read_bytes() for path in Path(config.out_dir).rglob("*") if path.is_file()}
    with pytest.raises(UserError):
        preprocess(replace(config, overwrite=True, bpe=BpeConfig(vocab_size=9000)))
    assert {path: path.read_bytes() for path in Path(config.out_dir).rglob("*") if path.is_file()} == before


def test_ctrl_c_between_the_two_renames_leaves_the_old_data(
    config: PreprocessConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    preprocess(config)
    rename, made = os.replace, Path(config.out_dir)

    def interrupted_before(source: Path, target: Path) -> None:
        if Path(target) == made and not Path(source).name.endswith("-old"):
            raise KeyboardInterrupt
        rename(source, target)

    def interrupted_after(source: Path, target: Path) -> None:
        is_first = Path(target).name.endswith("-old")
        rename(source, target)
        if is_first:
            raise KeyboardInterrupt

    for interrupted in (interrupted_before, interrupted_after):
        monkeypatch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            preprocess(replace(config, overwrite=True))
        assert (made / "data.json").is_file()
        assert not list(made.parent.glob("*partial*"))


def test_what_a_killed_replacement_had_set_aside_is_found_before_the_work(config: PreprocessConfig) -> None:
    summary = preprocess(config)
    made = Path(config.out_dir)
    made.rename(made.with_name(f"data.partial-999999999@{os.uname().nodename}-old"))
    assert "nothing to do" in preprocess(config).text
    assert summary.stats == preprocess(config).stats


def test_what_else_lies_in_the_folder_is_never_replaced(config: PreprocessConfig) -> None:
    preprocess(config)
    run = Path(config.out_dir) / "run"
    run.mkdir()
    with pytest.raises(UserError, match=r"out_dir=\S+data: holds something else besides \(run\)"):
        preprocess(replace(config, overwrite=True))
    assert run.is_dir()


def test_a_symbolic_link_stays_one(config: PreprocessConfig, tmp_path: Path) -> None:
    (tmp_path / "large disk").mkdir()
    Path(config.out_dir).symlink_to(tmp_path / "large disk")
    for overwrite in (False, True):
        preprocess(replace(config, overwrite=overwrite))
        assert Path(config.out_dir).is_symlink()
        assert (tmp_path / "large disk" / "data.json").is_file()
    assert not list(tmp_path.glob("*partial*"))


@pytest.mark.skipif(not os.path.ismount("/dev/shm"), reason="there is no /dev/shm")
def test_a_mount_point_is_refused_before_the_work(config: PreprocessConfig) -> None:
    with pytest.raises(UserError, match="out_dir=/dev/shm: is a mount point"):
        preprocess(replace(config, out_dir="/dev/shm"))


@pytest.mark.parametrize("name", ["train/index.json", "text/pipeline.json", "summary.txt", "stats.json"])
def test_damage_to_a_finished_folder_is_no_result(config: PreprocessConfig, name: str) -> None:
    preprocess(config)
    (Path(config.out_dir) / name).unlink()
    with pytest.raises(UserError, match=r"is damaged \(.*overwrite=true makes it again"):
        preprocess(config)
    preprocess(replace(config, overwrite=True))
    assert (Path(config.out_dir) / name).is_file()


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("data.json", "config", None),
        ("data.json", "inputs", []),
        ("data.json", "inputs", {"train": [{}]}),
        ("data.json", "inputs", {"train": [{"src": {}, "tgt": {}}]}),
        ("data.json", "raw", 3),
    ],
)
def test_an_altered_description_is_noticed(config: PreprocessConfig, name: str, field: str, value: object) -> None:
    preprocess(config)
    path = Path(config.out_dir) / name
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(UserError, match=r"data\.json: was altered"):
        read_manifest(config.out_dir)
    with pytest.raises(UserError, match="holds other files than this program's data"):
        preprocess(config)


@pytest.mark.parametrize("name", ["data.json", "stats.json", "train/index.json"])
@pytest.mark.parametrize("content", ["", "[" * 100_000])
def test_damaged_json_is_named(config: PreprocessConfig, name: str, content: str) -> None:
    preprocess(config)
    (Path(config.out_dir) / name).write_text(content)
    with pytest.raises(UserError, match=r"is damaged|holds other files"):
        preprocess(config)


def test_long_lines_make_small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_CHUNK_SIZE", 100)
    pairs = [("a" * 60, "b" * 60), *[("c", "d")] * 49, ("e" * 99, "f"), ("g", "h")]
    chunks = list(build._chunks(iter(pairs)))
    assert [len(chunk) for chunk in chunks] == [1, 50, 1]
    assert [pair for chunk in chunks for pair in chunk] == pairs


def test_leftovers_of_dead_processes_are_removed(config: PreprocessConfig, tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    here = socket.gethostname()
    stale = tmp_path / f"data.partial-{dead.pid}@{here}"
    living, elsewhere = f"data.partial-{os.getppid()}@{here}", f"data.partial-{dead.pid}@not-{here}"
    others = [tmp_path / living, tmp_path / elsewhere, tmp_path / "data.partial-notes"]
    own = tmp_path / f"data.partial-{os.getpid()}@{here}"  # of a container before, in which processes had these numbers
    for folder in (stale, own, *others):
        (folder / "train").mkdir(parents=True)
    preprocess(config)
    assert not stale.exists() and not own.exists()
    assert all(folder.exists() for folder in others)


def test_what_a_killed_process_had_set_aside_returns(tmp_path: Path) -> None:
    """A folder that was to be replaced is whole under its other name; once it has been replaced it is rubbish."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    aside = tmp_path / f"data.partial-{dead.pid}@{socket.gethostname()}-old"
    for content in ("old", "older"):
        aside.mkdir()
        (aside / "file").write_text(content)
        with pytest.raises(KeyboardInterrupt), output.build_folder(tmp_path / "data", replace=True):
            raise KeyboardInterrupt
        assert [path.name for path in tmp_path.glob("data*")] == ["data"]
        assert (tmp_path / "data" / "file").read_text() == "old"


def test_a_place_that_cannot_be_written(config: PreprocessConfig) -> None:
    with pytest.raises(UserError, match=r"out_dir=\S+train\.en/data: \S+train\.en is a file"):
        preprocess(replace(config, out_dir=f"{config.train}.en/data"))


SCRIPT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell takes from what it runs in the background
from dynconv_mt.data.preprocess import PreprocessConfig, preprocess
if __name__ == "__main__":
    preprocess(PreprocessConfig(src="en", tgt="de", train=sys.argv[1], out_dir=sys.argv[2], workers=2))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_signals_leave_nothing_behind(config: PreprocessConfig, number: signal.Signals, tmp_path: Path) -> None:
    """Even killed outright it leaves no data folder, its workers end, and the next run clears up."""
    (tmp_path / "run.py").write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    arguments = [
        sys.executable,
        str(tmp_path / "run.py"),
        write_corpus(tmp_path / "large", PAIRS * 300),
        config.out_dir,
    ]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=environment)
    wait_until(lambda: list(tmp_path.glob("data.partial-*/tokenized/train")))
    children = child_processes(process.pid)
    assert len(children) == 2
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    wait_until(lambda: not any(map(is_running, children)))
    if number is not signal.SIGKILL:
        assert nothing_left(config)
        assert process.returncode == (143 if number is signal.SIGTERM else -signal.SIGINT)
        assert ("KeyboardInterrupt" in errors) == (number is signal.SIGINT)
    assert not Path(config.out_dir).exists()
    output.clean_stale(Path(config.out_dir))
    assert nothing_left(config)


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def child_processes(parent: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split(") ")[-1][0] != "Z"
    except FileNotFoundError:
        return False
