"""Dropout: its statistics, and that it is a function of torch's generator."""

import pytest
import torch

from dynconv_mt.models.dropout import Dropout


@pytest.mark.parametrize("p", [0.1, 0.3, 0.75])
def test_keeps_the_mean_and_drops_the_right_share(p: float) -> None:
    torch.manual_seed(1)
    x = torch.ones(200_003)  # not a multiple of four
    y = Dropout(p)(x)
    is_dropped = y == 0
    assert is_dropped.double().mean().item() == pytest.approx(p, abs=0.005)
    assert y.mean().item() == pytest.approx(1.0, abs=0.01)
    torch.testing.assert_close(y[~is_dropped], torch.full_like(y[~is_dropped], 1 / (1 - p)), rtol=1e-4, atol=0)
    neighbours = (is_dropped[1:] & is_dropped[:-1]).double().mean().item()
    assert neighbours == pytest.approx(p * p, abs=0.005)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_gradient_has_the_same_mask_and_the_seed_decides_it(dtype: torch.dtype) -> None:
    x = torch.randn(5, 7, 3, dtype=dtype, requires_grad=True)
    torch.manual_seed(2)
    y = Dropout(0.5)(x)
    y.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad * x, y)
    torch.manual_seed(2)
    assert torch.equal(Dropout(0.5)(x), y)
    assert not torch.equal(Dropout(0.5)(x), y)


def test_nothing_happens_in_evaluation_or_at_zero() -> None:
    x = torch.randn(9)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x


def test_nearly_everything_may_be_dropped() -> None:
    """Probabilities are rounded to 1/65536, but not to 1."""
    y = Dropout(0.999999)(torch.ones(100_000))
    assert y.isfinite().all()
    assert (y != 0).double().mean() < 0.001
