"""`dc-generate` on model directories that were damaged or made to do harm: exit code 2, one paragraph, nothing run."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
from payload import pickled
from safetensors.torch import save_file

from .conftest import call

BOMB = b"[" * 100_000


@pytest.fixture
def model(trained: Path, tmp_path: Path) -> Path:
    """A copy of the model that a run ended with."""
    return Path(shutil.copytree(trained / "model", tmp_path / "model"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file to translate."""
    path = tmp_path / "source.en"
    path.write_text("A man reads.\n")
    return path


def generate(model: Path, source: Path) -> int:
    options = [f"model_dir={model}", f"input={source}", "threads=1", "search.beam=1", "search.max_length_b=2"]
    return call("generate", *options)


def test_a_sound_model_translates(model: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate(model, source) == 0
    assert capsys.readouterr().out.count("\n") == 1


def check_refused(model: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = generate(model, source)
    out, err = capsys.readouterr()
    assert (code, out) == (2, ""), err[-2000:]
    assert err.startswith("dc-generate: error: ") and err.count("\n") == 1  # one paragraph
    assert str(model) in err or "config.json: " in err


WEIGHTS, CONFIG, TEXT, BPE = "model.safetensors", "config.json", "text/pipeline.json", "text/joint.model"


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, TEXT, BPE])
@pytest.mark.parametrize("damage", ["missing", "cut", "empty", "folder"])
def test_a_file_is_damaged(
    model: Path, source: Path, capsys: pytest.CaptureFixture[str], name: str, damage: str
) -> None:
    path = model / name
    content = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes(content[: len(content) // 2 if damage == "cut" else 0])
    check_refused(model, source, capsys)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (WEIGHTS, b"\xff" * 8),  # a header as long as that
        (WEIGHTS, len(BOMB).to_bytes(8, "little") + BOMB),
        (CONFIG, BOMB),
        (CONFIG, b'{"model":' * 50_000),
        (CONFIG, b"NaN"),
        (CONFIG, b"1" * 10_000),
        (CONFIG, b"\xff\xfe\x00"),
        (TEXT, BOMB),
        (TEXT, b"{}"),
        (TEXT, b"null"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_a_file_holds_something_else(
    model: Path, source: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes
) -> None:
    (model / name).write_bytes(content)
    check_refused(model, source, capsys)


@pytest.mark.parametrize("value", [64, "32", -32, 0, math.nan, 1.5, None, [32], 2**40], ids=repr)
@pytest.mark.parametrize(
    "option", ["dim", "encoder.layers", "decoder.ffn_dim", "decoder.mixer.type", "tying", "format"]
)
def test_an_option_of_the_model_is_altered(
    model: Path, source: Path, capsys: pytest.CaptureFixture[str], option: str, value: object
) -> None:
    """Sizes that make no model, another model, or one that no memory holds."""
    data = json.loads((model / CONFIG).read_text())
    *keys, last = option.split(".")
    place = data if option == "format" else data["model"]
    for key in keys:
        place = place[key]
    place[last] = value
    (model / CONFIG).write_text(json.dumps(data))
    check_refused(model, source, capsys)


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, TEXT, BPE])
def test_nothing_is_unpickled(
    model: Path, source: Path, capsys: pytest.CaptureFixture[str], name: str, tmp_path: Path
) -> None:
    marker = tmp_path / "unpickled"
    (model / name).write_bytes(pickled(marker))
    check_refused(model, source, capsys)
    assert not marker.exists()


def test_what_an_altered_config_says_of_its_model(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """dc-info needs no version; what is no version, provenance or architecture is named."""
    config = model / CONFIG
    sound = json.loads(config.read_text())
    config.write_text(json.dumps({name: value for name, value in sound.items() if name != "version"}))
    assert call("info", f"model_dir={model}") == 0
    assert "written by dynconv_mt ?" in capsys.readouterr().out
    layers = sound["model"] | {
        "encoder": sound["model"]["encoder"] | {"mixer": {"type": "light_conv", "kernel_sizes": 3}}
    }
    changes: list[dict[str, object]] = [{"version": 3}, {"provenance": []}, {"model": layers}]
    for altered in changes:
        config.write_text(json.dumps(sound | altered))
        assert call("info", f"model_dir={model}") == 2
        err = capsys.readouterr().err
        assert "config.json: " in err and err.count("\n") == 1
    config.write_text(json.dumps(sound))
    save_file({}, model / WEIGHTS)
    assert call("info", f"model_dir={model}") == 0
    assert ": 0 parameters" in capsys.readouterr().out
