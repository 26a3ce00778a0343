"""Every variant of the original's models, as a miniature, against a plain computation of its logits."""

from __future__ import annotations

import contextlib
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import pytest
import torch

from dynconv_mt.convert import convert_model
from dynconv_mt.errors import UserError
from dynconv_mt.models import LanguageModel, Seq2Seq, build_model
from dynconv_mt.models.config import DynamicConvConfig, LightConvConfig, Norm, Tying

from .original import VOCAB, Original, Weights

PRE: dict[str, Any] = {"encoder_normalize_before": True, "decoder_normalize_before": True}
TRANSFORMER: dict[str, Any] = {"arch": "transformer_iwslt_de_en", "encoder_conv_type": None, "decoder_conv_type": None}
LIGHT: dict[str, Any] = {"encoder_conv_type": "lightweight", "decoder_conv_type": "lightweight"}
LEARNED: dict[str, Any] = {"encoder_learned_pos": True, "decoder_learned_pos": True}
VARIANTS: dict[str, dict[str, Any]] = {
    "dynamic": {},
    "light": LIGHT,
    "no_glu": {"encoder_glu": False, "decoder_glu": False},
    "glu_on_one_side": {"encoder_glu": False},
    "pre_norm": PRE,
    "pre_norm_on_one_side": {"encoder_normalize_before": True},
    "pre_norm_on_the_other": {"decoder_normalize_before": True},
    "no_softmax": {"weight_softmax": False},
    "light_no_softmax": {**LIGHT, "weight_softmax": False},
    "wide": {"encoder_conv_dim": 24, "decoder_conv_dim": 32},
    "narrow": {**LIGHT, "encoder_conv_dim": 8, "decoder_conv_dim": 12},
    "light_and_dynamic": {"encoder_conv_type": "lightweight"},
    "dynamic_and_light": {"decoder_conv_type": "lightweight"},
    "unequal_sides": {"encoder_layers": 1, "encoder_kernel_size_list": [7], "encoder_ffn_embed_dim": 40},
    "learned_positions": LEARNED,
    "learned_on_one_side": {"decoder_learned_pos": True},
    "no_positions": {"no_token_positional_embeddings": True},
    "all_tied": {"share_all_embeddings": True},
    "output_tied": {"share_decoder_input_output_embed": True},
    "transformer": TRANSFORMER,
    "transformer_pre_norm": {**TRANSFORMER, **PRE, **LEARNED, "share_all_embeddings": True},
    "transformer_of_two_widths": {**TRANSFORMER, "encoder_embed_dim": 24, "share_decoder_input_output_embed": True},
    "attention_and_dynamic": {"encoder_conv_type": None, "decoder_conv_type": "dynamic"},
    "light_and_attention": {"encoder_conv_type": "lightweight", "decoder_conv_type": None},
    "lm_dynamic": {"arch": "lightconv_lm"},
    "lm_light": {"arch": "lightconv_lm_gbw", "decoder_conv_type": "lightweight", "decoder_glu": False},
    "lm_learned": {"arch": "lightconv_lm", "decoder_learned_pos": True, "share_decoder_input_output_embed": True},
}
GENERATOR = torch.Generator().manual_seed(3)
SRC = torch.randint(4, VOCAB, (3, 9), generator=GENERATOR)
LENGTHS = torch.tensor([9, 2, 6])
PREV = torch.randint(4, VOCAB, (3, 7), generator=GENERATOR)
PADDED = SRC.masked_fill(torch.arange(9) >= LENGTHS[:, None], 1)


@torch.no_grad()
def check_logits(original: Original, args: Any, weights: Weights) -> Seq2Seq | LanguageModel:
    """Convert `weights`, and compare the logits of the model with those of `original`."""
    config, ours = convert_model(args, weights)
    assert config.tgt_vocab_size == VOCAB
    model = build_model(config).eval()
    model.load_state_dict(ours, strict=True)
    logits = model(PREV) if isinstance(model, LanguageModel) else model(PADDED, LENGTHS, PREV)
    for b, length in enumerate(LENGTHS.tolist()):
        src = None if original.is_lm else SRC[b, :length]
        for end in (7, 3):  # shorter than a kernel, too
            expected = original.logits(src, PREV[b, :end])
            scale = float(expected.abs().max())
            torch.testing.assert_close(logits[b, :end], expected, atol=1e-5 * max(1.0, scale), rtol=0)
    return model


