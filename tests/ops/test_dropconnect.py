"""DropConnect's mask: the documented bits, the right statistics, and the same in forward and backward.

Shapes: B sentences, T positions, C channels, H heads, K taps.
"""

import itertools

import pytest
import torch
from ops import definition
from torch import Tensor

from dynconv_mt.ops import dynamic_conv, light_conv
from dynconv_mt.ops.dropconnect import drop_connect_mask, random_bits

MASK_32 = 2**32 - 1


def mix(v: int) -> int:
    """Return `mix` as the docstring of `dropconnect` writes it, in integers without bound."""
    v ^= v >> 16
    v = v * 0x7FEB352D & MASK_32
    v ^= v >> 15
    v = v * 0x846CA68B & MASK_32
    return v ^ v >> 16


def bits(seed: int, row: int, k: int) -> int:
    """Return the documented bits of one tap."""
    state = 0x9E3779B9
    for word in (seed & MASK_32, seed >> 32 & MASK_32, row >> 32, row & MASK_32):
        state = mix(state ^ word)
    return mix(state + k * 0x9E3779B9 & MASK_32)


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**62 - 3, -5])
def test_bits_are_the_documented_ones(seed: int) -> None:
    shape = (2, 3, 4, 5)
    found = random_bits(shape, torch.tensor(seed)).long() & MASK_32
    expected = [bits(seed, row, k) for row, k in itertools.product(range(24), range(5))]
    assert found.flatten().tolist() == expected


def test_known_bits() -> None:
    """What a kernel in another language can be checked against: seed 123456789012345, two positions, three taps."""
    found = random_bits((1, 2, 1, 3), torch.tensor([123456789012345])).long() & MASK_32
    expected = [0x0F5B9B71, 0xB4CE332B, 0xF9DD3808, 0xAE9EC0DE, 0x4731E9F4, 0x9BF75BF5]
    assert found.flatten().tolist() == expected


@pytest.mark.parametrize("dropout", [0.05, 0.1, 0.5, 0.9])
def test_statistics(dropout: float) -> None:
    """The rate is right, and the masks of neighbours (sentences, positions, heads, taps, seeds) do not correlate."""
    shape = (16, 32, 8, 31)
    mask = drop_connect_mask(shape, dropout, torch.tensor([11]), torch.float32)
    assert set(mask.unique().tolist()) == {0.0, torch.tensor(1.0 / (1.0 - dropout)).item()}
    dropped = (mask == 0.0).double()
    num_taps, variance = dropped.numel(), dropout * (1.0 - dropout)
    assert abs(dropped.mean().item() - dropout) < 5 * (variance / num_taps) ** 0.5
    for dim in range(4):
        rates = dropped.mean([d for d in range(4) if d != dim])
        assert (rates - dropout).abs().max() < 5.5 * (variance * shape[dim] / num_taps) ** 0.5
    other_seed = (drop_connect_mask(shape, dropout, torch.tensor([12]), torch.float32) == 0.0).double()
    pairs = [
        (dropped, other_seed),
        *((dropped.narrow(d, 0, n - 1), dropped.narrow(d, 1, n - 1)) for d, n in enumerate(shape)),
    ]
    for a, b in pairs:
        covariance = ((a - dropout) * (b - dropout)).mean().item()
        assert abs(covariance) < 5 * variance / a.numel() ** 0.5


@pytest.mark.parametrize("num_positions", [9, 50])
def test_both_operators_use_it(num_positions: int) -> None:
    """Forward and backward."""
    x = torch.randn(2, num_positions, 6, dtype=torch.float64, requires_grad=True)
    logits = torch.randn(2, num_positions, 15, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    seed = torch.tensor([77])
    mask = drop_connect_mask((2, num_positions, 3, 5), 0.3, seed, torch.float64)
    y = dynamic_conv(x, logits, 5, 2, dropout=0.3, seed=seed)
    expected = definition.convolve(x, logits.unflatten(2, (3, 5)).softmax(-1) * mask, 2)
    compare(y, expected, x, logits)
    y = light_conv(x, weight, 2, dropout=0.3, seed=seed)
    compare(y, definition.convolve(x, weight.softmax(-1) * mask, 2), x, weight)


def compare(y: Tensor, expected: Tensor, *inputs: Tensor) -> None:
    """Compare y and its gradients by the inputs."""
    torch.testing.assert_close(y, expected)
    found, wanted = (torch.autograd.grad(tensor.sin().sum(), inputs) for tensor in (y, expected))
    torch.testing.assert_close(found, wanted)


def test_the_seed_is_all_that_matters() -> None:
    x, logits = torch.randn(2, 9, 6), torch.randn(2, 9, 15)
    first, same, other = (dynamic_conv(x, logits, 5, 2, dropout=0.5, seed=torch.tensor([s])) for s in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
