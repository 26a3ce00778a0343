"""COMET without COMET: what it is asked for, what it lacks."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from dynconv_mt.errors import UserError
from dynconv_mt.evaluate.comet import CometMeasure

SOURCE = ["ein Haus", "ein Hund"]
REFERENCES = [["a house", "a dog"], ["one house", "one dog"]]


class FakeModel:
    """Scores a translation by its share of characters that the reference has; without reference, of the source."""

    def __init__(self, with_reference: bool = True) -> None:
        self.with_reference = with_reference
        self.samples: list[dict[str, str]] = []

    def requires_references(self) -> bool:
        return self.with_reference

    def predict(self, samples: list[dict[str, str]], **_: Any) -> SimpleNamespace:
        self.samples += samples
        texts = [sample["ref" if self.with_reference else "src"] for sample in samples]
        scores = [len(set(s["mt"]) & set(t)) / len(set(s["mt"])) for s, t in zip(samples, texts, strict=True)]
        return SimpleNamespace(scores=scores)


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    file = tmp_path / "wmt22-comet-da" / "checkpoints" / "model.ckpt"
    file.parent.mkdir(parents=True)
    file.touch()
    (file.parents[1] / "hparams.yaml").touch()
    return str(file)


def install(monkeypatch: pytest.MonkeyPatch, load: Any) -> None:
    module = ModuleType("comet")
    module.__dict__["load_from_checkpoint"] = load
    monkeypatch.setitem(sys.modules, "comet", module)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: SimpleNamespace())
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(name, "0")


def test_sentence_scores_are_averaged_over_references(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = FakeModel()
    install(monkeypatch, lambda path, local_files_only: model if local_files_only else None)
    measure = CometMeasure(checkpoint, SOURCE, REFERENCES)
    table = measure.statistics(["a house", "dog"])
    assert len(model.samples) == 4
    assert model.samples[0] == {"src": "ein Haus", "mt": "a house", "ref": "a house"}
    assert table[1].tolist() == [1, 1]
    score = measure.score(table.sum(axis=0).tolist())
    assert score.value == pytest.approx(100 * table[:, 0].mean())
    assert score.signature.startswith("nrefs:2|model:wmt22-comet-da/model.ckpt|scale:100|version:")


def test_a_checkpoint_may_be_a_link(checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in Hugging Face's cache, where snapshots link to blobs."""
    blob = tmp_path / "blobs" / "1234"
    blob.parent.mkdir()
    Path(checkpoint).rename(blob)
    Path(checkpoint).symlink_to(blob)
    install(monkeypatch, lambda path, local_files_only: FakeModel() if path == checkpoint else None)
    measure = CometMeasure(checkpoint, SOURCE, REFERENCES)
    assert "model:wmt22-comet-da/model.ckpt" in measure.score([1.0, 1.0]).signature
    monkeypatch.chdir(Path(checkpoint).parent)
    CometMeasure("model.ckpt", SOURCE, REFERENCES)
    with pytest.raises(UserError, match=r"hparams\.yaml"):
        CometMeasure(str(blob), SOURCE, REFERENCES)


def test_a_model_without_references_gets_none(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = FakeModel(with_reference=False)
    install(monkeypatch, lambda path, local_files_only: model)
    measure = CometMeasure(checkpoint, SOURCE, REFERENCES)
    measure.statistics(["a house", "dog"])
    assert [sample.keys() for sample in model.samples] == [{"src", "mt"}] * 2
    assert measure.score([1, 2]).signature.startswith("nrefs:0|")


def test_what_is_missing_is_named(checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs the package unbabel-comet \(pip install"):
        CometMeasure(checkpoint, SOURCE, REFERENCES)

    def fail(path: str, local_files_only: bool) -> None:
        raise OSError("no\nxlm-roberta-large")

    install(monkeypatch, fail)
    with pytest.raises(UserError, match="give source=FILE"):
        CometMeasure(checkpoint, None, REFERENCES)
    with pytest.raises(UserError, match="no such file"):
        CometMeasure("Unbabel/wmt22-comet-da", SOURCE, REFERENCES)
    with pytest.raises(UserError, match="OSError: no xlm-roberta-large"):
        CometMeasure(checkpoint, SOURCE, REFERENCES)
    (Path(checkpoint).parents[1] / "hparams.yaml").unlink()
    with pytest.raises(UserError, match=r"hparams\.yaml"):
        CometMeasure(checkpoint, SOURCE, REFERENCES)