@pytest.mark.parametrize("name", VARIANTS)
def test_logits(name: str) -> None:
    original = Original(**VARIANTS[name])
    model = check_logits(original, original.options, original.weights)
    assert isinstance(model, LanguageModel) == name.startswith("lm_")


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_steps_equal_the_full_forward(name: str) -> None:
    original = Original(**VARIANTS[name])
    config, weights = convert_model(original.options, original.weights)
    model = build_model(config).eval()
    model.load_state_dict(weights)
    if isinstance(model, LanguageModel):
        expected, state = model(PREV), model.start(3, 1, 7)
    else:
        expected, state = model(PADDED, LENGTHS, PREV), model.start(model.encode(PADDED, LENGTHS), 1, 7)
    steps = [model.step(part[:, None], state)[:, 0] for part in PREV.split(1, dim=1)]
    torch.testing.assert_close(torch.cat(steps, dim=1), expected, atol=2e-5, rtol=1e-5)


def numbered_norms(weights: Weights) -> Weights:
    """As until 2022 (LightConv) or 2018 (Transformer)."""
    number = {"layer_norm1": "layer_norms.0", "layer_norm2": "layer_norms.1"}
    return {".".join(number.get(part, part) for part in name.split(".")): w for name, w in weights.items()}


def numbered_transformer_norms(weights: Weights) -> Weights:
    numbers = {"encoder": {"self_attn_layer_norm": "0", "final_layer_norm": "1"}}
    numbers["decoder"] = {"self_attn_layer_norm": "0", "encoder_attn_layer_norm": "1", "final_layer_norm": "2"}
    renamed = {}
    for name, weight in weights.items():
        side, *parts = name.split(".")
        known = numbers[side]
        renamed[".".join([side, *(f"layer_norms.{known[p]}" if p in known else p for p in parts)])] = weight
    return renamed


def one_projection(weights: Weights) -> Weights:
    found = {name: w for name, w in weights.items() if not any(f".{p}_proj." in name for p in "qkv")}
    for name in weights:
        if ".q_proj." in name:
            parts = [weights[name.replace(".q_proj.", f".{p}_proj.")] for p in "qkv"]
            found[name.replace(".q_proj.", ".in_proj_")] = torch.cat(parts)
    return found


def with_conv_bias(weights: Weights) -> Weights:
    bias = {
        f"{side}.layers.{i}.conv.conv_bias": torch.full((1, 1, 16), torch.nan)  # never set, never read
        for side in ("encoder", "decoder")
        for i in range(2)
    }
    return weights | bias


def without(*endings: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name: w for name, w in weights.items() if not name.endswith(endings)}


HISTORY: dict[str, tuple[dict[str, Any], Callable[[Weights], Weights]]] = {
    "numbered norms": ({}, numbered_norms),
    "numbered norms of transformers": (TRANSFORMER, numbered_transformer_norms),
    "one projection": (TRANSFORMER, one_projection),
    "one projection across": ({}, one_projection),
    "kernels of two dimensions": (
        LIGHT,
        lambda weights: {n: w.squeeze(1) if n.endswith("conv.weight") else w for n, w in weights.items()},
    ),
    "conv_bias": ({}, with_conv_bias),
    "no output_projection": ({"share_all_embeddings": True}, without("output_projection.weight")),
    "no output_projection, decoder tied": (
        {"share_decoder_input_output_embed": True},
        without("output_projection.weight"),
    ),
    "embed_out": ({}, lambda w: {n.replace("output_projection.weight", "embed_out"): x for n, x in w.items()}),
    "no version": ({}, without("version")),
    "buffers of positions": ({}, lambda weights: weights | {"encoder.embed_positions._float_tensor": torch.zeros(1)}),
    "half precision": ({}, lambda weights: {name: w.half() for name, w in weights.items()}),
}


