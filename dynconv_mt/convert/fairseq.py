"""fairseq's options and weights as ours: LightConv, DynamicConv and Transformer models, and its language models."""

from __future__ import annotations

import ast
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dynconv_mt.convert.weights import check_complete, rename_weights
from dynconv_mt.errors import UserError
from dynconv_mt.models.config import (
    AttentionConfig,
    DynamicConvConfig,
    LightConvConfig,
    MixerConfig,
    ModelConfig,
    Norm,
    Positions,
    StackConfig,
    Tying,
)
from dynconv_mt.models.embedding import FIRST_POSITION
from dynconv_mt.models.seq2seq import new_model

FAMILIES = "LightConv, DynamicConv and Transformer translation models and the language models lightconv_lm"
# Options under which a model computes something that ours do not: whatever is set here is refused
_UNSUPPORTED = (
    *("adaptive_softmax_cutoff", "adaptive_input", "character_embeddings", "char_inputs", "no_cross_attention"),
    *("cross_self_attention", "layernorm_embedding", "no_scale_embedding", "encoder_layers_to_keep"),
    *("decoder_layers_to_keep", "base_layers", "scale_attn", "scale_heads", "scale_fc", "scale_resids"),
    *("encoder_xformers_att_config", "decoder_xformers_att_config", "simul_type"),
)
_CONVOLUTIONS = {"lightweight": LightConvConfig, "dynamic": DynamicConvConfig}
_KERNEL_SIZES = {"encoder": [3, 7, 15, 31, 31, 31, 31], "decoder": [3, 7, 15, 31, 31, 31]}
_LAYERS = {("encoder", "attention"): 6, ("encoder", "lightweight"): 7, ("encoder", "dynamic"): 7}
_MAX_POSITIONS = 1024


