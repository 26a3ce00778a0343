"""New data with a vocabulary that exists, and training that begins with the weights of another model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from dynconv_mt.data.manifest import read_manifest
from dynconv_mt.text.pipeline import TextPipeline

from .conftest import call

LANGUAGES = ["src=en", "tgt=de"]
SHORT = ["threads=1", "train.max_updates=1", "train.tensorboard=false", "checkpoint.final=last"]


@pytest.fixture(scope="module")
def new_data(trained: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other sentences, with the vocabulary of the trained model."""
    folder = tmp_path_factory.mktemp("new") / "DATA"
    options = [f"train={corpus}/test", f"valid={corpus}/valid", f"text_from={trained}", f"out_dir={folder}"]
    assert call("preprocess", *LANGUAGES, *options, "workers=1") == 0
    return folder


def test_a_vocabulary_is_used_again(trained: Path, data: Path, new_data: Path) -> None:
    """Of a finished run and of a data folder alike; the folder made anew is recognised."""
    assert read_manifest(new_data).fingerprint == read_manifest(data).fingerprint
    assert (new_data / "text" / "joint.model").read_bytes() == (data / "text" / "joint.model").read_bytes()
    valid = (folder / "valid" / "shard_00000.safetensors" for folder in (data, new_data))
    assert len({path.read_bytes() for path in valid}) == 1
    assert f"400 pieces of {trained}" in (new_data / "summary.txt").read_text()


def test_training_begins_with_the_weights_given(trained: Path, new_data: Path, tmp_path: Path) -> None:
    """An update so small that it shows only what was begun with; dropout may differ, and so may the data."""
    options = [f"init_from={trained}", f"data_dir={new_data}", f"out_dir={tmp_path}/run", "model.dropout=0.4", *SHORT]
    assert call("train", *options, "optim.lr=1e-12", "schedule.warmup_updates=0", "seed=5") == 0
    begun, given = (load_file(folder / "model" / "model.safetensors") for folder in (tmp_path / "run", trained))
    assert begun.keys() == given.keys()
    assert max(float((begun[name] - given[name]).abs().max()) for name in begun) < 1e-9
    new, old = (
        json.loads((folder / "model" / "config.json").read_text())["model"] for folder in (tmp_path / "run", trained)
    )
    assert new == old | {"dropout": 0.4}
    assert json.loads((tmp_path / "run" / "config.json").read_text())["job"]["init_from"] == str(trained)


