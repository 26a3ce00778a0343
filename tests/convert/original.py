"""Miniatures of fairseq's models: weights under its names, and their logits computed in the plainest way there is.

One sentence at a time, without padding, a loop over every tap. Shapes: T positions, C channels, H heads, K taps.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

VOCAB = 20
Weights = dict[str, Tensor]


def options(**changes: Any) -> dict[str, Any]:
    """Options of a small DynamicConv model."""
    found: dict[str, Any] = {"arch": "lightconv", "weight_softmax": True, "max_source_positions": 30}
    for side in ("encoder", "decoder"):
        found |= {f"{side}_{name}": value for name, value in _SIDE.items()}
    return found | {"max_target_positions": 25} | changes


_SIDE: dict[str, Any] = {
    "embed_dim": 16,
    "ffn_embed_dim": 24,
    "layers": 2,
    "attention_heads": 4,
    "kernel_size_list": [3, 5],
    "conv_type": "dynamic",
    "glu": True,
    "normalize_before": False,
    "learned_pos": False,
}


class Original:
    """One model: `weights` as its checkpoint would hold them, and `logits`."""

    def __init__(self, seed: int = 0, **changes: Any) -> None:
        self.options = options(**changes)
        self.is_lm = "_lm" in self.options["arch"]
        self.generator = torch.Generator().manual_seed(seed)
        self.weights: Weights = {}
        for side in ("decoder",) if self.is_lm else ("encoder", "decoder"):
            self._make_side(side)
        if self.options.get("share_all_embeddings"):
            self.weights["decoder.embed_tokens.weight"] = self.weights["encoder.embed_tokens.weight"]
        shared = self.options.get("share_all_embeddings") or self.options.get("share_decoder_input_output_embed")
        table = self.weights["decoder.embed_tokens.weight"]
        self.weights["decoder.output_projection.weight"] = table if shared else self._new(*table.shape)

    def get(self, side: str, name: str) -> Any:
        return self.options.get(f"{side}_{name}")

    def _new(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator) * 0.4

    def _make_linear(self, name: str, inputs: int, outputs: int, bias: bool = True) -> None:
        self.weights[f"{name}.weight"] = self._new(outputs, inputs)
        if bias:
            self.weights[f"{name}.bias"] = self._new(outputs)

    def _make_norm(self, name: str, dim: int) -> None:
        self.weights[f"{name}.weight"], self.weights[f"{name}.bias"] = 1 + self._new(dim), self._new(dim)

    def _make_side(self, side: str) -> None:
        dim, ffn = self.get(side, "embed_dim"), self.get(side, "ffn_embed_dim")
        is_transformer = self.get(side, "conv_type") is None
        self.weights[f"{side}.version"] = torch.tensor([3.0])
        self.weights[f"{side}.embed_tokens.weight"] = self._new(VOCAB, dim)
        if self.get(side, "learned_pos"):
            limit = self.options["max_source_positions" if side == "encoder" else "max_target_positions"]
            self.weights[f"{side}.embed_positions.weight"] = self._new(limit + 2, dim)
        for layer in range(self.get(side, "layers")):
            name = f"{side}.layers.{layer}"
            if is_transformer:
                self._make_attention(f"{name}.self_attn", dim, dim)
            else:
                self._make_convolution(name, side, layer)
            for norm in self._norm_names(side):
                self._make_norm(f"{name}.{norm}", dim)
            if side == "decoder" and not self.is_lm:
                self._make_attention(f"{name}.encoder_attn", dim, self.get("encoder", "embed_dim"))
            self._make_linear(f"{name}.fc1", dim, ffn)
            self._make_linear(f"{name}.fc2", ffn, dim)
        if self._is_pre(side) and not self.is_lm:
            self._make_norm(f"{side}.layer_norm", dim)

    def _norm_names(self, side: str) -> list[str]:
        """Norms of the mixer, cross-attention if there is any, and the feed-forward block."""
        if self.get(side, "conv_type") is None:
            names = ["self_attn_layer_norm", "final_layer_norm"]
        else:
            names = ["layer_norm1", "layer_norm2"] if side == "encoder" else ["conv_layer_norm", "final_layer_norm"]
        if side == "decoder" and not self.is_lm:
            names.insert(1, "encoder_attn_layer_norm")
        return names

    def _make_attention(self, name: str, dim: int, memory_dim: int) -> None:
        for part, inputs in (("q_proj", dim), ("k_proj", memory_dim), ("v_proj", memory_dim), ("out_proj", dim)):
            self._make_linear(f"{name}.{part}", inputs, dim)

    def _make_convolution(self, name: str, side: str, layer: int) -> None:
        dim, heads, taps = (
            self.get(side, "embed_dim"),
            self.get(side, "attention_heads"),
            self.get(side, "kernel_size_list")[layer],
        )
        width = self.get(side, "conv_dim") or dim
        self._make_linear(f"{name}.linear1", dim, (2 if self.get(side, "glu") else 1) * width)
        self._make_linear(f"{name}.linear2", width, dim)
        if self.get(side, "conv_type") == "dynamic":
            self._make_linear(f"{name}.conv.weight_linear", width, heads * taps, bias=False)
        else:
            self.weights[f"{name}.conv.weight"] = self._new(heads, 1, taps)

    def _is_pre(self, side: str) -> bool:
        return self.is_lm or bool(self.get(side, "normalize_before"))

    def logits(self, src: Tensor | None, prev: Tensor) -> Tensor:
        """Logits (T, V) for ids prev (T,), given ids src (S,)."""
        memory = None if src is None else self._stack("encoder", src, None)
        y = self._stack("decoder", prev, memory)
        return y @ self.weights["decoder.output_projection.weight"].T

    def _linear(self, name: str, x: Tensor) -> Tensor:
        y = x @ self.weights[f"{name}.weight"].T
        return y + self.weights[f"{name}.bias"] if f"{name}.bias" in self.weights else y

    def _norm(self, name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        normal = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
        return normal * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def _stack(self, side: str, ids: Tensor, memory: Tensor | None) -> Tensor:
        dim = self.get(side, "embed_dim")
        x = math.sqrt(dim) * self.weights[f"{side}.embed_tokens.weight"][ids]
        if not self.options.get("no_token_positional_embeddings"):
            x = x + torch.stack([self._position(side, t + 2, dim) for t in range(len(ids))])
        mixer_norm, *cross_norm, ffn_norm = self._norm_names(side)
        is_pre = self._is_pre(side)
        for layer in range(self.get(side, "layers")):
            name = f"{side}.layers.{layer}"
            x = self._block(x, f"{name}.{mixer_norm}", is_pre, lambda h, n=name, i=layer: self._mix(n, side, i, h))
            if memory is not None:
                attend = lambda h, n=name: self._attention(f"{n}.encoder_attn", side, h, memory, False)  # noqa: E731
                x = self._block(x, f"{name}.{cross_norm[0]}", is_pre, attend)
            ffn = lambda h, n=name: self._linear(f"{n}.fc2", self._linear(f"{n}.fc1", h).clamp_min(0))  # noqa: E731
            x = self._block(x, f"{name}.{ffn_norm}", is_pre, ffn)
        return self._norm(f"{side}.layer_norm", x) if f"{side}.layer_norm.weight" in self.weights else x

    def _position(self, side: str, position: int, dim: int) -> Tensor:
        if self.get(side, "learned_pos"):
            return self.weights[f"{side}.embed_positions.weight"][position]
        half = dim // 2
        angles = [position / 10000 ** (i / (half - 1)) for i in range(half)]
        return torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles])

    def _block(self, x: Tensor, norm: str, is_pre: bool, function: Any) -> Tensor:
        return x + function(self._norm(norm, x)) if is_pre else self._norm(norm, x + function(x))

    def _mix(self, name: str, side: str, layer: int, x: Tensor) -> Tensor:
        if self.get(side, "conv_type") is None:
            return self._attention(f"{name}.self_attn", side, x, x, side == "decoder")
        x = self._linear(f"{name}.linear1", x)
        if self.get(side, "glu"):
            a, b = x.chunk(2, dim=-1)
            x = a * torch.sigmoid(b)
        return self._linear(f"{name}.linear2", self._convolve(name, side, layer, x))

    def _convolve(self, name: str, side: str, layer: int, x: Tensor) -> Tensor:
        heads, taps = self.get(side, "attention_heads"), self.get(side, "kernel_size_list")[layer]
        if self.get(side, "conv_type") == "dynamic":
            kernels = self._linear(f"{name}.conv.weight_linear", x).view(len(x), heads, taps)
        else:
            kernels = self.weights[f"{name}.conv.weight"].view(1, heads, taps).expand(len(x), -1, -1)
        if self.options["weight_softmax"]:
            kernels = kernels.softmax(-1)
        left = taps - 1 if side == "decoder" else taps // 2
        y = torch.zeros_like(x)
        for t in range(len(x)):
            for k in range(taps):
                if 0 <= t + k - left < len(x):
                    y[t] += kernels[t, :, k].repeat_interleave(x.shape[1] // heads) * x[t + k - left]
        return y

    def _attention(self, name: str, side: str, x: Tensor, memory: Tensor, causal: bool) -> Tensor:
        heads = self.get(side, "attention_heads")
        q, k, v = (self._linear(f"{name}.{part}_proj", h) for part, h in (("q", x), ("k", memory), ("v", memory)))
        outputs = []
        for qh, kh, vh in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
            scores = qh @ kh.T / math.sqrt(qh.shape[1])
            if causal:
                scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -math.inf)
            outputs.append(F.softmax(scores, -1) @ vh)
        return self._linear(f"{name}.out_proj", torch.cat(outputs, -1))
