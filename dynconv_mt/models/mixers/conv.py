"""LightConv and DynamicConv as token mixers (paper, sections 3 and 4).

Shapes: B sentences, W beam slots, T positions, N new positions, D model width, C conv width, H heads, K taps.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynconv_mt.models.config import ConvConfig, DynamicConvConfig, LightConvConfig
from dynconv_mt.models.dropout import Dropout
from dynconv_mt.models.mixers.base import MixerSlot, Padding, TokenMixer, register_mixer
from dynconv_mt.ops.decoding import ConvState, dynamic_conv_step, light_conv_step
from dynconv_mt.ops.functional import dynamic_conv, light_conv


class ConvMixer(TokenMixer):
    """Dropout, linear (and GLU), depthwise convolution, linear. Subclasses say where the kernels come from."""

    def __init__(self, config: ConvConfig, slot: MixerSlot) -> None:
        super().__init__(config, slot)
        self.heads, self.softmax = config.heads, config.softmax
        self.conv_dim = config.conv_dim or slot.dim
        self.kernel_size = config.kernel_sizes[slot.layer]
        self.padding_left = self.kernel_size - 1 if slot.causal else self.kernel_size // 2
        self.weight_dropout, self.has_glu = config.weight_dropout, config.glu
        self.input_dropout = Dropout(config.input_dropout)
        self.input = nn.Linear(slot.dim, (2 if config.glu else 1) * self.conv_dim)
        self.output = nn.Linear(self.conv_dim, slot.dim)

    def extra_repr(self) -> str:
        """Say what the parameters do not show."""
        return f"heads={self.heads}, kernel_size={self.kernel_size}, padding_left={self.padding_left}"

    def forward(self, x: Tensor, padding: Padding | None = None) -> Tensor:
        """Map (B, T, D) to (B, T, D)."""
        lengths = None if padding is None else padding.lengths
        y: Tensor = self.output(self.convolve(self.project(x), lengths))
        return y

    def project(self, x: Tensor) -> Tensor:
        """Map (..., D) to the input of the convolution (..., C)."""
        h: Tensor = self.input(self.input_dropout(x))
        return F.glu(h, dim=-1) if self.has_glu else h

    def drop_connect(self) -> tuple[float, Tensor | None]:
        """Return the DropConnect probability and a fresh seed (1,) for its mask, (0, None) in evaluation."""
        if not self.training or self.weight_dropout == 0.0:
            return 0.0, None
        return self.weight_dropout, torch.randint(2**62, (1,), device=self.output.weight.device)

    @abstractmethod
    def convolve(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """Map (B, T, C) to (B, T, C); positions at or beyond `lengths` (B,) are read as zero."""

    def start(self, like: Tensor, beam: int, max_length: int) -> ConvState:
        """Return an empty window of the last K - 1 inputs: its size does not depend on `max_length`."""
        return ConvState.empty(like.shape[0], beam, self.kernel_size, like.new_empty(0, self.conv_dim))


@register_mixer(LightConvConfig)
class LightConv(ConvMixer):
    """y[t, c] = Σ_k softmax(w)[h(c), k] · x[t + k - padding_left, c]: one kernel per head for all positions."""

    def __init__(self, config: LightConvConfig, slot: MixerSlot) -> None:
        super().__init__(config, slot)
        self.kernel = nn.Parameter(torch.empty(self.heads, self.kernel_size))  # (H, K)

    def initialise(self) -> None:
        """Xavier-uniform over (H, K)."""
        nn.init.xavier_uniform_(self.kernel)

    def convolve(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """Map (B, T, C) to (B, T, C)."""
        dropout, seed = self.drop_connect()
        return light_conv(
            x, self.kernel, self.padding_left, softmax=self.softmax, dropout=dropout, seed=seed, lengths=lengths
        )

    def step(self, x: Tensor, state: ConvState) -> Tensor:
        """Map N new positions (B, W, N, D) to (B, W, N, D)."""
        y: Tensor = self.output(light_conv_step(self.project(x), self.kernel, state, softmax=self.softmax))
        return y


@register_mixer(DynamicConvConfig)
class DynamicConv(ConvMixer):
    """LightConv whose kernels are predicted at each position from that position alone: w[t] = W x[t]."""

    def __init__(self, config: DynamicConvConfig, slot: MixerSlot) -> None:
        super().__init__(config, slot)
        self.predictor = nn.Linear(self.conv_dim, self.heads * self.kernel_size, bias=False)

    def initialise(self) -> None:
        """Uniform ± 1/√C, torch's default for linear layers."""
        self.predictor.reset_parameters()

    def convolve(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """Map (B, T, C) to (B, T, C)."""
        logits, (dropout, seed) = self.predictor(x), self.drop_connect()
        sizes = (self.kernel_size, self.padding_left)
        return dynamic_conv(x, logits, *sizes, softmax=self.softmax, dropout=dropout, seed=seed, lengths=lengths)

    def step(self, x: Tensor, state: ConvState) -> Tensor:
        """Map N new positions (B, W, N, D) to (B, W, N, D)."""
        h = self.project(x)
        y: Tensor = self.output(dynamic_conv_step(h, self.predictor(h), state, softmax=self.softmax))
        return y
