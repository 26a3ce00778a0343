"""fairseq's names of weights under ours.

Shapes: H heads, K taps, D width.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from dynconv_mt.errors import UserError

# What a layer's parts are called, in every release: the first pattern that fits the rest of a name counts
_LAYER = (
    # LightConv and DynamicConv
    (r"linear1\.(weight|bias)", r"mixer.input.\1"),
    (r"linear2\.(weight|bias)", r"mixer.output.\1"),
    (r"conv\.weight_linear\.weight", r"mixer.predictor.weight"),
    (r"conv\.weight", r"mixer.kernel"),
    (r"(?:conv_layer_norm|layer_norm1)\.(weight|bias)", r"mixer_residual.norm.\1"),
    (r"layer_norm2\.(weight|bias)", r"ffn_residual.norm.\1"),
    # Transformer; q, k and v have been joined to in_proj by then
    (r"self_attn\.in_proj_(weight|bias)", r"mixer.input.\1"),
    (r"self_attn\.out_proj\.(weight|bias)", r"mixer.output.\1"),
    (r"self_attn_layer_norm\.(weight|bias)", r"mixer_residual.norm.\1"),
    # both
    (r"encoder_attn\.query\.(weight|bias)", r"cross.query.\1"),
    (r"encoder_attn\.memory\.(weight|bias)", r"cross.memory.\1"),
    (r"encoder_attn\.out_proj\.(weight|bias)", r"cross.output.\1"),
    (r"encoder_attn_layer_norm\.(weight|bias)", r"cross_residual.norm.\1"),
    (r"fc1\.(weight|bias)", r"ffn.input.\1"),
    (r"fc2\.(weight|bias)", r"ffn.output.\1"),
    (r"final_layer_norm\.(weight|bias)", r"ffn_residual.norm.\1"),
)
# Before norms had names they had numbers: by (side, number)
_NUMBERED = {
    ("encoder", "0"): r"mixer_residual",
    ("encoder", "1"): r"ffn_residual",
    ("decoder", "0"): r"mixer_residual",
    ("decoder", "1"): r"cross_residual",
    ("decoder", "2"): r"ffn_residual",
}
_STACK = (
    (r"embed_tokens\.weight", "embedding.tokens.weight"),
    (r"embed_positions\.weight", "embedding.positions.weight"),
    (r"layer_norm\.(weight|bias)", r"norm.\1"),
    (r"output_projection\.weight", "output.weight"),
    (r"embed_out", "output.weight"),  # until 2022
)
# Buffers, and a parameter that no released model reads: fairseq's DynamicConv makes it whether it is wanted or not
_IGNORED = re.compile(
    r"(?:en|de)coder\.(?:version|embed_positions\.(_float_tensor|weights)|layers\.\d+\.conv\.conv_bias)"
)
_PROJECTION = re.compile(r"(.*\.(self|encoder)_attn)\.(?:([qkv])_proj\.|in_proj_)(weight|bias)")


def rename_weights(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return all weights of a fairseq model in fp32 under the names of our models; buffers are left out.

    Raises UserError where a name is none of LightConv, DynamicConv or Transformer models.
    """
    found: dict[str, Tensor] = {}
    unknown = []
    wanted = {name: weight for name, weight in state_dict.items() if not _IGNORED.fullmatch(name)}
    for name, weight in wanted.items():
        _check_dense(name, weight)
    for name, weight in _join_projections(wanted).items():
        side, _, rest = name.partition(".")
        ours = _rename(side, rest)
        if ours is None or ours in found:
            unknown.append(name)
        else:
            found[ours] = _shape(ours, weight)
    if unknown:
        raise UserError(f"checkpoint: {_some(unknown)}: no part of a LightConv, DynamicConv or Transformer model")
    return found


