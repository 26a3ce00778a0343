#!/usr/bin/env python3
"""Write tests/golden/fairseq: miniatures of every kind of model that is converted, computed by fairseq itself.

    python scripts/write_fairseq_goldens.py FAIRSEQ tests/golden/fairseq

FAIRSEQ is a checkout of fairseq (3d262bb2 was used), which need not be installed; the package bitarray must be. Each
file holds the weights (rounded to fp16), inputs and what fairseq makes of them in fp32: logits, the label-smoothed loss
and its gradients, or n-best lists. The dynamic convolutions are those of the releases (DynamicConv1dTBC), whose softmax
is over all taps; the current head narrows before it.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import torch
from safetensors.torch import save_file
from torch import Tensor

VOCAB, SMALL_VOCAB, PAD, EOS = 16, 12, 1, 2
SIDE = {"embed_dim": 8, "ffn_embed_dim": 12, "layers": 2, "attention_heads": 2, "kernel_size_list": [3, 5]}
CONV = {"conv_type": "dynamic", "glu": True, "normalize_before": False, "learned_pos": False}
COMMON = {"weight_softmax": True, "share_all_embeddings": True, "max_source_positions": 20, "max_target_positions": 20}


def both(**options: Any) -> dict[str, Any]:
    """The same options for encoder and decoder."""
    return {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in options.items()}


LIGHT, PRE, LEARNED = both(conv_type="lightweight"), both(normalize_before=True), both(learned_pos=True)
UNTIED: dict[str, Any] = {"share_all_embeddings": False}
DECODER_TIED = {**UNTIED, "share_decoder_input_output_embed": True, "src_vocab": SMALL_VOCAB}
TRANSFORMER: dict[str, Any] = {"arch": "transformer"}
LM: dict[str, Any] = {"arch": "lightconv_lm"}
UNEQUAL = {"encoder_layers": 3, "encoder_kernel_size_list": [1, 3, 7], "encoder_ffn_embed_dim": 10}
UNEQUAL |= {"decoder_kernel_size_list": [6, 11], "encoder_attention_heads": 4, "decoder_learned_pos": True}
VARIANTS: dict[str, dict[str, Any]] = {
    "dynamic": {},
    "dynamic_no_glu": both(glu=False),
    "dynamic_pre_norm": PRE,
    "dynamic_no_softmax": {"weight_softmax": False},
    "dynamic_learned_untied": {**LEARNED, **UNTIED},
    "dynamic_wide": both(conv_dim=12),
    "dynamic_narrow_one_glu": {**both(conv_dim=4), "decoder_glu": False},
    "dynamic_decoder_tied": DECODER_TIED,
    "dynamic_unequal": {**UNTIED, **UNEQUAL},
    "light": LIGHT,
    "light_no_glu": {**LIGHT, **both(glu=False)},
    "light_pre_norm_encoder": {**LIGHT, "encoder_normalize_before": True},
    "light_no_softmax": {**LIGHT, "weight_softmax": False},
    "light_learned_untied": {**LIGHT, **LEARNED, **UNTIED},
    "light_wide": {**LIGHT, **both(conv_dim=12)},
    "light_no_positions": {**LIGHT, "no_token_positional_embeddings": True},
    "light_then_dynamic": {"encoder_conv_type": "lightweight"},
    "dynamic_then_light": {"decoder_conv_type": "lightweight"},
    "transformer": TRANSFORMER,
    "transformer_pre_norm": {**TRANSFORMER, **PRE},
    "transformer_decoder_tied": {**TRANSFORMER, **DECODER_TIED},
    "transformer_untied_learned": {**TRANSFORMER, **UNTIED, **LEARNED},
    "transformer_two_widths": {**TRANSFORMER, **UNTIED, "encoder_embed_dim": 12, "encoder_normalize_before": True},
    "transformer_no_final_norm": {**TRANSFORMER, **PRE, "no_decoder_final_norm": True},
    "lm_dynamic": LM,
    "lm_light": {**LM, **LIGHT},
    "lm_dynamic_no_glu_learned": {**LM, **LEARNED, "decoder_glu": False},
    "lm_light_tied_wide": {**LM, **LIGHT, "share_decoder_input_output_embed": True, "decoder_conv_dim": 12},
}
SEARCHED = {
    "beam_dynamic": {},
    "beam_transformer": {**TRANSFORMER, **UNTIED},
    "beam_light": {**LIGHT, **PRE, **LEARNED},
}
RUNS: list[dict[str, Any]] = [
    *({"len_penalty": penalty} for penalty in (0.0, 0.6, 1.0, 2.0)),
    {"normalize_scores": False},
    {"len_penalty": 0.6, "min_len": 5},
    {"max_len_a": 0, "max_len_b": 3},
    {"unk_penalty": -4.0},
    {"temperature": 2.0, "len_penalty": 0.6},
    {"beam_size": 1},
    {"beam_size": 12},
    {"prefix": 2},
    {"prefix": 4, "min_len": 6, "len_penalty": 0.6},
    {"ensemble": True},
    {"ensemble": True, "temperature": 0.5, "len_penalty": 0.6},
]


@contextmanager
def importable(checkout: Path) -> Iterator[None]:
    """Let fairseq be imported by Python 3.11 and later, which refuse the defaults of its dataclasses."""
    importlib.import_module("hydra.core.config_store")  # has dataclasses of its own, which are not to be patched
    plain = dataclasses.dataclass

    def hashable(cls: Any = None, **options: Any) -> Any:
        return plain(cls, **{"unsafe_hash": True, **options})

    sys.path.insert(0, str(checkout))
    absent = {name: MagicMock() for name in ("sklearn", "sklearn.metrics", "scipy", "scipy.stats")}
    sys.modules |= absent
    logging.disable(logging.INFO)
    dataclasses.dataclass = hashable
    try:
        yield
    finally:
        dataclasses.dataclass = plain
        for name in absent:
            del sys.modules[name]


def original(module: str) -> Any:
    """A module of fairseq."""
    return importlib.import_module(f"fairseq.{module}")


class Task:
    """What fairseq asks its task for: the dictionaries."""

    def __init__(self, src_vocab: int) -> None:
        self.source_dictionary, self.target_dictionary = (original("data").Dictionary() for _ in range(2))
        for found, size in ((self.source_dictionary, src_vocab), (self.target_dictionary, VOCAB)):
            for index in range(size - len(found)):
                found.add_symbol(f"w{index}")
        self.dictionary = self.output_dictionary = self.target_dictionary


def build(changes: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A fresh model of a variant, and its options as fairseq filled them in."""
    lightconv, transformer = original("models.lightconv"), original("models.transformer")
    lightconv.DynamicConv = original("modules.dynamic_convolution").DynamicConv1dTBC
    options = {**both(**SIDE, **CONV), **COMMON, "dropout": 0.1, "attention_dropout": 0.0, **changes}
    task, arch = Task(options.pop("src_vocab", VOCAB)), options.pop("arch", "lightconv")
    options = {"relu_dropout": 0.0, "no_token_positional_embeddings": False, **options}
    if arch == "transformer":
        options = {name: value for name, value in options.items() if "kernel" not in name and "conv" not in name}
    if arch == "lightconv_lm":
        tied = options.get("share_decoder_input_output_embed", False)
        options = {name: value for name, value in options.items() if not name.startswith(("encoder", "share", "max"))}
        options |= {"share_decoder_input_output_embed": tied, "tokens_per_sample": 20}
    args = argparse.Namespace(**options)
    if arch == "transformer":
        transformer.base_architecture(args)
    kinds = {
        "lightconv": lightconv.LightConvModel,
        "lightconv_lm": original("models.lightconv_lm").LightConvLanguageModel,
    }
    model = kinds.get(arch, transformer.TransformerModel).build_model(args, task)
    kept = (int, float, str, list, type(None))
    return model.eval(), {name: value for name, value in vars(args).items() if isinstance(value, kept)}


