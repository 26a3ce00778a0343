"""A decoder on its own. B sentences, W beam slots, T positions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dynconv_mt.errors import UserError
from dynconv_mt.models import LanguageModel, build_model, load_model, preset, save_model
from dynconv_mt.models.config import AttentionConfig, ModelConfig, Norm, Positions, StackConfig, Tying

NO_ENCODER = StackConfig(layers=0)
CONFIGS = {
    "lightconv": replace(preset("lightconv_lm"), dim=64, tgt_vocab_size=40),
    "dynamicconv": replace(preset("dynamicconv_lm_gbw"), dim=32, tgt_vocab_size=40, tying=Tying.decoder),
    "attention": ModelConfig(
        32, NO_ENCODER, StackConfig(2, 48, AttentionConfig(4)), tying=Tying.decoder, norm=Norm.pre, tgt_vocab_size=40
    ),
    "no_positions": replace(preset("lightconv_lm"), dim=64, tgt_vocab_size=40, positions=Positions.none),
}
PREV = torch.randint(4, 40, (3, 9), generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    torch.manual_seed(0)
    model = build_model(CONFIGS[request.param])
    assert isinstance(model, LanguageModel)
    return model.eval()


@torch.no_grad()
def test_steps_equal_the_full_forward(model: LanguageModel) -> None:
    expected = model(PREV)
    assert expected.shape == (3, 9, 40)
    state = model.start(num_sentences=3, beam=2, max_length=9)
    pieces = [model.step(part[:, None].repeat(1, 2, 1), state)[:, 1] for part in PREV.split([1, 1, 4, 3], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), expected, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_reordered_and_selected_texts_follow_their_history(model: LanguageModel) -> None:
    state = model.start(num_sentences=3, beam=2, max_length=9)
    both = torch.stack([PREV[:, :4], PREV[:, :4].flip(0)], dim=1)
    model.step(both, state)
    state.reorder(torch.tensor([[1, 0], [1, 1], [0, 0]]))
    state.select(torch.tensor([1, 0]))
    y = model.step(PREV[:2, None, 4:5].repeat(1, 2, 1), state)[:, :, 0]
    for row, (sentence, slots) in enumerate([(1, [1, 1]), (0, [1, 0])]):
        for slot, parent in enumerate(slots):
            history = torch.cat([both[sentence, parent], PREV[row, 4:5]])[None]
            torch.testing.assert_close(y[row, slot], model(history)[0, -1], atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_the_future_and_padding_change_nothing(model: LanguageModel) -> None:
    padded = torch.cat([PREV[:, :5], torch.ones(3, 4, dtype=torch.int64)], dim=1)
    torch.testing.assert_close(model(padded)[:, :5], model(PREV)[:, :5], atol=0, rtol=0)


def test_saved_and_loaded_it_is_the_same(model: LanguageModel, tmp_path: Path) -> None:
    save_model(tmp_path, model)
    loaded = load_model(tmp_path)
    assert isinstance(loaded, LanguageModel)
    assert loaded.config == model.config
    assert torch.equal(loaded(PREV), model(PREV))


def test_only_the_layers_have_norms() -> None:
    names = build_model(CONFIGS["lightconv"]).state_dict()
    assert "decoder.layers.0.mixer_residual.norm.weight" in names
    assert not [name for name in names if name.startswith("decoder.norm") or "cross" in name or "encoder" in name]


def test_a_vocabulary_is_needed() -> None:
    with pytest.raises(UserError, match=r"model\.tgt_vocab_size=0"):
        build_model(preset("lightconv_lm"))
