"""Checkpoint files: what real ones hold is read, what could run code is refused, and nothing runs."""

from __future__ import annotations

import io
import pickle
import sys
import types
import zipfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from dynconv_mt.convert import convert_model, load_checkpoint
from dynconv_mt.errors import UserError

from .original import Original

ORIGINAL = Original()


def content(**changes: Any) -> dict[str, Any]:
    """A checkpoint as releases until 2020 wrote it."""
    args = Namespace(**ORIGINAL.options, source_lang="en", target_lang="de", lr=[0.1], data="bin")
    history = [{"criterion_name": "x", "num_updates": 30000, "lr_scheduler_state": {"best": None}}]
    return {"args": args, "model": ORIGINAL.weights, "optimizer_history": history, "extra_state": {}} | changes


def save(path: Path, data: Any, **options: Any) -> Path:
    torch.save(data, path, **options)
    return path


@pytest.mark.parametrize("is_zip", [True, False])
def test_old_checkpoints(tmp_path: Path, is_zip: bool) -> None:
    found = load_checkpoint(save(tmp_path / "old.pt", content(), _use_new_zipfile_serialization=is_zip))
    assert (found.src, found.tgt, found.num_updates) == ("en", "de", 30000)
    assert found.args["decoder_kernel_size_list"] == [3, 5]
    assert found.state_dict.keys() == ORIGINAL.weights.keys()
    config, _ = convert_model(found.args, found.state_dict)
    assert config.dim == 16


def test_new_checkpoints(tmp_path: Path) -> None:
    cfg = {
        "_name": None,
        "model": Namespace(**ORIGINAL.options, _name="lightconv"),
        "task": {"_name": "translation", "source_lang": "en", "target_lang": "de"},
        "optimization": {"lr": [0.1]},
    }
    found = load_checkpoint(save(tmp_path / "new.pt", content(args=None, cfg=cfg)))
    assert (found.src, found.tgt, found.args["_name"]) == ("en", "de", "lightconv")