@torch.no_grad()
def randomise(model: Any, seed: int) -> None:
    """Weights of a size at which every part matters, all of them numbers that fp16 holds."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if weight.dim() == 1:
            noise = 0.1 * noise + ("norm" in name and name.endswith("weight"))
        elif not name.endswith("conv.weight"):
            noise *= weight.shape[-1] ** -0.5
        weight.copy_(noise.half().float())


def sentences(lengths: list[int], vocab: int, generator: torch.Generator) -> list[Tensor]:
    """Random ids, each sentence ending in </s>."""
    ends = torch.tensor([EOS])
    return [torch.cat([torch.randint(4, vocab, (length - 1,), generator=generator), ends]) for length in lengths]


def padded(rows: list[Tensor], left: bool = False) -> Tensor:
    side = "left" if left else "right"
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD, padding_side=side)


def shifted(rows: list[Tensor]) -> Tensor:
    """The targets as the decoder is fed them: beginning with </s>."""
    return padded([torch.cat([row[-1:], row[:-1]]) for row in rows])


def write(path: Path, model: Any, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """One golden file. What is the same tensor twice is stored twice, as in a checkpoint."""
    weights = {f"weights/{name}": weight.half() for name, weight in model.state_dict().items()}
    found = {name: value.detach().clone().contiguous() for name, value in (weights | tensors).items()}
    save_file(found, path, {name: json.dumps(value) for name, value in metadata.items()})
    path.chmod(0o644)


def write_variant(folder: Path, name: str, seed: int) -> None:
    """Logits, and for translation models the loss and its gradients."""
    model, args = build(VARIANTS[name])
    randomise(model, seed)
    generator = torch.Generator().manual_seed(seed)
    src = sentences([9, 4, 7], VARIANTS[name].get("src_vocab", VOCAB), generator)
    tgt = sentences([8, 2, 5], VOCAB, generator)
    tensors = {"prev_tgt": shifted(tgt), "tgt": padded(tgt)}
    if name.startswith("lm_"):
        tensors["logits"] = model(shifted(tgt))[0]
        return write(folder / f"{name}.safetensors", model, tensors, {"args": args})
    tensors |= {"src": padded(src), "src_lengths": torch.tensor([len(row) for row in src])}
    tensors["logits"] = model(padded(src, left=True), tensors["src_lengths"], shifted(tgt))[0]
    log_probs = torch.log_softmax(tensors["logits"], dim=-1)
    right = log_probs.gather(-1, tensors["tgt"][..., None])[..., 0]
    others = log_probs.sum(dim=-1) - right
    loss = -((0.9 * right + 0.1 / (VOCAB - 1) * others) * (tensors["tgt"] != PAD)).sum()
    loss.backward()
    tensors |= {f"grads/{key}": weight.grad for key, weight in model.named_parameters() if weight.grad is not None}
    write(folder / f"{name}.safetensors", model, tensors, {"args": args, "loss": loss.item()})


def train(model: Any, seed: int) -> None:
    """A few updates on reversing sentences, so that n-best lists are neither random nor certain."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        src = sentences(torch.randint(3, 10, (32,), generator=generator).tolist(), VOCAB, generator)
        tgt = [torch.cat([row[:-1].flip(0), row[-1:]]) for row in src]
        lengths = torch.tensor([len(row) for row in src])
        logits = model(padded(src, left=True), lengths, shifted(tgt))[0]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), padded(tgt).flatten(), ignore_index=PAD)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.half().float())


