"""Converted models against tensors that fairseq wrote (shared/parity/, absent from a plain clone)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from shared import SHARED
from torch import Tensor
from torch.nn import functional as F

from dynconv_mt.convert import convert_model
from dynconv_mt.models import LanguageModel, Seq2Seq, build_model

PARITY = SHARED / "parity"
PAD = 1
no_fixtures = pytest.mark.skipif(not PARITY.is_dir(), reason=f"{PARITY} is absent")
MODELS, LMS = (sorted(PARITY.glob(pattern)) for pattern in ("model_*.pt", "lm_*.pt"))
pytestmark = no_fixtures


def load(path: Path) -> dict[str, Any]:
    fixture: dict[str, Any] = torch.load(path, weights_only=True)
    return fixture


def converted(fixture: dict[str, Any]) -> Seq2Seq | LanguageModel:
    config, weights = convert_model(fixture["args"], fixture["state_dict"])
    model = build_model(config)
    model.load_state_dict(weights, strict=True)
    return model.eval()


def truth(case: dict[str, Any]) -> dict[str, Tensor]:
    """What the original computes where it does not narrow before the softmax (see the README there)."""
    found: dict[str, Tensor] = case.get("right_1dTBC", case["right"])
    return found


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
@torch.no_grad()
def test_logits(path: Path) -> None:
    fixture = load(path)
    model = converted(fixture)
    assert isinstance(model, Seq2Seq)
    for case in fixture["cases"].values():
        src, lengths, prev = case["src_right"], case["src_lengths"], case["prev_output_tokens"]
        expected = truth(case)
        torch.testing.assert_close(model(src, lengths, prev), expected["logits"], atol=1e-5, rtol=0)
        memory = model.encode(src, lengths).hidden
        inside = src != PAD
        torch.testing.assert_close(
            memory[inside], expected["encoder_out_TBC"].transpose(0, 1)[inside], atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
@pytest.mark.parametrize("num_new", [1, 3])
@torch.no_grad()
def test_step_by_step(path: Path, num_new: int) -> None:
    fixture = load(path)
    model = converted(fixture)
    assert isinstance(model, Seq2Seq)
    for case in fixture["cases"].values():
        prev = case["prev_output_tokens"]
        state = model.start(model.encode(case["src_right"], case["src_lengths"]), 1, prev.shape[1])
        steps = [model.step(part[:, None], state)[:, 0] for part in prev.split(num_new, dim=1)]
        is_token = prev != PAD
        expected = truth(case)["logits_incremental"]
        torch.testing.assert_close(torch.cat(steps, dim=1)[is_token], expected[is_token], atol=1e-5, rtol=0)


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_gradients_of_the_label_smoothed_sum(path: Path) -> None:
    fixture = load(path)
    for case in fixture["cases"].values():
        model = converted(fixture)
        logits = model(case["src_right"], case["src_lengths"], case["prev_output_tokens"]).flatten(0, 1)
        target, epsilon = case["target"].flatten(), 0.1 * logits.shape[1] / (logits.shape[1] - 1)
        sums = {"ignore_index": PAD, "reduction": "sum"}
        nll = F.cross_entropy(logits, target, **sums)  # type: ignore[arg-type]
        loss = F.cross_entropy(logits, target, label_smoothing=epsilon, **sums)  # type: ignore[arg-type]
        assert nll.item() == pytest.approx(float(case["nll_sum"]), rel=1e-5)
        assert loss.item() == pytest.approx(float(case["loss_ls0.1_sum"]), rel=1e-5)
        loss.backward()
        check_gradients(fixture, case["grads"], dict(model.named_parameters(remove_duplicate=False)))


def check_gradients(fixture: dict[str, Any], grads: dict[str, Tensor], parameters: dict[str, Tensor]) -> None:
    """The gradients have the names of weights, and so they can be converted like weights."""
    is_tied = fixture["args"]["share_all_embeddings"]
    named = {name: grads.get(name, torch.zeros_like(weight)) for name, weight in fixture["state_dict"].items()}
    if is_tied:
        tables = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "decoder.output_projection.weight")
        named |= dict.fromkeys(tables, next(grads[name] for name in tables if name in grads))
    _, expected = convert_model(fixture["args"], named)
    assert expected.keys() == parameters.keys()
    for name, grad in expected.items():
        found = parameters[name].grad
        assert found is not None, name
        assert (found - grad).abs().max() <= 1e-4 * grad.abs().max(), name


@pytest.mark.parametrize("path", LMS, ids=lambda path: path.stem)
@torch.no_grad()
def test_language_models(path: Path) -> None:
    fixture = load(path)
    model, prev = converted(fixture), fixture["prev_output_tokens"]
    assert isinstance(model, LanguageModel)
    is_token = prev != PAD
    logits = model(prev)
    torch.testing.assert_close(logits, fixture["logits"], atol=1e-5, rtol=0)
    state = model.start(len(prev), 1, prev.shape[1])
    steps = torch.cat([model.step(part[:, None], state)[:, 0] for part in prev.split(1, dim=1)], dim=1)
    torch.testing.assert_close(steps[is_token], logits[is_token], atol=1e-5, rtol=0)