@pytest.mark.parametrize("is_namespace", [True, False])
def test_checkpoints_that_pickled_omegaconf(
    tmp_path: Path, is_namespace: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = OmegaConf.create(
        {
            "_name": None,
            "task": {"source_lang": "en", "target_lang": "de"},
            "optimization": {"lr": [0.1], "best": None},
        },
        flags={"allow_objects": True},
    )
    config.model = Namespace(**ORIGINAL.options, _name="lightconv") if is_namespace else {**ORIGINAL.options}
    path = save(tmp_path / "new.pt", content(args=None, cfg=config))
    monkeypatch.setattr(DictConfig, "__setstate__", lambda *_: pytest.fail("omegaconf's own class was loaded"))
    found = load_checkpoint(path)
    assert (found.src, found.tgt) == ("en", "de")
    assert {name: found.args[name] for name in ORIGINAL.options} == ORIGINAL.options
    model, _ = convert_model(found.args, found.state_dict)
    assert model.dim == 16


def test_options_without_end_are_refused(tmp_path: Path) -> None:
    config: dict[str, Any] = {}
    config["model"] = config
    with pytest.raises(UserError, match=r"deep\.pt: its options are nested without end"):
        load_checkpoint(save(tmp_path / "deep.pt", content(args=None, cfg=config)))


@pytest.fixture
def meters() -> Iterator[types.ModuleType]:
    """A module `fairseq.meters` with a class that must not be used when the file is read."""
    module = types.ModuleType("fairseq.meters")

    class AverageMeter:
        def __init__(self) -> None:
            self.sum = 3.0

        def __setstate__(self, state: object) -> None:
            raise AssertionError("ran code")

    AverageMeter.__module__, AverageMeter.__qualname__ = "fairseq.meters", "AverageMeter"
    module.AverageMeter = AverageMeter  # type: ignore[attr-defined]
    sys.modules["fairseq"], sys.modules["fairseq.meters"] = types.ModuleType("fairseq"), module
    yield module
    del sys.modules["fairseq"], sys.modules["fairseq.meters"]


def test_bookkeeping_of_real_checkpoints_is_left_aside(tmp_path: Path, meters: types.ModuleType) -> None:
    state = {"train_meters": {"loss": meters.AverageMeter()}, "best": np.float64(3.5), "val_loss": np.float32(1)}
    found = load_checkpoint(save(tmp_path / "meters.pt", content(extra_state=state)))
    assert found.args["decoder_layers"] == 2


class Runs:
    """Pickles as a call of any function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.function, self.arguments


@pytest.mark.parametrize("where", ["args", "model", "extra_state", "inside the options"])
@pytest.mark.parametrize("is_zip", [True, False])
def test_a_malicious_pickle_is_refused_without_running(tmp_path: Path, where: str, is_zip: bool) -> None:
    import os

    trap = Runs(os.system, f"touch {tmp_path}/ran")
    data = content()
    if where == "inside the options":
        data["args"].lr = [trap]
    else:
        data[where] = trap
    path = save(tmp_path / "evil.pt", data, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(UserError, match=r"evil\.pt: holds an object of posix\.system, which was not loaded"):
        load_checkpoint(path)
    assert not (tmp_path / "ran").exists()


HAND_BUILT = {
    "posix.system": b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.",
    "eval": b"\x80\x02c__builtin__\neval\nX\x03\x00\x00\x001+1\x85R.",
    "getattr in a namespace": b"\x80\x02cargparse\nNamespace\n)\x81}X\x01\x00\x00\x00ac__builtin__\ngetattr\nsb.",
    "a method of an allowed class": b"\x80\x02comegaconf.dictconfig\nDictConfig.__init__\n)R.",
    "another class of omegaconf": b"\x80\x02comegaconf._impl\n_resolve\n)R.",
    "a class of the allowed module": b"\x80\x02cargparse\nFileType\n)R.",
    "a stack global": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.",
    "an instance": b"\x80\x02(X\x04\x00\x00\x00trueiposix\nsystem\n.",
}


@pytest.mark.parametrize("name", HAND_BUILT)
def test_hand_built_pickles_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "evil.pt"
    stream = io.BytesIO()
    torch.save({}, stream)
    with zipfile.ZipFile(io.BytesIO(stream.getvalue())) as source, zipfile.ZipFile(path, "w") as target:
        for entry in source.namelist():
            target.writestr(entry, HAND_BUILT[name] if entry.endswith("data.pkl") else source.read(entry))
    with pytest.raises(UserError, match=r"evil\.pt: (holds an object of|was not loaded)"):
        load_checkpoint(path)
    path.write_bytes(HAND_BUILT[name])
    with pytest.raises(UserError, match=r"evil\.pt: ") as caught:
        load_checkpoint(path)
    assert "file an issue" not in str(caught.value)  # torch's own advice


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99])
@pytest.mark.parametrize("is_zip", [True, False])
def test_a_truncated_file_is_named(tmp_path: Path, keep: float, is_zip: bool) -> None:
    path = save(tmp_path / "cut.pt", content(), _use_new_zipfile_serialization=is_zip)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(UserError, match=r"cut\.pt: (is damaged|was not loaded)"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([1, 2], "is no fairseq checkpoint"),
        ({"state_dict": {}}, "is no fairseq checkpoint"),
        (content(args=None), "has no options of a model"),
        (content(model={"encoder.x": 1}), "encoder.x, among its weights, is no tensor"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, data: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_checkpoint(save(tmp_path / "other.pt", data))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_checkpoint(tmp_path / "nowhere.pt")
    with pytest.raises(UserError, match="is a folder"):
        load_checkpoint(tmp_path)
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(UserError, match=r"text\.pt: "):
        load_checkpoint(tmp_path / "text.pt")
    with pytest.raises(UserError, match=r"plain\.pt: "):
        (tmp_path / "plain.pt").write_bytes(pickle.dumps({"model": {}}))
        load_checkpoint(tmp_path / "plain.pt")


def test_nothing_stays_allowed(tmp_path: Path) -> None:
    before = set(torch.serialization.get_safe_globals())  # torch lists a set, whose order may differ after an update
    load_checkpoint(save(tmp_path / "old.pt", content()))
    assert set(torch.serialization.get_safe_globals()) == before
