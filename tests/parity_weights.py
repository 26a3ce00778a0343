"""Weights of fairseq's conv models under our names: just enough for the parity fixtures (the real one is `convert`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dynconv_mt.models.config import DynamicConvConfig, LightConvConfig, ModelConfig, StackConfig
from dynconv_mt.models.seq2seq import Seq2Seq, build_model

RENAMED = (
    (r"embed_tokens\.", "embedding.tokens."),
    (r"encoder_attn_layer_norm", "cross_residual.norm"),
    (r"(conv_layer_norm|layer_norm1)", "mixer_residual.norm"),
    (r"(final_layer_norm|layer_norm2)", "ffn_residual.norm"),
    (r"linear1", "mixer.input"),
    (r"linear2", "mixer.output"),
    (r"conv\.weight_linear", "mixer.predictor"),
    (r"conv\.weight$", "mixer.kernel"),
    (r"fc1", "ffn.input"),
    (r"fc2", "ffn.output"),
    (r"encoder_attn\.q_proj", "cross.query"),
    (r"encoder_attn\.out_proj", "cross.output"),
)
DROPPED = re.compile(r"(version|output_projection\.weight|conv_bias)$")


def parity_model(fixture: Mapping[str, Any]) -> Seq2Seq:
    """Return the model of a fixture with tied embeddings and post-norm, in evaluation mode."""
    args = fixture["args"]
    stacks: dict[str, Any] = {}
    for side in ("encoder", "decoder"):
        config_type = LightConvConfig if args[f"{side}_conv_type"] == "lightweight" else DynamicConvConfig
        kernels = list(args[f"{side}_kernel_size_list"])
        mixer = config_type(args[f"{side}_attention_heads"], kernels, glu=bool(args[f"{side}_glu"]))
        stacks[side] = StackConfig(args[f"{side}_layers"], args[f"{side}_ffn_embed_dim"], mixer)
    model = build_model(
        ModelConfig(
            dim=args["encoder_embed_dim"],
            **stacks,
            cross_heads=args["decoder_attention_heads"],
            max_positions=args["max_target_positions"],
            src_vocab_size=fixture["vocab"],
            tgt_vocab_size=fixture["vocab"],
        )
    )
    model.load_state_dict(renamed(fixture["state_dict"]))
    return model.eval()


def renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights under our names, keys and values of cross-attention as one matrix."""
    found: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if DROPPED.search(name) or ".v_proj." in name:
            continue
        if ".k_proj." in name:
            weight = torch.cat([weight, weights[name.replace("k_proj", "v_proj")]])
            name = name.replace("encoder_attn.k_proj", "cross.memory")
        for pattern, replacement in RENAMED:
            name = re.sub(pattern, replacement, name)
        found[name] = weight.squeeze(1) if name.endswith("mixer.kernel") and weight.dim() == 3 else weight
    return found
