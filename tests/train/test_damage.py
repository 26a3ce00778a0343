"""Checkpoints that were damaged, or made to do harm: named, passed over or refused, never unpickled."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from payload import pickled

from dynconv_mt.errors import UserError
from dynconv_mt.models.config import AttentionConfig, ModelConfig, StackConfig
from dynconv_mt.models.seq2seq import Seq2Seq, build_model
from dynconv_mt.train import FitConfig, FitData, fit
from dynconv_mt.train.checkpoint import find_damage, list_checkpoints, newest_sound
from dynconv_mt.train.config import CheckpointConfig, OptimConfig, TrainConfig, ValidateConfig

NewModel = Callable[[], Seq2Seq]
NewJob = Callable[..., FitConfig]
BOMB = "[" * 100_000


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def write_manifest_anew(folder: Path) -> None:
    """Do what a liar would: hash what is there now."""
    entries = {
        path.relative_to(folder).as_posix(): {
            "size": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in files_of(folder)
        if path.name != "manifest.json"
    }
    (folder / "manifest.json").write_text(json.dumps({"format": 1, "files": entries}))


def change_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "manifest.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


@pytest.fixture(scope="module")
def trained(data: FitData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the checkpoints 4, 8 and 12, and with a moving average, so that there are three files of tensors."""
    torch.manual_seed(7)
    stack = StackConfig(1, 32, AttentionConfig(2))
    model = build_model(ModelConfig(16, stack, stack, 2, max_positions=32, src_vocab_size=24, tgt_vocab_size=24))
    assert isinstance(model, Seq2Seq)
    run = tmp_path_factory.mktemp("trained") / "run"
    job = FitConfig(
        out_dir=str(run),
        device="cpu",
        threads=1,
        train=TrainConfig(max_updates=12, log_every=1, ema_decay=0.9, tensorboard=False),
        optim=OptimConfig(lr=0.01),
        validate=ValidateConfig(every=4, every_epochs=0),
        checkpoint=CheckpointConfig(every=4, every_epochs=0),
    )
    fit(job, model, data)
    assert [folder.name[-2:] for folder in list_checkpoints(run)] == ["04", "08", "12"]
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def newest(run: Path) -> Path:
    """The newest checkpoint of the copy."""
    return list_checkpoints(run)[-1]


@pytest.fixture
def go_on(run: Path, data: FitData) -> Callable[..., Any]:
    """Continue the run for two updates."""

    def call(max_updates: int = 14) -> Any:
        job = json.loads((run / "config.json").read_text())["job"]
        sections = {"train": TrainConfig, "optim": OptimConfig, "validate": ValidateConfig}
        options = {name: kind(**job[name]) for name, kind in sections.items()}
        config = FitConfig(
            out_dir=str(run), device="cpu", threads=1, checkpoint=CheckpointConfig(every=4, every_epochs=0), **options
        )
        config.train.max_updates = max_updates
        stack = StackConfig(1, 32, AttentionConfig(2))
        model = build_model(ModelConfig(16, stack, stack, 2, max_positions=32, src_vocab_size=24, tgt_vocab_size=24))
        assert isinstance(model, Seq2Seq)
        return fit(config, model, data)

    return call


# ---- random damage


