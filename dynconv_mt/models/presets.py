"""Named architectures (paper, section 5 and appendix): functions that return a ModelConfig. No torch, no Hydra."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from dynconv_mt.errors import UserError
from dynconv_mt.models.config import (
    AttentionConfig,
    ConvConfig,
    DynamicConvConfig,
    LightConvConfig,
    MixerConfig,
    ModelConfig,
    Norm,
    StackConfig,
    Tying,
)

Preset = Callable[[], ModelConfig]
_PRESETS: dict[str, Preset] = {}


def register_preset(name: str) -> Callable[[Preset], Preset]:
    """Decorator: offer what the function returns as `model=<name>`."""

    def enter(function: Preset) -> Preset:
        _PRESETS[name] = function
        return function

    return enter


def preset_names() -> list[str]:
    """Return the names of all registered architectures."""
    return sorted(_PRESETS)


def translation_preset_names() -> list[str]:
    """Return the names of those that are no language models: what dc-train takes."""
    return [name for name in preset_names() if not preset(name).is_language_model]


def preset(name: str) -> ModelConfig:
    """Return a fresh config of a named architecture. Raises UserError with the right names for a wrong one."""
    if name not in _PRESETS:
        known = translation_preset_names()
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else "."
        raise UserError(f"model={name}: no such architecture{hint} Known: {', '.join(known)}")
    return _PRESETS[name]()


@dataclass(frozen=True)
class Size:
    """The numbers of one row of the paper's table that all three mixers share."""

    dim: int
    ffn_dim: int
    heads: int
    kernels: tuple[int, ...]  # kernel sizes of the encoder's layers, in taps
    decoder_kernels: tuple[int, ...]  # kernel sizes of the decoder's layers, in taps
    transformer_layers: int  # layers a side of the self-attention baseline of the same size
    glu: bool
    dropout: float
    attention_dropout: float = 0.0
    weight_dropout: float = 0.0
    input_dropout: float = 0.0
    tying: Tying = Tying.all


FOUR, SIX, SEVEN = (3, 7, 15, 31), (3, 7, 15, 31, 31, 31), (3, 7, 15, 31, 31, 31, 31)
BASE = Size(512, 2048, 8, SEVEN, SIX, transformer_layers=6, glu=True, dropout=0.1, input_dropout=0.1)
BIG = replace(BASE, dim=1024, ffn_dim=4096, heads=16, dropout=0.3, attention_dropout=0.1, weight_dropout=0.1)
LM = replace(BASE, kernels=(), transformer_layers=0, tying=Tying.none)
LANGUAGE_MODELS = {
    "lm": LM,
    "lm_gbw": replace(LM, ffn_dim=4096, heads=16, weight_dropout=0.1),
}
SIZES = {
    "tiny": Size(128, 256, 4, FOUR, FOUR, transformer_layers=4, glu=True, dropout=0.3),
    "iwslt_de_en": Size(
        512,
        1024,
        4,
        SEVEN,
        SIX,
        transformer_layers=6,
        glu=False,
        dropout=0.3,
        attention_dropout=0.1,
        weight_dropout=0.1,
        tying=Tying.none,
    ),
    "wmt_en_de": BASE,
    "wmt_en_de_big": BIG,
    "wmt_en_fr_big": replace(BIG, dropout=0.1),
    "wmt_zh_en_big": replace(BIG, dropout=0.2, attention_dropout=0.2, weight_dropout=0.2, tying=Tying.decoder),
}


def _model(size: Size, encoder: MixerConfig, decoder: MixerConfig, num_layers: tuple[int, int]) -> ModelConfig:
    return ModelConfig(
        dim=size.dim,
        encoder=StackConfig(num_layers[0], size.ffn_dim, encoder),
        decoder=StackConfig(num_layers[1], size.ffn_dim, decoder),
        cross_heads=size.heads,
        dropout=size.dropout,
        attention_dropout=size.attention_dropout,
        tying=size.tying,
    )


def _transformer(size: Size) -> ModelConfig:
    encoder, decoder = (AttentionConfig(size.heads, size.attention_dropout) for _ in range(2))
    return _model(size, encoder, decoder, (size.transformer_layers, size.transformer_layers))


def _convolution(size: Size, config_type: type[ConvConfig]) -> ModelConfig:
    encoder, decoder = (
        config_type(
            heads=size.heads,
            kernel_sizes=list(kernels),
            glu=size.glu,
            weight_dropout=size.weight_dropout,
            input_dropout=size.input_dropout,
        )
        for kernels in (size.kernels, size.decoder_kernels)
    )
    return _model(size, encoder, decoder, (len(size.kernels), len(size.decoder_kernels)))


def _language_model(size: Size, config_type: type[ConvConfig]) -> ModelConfig:
    """A decoder that normalises before its sub-blocks, but not after the last one."""
    model = replace(_convolution(size, config_type), norm=Norm.pre)
    model.decoder.final_norm = False
    return model


def _register_sizes() -> None:
    for name, size in SIZES.items():
        register_preset(f"transformer_{name}")(partial(_transformer, size))
    convolutions: dict[str, type[ConvConfig]] = {"lightconv": LightConvConfig, "dynamicconv": DynamicConvConfig}
    for mixer, config_type in convolutions.items():
        for name, size in SIZES.items():
            register_preset(f"{mixer}_{name}")(partial(_convolution, size, config_type))
        for name, size in LANGUAGE_MODELS.items():
            register_preset(f"{mixer}_{name}")(partial(_language_model, size, config_type))


_register_sizes()