def test_it_goes_on_like_any_run(
    trained: Path, new_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [f"init_from={trained}", f"data_dir={new_data}", f"out_dir={tmp_path}/run", *SHORT]
    assert call("train", *options) == 0
    assert call("train", *options, "train.max_updates=3") == 0
    updates = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert max(line["update"] for line in updates) == 3
    assert call("train", *options, "train.max_updates=3", f"init_from={trained}/model/") == 0  # spelt another way
    other = shutil.copytree(trained / "model", tmp_path / "other")
    capsys.readouterr()
    assert call("train", *options, "train.max_updates=3", f"init_from={other}") == 2
    assert f"init_from={other} (was {trained})" in capsys.readouterr().err


def test_it_goes_on_without_the_model_it_began_with(
    trained: Path, new_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its own checkpoints have everything: an update and then another are two."""
    results = []
    for name, limits in (("broken", (1, 2, 2)), ("whole", (2,))):
        base, run = shutil.copytree(trained / "model", tmp_path / f"base_{name}"), tmp_path / name
        options = [f"init_from={base}", f"data_dir={new_data}", f"out_dir={run}", *SHORT, "model.dropout=0.2"]
        for limit in limits:
            assert call("train", *options, f"train.max_updates={limit}") == 0
            shutil.rmtree(base, ignore_errors=True)
        results.append((run / "model" / "model.safetensors").read_bytes())
    assert results[0] == results[1]
    capsys.readouterr()
    options = [f"init_from={tmp_path}/base_whole", f"data_dir={new_data}", f"out_dir={tmp_path}/new", *SHORT]
    assert call("train", *options) == 2
    assert "no such folder" in capsys.readouterr().err


def test_damaged_weights_are_called_damaged(
    trained: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Options are not blamed, though dropout is another."""
    base = shutil.copytree(trained / "model", tmp_path / "base")
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    options = [f"init_from={base}", f"data_dir={data}", f"out_dir={tmp_path}/new", *SHORT, "model.dropout=0.2"]
    assert call("train", *options) == 2
    said = capsys.readouterr().err
    assert f"{weights}: is damaged" in said
    assert "dropout" not in said


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["init_from=nowhere"], "init_from=nowhere: no such folder"),
        (["init_from="], "init_from=: must be a name"),
        (["init_from={data}"], "init_from={data}: is a data folder"),
        (["model=lightconv_tiny"], "model=lightconv_tiny: only has an effect with fresh weights, without init_from="),
        (["model.dim=64"], "init_from={trained}: its weights do not fit model.dim=64 (was 32)"),
        (["model.norm=pre"], "its weights do not fit model.norm=pre (was post); of the options"),
        (["model.cross_heads=1"], "do not fit model.cross_heads=1"),  # shapes are the same
        (["model.encoder.mixer.type=attention"], "do not fit model.encoder.mixer"),
        (
            ["data_dir={other}"],
            "init_from={trained}: has another vocabulary, or other text options, than data_dir={other}",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    changes: list[str],
    words: str,
    trained: Path,
    data: Path,
    corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other, new = tmp_path / "other", tmp_path / "new"
    names = {"data": data, "trained": trained, "other": other}
    if "{other}" in words:
        options = [f"train={corpus}/test", "bpe.vocab_size=400", "text.lowercase=true", f"out_dir={other}"]
        assert call("preprocess", *LANGUAGES, *options, "workers=1") == 0
    options = [f"init_from={trained}", f"data_dir={data}", f"out_dir={new}", *SHORT]
    assert call("train", *options, *(change.format(**names) for change in changes)) == 2
    assert words.format(**names) in capsys.readouterr().err
    assert not new.exists()


def test_a_model_without_a_text_pipeline_is_refused(
    trained: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing would say what its ids stand for."""
    bare = tmp_path / "bare"
    shutil.copytree(trained / "model", bare)
    shutil.rmtree(bare / "text")
    options = [f"init_from={bare}", f"data_dir={data}", f"out_dir={tmp_path}/new", *SHORT]
    assert call("train", *options) == 2
    assert f"init_from={bare}: holds no text pipeline" in capsys.readouterr().err


def test_the_model_given_takes_the_recipes_place(trained: Path, data: Path, tmp_path: Path) -> None:
    """A recipe's other options stay, those of the model's dropout among them."""
    recipe = tmp_path / "tune.yaml"
    recipe.write_text("train:\n  model: {name: transformer_iwslt_de_en, dropout: 0.25}\n  optim: {lr: 1.0e-5}\n")
    options = [f"recipe={recipe}", f"init_from={trained}", f"data_dir={data}", f"out_dir={tmp_path}/run", *SHORT]
    assert call("train", *options) == 0
    job = json.loads((tmp_path / "run" / "config.json").read_text())["job"]
    assert (job["model"]["dim"], job["model"]["dropout"], job["optim"]["lr"]) == (32, 0.25, 1e-5)


def test_what_the_text_brings_along_is_not_printed(
    trained: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The defaults of text.* and bpe.* do not hold then; a folder `text` of the user's own is none."""
    run = shutil.copytree(trained, tmp_path / "run")
    (run / "text").mkdir()
    options = [f"train={corpus}/test", f"text_from={run}", f"out_dir={tmp_path}/new"]
    assert call("preprocess", *LANGUAGES, *options, "--cfg") == 0
    printed = capsys.readouterr().out
    assert "text_from: " in printed and "clean:" in printed
    assert "  text:" not in printed and "  bpe:" not in printed
    (tmp_path / "mine.yaml").write_text(printed)
    assert call("preprocess", f"recipe={tmp_path}/mine.yaml", "workers=1") == 0
    assert read_manifest(tmp_path / "new").fingerprint == TextPipeline.load(trained / "model" / "text").fingerprint


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["text_from=nowhere"], "text_from=nowhere: no such folder; name a data folder"),
        (["text_from="], "text_from=: must name"),
        (["text_from={corpus}"], "text_from={corpus}: holds no text pipeline"),
        (["src=de", "tgt=en"], "text_from={trained}: is from en to de, and src=de tgt=en were given"),
        (["bpe.vocab_size=500"], "bpe.vocab_size=500: only has an effect with a vocabulary to be learned"),
        (["text.lowercase=true"], "text.lowercase=true: only has an effect with a vocabulary to be learned"),
    ],
)
def test_what_no_vocabulary_fits_is_refused(
    changes: list[str], words: str, trained: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"corpus": corpus, "trained": trained}
    options = [*LANGUAGES, f"train={corpus}/test", f"text_from={trained}", f"out_dir={tmp_path}/new", "workers=1"]
    assert call("preprocess", *options, *(change.format(**names) for change in changes)) == 2
    assert words.format(**names) in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_data_made_with_another_vocabulary_are_another_run(
    trained: Path, new_data: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*LANGUAGES, f"train={corpus}/test", f"valid={corpus}/valid", "workers=1"]
    assert call("preprocess", *options, f"text_from={trained}/model", f"out_dir={new_data}") == 0
    assert "nothing to do" in capsys.readouterr().out
    assert call("preprocess", *options, "bpe.vocab_size=380", f"out_dir={tmp_path}/other") == 0
    assert call("preprocess", *options, f"text_from={tmp_path}/other", f"out_dir={new_data}") == 2
    assert "different: text_from" in capsys.readouterr().err
    assert call("preprocess", *options, "bpe.vocab_size=400", f"out_dir={new_data}") == 2
    assert "different: bpe." in capsys.readouterr().err