@given(file=st.integers(0, 5), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_every_flipped_bit_is_found(trained: Path, file: int, place: float, bit: int) -> None:
    folder = list_checkpoints(trained)[-1]
    path = files_of(folder)[file]
    sound = path.read_bytes()
    content = bytearray(sound)
    content[int(place * len(content))] ^= 1 << bit
    path.write_bytes(content)
    try:
        complaint = find_damage(folder)
        assert complaint is not None
        assert path.name in complaint or path.name == "manifest.json"
        assert newest_sound(trained)[0] == list_checkpoints(trained)[-2]
    finally:
        path.write_bytes(sound)


@given(file=st.integers(0, 5), share=st.floats(0, 1, exclude_max=True), longer=st.binary(min_size=1, max_size=9))
def test_every_cut_and_every_addition_is_found(trained: Path, file: int, share: float, longer: bytes) -> None:
    folder = list_checkpoints(trained)[-1]
    path = files_of(folder)[file]
    sound = path.read_bytes()
    is_white = path.name == "manifest.json" and not longer.strip(b" \t\r\n")  # white space after JSON changes nothing
    try:
        for content in (sound[: int(share * len(sound))], sound + (b"x" if is_white else longer)):
            path.write_bytes(content)
            only_white_lost = path.name == "manifest.json" and content.strip() == sound.strip()
            assert find_damage(folder) is not None or only_white_lost
    finally:
        path.write_bytes(sound)


def test_the_files_are_those_of_the_tests_above(newest: Path) -> None:
    assert [path.relative_to(newest).as_posix() for path in files_of(newest)] == [
        "config.json",
        "manifest.json",
        "model.safetensors",
        "state/model.safetensors",
        "state/optimizer.safetensors",
        "state/trainer.json",
    ]
    assert find_damage(newest) is None


@pytest.mark.parametrize("file", range(6))
def test_a_file_that_is_missing_or_no_file(newest: Path, file: int) -> None:
    path = files_of(newest)[file]
    other = Path(shutil.copy(files_of(newest)[file - 1], newest.parent.parent))
    replacements: list[Callable[[], object]] = [
        lambda: None,
        path.mkdir,
        lambda: path.symlink_to(other),
        lambda: path.symlink_to(newest / "nowhere"),
        lambda: path.symlink_to(path.parent),
    ]
    for replace in replacements:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        replace()
        complaint = find_damage(newest)
        assert complaint is not None and (path.name in complaint or path.name == "manifest.json")


@pytest.mark.parametrize("name", ["evil.pkl", "state/evil.pt", ".hidden", "text/pipeline.json"])
def test_a_file_too_many(newest: Path, name: str) -> None:
    (newest / name).parent.mkdir(exist_ok=True)
    (newest / name).touch()
    assert find_damage(newest) == f"{name} is not in the manifest"


# ---- a manifest that lies

LIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "size": lambda data: data["files"]["config.json"].update(size=1),
    "size text": lambda data: data["files"]["config.json"].update(size="1"),
    "size not a number": lambda data: data["files"]["config.json"].update(size=float("nan")),
    "hash": lambda data: data["files"]["config.json"].update(sha256="0" * 64),
    "hash null": lambda data: data["files"]["config.json"].update(sha256=None),
    "hash list": lambda data: data["files"]["config.json"].update(sha256=[1]),
    "entry": lambda data: data["files"].update({"config.json": "good"}),
    "no size": lambda data: data["files"]["config.json"].pop("size"),
    "above": lambda data: data["files"].update({"../../config.json": data["files"]["config.json"]}),
    "absolute": lambda data: data["files"].update({"/etc/passwd": data["files"]["config.json"]}),
    "itself": lambda data: data["files"].update({"manifest.json": {"size": 1, "sha256": ""}}),
    "no files": lambda data: data.pop("files"),
    "files text": lambda data: data.update(files="config.json"),
    "files numbers": lambda data: data.update(files=[1, 2]),
    "files null": lambda data: data.update(files=None),
    "format": lambda data: data.update(format=99),
    "format null": lambda data: data.update(format=None),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_manifest_that_lies(run: Path, newest: Path, lie: str) -> None:
    change_manifest(newest, LIES[lie])
    sound, complaints = newest_sound(run)
    assert sound == list_checkpoints(run)[-2]
    assert len(complaints) == 1 and complaints[0].startswith(f"{newest}: ")


@pytest.mark.parametrize(
    "content", ["", "null", "[]", '"files"', "1" * 10_000, "NaN", "\ufeff{}", BOMB, '{"a":' * 50_000]
)
def test_a_manifest_that_is_none(run: Path, newest: Path, content: str) -> None:
    (newest / "manifest.json").write_text(content)
    assert newest_sound(run)[0] == list_checkpoints(run)[-2]
    (newest / "manifest.json").write_bytes(b"\xff\xfe" + content[:9].encode())
    assert newest_sound(run)[0] == list_checkpoints(run)[-2]


def test_names_that_lead_out_are_never_followed(newest: Path, tmp_path: Path) -> None:
    """Not even where size and hash are right."""
    outside = tmp_path / "outside"
    outside.write_bytes((newest / "config.json").read_bytes())
    manifest = json.loads((newest / "manifest.json").read_text())
    for name in (str(outside), os.path.relpath(outside, newest)):
        files = {**manifest["files"], name: manifest["files"]["config.json"]}
        (newest / "manifest.json").write_text(json.dumps({**manifest, "files": files}))
        assert find_damage(newest) == f"{name} is missing"


# ---- what training does with it


@pytest.mark.parametrize("damage", ["flip", "empty", "manifest", "pickle"])
def test_training_takes_the_newest_sound_one_and_says_so(
    run: Path, newest: Path, go_on: Callable[..., Any], capsys: pytest.CaptureFixture[str], damage: str, tmp_path: Path
) -> None:
    weights, marker = newest / "state" / "model.safetensors", tmp_path / "unpickled"
    if damage == "flip":
        content = bytearray(weights.read_bytes())
        content[-1] ^= 128
        weights.write_bytes(content)
    elif damage == "empty":
        weights.write_bytes(b"")
    elif damage == "manifest":
        change_manifest(newest, lambda data: data.update(format=2))
    else:
        weights.write_bytes(pickled(marker))
    assert go_on().update == 14
    said = capsys.readouterr().err
    assert f"passed over a damaged checkpoint: {newest}: " in said and "continuing after update 8" in said
    assert not marker.exists()
    assert [folder.name[-2:] for folder in list_checkpoints(run)] == ["04", "08", "12", "14"]
    assert all(find_damage(folder) is None for folder in list_checkpoints(run))


@pytest.mark.parametrize("name", ["model.safetensors", "state/model.safetensors", "state/optimizer.safetensors"])
def test_a_pickle_that_the_manifest_vouches_for_is_refused_not_run(
    newest: Path, go_on: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    marker = tmp_path / "unpickled"
    for content in (pickled(marker), b"\x80" * 8 + pickled(marker), b""):
        (newest / name).write_bytes(content)
        write_manifest_anew(newest)
        assert find_damage(newest) is None
        with pytest.raises(UserError, match=Path(name).name):
            go_on()
        assert not marker.exists()


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", "null", BOMB, '{"format": 1, "update": NaN}', '{"format": 1, "update": -5}']
)
def test_a_trainer_state_that_the_manifest_vouches_for_is_refused(
    newest: Path, go_on: Callable[..., Any], content: str
) -> None:
    (newest / "state" / "trainer.json").write_text(content)
    write_manifest_anew(newest)
    with pytest.raises(UserError, match=r"trainer\.json"):
        go_on()


def test_no_sound_checkpoint_left_is_an_error(
    run: Path, go_on: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Training never starts over on top of checkpoints that someone might still mend."""
    for folder in list_checkpoints(run):
        os.truncate(folder / "state" / "optimizer.safetensors", 100)

    def content() -> dict[str, bytes]:
        return {path.relative_to(run).as_posix(): path.read_bytes() for path in files_of(run) if path.name != ".lock"}

    before = content()
    with pytest.raises(UserError) as error:
        go_on()
    assert "step_00000012" in str(error.value) and "state/optimizer.safetensors has 100 bytes" in str(error.value)
    assert "out_dir" in str(error.value)
    assert content() == before
