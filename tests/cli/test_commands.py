"""The commands on a small corpus, in this process: what they write, what they refuse, that nothing is left behind."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dynconv_mt import load_translator
from dynconv_mt.search.config import SearchConfig

from .conftest import TINY, call, train_arguments

FAST = ["threads=1", "search.beam=2", "search.max_length_b=3"]


def test_a_run_says_how_it_was_made(trained: Path, data: Path) -> None:
    job = json.loads((trained / "config.json").read_text())["job"]
    assert job["data_dir"] == str(data)
    assert job["model"]["dim"] == 32
    assert job["model"]["src_vocab_size"] == 400
    assert job["model"]["encoder"]["mixer"]["type"] == "light_conv"
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert any("bleu" in line for line in lines if line["kind"] == "valid")


def test_a_finished_run_is_left_alone(trained: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (trained / "model" / "model.safetensors").stat().st_mtime_ns
    assert call("train", *train_arguments(data, trained)) == 0
    assert "finished" in capsys.readouterr().err
    assert (trained / "model" / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["out_dir={trained}", "seed=2"], "seed=2 (was 1)"),
        (["out_dir="], "out_dir=: must name the run folder"),
        (["out_dir={data}"], "holds something else"),
        (["data_dir=nowhere"], "nowhere: no preprocessed data here"),
        (["data_dir={corpus}"], "no preprocessed data here"),
        (["model=lightconv_tyni"], "lightconv_tiny"),
        (["model.src_vocab_size=17"], "model.src_vocab_size=17"),
        (["model.encoder.mixer.heads=5"], "model.encoder.mixer.heads=5"),
        (["model.encoder.mixer.kernel_sizes=[3,7]"], "2 sizes for 1 layers"),
        (["batch.max_tokens=5"], "batch.max_tokens=5"),
        (["device=cuda:99"], "device=cuda:99"),
        (["search.nbest=2", "search.beam=2"], "search.nbest=2"),
        (["train.max_updates=0"], "training has no end"),
        (["model.dim=10000000000000000"], "model.dim=10000000000000000 model.max_positions=1024: a model of these"),
    ],
)
def test_bad_training_options_leave_nothing(
    changes: list[str],
    words: str,
    trained: Path,
    data: Path,
    corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    new = tmp_path / "new"
    changes = [change.format(data=data, corpus=corpus, trained=trained) for change in changes]
    assert call("train", *train_arguments(data, new), *changes) == 2
    assert words in capsys.readouterr().err
    assert not new.exists()


def test_a_data_folder_put_together_from_two_is_refused(
    data: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    call(
        "preprocess", "src=en", "tgt=de", f"train={corpus}/test", "bpe.vocab_size=380", "workers=1", f"out_dir={other}"
    )
    shutil.rmtree(other / "train")
    shutil.copytree(data / "train", other / "train")
    assert call("train", *TINY, f"data_dir={other}", f"out_dir={tmp_path}/run", "train.max_updates=1") == 2
    assert "another vocabulary" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_lines_come_out_as_they_went_in(
    trained: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in put,=(1).txt"
    lines = ["", *(corpus / "test.en").read_text().splitlines()[:4], "   ", "A boy sleeps."]
    source.write_text("\n".join(lines))
    out, details = tmp_path / "out [1].txt", tmp_path / "details.jsonl"
    argv = [f"input={source}", f"output={out}", f"details={details}", "search.nbest=2", *FAST]
    assert call("generate", f"model_dir={trained}", *argv) == 0
    translated = out.read_text().splitlines()
    assert len(translated) == len(lines)
    assert [translated[0], translated[5]] == ["", ""]
    search = SearchConfig(beam=2, max_length_b=3)
    expected = load_translator(trained, threads=1, search=search).translate(lines)
    assert translated == [translation.text for translation in expected]
    records = [json.loads(line) for line in details.read_text().splitlines()]
    assert [record["source"] for record in records] == lines
    assert len(records[1]["alternatives"]) == 1
    capsys.readouterr()
    packed = tmp_path / "packed.gz"
    packed.write_bytes(gzip.compress(source.read_bytes()))
    assert call("generate", f"model_dir={trained}", f"input={packed}", *FAST) == 0
    assert capsys.readouterr().out.splitlines() == translated


def test_standard_input_and_named_pipes_are_read(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = b"A boy sleeps.\nThe dog runs.\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))
    assert call("generate", f"model_dir={trained}", "input=-", *FAST) == 0
    translated = capsys.readouterr().out
    assert translated.count("\n") == 2
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(text,))
    writer.start()
    assert call("generate", f"model_dir={trained}", f"input={pipe}", *FAST) == 0
    writer.join()
    assert capsys.readouterr().out == translated
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbf" + text)))
    monkeypatch.chdir(tmp_path)
    assert call("generate", f"model_dir={trained.absolute()}", "input=-", "output=-", *FAST) == 0
    assert capsys.readouterr().out == translated
    assert not (tmp_path / "-").exists()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))
    assert call("interactive", f"model_dir={trained}", *FAST) == 0
    assert capsys.readouterr().out == translated


def test_scores_have_signatures(
    trained: Path, data: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores, out = tmp_path / "scores.json", tmp_path / "out"
    split = [f"data_dir={data}", f"output={out}", f"scores_json={scores}"]
    assert call("generate", f"model_dir={trained}", *split, *FAST) == 0
    from_split = json.loads(scores.read_text())["scores"]
    output = capsys.readouterr()
    assert "sacreBLEU" in output.out
    assert "sentences/s" in output.err
    files = [f"input={corpus}/test.en", f"reference=[{corpus}/test.de]", f"scores_json={scores}"]
    metrics = "evaluate.metrics=[sacrebleu,chrf,tokenized_bleu_lc]"
    assert call("generate", f"model_dir={trained}", *files, metrics, *FAST) == 0
    from_files = json.loads(scores.read_text())["scores"]
    assert from_files[:2] == from_split
    assert [score["name"] for score in from_files] == ["sacreBLEU", "chrF2", "tokenised BLEU, lower-cased"]
    assert all("version:" in score["signature"] for score in from_files)
    output = capsys.readouterr()
    assert output.out == out.read_text()  # without output=, scores keep away from the translations
    assert "chrF2" in output.err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["model_dir=nowhere", "input={corpus}/test.en"], "model_dir=nowhere: no such folder"),
        (["model_dir={data}", "input={corpus}/test.en"], "is a data folder, which"),
        (["model_dir=[]", "input={corpus}/test.en"], "model_dir=[]"),
        (["input=nowhere"], "input=nowhere: no such file"),
        (["input={empty}"], "is empty"),
        (["input={latin}"], "latin, line 2: not UTF-8"),
        (["input={corpus}/test.en", "reference={corpus}/train.de"], "has 200 lines"),
        (["input={corpus}/test.en", "reference=nowhere"], "reference=nowhere: no such file"),
        (["input={corpus}/test.en", "data_dir={data}"], "give one of the two"),
        ([], "give one of the two"),
        (["data_dir={data}", "split=train"], "split=train"),
        (["data_dir={data}", "split=tst"], "split=tst"),
        (["input={corpus}/test.en", "split=test"], "split=test"),
        (["data_dir={data}", "reference={corpus}/test.de"], "brings its own"),
        (["data_dir={corpus}"], "no preprocessed data here"),
        (["input={corpus}/test.en", "scores_json=x"], "scores_json=x"),
        (["input={corpus}/test.en", "search.nbest=2", "search.beam=2"], "search.nbest=2"),
        (["input={corpus}/test.en", "output={corpus}"], "is a folder"),
        (["input={corpus}/test.en", "output={corpus}/./test.en"], "another option names this file"),
        (["input={corpus}/test.en", "details=-"], "details=-: name a file"),
        (["input={corpus}/test.en", "output=x.gz"], "output=x.gz: files are not packed"),
        (["input={corpus}/test.en", "model_dir={trained}/checkpoints"], "holds checkpoints; name the run folder above"),
        (
            [
                *("input={corpus}/test.en", "reference={corpus}/test.de", "evaluate.metrics=[tokenized_bleu]"),
                *("evaluate.tokenization=none", "evaluate.normalize_punctuation=true"),
            ],
            "evaluate.normalize_punctuation=true: only has an effect with evaluate.tokenization=moses",
        ),
        (["input=-", "reference=-"], "only one file can be -"),
        (["input={corpus}/test.en", "output=nowhere/out"], "there is no folder nowhere"),
        (["input={corpus}/test.en", "batch.rows_multiple=8"], "batch.rows_multiple=8"),
        (["input={corpus}/test.en", "batch.max_tokens=auto"], "batch.max_tokens=auto"),
        (["input={corpus}/test.en", "details=x", "output=x"], "details=x: another option names"),
        (["input={corpus}/test.en", "reference=x", "output=x"], "output=x: another option names"),
    ],
)
def test_bad_generation_options(
    argv: list[str],
    words: str,
    trained: Path,
    data: Path,
    corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "latin").write_bytes(b"fine\nf\xfcr\n")
    out = tmp_path / "out"
    places = {
        "data": data,
        "corpus": corpus,
        "trained": trained,
        "empty": tmp_path / "empty",
        "latin": tmp_path / "latin",
    }
    given = [f"model_dir={trained}", f"output={out}", *(argument.format(**places) for argument in argv)]
    assert call("generate", *given) == 2
    assert words in capsys.readouterr().err
    assert not out.exists()


def test_a_place_that_cannot_be_written_is_named_before_the_work(
    trained: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dynconv_mt.cli.lines.os.access", lambda *_: False)  # root may write wherever there is a place
    argv = [f"model_dir={trained}", f"input={corpus}/test.en", f"output={tmp_path}/out"]
    assert call("generate", *argv) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_a_link_that_leads_nowhere_is_named_before_the_work(
    trained: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "gone" / "out")
    assert call("generate", f"model_dir={trained}", f"input={corpus}/test.en", f"output={tmp_path}/out") == 2
    assert f"there is no folder {tmp_path}/gone" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["validate.every=5", "checkpoint.keep_best=1"])
def test_options_of_validation_need_validation_data(
    option: str, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = tmp_path / "DATA", tmp_path / "RUN"
    argv = [f"train={corpus}/train", "bpe.vocab_size=400", "workers=1", f"out_dir={data}"]
    assert call("preprocess", "src=en", "tgt=de", *argv) == 0
    assert call("train", *TINY, f"data_dir={data}", f"out_dir={out}", "train.max_updates=1", option) == 2
    assert f"{option}: only has an effect with validation data" in capsys.readouterr().err
    assert not out.exists()


def test_averages_are_models(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = sorted((trained / "checkpoints").iterdir())
    out = tmp_path / "average"
    assert call("average", f"inputs={trained}", "last=2", f"out_dir={out}") == 0
    slim = tmp_path / "slim"
    shutil.copytree(both[0], slim)
    shutil.rmtree(slim / "state")  # the model is whole without it
    (slim / "notes.txt").write_text("of mine")
    assert call("average", f"inputs=[{slim},{both[1]}]", f"out_dir={tmp_path}/again") == 0
    weights = [(folder / "model.safetensors").read_bytes() for folder in (out, tmp_path / "again")]
    assert weights[0] == weights[1]
    capsys.readouterr()
    assert call("info", f"model_dir={out}", "json=true") == 0
    description = json.loads(capsys.readouterr().out)
    assert description["provenance"]["average_of"] == [str(folder) for folder in both]
    assert description["text"]["languages"] == "en-de"
    assert sum(description["parameters"].values()) == 2 * description["parameters"]["all"]
    assert call("info", f"model_dir={trained}") == 0
    assert "light_conv" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["inputs={run}", "last=9", "out_dir={new}"], "last=9"),
        (["inputs={run}", "out_dir={new}"], "several"),
        (["inputs=[{run},nowhere]", "out_dir={new}"], "inputs=nowhere"),
        (["inputs=nowhere", "last=2", "out_dir={new}"], "inputs=nowhere"),
        (["inputs=[{run},{run}]", "last=2", "out_dir={new}"], "last=2"),
        (["inputs={run}", "last=2", "out_dir={run}"], "holds other files"),
        (["inputs={run}", "last=2", "out_dir={run}/model"], "overwrite=true"),
        (["inputs={run}", "last=-1", "out_dir={new}"], "last=-1"),
        (["inputs=null", "last=2", "out_dir={new}"], "there are 0"),
        (["inputs={run}", "last=2", "out_dir=."], "out_dir=.: name a folder to make"),
    ],
)
def test_bad_averages_are_refused(
    argv: list[str], words: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new"
    assert call("average", *(argument.format(run=trained, new=new) for argument in argv)) == 2
    assert words in capsys.readouterr().err
    assert not new.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["model_dir=[]"], "model_dir=[]"),
        (["search.nbest=2", "search.beam=2"], "search.nbest=2"),
        (["search.normalize=false", "search.length_penalty=2"], "only has an effect with search.normalize=true"),
    ],
)
def test_bad_interactive_options(
    arguments: list[str], words: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("interactive", f"model_dir={trained}", *arguments) == 2
    assert words in capsys.readouterr().err


def test_interactive_answers_before_the_next_line(trained: Path) -> None:
    command = [sys.executable, "-m", "dynconv_mt.cli", "interactive", f"model_dir={trained}", *FAST]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for line in (b"A boy sleeps.\n", b"\n", b"The dog runs.\n"):
            process.stdin.write(line)
            process.stdin.flush()
            assert process.stdout.readline().endswith(b"\n")
        process.stdin.close()
    assert process.returncode == 0


PLUGIN = """
from dataclasses import dataclass
from dynconv_mt.models.config import MixerConfig, mixer_config
from dynconv_mt.models.mixers import register_mixer
from dynconv_mt.models.mixers.attention import SelfAttention

