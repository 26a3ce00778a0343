"""Steps over the ring buffer are the causal operator, however the beam moves.

Shapes: B sentences, W beam slots, N new positions, C channels, H heads, K taps.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dynconv_mt.ops import ConvState, dynamic_conv, dynamic_conv_step, light_conv, light_conv_step

H, C = 2, 6


def full_dynamic(x: Tensor, logits: Tensor, kernel_size: int, softmax: bool) -> Tensor:
    """Return the causal dynamic_conv (B, W, T, C) of x (B, W, T, C), logits (B, W, T, H·K)."""
    y = dynamic_conv(x.flatten(0, 1), logits.flatten(0, 1), kernel_size, kernel_size - 1, softmax=softmax)
    return y.view(x.shape)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_steps_are_the_causal_operator(data: st.DataObject) -> None:
    """Any numbers of new positions, beam widths, moves of the beam and departures of sentences."""
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000), "seed"))
    kernel_size, beam = data.draw(st.integers(1, 9), "K"), data.draw(st.integers(1, 4), "beam")
    softmax, is_dynamic = data.draw(st.booleans(), "softmax"), data.draw(st.booleans(), "dynamic")
    num_sentences, num_slots = data.draw(st.integers(1, 3), "B"), data.draw(st.integers(1, beam), "W")
    weight = torch.randn(H, kernel_size, dtype=torch.float64, generator=generator)
    state = ConvState.empty(num_sentences, beam, kernel_size, torch.empty(0, C, dtype=torch.float64))
    history = torch.empty(num_sentences, num_slots, 0, C + H * kernel_size, dtype=torch.float64)  # x and logits
    for _ in range(data.draw(st.integers(1, 8), "steps")):
        num_new = data.draw(st.integers(1, 12), "N")
        new = torch.randn(*history.shape[:2], num_new, history.shape[3], dtype=torch.float64, generator=generator)
        history = torch.cat([history, new], dim=2)
        (x, logits), (new_x, new_logits) = (part.split([C, H * kernel_size], dim=3) for part in (history, new))
        if is_dynamic:
            found = dynamic_conv_step(new_x, new_logits, state, softmax=softmax)
            expected = full_dynamic(x, logits, kernel_size, softmax)
        else:
            found = light_conv_step(new_x, weight, state, softmax=softmax)
            expected = light_conv(x.flatten(0, 1), weight, kernel_size - 1, softmax=softmax).unflatten(0, x.shape[:2])
        torch.testing.assert_close(found, expected[:, :, -num_new:])
        if data.draw(st.booleans(), "sentences leave"):
            kept = torch.randperm(len(history), generator=generator)[: data.draw(st.integers(1, len(history)), "B'")]
            history = history[kept]
            state.select(kept)
        num_slots = data.draw(st.integers(1, beam), "W'")
        parents = torch.randint(history.shape[1], (len(history), num_slots), generator=generator)
        history = history[torch.arange(len(history))[:, None], parents]
        state.reorder(parents)


def test_nothing_grows_and_no_state_is_copied() -> None:
    state = ConvState.empty(2, 3, 7, torch.empty(0, C))
    buffer, shapes = state.buffer, (state.buffer.shape, state.slots.shape)
    for _ in range(50):
        dynamic_conv_step(torch.randn(2, 3, 1, C), torch.randn(2, 3, 1, H * 7), state)
        state.reorder(torch.randint(3, (2, 3)))
    assert state.buffer is buffer
    assert (state.buffer.shape, state.slots.shape) == shapes
    assert state.position == 50


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_precisions(dtype: torch.dtype) -> None:
    x, weight = torch.randn(2, 3, 5, C, dtype=dtype), torch.randn(H, 4)
    state = ConvState.empty(2, 3, 4, x)
    found = torch.cat([light_conv_step(part, weight, state) for part in x.split([2, 3], dim=2)], dim=2)
    expected = light_conv(x.flatten(0, 1), weight, 3).unflatten(0, (2, 3))
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected)


def test_no_graph_is_kept() -> None:
    weight = torch.randn(H, 4, requires_grad=True)
    state = ConvState.empty(1, 1, 4, torch.empty(0, C))
    y = light_conv_step(torch.randn(1, 1, 1, C, requires_grad=True), weight, state)
    assert not y.requires_grad
    assert not state.buffer.requires_grad


def test_wrong_arguments_are_named() -> None:
    state = ConvState.empty(2, 3, 7, torch.empty(0, C))
    x, logits = torch.randn(2, 3, 1, C), torch.randn(2, 3, 1, H * 7)
    with pytest.raises(
        ValueError, match=r"x: expected shape \(2, at most 3, N, 6\) for this state, found \(2, 4, 1, 6\)"
    ):
        dynamic_conv_step(torch.randn(2, 4, 1, C), torch.randn(2, 4, 1, H * 7), state)
    with pytest.raises(ValueError, match=r"logits: expected shape \(2, 3, 1, H·7\) .*, found \(2, 3, 1, 13\)"):
        dynamic_conv_step(x, logits[..., 1:], state)
    with pytest.raises(ValueError, match=r"weight: expected shape \(H, 7\) for this state, found \(2, 5\)"):
        light_conv_step(x, torch.randn(2, 5), state)
    with pytest.raises(ValueError, match=r"weight: its 4 heads do not divide the 6 channels"):
        light_conv_step(x, torch.randn(4, 7), state)
    with pytest.raises(ValueError, match="kernel_size=0"):
        ConvState.empty(2, 3, 0, torch.empty(0, C))
