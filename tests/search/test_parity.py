"""Hypotheses and scores of the original implementation, for weights that it trained (shared/parity/)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from shared import SHARED

from dynconv_mt.convert import convert_model
from dynconv_mt.models import Seq2Seq, build_model
from dynconv_mt.search import SearchConfig, beam_search

PARITY = SHARED / "parity"
FILES = sorted(PARITY.glob("beam*.pt"))
pytestmark = pytest.mark.skipif(not FILES, reason=f"no fixtures in {PARITY}")


def parity_model(fixture: dict[str, Any]) -> Seq2Seq:
    """The model of a fixture, in evaluation mode."""
    config, weights = convert_model(fixture["args"], fixture["state_dict"])
    model = build_model(config)
    assert isinstance(model, Seq2Seq)
    model.load_state_dict(weights, strict=True)
    return model.eval()


def search_config(cfg: dict[str, Any], padded_length: int) -> SearchConfig:
    """Our options for those of a run; the original's length limit is that of the padded source, in every sentence."""
    limit = int(cfg.get("max_len_a", 1.2) * padded_length + cfg.get("max_len_b", 10))
    beam = cfg.get("beam", 4)
    return SearchConfig(
        beam=beam,
        nbest=beam,
        length_penalty=cfg["lenpen"],
        normalize=cfg.get("normalize", True),
        min_length=cfg.get("min_len", 1),
        max_length_a=0,
        max_length_b=limit,
        temperature=cfg.get("temperature", 1.0),
        unk_penalty=cfg.get("unkpen", 0.0),
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_hypotheses_and_scores_are_those_of_the_original(path: Path) -> None:
    fixture = torch.load(path, weights_only=True)
    src, lengths = fixture["src_right"], fixture["src_lengths"]
    for run in fixture["runs"]:
        if "no_repeat_ngram_size" in run["cfg"]:  # without effect in the original (see the README there)
            continue
        models = [parity_model(fixture)]
        if run["ensemble_second"]:
            models.append(parity_model(torch.load(PARITY / run["ensemble_second"], weights_only=True)))
        found = beam_search(models, src, lengths, search_config(run["cfg"], src.shape[1]), run["prefix_tokens"])
        for ours, theirs in zip(found, run["hyps"], strict=True):
            assert [h.tokens for h in ours] == [h["tokens"].tolist() for h in theirs], run["cfg"]
            for h, expected in zip(ours, theirs, strict=True):
                assert h.score == pytest.approx(float(expected["score"]), abs=1e-4), run["cfg"]
                assert h.token_scores == pytest.approx(expected["positional_scores"].tolist(), abs=1e-4), run["cfg"]