@torch.no_grad()
def search(models: list[Any], src: list[Tensor], prefix: Tensor | None, options: dict[str, Any]) -> list[Any]:
    """The n-best lists of one run."""
    settings: dict[str, Any] = {"beam_size": 4, "max_len_a": 1.2, "max_len_b": 5, **options}
    generator = original("sequence_generator").SequenceGenerator(models, Task(VOCAB).target_dictionary, **settings)
    net_input = {"src_tokens": padded(src, left=True), "src_lengths": torch.tensor([len(row) for row in src])}
    found = generator.generate(models, {"net_input": net_input}, prefix_tokens=prefix)
    return [[[h["tokens"].tolist(), float(h["score"]), h["positional_scores"].tolist()] for h in row] for row in found]


def write_searches(folder: Path) -> None:
    """N-best lists of models trained for a moment; an ensemble is a model and the next one."""
    models = {name: build({**both(embed_dim=16, ffn_embed_dim=24), **changes}) for name, changes in SEARCHED.items()}
    for seed, (model, _) in enumerate(models.values()):
        train(model.train(), seed)
        model.eval()
    generator = torch.Generator().manual_seed(5)
    src = sentences([8, 3, 5, 9, 6], VOCAB, generator)
    names = list(models)
    for index, (name, (model, args)) in enumerate(models.items()):
        prefix = torch.randint(4, VOCAB, (len(src), 4), generator=generator)
        second, runs = names[(index + 1) % len(names)], []
        for run in RUNS:
            options = dict(run)
            ensemble = [model, models[second][0]] if options.pop("ensemble", False) else [model]
            forced = options.pop("prefix", 0)
            runs.append({**run, "found": search(ensemble, src, prefix[:, :forced] if forced else None, options)})
        tensors = {"src": padded(src), "src_lengths": torch.tensor([len(row) for row in src]), "prefix": prefix}
        write(folder / f"{name}.safetensors", model, tensors, {"args": args, "runs": runs, "second": second})


def main() -> None:
    checkout, folder = Path(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    with importable(checkout):
        original("sequence_generator")
    for seed, name in enumerate(VARIANTS):
        write_variant(folder, name, seed)
    write_searches(folder)


if __name__ == "__main__":
    main()
