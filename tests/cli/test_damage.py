"""Corpora, data folders and models that are damaged: named, with exit code 2, and nothing is made of them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from dynconv_mt.cli.folders import read_raw_split
from dynconv_mt.errors import UserError

from .conftest import TINY, call


def test_altered_data_are_noticed(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    altered = tmp_path / "data"
    shutil.copytree(data, altered)
    shard = altered / "train" / "shard_00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    assert call("train", *TINY, f"data_dir={altered}", f"out_dir={tmp_path}/run", "train.max_updates=1") == 2
    assert "shard_00000.safetensors: was altered" in capsys.readouterr().err
    raw = altered / "test" / "raw.en"
    raw.write_text(raw.read_text().replace("e", "a", 1))
    with pytest.raises(UserError, match=r"raw\.en: was altered"):
        read_raw_split(str(altered), "test")
    raw.write_text("one line\n")
    with pytest.raises(UserError, match=r"raw\.en: has 1 lines where"):
        read_raw_split(str(altered), "test")


def test_damaged_models_are_named(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    newest = sorted((run / "checkpoints").iterdir())[-1]
    os.truncate(newest / "model.safetensors", 1000)
    assert call("average", f"inputs={run}", "last=2", f"out_dir={tmp_path}/new") == 2
    assert "model.safetensors has 1000 bytes" in capsys.readouterr().err
    assert call("average", f"inputs=[{trained},{newest}]", f"out_dir={tmp_path}/new") == 2
    assert "model.safetensors has 1000 bytes" in capsys.readouterr().err
    assert call("info", f"model_dir={newest}") == 2
    assert "model.safetensors: is damaged" in capsys.readouterr().err
    sound = json.loads((run / "model" / "config.json").read_text())["model"]
    contents: list[object] = [{}, [], {"encoder": 3, "decoder": {}}]
    contents += [sound | change for change in ({"cross_heads": 7}, {"tgt_vocab_size": 1}, {"dim": "wide"})]
    for altered in contents:
        (run / "model" / "config.json").write_text(json.dumps({"format": 1, "model": altered}))
        assert call("generate", f"model_dir={run}", "input=-") == 2
        assert "does not describe a model" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (b"", "train.de: is empty"),
        (b"x\n" * 2, "train.en has 3 lines and {folder}/train.de has 2"),
        (b"x\n\xff\nx\n", "train.de, line 2: not UTF-8"),
        (None, "train={folder}/train: neither {folder}/train.de nor {folder}/train.de.gz is a file"),
    ],
)
def test_bad_corpora_are_refused(
    target: bytes | None, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.en").write_bytes(b"a b\n" * 3)
    if target is not None:
        (tmp_path / "train.de").write_bytes(target)
    out = tmp_path / "data"
    assert call("preprocess", "src=en", "tgt=de", f"train={tmp_path}/train", f"out_dir={out}", "workers=1") == 2
    err = capsys.readouterr().err
    assert words.format(folder=tmp_path) in err and err.count("\n") == 1
    assert not list(tmp_path.glob("data*"))
