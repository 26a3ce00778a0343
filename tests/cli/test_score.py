"""`dc-score`: forced decoding of files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from dynconv_mt import load_translator
from dynconv_mt.search.config import SearchConfig

from .conftest import call

ONE = ["threads=1", "device=cpu", "precision=fp32"]


def test_totals_are_the_scores_of_the_search(
    trained: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = (corpus / "test.en").read_text().splitlines()[:12]
    search = SearchConfig(beam=3, normalize=False, max_length_a=0, max_length_b=12)
    translator = load_translator(trained, device="cpu", threads=1, precision="fp32", search=search)
    found = translator.translate(sources)
    (tmp_path / "src").write_text("\n".join(sources) + "\n")
    (tmp_path / "tgt").write_text("\n".join(translation.text for translation in found) + "\n")
    argv = [f"model_dir={trained}", f"src={tmp_path}/src", f"tgt={tmp_path}/tgt", *ONE]
    assert call("score", *argv, f"output={tmp_path}/scores.jsonl", "batch.max_sentences=5") == 0
    records = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    num_equal = 0
    for record, translation in zip(records, found, strict=True):
        if tuple(record["pieces"][:-1]) == translation.pieces:  # else the text was split otherwise than the search did
            assert record["score"] == pytest.approx(translation.score, abs=1e-4)
            assert record["token_scores"] == pytest.approx(translation.token_scores, abs=1e-4)
            num_equal += 1
        assert record["score"] == pytest.approx(sum(record["token_scores"]))
        assert record["perplexity"] == pytest.approx(math.exp(-record["score"] / len(record["token_scores"])))
    assert num_equal > 0
    total, count = sum(r["score"] for r in records), sum(len(r["token_scores"]) for r in records)
    summary = capsys.readouterr().out
    assert f"12 sentences, {count} tokens: log-probability {total:.4f} nats" in summary
    assert f"perplexity {math.exp(-total / count):.4f}" in summary


def test_lines_go_to_standard_output_and_the_summary_elsewhere(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "src").write_text("A boy sleeps.\n\nThe dog runs.\n")
    (tmp_path / "tgt").write_text("Ein Junge schläft.\nDer Hund.\n\n")
    assert call("score", f"model_dir=[{trained},{trained}]", f"src={tmp_path}/src", f"tgt={tmp_path}/tgt", *ONE) == 0
    output = capsys.readouterr()
    records = [json.loads(line) for line in output.out.splitlines()]
    assert [record["target"] for record in records] == ["Ein Junge schläft.", "Der Hund.", ""]
    assert records[2]["pieces"] == ["</s>"]
    assert len(records[2]["token_scores"]) == 1
    assert output.err.startswith("3 sentences, ")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["tgt={tmp}/two"], "two: has 2 lines, and src="),
        (["tgt=nowhere"], "tgt=nowhere: no such file"),
        (["tgt={tmp}/long"], "target line 1: has"),
        (["src=-", "tgt=-"], "only one file can be -"),
        (["output={tmp}"], "is a folder"),
        (["output={tmp}/./one"], "another option names this file"),
        (["batch.rows_multiple=8"], "batch.rows_multiple=8"),
        (["batch.max_tokens=auto"], "batch.max_tokens=auto"),
    ],
)
def test_mistakes(
    argv: list[str], words: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, content in (("one", "a\n"), ("two", "a\nb\n"), ("long", "Haus " * 1100 + "\n")):
        (tmp_path / name).write_text(content)
    options = [f"model_dir={trained}", f"src={tmp_path}/one", f"tgt={tmp_path}/one", *ONE, *argv]
    assert call("score", *(option.format(tmp=tmp_path) for option in options)) == 2
    assert words in capsys.readouterr().err
