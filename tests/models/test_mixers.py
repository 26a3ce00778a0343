"""Properties that every registered token mixer has. B sentences, W beam slots, T positions, D width."""

import pytest
import torch
from torch import Tensor

from dynconv_mt.models.config import (
    AttentionConfig,
    ConvConfig,
    DynamicConvConfig,
    LightConvConfig,
    MixerConfig,
)
from dynconv_mt.models.mixers import MixerSlot, Padding, TokenMixer, build_mixer
from dynconv_mt.models.mixers.base import registered_mixers

B, W, T, D = 3, 4, 9, 24
CONFIGS: list[MixerConfig] = [
    AttentionConfig(heads=4),
    LightConvConfig(heads=4, kernel_sizes=[3]),
    LightConvConfig(heads=3, kernel_sizes=[15], glu=False, softmax=False),
    LightConvConfig(heads=4, kernel_sizes=[4], conv_dim=40),
    DynamicConvConfig(heads=4, kernel_sizes=[1]),
    DynamicConvConfig(heads=4, kernel_sizes=[7], conv_dim=8),
    DynamicConvConfig(heads=2, kernel_sizes=[31], softmax=False, glu=False),
]
IDS = [f"{type(c).__name__}-{getattr(c, 'kernel_sizes', '')}" for c in CONFIGS]


def make(config: MixerConfig, causal: bool) -> TokenMixer:
    torch.manual_seed(1)
    mixer = build_mixer(config, MixerSlot(D, layer=0, causal=causal))
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return mixer.eval()


def test_every_registered_mixer_is_tried_here() -> None:
    assert {type(config) for config in CONFIGS} >= set(registered_mixers())


@pytest.mark.parametrize("config", CONFIGS, ids=IDS)
@pytest.mark.parametrize("num_new", [1, 2, 4])
def test_steps_equal_the_full_forward(config: MixerConfig, num_new: int) -> None:
    mixer, x = make(config, causal=True), torch.randn(B, T, D)
    state = mixer.start(x, beam=2, max_length=T)
    two_slots = torch.stack([x, x.flip(0)], dim=1)  # (B, 2, T, D)
    steps = [mixer.step(part, state) for part in two_slots.split(num_new, dim=2)]
    y = torch.cat(steps, dim=2)
    torch.testing.assert_close(y[:, 0], mixer(x), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(y[:, 1], mixer(x.flip(0)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("config", CONFIGS, ids=IDS)
def test_reordered_and_selected_states_follow_their_history(config: MixerConfig) -> None:
    """Random beam moves and departures: each slot's output is that of the history it descends from."""
    mixer = make(config, causal=True)
    generator = torch.Generator().manual_seed(5)
    history = torch.randn(B, W, 0, D)
    state = mixer.start(history, beam=W, max_length=T)
    for step in range(T):
        new = torch.randn(history.shape[0], W, 1, D, generator=generator)
        history = torch.cat([history, new], dim=2)
        y = mixer.step(new, state)
        expected = mixer(history.flatten(0, 1)).unflatten(0, (-1, W))[:, :, -1:]
        torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-4)
        parents = torch.randint(W, history.shape[:2], generator=generator)
        history = history[torch.arange(len(history))[:, None], parents]
        state.reorder(parents)
        if step == 4:
            keep = torch.tensor([2, 0])
            history = history[keep]
            state.select(keep)


@pytest.mark.parametrize("config", CONFIGS, ids=IDS)
def test_one_slot_widens_to_a_beam(config: MixerConfig) -> None:
    mixer, x = make(config, causal=True), torch.randn(B, 3, D)
    state = mixer.start(x, beam=W, max_length=3)
    mixer.step(x[:, None, :2], state)
    state.reorder(torch.zeros(B, W, dtype=torch.int64))
    y = mixer.step(x[:, None, 2:].repeat(1, W, 1, 1), state)
    torch.testing.assert_close(y, mixer(x)[:, None, 2:].expand(-1, W, -1, -1), atol=1e-5, rtol=1e-4)


def full_and_padded(mixer: TokenMixer, x: Tensor, lengths: Tensor) -> tuple[list[Tensor], Tensor]:
    alone = [mixer(x[b : b + 1, :n])[0] for b, n in enumerate(lengths.tolist())]
    return alone, mixer(x, Padding.of(lengths, x.shape[1]))


@pytest.mark.parametrize("config", CONFIGS, ids=IDS)
@pytest.mark.parametrize("causal", [False, True])
def test_padding_never_leaks(config: MixerConfig, causal: bool) -> None:
    """What stands in padded positions, and how many there are, changes no token's output."""
    mixer, x, lengths = make(config, causal), torch.randn(B, T, D), torch.tensor([T, 1, 4])
    x[1, 1:] = 1e4
    alone, padded = full_and_padded(mixer, x, lengths)
    for b, expected in enumerate(alone):
        torch.testing.assert_close(padded[b, : lengths[b]], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("config", CONFIGS, ids=IDS)
def test_causal_mixers_never_look_ahead(config: MixerConfig) -> None:
    mixer, x = make(config, causal=True), torch.randn(B, T, D)
    changed = x.clone()
    changed[:, 5:] += 1.0
    torch.testing.assert_close(mixer(x)[:, :5], mixer(changed)[:, :5], atol=0, rtol=0)


@pytest.mark.parametrize("config_type", [LightConvConfig, DynamicConvConfig])
def test_drop_connect_acts_in_training_only(config_type: type[ConvConfig]) -> None:
    mixer, x = make(config_type(heads=4, kernel_sizes=[5], weight_dropout=0.5), causal=False), torch.randn(B, T, D)
    assert torch.equal(mixer(x), mixer(x))
    mixer.train()
    assert not torch.equal(mixer(x), mixer(x))
    torch.manual_seed(3)
    first = mixer(x)
    torch.manual_seed(3)
    assert torch.equal(first, mixer(x))


def test_the_window_of_a_convolution_does_not_grow() -> None:
    config = DynamicConvConfig(heads=4, kernel_sizes=[7])
    mixer, x = make(config, causal=True), torch.randn(B, 1, 1, D)
    short, long = (mixer.start(x[:, 0], beam=1, max_length=n) for n in (5, 5000))
    sizes = {name: value.numel() for name, value in vars(short).items() if isinstance(value, torch.Tensor)}
    with torch.no_grad():
        for _ in range(50):
            mixer.step(x, long)
    assert sizes["buffer"] == B * (7 - 1) * D
    assert sizes == {name: value.numel() for name, value in vars(long).items() if isinstance(value, torch.Tensor)}