@mixer_config("mine")
@dataclass
class MineConfig(MixerConfig):
    heads: int = 4  # of the attention that it is
    dropout: float = 0.0  # a probability

@register_mixer(MineConfig)
class Mine(SelfAttention):
    pass
"""


def test_mixers_from_outside_the_package(data: Path, corpus: Path, tmp_path: Path) -> None:
    """A module named in DYNCONV_MT_PLUGINS brings a mixer to train with, and to translate with."""
    (tmp_path / "mine_plugin.py").write_text(PLUGIN)
    environment = {**os.environ, "DYNCONV_MT_PLUGINS": "mine_plugin", "PYTHONPATH": str(tmp_path)}
    run_dir, output = tmp_path / "run", tmp_path / "output"
    mixer = ["model=transformer_tiny", "model.encoder.layers=1", "model.encoder.mixer.type=mine"]
    for arguments in (
        ["train", *mixer, "train.max_updates=1", f"data_dir={data}", f"out_dir={run_dir}"],
        ["generate", f"model_dir={run_dir}", f"input={corpus}/test.en", f"output={output}", "search.beam=1"],
    ):
        command = [sys.executable, "-m", "dynconv_mt.cli", *arguments, "threads=1", "device=cpu"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    python = (
        "import sys, dynconv_mt; print(dynconv_mt.load_translator(sys.argv[1], device='cpu').translate([''])[0].text)"
    )
    subprocess.run([sys.executable, "-c", python, str(run_dir)], env=environment, check=True, timeout=100)
    mixer_of = json.loads((run_dir / "model" / "config.json").read_text())["model"]["encoder"]["mixer"]
    assert (mixer_of["type"], mixer_of["heads"]) == ("mine", 4)
    assert len(output.read_text().splitlines()) == 20


def test_two_vocabularies_of_one_size_are_not_tied(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Type i of one side is not type i of the other."""
    data = tmp_path / "DATA"
    splits = [f"{split}={corpus}/{split}" for split in ("train", "valid")]
    arguments = ["src=en", "tgt=de", *splits, "bpe.vocab_size=380", "bpe.joint=false", "workers=1", f"out_dir={data}"]
    assert call("preprocess", *arguments) == 0
    new = tmp_path / "new"
    assert call("train", *train_arguments(data, new)) == 2
    assert "model.tying=all: needs one vocabulary for both sides, and this data has one" in capsys.readouterr().err
    assert not new.exists()
    assert call("train", *train_arguments(data, new), "model.tying=decoder") == 0


@pytest.mark.parametrize("name", ["normalize_punctuation", "remove_non_printing"])
def test_steps_that_are_left_out_may_not_be_asked_for(
    name: str, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"train={corpus}/train", "src=en", "tgt=de", f"out_dir={tmp_path}/DATA", "text.tokenization=none"]
    assert call("preprocess", *arguments, f"text.{name}=true") == 2
    assert f"text.{name}=true: only has an effect with text.tokenization=moses" in capsys.readouterr().err
