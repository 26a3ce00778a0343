"""`dc-info`: what a model is."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from dynconv_mt.cli.jobs import InfoJob
from dynconv_mt.models.config import Stack, config_from_dict
from dynconv_mt.models.io import open_weights, read_config, read_config_file, resolve_model_dir
from dynconv_mt.models.layout import TEXT
from dynconv_mt.text.pipeline import TextPipeline


def run(job: InfoJob) -> int:
    """Print the description, for people or as JSON."""
    description = describe(resolve_model_dir(job.model_dir))
    print(json.dumps(description, indent=2, ensure_ascii=False) if job.json else _readable(description))
    return 0


def describe(folder: Path) -> dict[str, Any]:
    """Return what a model directory holds, in JSON values. Raises UserError where a part is missing or altered."""
    content = read_config_file(folder)
    read_config(folder)  # says what is wrong with an architecture that this version cannot build
    return {
        "folder": str(folder),
        "version": content.get("version", "?"),
        "parameters": _count_parameters(folder),
        "bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        "model": content["model"],
        "text": _describe_text(folder) if (folder / TEXT).is_dir() else None,
        "provenance": content.get("provenance", {}),
    }


def _count_parameters(folder: Path) -> dict[str, int]:
    """Weights in all and by part of the model; tied ones are stored, and counted, once."""
    counts = Counter({"all": 0})
    with open_weights(folder) as file:
        for name in file.keys():  # noqa: SIM118 (no mapping)
            size = 1
            for length in file.get_slice(name).get_shape():
                size *= length
            part = name.split(".")[0]
            counts["all"] += size
            counts[f"{part} embedding" if "embedding" in name else part] += size
    return dict(counts)


def _describe_text(folder: Path) -> dict[str, Any]:
    text = TextPipeline.load(folder / TEXT)
    return {
        "languages": f"{text.src}-{text.tgt}",
        "vocabulary": {"source": text.src_vocab_size, "target": text.tgt_vocab_size, "joint": text.joint},
        "tokenization": str(text.config.tokenization),
        "lowercase": text.config.lowercase,
        "fingerprint": text.fingerprint,
    }


def _readable(description: dict[str, Any]) -> str:
    config = config_from_dict(description["model"])
    parameters = dict(description["parameters"])
    total = parameters.pop("all")
    parts = ", ".join(f"{name} {count:,}" for name, count in parameters.items())
    lines = [
        f"{description['folder']}: {total:,} parameters, {description['bytes'] / 1e6:.1f} MB, "
        f"written by dynconv_mt {description['version']}",
        f"parameters: {parts}",
        "encoder: none, this is a language model" if config.is_language_model else _stack(config.stack("encoder")),
        _stack(config.stack("decoder")),
        f"embeddings tied: {config.tying}, dropout {config.dropout:g}",
    ]
    for name in ("text", "provenance"):
        entries = description[name] or {}
        lines += [f"{name}: {', '.join(f'{key} {_value(value)}' for key, value in entries.items()) or 'none'}"]
    return "\n".join(lines)


def _stack(stack: Stack) -> str:
    mixer = stack.mixer
    sizes = getattr(mixer, "kernel_sizes", None)
    kernels = f", kernels {','.join(map(str, sizes))}" if sizes else ""
    layers = f"{stack.layers} layers, {mixer.name}, {mixer.heads} heads{kernels}, feed-forward {stack.ffn_dim}"
    positions = f"{stack.positions} positions, at most {stack.max_positions} tokens"
    return f"{stack.name}: {layers}, width {stack.dim}, {stack.norm}-norm, {positions}"


def _value(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)
