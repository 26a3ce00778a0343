"""Attention in 16-bit types on a CPU. B sentences, T positions, D width."""

import pytest
import torch
from torch.nn import functional as F

from dynconv_mt.models.config import AttentionConfig
from dynconv_mt.models.mixers import MixerSlot, Padding, build_mixer

B, D = 2, 32


@pytest.mark.parametrize(("length", "in_training"), [(9, torch.float32), (300, torch.bfloat16)])
def test_short_sentences_train_in_fp32(monkeypatch: pytest.MonkeyPatch, length: int, in_training: torch.dtype) -> None:
    torch.manual_seed(1)
    mixer = build_mixer(AttentionConfig(heads=4), MixerSlot(D, layer=0, causal=True))
    padding = Padding.of(torch.tensor([length, length - 4]), length)
    x = torch.randn(B, length, D)
    grad_y = torch.randn(B, length, D) * padding.mask.view(B, length, 1)
    expected = mixer(x, padding)
    expected_grads = torch.autograd.grad(expected, list(mixer.parameters()), grad_y)

    dtypes: list[torch.dtype] = []
    attention = F.scaled_dot_product_attention

    def noted(query: torch.Tensor, *arguments: object) -> torch.Tensor:
        dtypes.append(query.dtype)
        return attention(query, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(F, "scaled_dot_product_attention", noted)
    with torch.autocast("cpu", torch.bfloat16):
        y = mixer(x, padding)
        with torch.no_grad():
            mixer(x, padding)
    grads = torch.autograd.grad(y, list(mixer.parameters()), grad_y.to(y.dtype))
    assert dtypes == [in_training, torch.bfloat16]
    assert y.dtype is torch.bfloat16
    for actual, wanted in zip((y, *grads), (expected, *expected_grads), strict=True):
        assert (actual.float() - wanted).norm() < 0.02 * wanted.norm()


def test_double_precision_stays() -> None:
    mixer = build_mixer(AttentionConfig(heads=4), MixerSlot(D, layer=0, causal=False)).double()
    x = torch.randn(B, 5, D, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(mixer, (x,))