@pytest.mark.parametrize("name", HISTORY)
def test_what_other_releases_wrote(name: str) -> None:
    changes, rewrite = HISTORY[name]
    original = Original(**changes)
    if name == "half precision":
        original.weights = {key: weight.half().float() for key, weight in original.weights.items()}
    model = check_logits(original, original.options, rewrite(original.weights))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_the_oldest_transformers_have_no_last_norm() -> None:
    original = Original(**TRANSFORMER, **PRE)
    for side in ("encoder", "decoder"):
        original.weights[f"{side}.version"] = torch.tensor([1.0])
        for part in ("weight", "bias"):
            del original.weights[f"{side}.layer_norm.{part}"]
    check_logits(original, original.options, original.weights)


def test_options_of_newer_releases() -> None:
    original = Original(**TRANSFORMER)
    check_logits(original, Namespace(**original.options), original.weights)
    nested: dict[str, Any] = {"_name": "transformer", "max_source_positions": 30}
    for side in ("encoder", "decoder"):
        inner = {name.removeprefix(f"{side}_"): v for name, v in original.options.items() if name.startswith(side)}
        nested[side] = Namespace(**inner) if side == "encoder" else inner
    check_logits(original, nested, original.weights)


def test_absent_options_have_the_defaults_of_the_original() -> None:
    original = Original(encoder_kernel_size_list=[5, 5])
    absent = ("decoder_embed_dim", "decoder_ffn_embed_dim", "max_source_positions", "weight_softmax", "encoder_glu")
    args = {name: value for name, value in original.options.items() if name not in absent}
    args["encoder_kernel_size_list"] = "[5]"
    del args["arch"], args["encoder_conv_type"]
    model = check_logits(original, args, original.weights)
    config = model.config
    assert (config.stack("encoder").max_positions, config.stack("decoder").max_positions) == (1024, 25)
    assert isinstance(config.encoder.mixer, DynamicConvConfig)
    assert (config.encoder.mixer.input_dropout, config.dropout, config.attention_dropout) == (0.1, 0.1, 0.0)
    assert (config.norm, config.tying) == (Norm.post, Tying.none)


def test_options_without_a_meaning_are_passed_over() -> None:
    """fairseq does not look at the convolutions' options of a Transformer, and null is an absent option."""
    original = Original(**TRANSFORMER)
    ignored = {"encoder_conv_type": "dynamic", "decoder_conv_type": "lightweight", "activation_fn": None}
    check_logits(original, original.options | ignored, original.weights)


def test_what_only_matters_in_training_is_taken_over() -> None:
    options = {"dropout": 0.3, "attention_dropout": 0.2, "relu_dropout": 0.05, "input_dropout": 0.15}
    config, _ = convert_model({**(original := Original(**LIGHT)).options, **options}, original.weights)
    mixer = config.decoder.mixer
    assert isinstance(mixer, LightConvConfig)
    assert (config.dropout, config.attention_dropout, config.relu_dropout) == (0.3, 0.2, 0.05)
    assert (mixer.input_dropout, mixer.weight_dropout) == (0.15, 0.2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"arch": "transformer_unidirectional_iwslt_de_en"},
            "architecture transformer_unidirectional_iwslt_de_en cannot",
        ),
        ({"arch": "transformer_monotonic"}, "architecture transformer_monotonic cannot be converted"),
        ({"simul_type": "waitk"}, "--simul-type waitk: models with this option cannot be converted"),
        ({"arch": "fconv_iwslt_de_en"}, "architecture fconv_iwslt_de_en cannot be converted; what can: LightConv"),
        ({"arch": "bart_large"}, "architecture bart_large"),
        ({"adaptive_softmax_cutoff": "10,15"}, "--adaptive-softmax-cutoff 10,15"),
        ({"adaptive_input": True}, "--adaptive-input True"),
        ({"layernorm_embedding": True}, "--layernorm-embedding"),
        ({"activation_fn": "gelu"}, "--activation-fn gelu"),
        ({"decoder_output_dim": 8}, "--decoder-output-dim 8"),
        ({"encoder_conv_type": "lightweight"}, "--encoder-conv-type lightweight, but the weights have dynamic ones"),
        (
            {"encoder_layers": 3, "encoder_kernel_size_list": [3, 5, 5]},
            "--encoder-layers 3, but there are weights of 2 layers",
        ),
        (
            {"encoder_layers": 1, "encoder_kernel_size_list": [3]},
            "--encoder-layers 1, but there are weights of 2 layers",
        ),
        ({"encoder_kernel_size_list": [3, 7]}, r"has the shape \(20, 16\), and its options ask for \(28, 16\)"),
        ({"encoder_kernel_size_list": [3, 5, 7]}, "3 sizes for 2 layers"),
        ({"encoder_kernel_size_list": "[3]*x"}, "must be a list of whole numbers"),
        ({"encoder_normalize_before": True}, "encoder.norm.bias.* are missing"),
        ({"share_all_embeddings": True}, "share a matrix"),
        ({"share_decoder_input_output_embed": True}, "share a matrix"),
        ({"encoder_attention_heads": 5}, "model.encoder.mixer.heads=5"),
    ],
)
def test_options_that_do_not_fit_the_weights_are_refused(changes: dict[str, Any], message: str) -> None:
    original = Original()
    with pytest.raises(UserError, match=message):
        convert_model(original.options | changes, original.weights)