def _check_dense(name: str, weight: object) -> None:
    """Raise UserError where a weight is not the plain matrix or vector of numbers that it should be."""
    if not isinstance(weight, Tensor):
        raise UserError(f"checkpoint: {name} is a {type(weight).__name__}, and should be a tensor")
    is_plain = weight.is_floating_point() and weight.layout is torch.strided and not weight.is_meta
    if not is_plain or weight.dim() == 0:
        raise UserError(
            f"checkpoint: {name} is {weight.dtype}, {weight.layout}, of shape {tuple(weight.shape)}, and should be "
            "floating-point numbers, neither quantised nor sparse"
        )


def _rename(side: str, rest: str) -> str | None:
    """Our name for a weight, None where it has none."""
    if side not in ("encoder", "decoder"):
        return None
    layer = re.fullmatch(r"layers\.(\d+)\.(.+)", rest)
    if layer is None:
        ours = _first_match(_STACK, rest)
        return ours and f"{side}.{ours}"
    numbered = re.fullmatch(r"layer_norms\.(\d)\.(weight|bias)", layer[2])
    if numbered and (side, numbered[1]) in _NUMBERED:
        ours = f"{_NUMBERED[side, numbered[1]]}.norm.{numbered[2]}"
    else:
        ours = _first_match(_LAYER, layer[2])
    return ours and f"{side}.layers.{layer[1]}.{ours}"


def _first_match(table: tuple[tuple[str, str], ...], name: str) -> str | None:
    for pattern, replacement in table:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(replacement)
    return None


def _join_projections(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights with one matrix for q, k and v of self-attention, and one for k and v of cross-attention.

    Old releases have one matrix for all three in both places.
    """
    joined = {name: weight for name, weight in state_dict.items() if not _PROJECTION.fullmatch(name)}
    for base, kind, ending, parts in _projections(state_dict):
        if kind == "self":
            joined[f"{base}.in_proj_{ending}"] = torch.cat(parts)
        else:
            joined[f"{base}.query.{ending}"] = parts[0]
            joined[f"{base}.memory.{ending}"] = torch.cat(parts[1:])
    return joined


def _projections(state_dict: Mapping[str, Tensor]) -> Iterator[tuple[str, str, str, list[Tensor]]]:
    """Each attention's module, its kind, weight or bias, and q, k and v of it."""
    groups: dict[tuple[str, str, str], dict[str, Tensor]] = {}
    for name, weight in state_dict.items():
        match = _PROJECTION.fullmatch(name)
        if match:
            groups.setdefault((match[1], match[2], match[4]), {})[match[3] or "qkv"] = weight
    for (base, kind, ending), parts in groups.items():
        if parts.keys() not in ({"q", "k", "v"}, {"qkv"}):
            raise UserError(f"checkpoint: {base}: has {', '.join(parts)} of its three projections' {ending}s")
        three = list(parts["qkv"].chunk(3)) if "qkv" in parts else [parts[p] for p in "qkv"]
        if len(three) != 3 or len({part.shape[1:] for part in three[-2 if kind == "encoder" else 0 :]}) != 1:
            raise UserError(f"checkpoint: {base}: the {ending}s of its three projections do not fit together")
        yield base, kind, ending, three


def _shape(name: str, weight: Tensor) -> Tensor:
    """A weight in fp32; LightConv's kernels, stored as (H, K) or (H, 1, K), as (H, K)."""
    if name.endswith(".mixer.kernel") and weight.dim() == 3 and weight.shape[1] == 1:
        weight = weight.squeeze(1)
    return weight.float()


def check_complete(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise UserError where weights are missing, are of no use to the model, or have another shape than there."""
    missing, unused = expected.keys() - found.keys(), found.keys() - expected.keys()
    if missing:
        raise UserError(f"checkpoint: the weights {_some(missing)} are missing, which its own options ask for")
    if unused:
        raise UserError(f"checkpoint: contains weights that its options do not call for: {_some(unused)}")
    for name, weight in expected.items():
        if found[name].shape != weight.shape:
            raise UserError(
                f"checkpoint: {name} has the shape {tuple(found[name].shape)}, and its options ask for "
                f"{tuple(weight.shape)}"
            )


def _some(names: set[str] | list[str], count: int = 4) -> str:
    others = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(sorted(names)[:count]) + others