def convert_model(args: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Return the architecture and the fp32 weights, under our names, of a fairseq model.

    args: its options, as in `vars(checkpoint["args"])` or `checkpoint["cfg"]["model"]`; what is absent has fairseq's
    default. state_dict: its weights, as in `checkpoint["model"]`. `build_model(config)` loads the weights strictly.
    Raises UserError for an architecture that is none of these, and for weights that do not match the options exactly.
    """
    options = _flatten(args)
    weights = rename_weights(state_dict)
    is_language_model = _check_family(options, weights)
    reader = _Reader(options, weights, state_dict, is_language_model)
    config = reader.model()
    config.check()
    _untie(config, weights)
    with torch.device("meta"):
        expected = new_model(config).state_dict()
    check_complete(weights, expected)
    return config, weights


class _Reader:
    """Reads a model's config off its options and, where these say nothing, off its weights."""

    def __init__(
        self,
        options: Mapping[str, Any],
        weights: Mapping[str, Tensor],
        state_dict: Mapping[str, Tensor],
        is_language_model: bool,
    ) -> None:
        self.options, self.weights, self.state_dict = options, weights, state_dict
        self.is_language_model = is_language_model

    def get(self, name: str, default: Any) -> Any:
        """The value of an option; None means absent."""
        value = self.options.get(name)
        return default if value is None else value

    def whole(self, name: str, default: int) -> int:
        """The value of an option that is a whole number."""
        value = self.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise UserError(f"checkpoint: {_flag(name)} {value}: must be a whole number, at least 0")
        return value

    def probability(self, name: str, default: float) -> float:
        """The value of an option that is a probability."""
        value = self.get(name, default)
        if not isinstance(value, int | float):
            raise UserError(f"checkpoint: {_flag(name)} {value}: must be a number")
        return float(value)

    def is_set(self, name: str, default: bool = False) -> bool:
        """The value of an option that is on or off."""
        value = self.get(name, default)
        if value in ("True", "False"):
            return bool(value == "True")
        if not isinstance(value, int):
            raise UserError(f"checkpoint: {_flag(name)} {value}: must be true or false")
        return bool(value)

    def model(self) -> ModelConfig:
        """The whole model."""
        is_lm = self.is_language_model
        return ModelConfig(
            dim=self.dim("decoder"),
            encoder=StackConfig(layers=0) if is_lm else self.stack("encoder"),
            decoder=self.stack("decoder"),
            cross_heads=self.whole("decoder_attention_heads", 8),
            dropout=self.probability("dropout", 0.1),
            attention_dropout=self.probability("attention_dropout", 0.0),
            relu_dropout=self.probability("activation_dropout", 0.0) or self.probability("relu_dropout", 0.0),
            norm=self.norm("decoder"),
            tying=self.tying(),
            src_vocab_size=0 if is_lm else self.vocab_size("encoder"),
            tgt_vocab_size=self.vocab_size("decoder"),
        )

    def stack(self, side: str) -> StackConfig:
        """One side. What both sides have in common is left to the model."""
        kind = self.kind(side)
        layers = self.layers(side, kind)
        ffn_default = 2048 if side == "encoder" else self.whole("encoder_ffn_embed_dim", 2048)
        is_like_model = side == "decoder"
        return StackConfig(
            layers=layers,
            ffn_dim=self.whole(f"{side}_ffn_embed_dim", ffn_default),
            mixer=self.mixer(side, kind, layers),
            dim=None if is_like_model or self.dim(side) == self.dim("decoder") else self.dim(side),
            norm=None if is_like_model or self.norm(side) is self.norm("decoder") else self.norm(side),
            final_norm=self.final_norm(side, kind),
            positions=self.positions(side),
            max_positions=self.max_positions(side),
        )

    def layers(self, side: str, kind: str) -> int:
        """How many layers one side has, in its options and in its weights."""
        declared = self.whole(f"{side}_layers", _LAYERS.get((side, kind), 6))
        numbers = {name.split(".")[2] for name in self.weights if name.startswith(f"{side}.layers.")}
        if declared != len(numbers):
            raise UserError(f"checkpoint: --{side}-layers {declared}, but there are weights of {len(numbers)} layers")
        return declared

    def kernel_sizes(self, side: str, layers: int) -> list[int]:
        """One kernel size a layer; a single one counts for all."""
        option = f"{side}_kernel_size_list"
        value = self.get(option, _KERNEL_SIZES[side])
        try:
            sizes = [int(size) for size in (ast.literal_eval(value) if isinstance(value, str) else value)]
        except (ValueError, TypeError, SyntaxError):
            raise UserError(f"checkpoint: {_flag(option)} {value}: must be a list of whole numbers") from None
        return sizes * layers if len(sizes) == 1 else sizes

    def mixer(self, side: str, kind: str, layers: int) -> MixerConfig:
        """The token mixer of one side."""
        heads, attention_dropout = self.whole(f"{side}_attention_heads", 8), self.probability("attention_dropout", 0.0)
        if kind == "attention":
            return AttentionConfig(heads, attention_dropout)
        conv_dim = self.whole(f"{side}_conv_dim", self.dim(side))
        return _CONVOLUTIONS[kind](
            heads=heads,
            kernel_sizes=self.kernel_sizes(side, layers),
            conv_dim=None if conv_dim == self.dim(side) else conv_dim,
            glu=self.is_set(f"{side}_glu", True),
            softmax=self.is_set("weight_softmax", True),
            input_dropout=self.probability("input_dropout", 0.1),
            weight_dropout=self.probability("weight_dropout", attention_dropout),
        )

    def kind(self, side: str) -> str:
        """`dynamic`, `lightweight` or `attention`."""
        names = [name for name in self.weights if name.startswith(f"{side}.layers.")]
        kind = "attention"
        if any(name.endswith(".mixer.predictor.weight") for name in names):
            kind = "dynamic"
        elif any(name.endswith(".mixer.kernel") for name in names):
            kind = "lightweight"
        is_ignored = kind == "attention" and _architecture(self.options).startswith("transformer")
        declared = kind if is_ignored else self.get(f"{side}_conv_type", kind)
        if declared != kind:
            found = "no convolutions" if kind == "attention" else f"{kind} ones"
            raise UserError(f"checkpoint: --{side}-conv-type {declared}, but the weights have {found} there")
        if self.is_language_model and kind == "attention":
            raise UserError(f"checkpoint: a language model with self-attention; what can be converted: {FAMILIES}")
        return kind

    def dim(self, side: str) -> int:
        default = 512 if self.is_language_model or side == "encoder" else self.dim("encoder")
        declared, table = self.whole(f"{side}_embed_dim", default), self.table(side)
        if declared != table.shape[1]:
            raise UserError(f"checkpoint: --{side}-embed-dim {declared}, but its embedding is {table.shape[1]} wide")
        return declared

    def norm(self, side: str) -> Norm:
        return Norm.pre if self.is_language_model or self.is_set(f"{side}_normalize_before") else Norm.post

    def final_norm(self, side: str, kind: str) -> bool | None:
        """False where pre-norm layers have no LayerNorm after the last: language models, the oldest Transformers."""
        if self.is_language_model:
            return False
        if kind != "attention" or self.norm(side) is Norm.post or f"{side}.norm.weight" in self.weights:
            return None
        version = self.state_dict.get(f"{side}.version")
        is_old = version is None or float(version[0]) <= 2
        return False if is_old or self.is_set("no_decoder_final_norm") else None

    def positions(self, side: str) -> Positions:
        if self.is_set("no_token_positional_embeddings"):
            return Positions.none
        return Positions.learned if self.is_set(f"{side}_learned_pos") else Positions.sinusoidal

    def max_positions(self, side: str) -> int:
        """What a learned table holds; for sinusoids, what the model was trained for."""
        table = self.weights.get(f"{side}.embedding.positions.weight")
        if table is not None:
            return max(table.shape[0] - FIRST_POSITION, 0)
        default = self.whole("tokens_per_sample", _MAX_POSITIONS) if self.is_language_model else _MAX_POSITIONS
        return self.whole("max_source_positions" if side == "encoder" else "max_target_positions", default)

    def tying(self) -> Tying:
        if self.is_set("share_all_embeddings") or self.is_set("merge_src_tgt_embed"):
            return Tying.all
        return Tying.decoder if self.is_set("share_decoder_input_output_embed") else Tying.none

    def vocab_size(self, side: str) -> int:
        return self.table(side).shape[0]

    def table(self, side: str) -> Tensor:
        """The embedding matrix of one side: (types, width)."""
        table = self.weights.get(f"{side}.embedding.tokens.weight")
        if table is None:
            raise UserError(f"checkpoint: {side}.embed_tokens.weight is missing")
        if table.dim() != 2:
            raise UserError(
                f"checkpoint: {side}.embed_tokens.weight has the shape {tuple(table.shape)}, and is a matrix"
            )
        return table


def _flatten(args: Mapping[str, Any]) -> dict[str, Any]:
    """The options by fairseq's flat names; newer releases nest some of them: encoder.embed_dim."""
    options: dict[str, Any] = {}
    for name, value in _entries(args).items():
        if name in ("encoder", "decoder") and isinstance(value, Mapping | Namespace):
            options |= {f"{name}_{key}": entry for key, entry in _entries(value).items()}
        else:
            options[name] = value
    return options


def _entries(options: Mapping[str, Any] | Namespace) -> Mapping[str, Any]:
    return vars(options) if isinstance(options, Namespace) else options


def _architecture(options: Mapping[str, Any]) -> str:
    return str(options.get("arch") or options.get("_name") or "")


def _check_family(options: Mapping[str, Any], weights: Mapping[str, Tensor]) -> bool:
    """Return whether it is a language model. Raises UserError for what cannot be converted."""
    architecture = _architecture(options)
    is_causal = architecture.startswith(("transformer_unidirectional", "transformer_monotonic"))  # its encoder, too
    if architecture and (is_causal or not architecture.startswith(("lightconv", "transformer"))):
        raise UserError(f"checkpoint: the architecture {architecture} cannot be converted; what can: {FAMILIES}")
    for name in _UNSUPPORTED:
        if options.get(name):
            raise UserError(f"checkpoint: {_flag(name)} {options[name]}: models with this option cannot be converted")
    activation = options.get("activation_fn") or "relu"
    if activation != "relu":
        raise UserError(f"checkpoint: --activation-fn {activation}: only relu can be converted")
    for name in ("decoder_input_dim", "decoder_output_dim"):
        dim, width = options.get(name), options.get("decoder_embed_dim")
        if isinstance(dim, int) and isinstance(width, int) and dim != width:
            raise UserError(f"checkpoint: {_flag(name)} {dim}: must be the decoder's width, {width}")
    if not weights:
        raise UserError("checkpoint: holds no weights")
    has_encoder = any(name.startswith("encoder.") for name in weights)
    is_language_model = "_lm" in architecture if architecture else not has_encoder
    if not is_language_model and not has_encoder:
        raise UserError(f"checkpoint: the architecture is {architecture}, but there are no weights of an encoder")
    return is_language_model


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _untie(config: ModelConfig, weights: dict[str, Tensor]) -> None:
    """Drop what tied models store twice. Raises UserError where the two are not the same."""
    table = weights["decoder.embedding.tokens.weight"]
    if config.tying is not Tying.none:
        output = weights.pop("decoder.output.weight", table)
        if not torch.equal(output, table):
            raise UserError("checkpoint: says that decoder input and output share a matrix, but holds two")
    if config.tying is Tying.all and not torch.equal(weights["encoder.embedding.tokens.weight"], table):
        raise UserError("checkpoint: says that all embeddings share a matrix, but encoder and decoder have two")