@pytest.mark.parametrize(
    ("rewrite", "message"),
    [
        (without("decoder.layers.1.fc1.bias"), "weights decoder.layers.1.ffn.input.bias are missing"),
        (without("decoder.embed_tokens.weight"), "decoder.embed_tokens.weight is missing"),
        (without("output_projection.weight"), "decoder.output.weight are missing"),
        (without("layers.0.encoder_attn.k_proj.bias"), "decoder.layers.0.encoder_attn: has .* three projections' bias"),
        (lambda w: w | {"decoder.layers.0.fc3.weight": torch.zeros(1)}, "decoder.layers.0.fc3.weight: no part of"),
        (lambda w: w | {"encoder.layers.0.conv.bias": torch.zeros(1)}, "encoder.layers.0.conv.bias: no part of"),
        (lambda w: w | {"ema.weight": torch.zeros(1)}, "ema.weight: no part of"),
        (lambda w: {n: x for n, x in w.items() if "encoder." not in n[:8]}, "there are no weights of an encoder"),
        (lambda w: {}, "holds no weights"),
    ],
)
def test_weights_that_do_not_fit_the_options_are_refused(rewrite: Callable[[Weights], Weights], message: str) -> None:
    original = Original()
    with pytest.raises(UserError, match=message):
        convert_model(original.options, rewrite(original.weights))


STRANGE: list[Any] = ["abc", [], object(), -1, 10**9, "False"]


@pytest.mark.parametrize("changes", [{}, {"arch": "lightconv_lm"}], ids=["translation", "lm"])
def test_no_value_of_an_option_is_a_bug(changes: dict[str, Any]) -> None:
    """Also none takes long: a billion layers are not built."""
    original = Original(**changes)
    more = ("dropout", "weight_dropout", "encoder_conv_dim", "activation_fn", "tokens_per_sample", "encoder")
    for name in {*original.options, *more}:
        for value in STRANGE:
            with contextlib.suppress(UserError):
                convert_model(original.options | {name: value}, original.weights)


@pytest.mark.parametrize("strange", ["scalar", "empty", "cube", "integers", "sparse", "meta"])
def test_no_tensor_among_the_weights_is_a_bug(strange: str) -> None:
    original = Original(**LEARNED)
    make: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "scalar": lambda weight: torch.tensor(1.0),
        "empty": lambda weight: torch.zeros(0),
        "cube": lambda weight: torch.zeros(2, 2, 2),
        "integers": lambda weight: weight.long(),
        "sparse": lambda weight: weight.to_sparse(),
        "meta": lambda weight: weight.to("meta"),
    }
    for name, weight in original.weights.items():
        if not name.endswith("version"):
            with pytest.raises(UserError, match=r"^(checkpoint: |model\.)"):
                convert_model(original.options, original.weights | {name: make[strange](weight)})


def test_what_is_no_tensor_among_the_weights_is_named() -> None:
    original = Original()
    with pytest.raises(UserError, match=r"decoder\.x is a list, and should be a tensor"):
        convert_model(original.options, original.weights | {"decoder.x": [1.0]})  # type: ignore[arg-type]


def test_self_attention_language_models_are_refused() -> None:
    original = Original(arch="transformer_lm", decoder_conv_type=None)
    with pytest.raises(UserError, match="a language model with self-attention"):
        convert_model(original.options, original.weights)
