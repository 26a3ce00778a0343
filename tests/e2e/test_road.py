"""The whole road through the commands: raw text in, a model that has learnt, and a score that says what it is, out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dynconv_mt.data.toy import Sizes, word_for_word, write_corpus
from dynconv_mt.evaluate import EvaluateConfig, ScoreKind, corpus_scores
from dynconv_mt.text.corpus import read_lines

SMALL = [
    "model.dim=64",
    "model.dropout=0",
    *(f"model.{side}.layers=2" for side in ("encoder", "decoder")),
    *(f"model.{side}.mixer.kernel_sizes=[3,7]" for side in ("encoder", "decoder")),
    "batch.max_tokens=1500",
    "optim.lr=1e-2",
    "schedule.warmup_updates=100",
]


def run(command: str, *options: str) -> None:
    subprocess.run([sys.executable, "-m", "dynconv_mt.cli", command, *options], check=True, timeout=300)


@pytest.mark.slow
def test_the_embedded_corpus_is_learnt(tmp_path: Path) -> None:
    """A small DynamicConv, trained for half a minute on 4,000 sentences, translates far better than a dictionary."""
    corpus, data, out = tmp_path / "corpus", tmp_path / "data", tmp_path / "run"
    write_corpus(corpus, seed=1, sizes=Sizes(train=4000, valid=50, test=100))
    files = [f"{split}={corpus / split}" for split in ("train", "valid", "test")]
    run("preprocess", "recipe=toy", *files, f"out_dir={data}", "bpe.vocab_size=1000", "workers=2")
    limits = ["train.max_updates=350", "threads=1", "train.tensorboard=false"]
    run("train", "recipe=toy", f"data_dir={data}", f"out_dir={out}", *limits, *SMALL)
    scores = tmp_path / "scores.json"
    hypothesis = tmp_path / "test.hyp.de"
    run(
        "generate", f"model_dir={out}", f"data_dir={data}", f"output={hypothesis}", f"scores_json={scores}", "threads=1"
    )
    sources = list(read_lines(corpus / "test.en"))
    references = [list(read_lines(corpus / "test.de"))]
    scoring = EvaluateConfig(metrics=[ScoreKind.sacrebleu])
    (dictionary,) = corpus_scores(word_for_word(sources), references, "de", scoring)
    bleu = json.loads(scores.read_text())["scores"][0]
    assert len(list(read_lines(hypothesis))) == len(sources)
    assert "tok:13a" in bleu["signature"]
    assert bleu["value"] > dictionary.value + 10
