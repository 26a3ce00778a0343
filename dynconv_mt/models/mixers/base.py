"""The slot that every token mixer fills, and the registry that maps a config type to its mixer.

Shapes: B sentences, W beam slots, T positions, N new positions, D model width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from dynconv_mt.errors import UserError
from dynconv_mt.models.config import MixerConfig


@dataclass(frozen=True)
class Padding:
    """Where the tokens of a right-padded batch end; made once per forward and shared by all layers."""

    lengths: Tensor  # (B,) int64
    mask: Tensor  # (B, 1, 1, T) bool, True where a token stands; broadcasts over heads and queries

    @classmethod
    def of(cls, lengths: Tensor, max_length: int) -> Padding:
        """Return the padding of sentences of `lengths` (B,) in a batch that is `max_length` wide."""
        positions = torch.arange(max_length, device=lengths.device)
        return cls(lengths, (positions < lengths[:, None])[:, None, None, :])


@dataclass(frozen=True)
class MixerSlot:
    """The place that a mixer is built for."""

    dim: int  # D, width of its input and output
    layer: int  # index from 0 in its stack
    causal: bool  # True in a decoder: a position sees itself and earlier ones only


class MixerState(Protocol):
    """What a mixer remembers between decoding steps: preallocated buffers, sentences in dim 0, beam slots in dim 1."""

    def select(self, sentences: Tensor) -> None:
        """Keep these sentences (B',) int64, in this order."""

    def reorder(self, parents: Tensor) -> None:
        """Let slot w of sentence b continue from slot parents[b, w]; parents (B, W') int64."""


class TokenMixer(nn.Module):
    """Base of all mixers. Training (`forward`) and decoding (`step`) are one function with one set of weights."""

    def __init__(self, config: Any, slot: MixerSlot) -> None:
        super().__init__()

    def forward(self, x: Tensor, padding: Padding | None = None) -> Tensor:
        """Map (B, T, D) to (B, T, D). `padding` None: every position is a token."""
        raise NotImplementedError

    def start(self, like: Tensor, beam: int, max_length: int) -> MixerState:
        """Return the state before the first token, for B sentences and dtype and device of `like` (B, ...).

        `beam`: beam slots to make room for; `max_length`: positions that will be fed at most. Causal slots only.
        """
        raise NotImplementedError

    def step(self, x: Tensor, state: Any) -> Tensor:
        """Map N new positions (B, W, N, D) to (B, W, N, D), W at most the beam of `start`; updates `state` in place."""
        raise NotImplementedError

    def initialise(self) -> None:
        """Set the weights that `models.init` has no rule for."""


M = TypeVar("M", bound=type[TokenMixer])
_MIXERS: dict[type[MixerConfig], type[TokenMixer]] = {}


def register_mixer(config_type: type[MixerConfig]) -> Callable[[M], M]:
    """Class decorator: use this mixer wherever a stack's `mixer` is a `config_type`."""

    def enter(mixer_type: M) -> M:
        _MIXERS[config_type] = mixer_type
        return mixer_type

    return enter


def registered_mixers() -> dict[type[MixerConfig], type[TokenMixer]]:
    """Return all registered mixers by config type."""
    return dict(_MIXERS)


def build_mixer(config: MixerConfig, slot: MixerSlot) -> TokenMixer:
    """Return the mixer registered for the type of `config`. Raises UserError where that lacks a method."""
    if type(config) not in _MIXERS:
        known = ", ".join(kind.__name__ for kind in _MIXERS)
        raise TypeError(f"no mixer is registered for {type(config).__name__}; registered: {known}")
    mixer = _MIXERS[type(config)]
    needed = ("forward", "start", "step") if slot.causal else ("forward",)
    if missing := [name for name in needed if getattr(mixer, name) is getattr(TokenMixer, name)]:
        raise UserError(f"{mixer.__name__}: a token mixer must define {', '.join(missing)}")
    return mixer(config, slot)
