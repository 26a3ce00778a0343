#!/usr/bin/env python3
"""Measure how far converted models are from fairseq's own numbers, and print it as Markdown.

    python scripts/bench_parity.py [../shared/parity]

Fixtures: tests/golden/fairseq, and the folder named, where it is there. Every number is the worst over all cases of a
fixture and all its tokens; gradients are relative to the largest entry of their tensor.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F

from dynconv_mt.convert import convert_model
from dynconv_mt.models import LanguageModel, Seq2Seq, build_model
from dynconv_mt.ops import backend
from dynconv_mt.search import SearchConfig, beam_search

GOLDEN, PARITY = Path(__file__).parents[1] / "tests/golden/fairseq", Path(__file__).parents[2] / "shared/parity"
PAD = 1
TABLES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "decoder.output_projection.weight")
OPTIONS = {"beam": "beam", "beam_size": "beam", "lenpen": "length_penalty", "len_penalty": "length_penalty"}
OPTIONS |= {"normalize": "normalize", "normalize_scores": "normalize", "min_len": "min_length"}
OPTIONS |= {"unkpen": "unk_penalty", "unk_penalty": "unk_penalty", "temperature": "temperature"}


@dataclass
class Fixture:
    """What fairseq computed with one model."""

    name: str
    args: dict[str, Any]
    weights: dict[str, Tensor]
    cases: list[dict[str, Any]] = field(default_factory=list)  # prev_tgt, logits, and src, src_lengths, steps, grads
    searches: list[dict[str, Any]] = field(default_factory=list)  # src, src_lengths, config, prefix, second, found

    def model(self) -> Seq2Seq | LanguageModel:
        config, weights = convert_model(self.args, self.weights)
        model = build_model(config)
        model.load_state_dict(weights, strict=True)
        return model.eval()


def search_config(options: dict[str, Any], padded_length: int, default_b: int) -> SearchConfig:
    """Our options for fairseq's, whose length limit is that of the padded source."""
    limit = int(options.get("max_len_a", 1.2) * padded_length + options.get("max_len_b", default_b))
    known = {OPTIONS[name]: value for name, value in options.items() if name in OPTIONS}
    known = {"beam": 4, **known}
    return SearchConfig(**known, nbest=known["beam"], max_length_a=0, max_length_b=limit)


def golden_fixtures(folder: Path) -> Iterator[Fixture]:
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            data = {name: json.loads(value) for name, value in file.metadata().items()}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        parts: dict[str, dict[str, Tensor]] = {"weights": {}, "grads": {}}
        for name, value in tensors.items():
            if "/" in name:
                part, _, key = name.partition("/")
                parts[part][key] = value
        fixture = Fixture(path.stem, data["args"], parts["weights"])
        if "runs" not in data:
            fixture.cases.append({**tensors, "steps": tensors["logits"], "grads": parts["grads"]})
        for run in data.get("runs", []):
            fixture.searches.append(
                {
                    **{name: tensors[name] for name in ("src", "src_lengths")},
                    "config": search_config(run, tensors["src"].shape[1], 5),
                    "prefix": tensors["prefix"][:, : run["prefix"]] if "prefix" in run else None,
                    "second": folder / f"{data['second']}.safetensors" if "ensemble" in run else None,
                    "found": run["found"],
                }
            )
        yield fixture


def parity_fixtures(folder: Path) -> Iterator[Fixture]:
    for path in sorted(folder.glob("*_*.pt")):
        data = torch.load(path, weights_only=True)
        fixture = Fixture(path.stem, data["args"], data["state_dict"])
        if data["kind"] == "lm":
            fixture.cases.append(
                {"prev_tgt": data["prev_output_tokens"], **dict.fromkeys(("logits", "steps"), data["logits"])}
            )
        for case in data.get("cases", {}).values():
            truth = case.get("right_1dTBC", case["right"])  # see the README there
            named = {"src": case["src_right"], "prev_tgt": case["prev_output_tokens"], "tgt": case["target"]}
            named |= {"logits": truth["logits"], "steps": truth["logits_incremental"]}
            fixture.cases.append({**named, "src_lengths": case["src_lengths"], "grads": case["grads"]})
        for run in data.get("runs", []):
            if "no_repeat_ngram_size" in run["cfg"]:  # blocks nothing there
                continue
            fixture.searches.append(
                {
                    "src": data["src_right"],
                    "src_lengths": data["src_lengths"],
                    "config": search_config(run["cfg"], data["src_right"].shape[1], 10),
                    "prefix": run["prefix_tokens"],
                    "second": folder / run["ensemble_second"] if run["ensemble_second"] else None,
                    "found": [[(h["tokens"].tolist(), float(h["score"]), None) for h in row] for row in run["hyps"]],
                }
            )
        yield fixture


def gradient_difference(fixture: Fixture, model: Seq2Seq, case: dict[str, Any], logits: Tensor) -> float:
    """Of the label-smoothed sum, whose ε fairseq spreads over the wrong types only."""
    sizes, grads = logits.shape[-1], case["grads"]
    smoothing = 0.1 * sizes / (sizes - 1)
    loss = F.cross_entropy(
        logits.flatten(0, 1), case["tgt"].flatten(), ignore_index=PAD, reduction="sum", label_smoothing=smoothing
    )
    model.zero_grad()
    loss.backward()
    args = fixture.args
    tied = (
        TABLES
        if args.get("share_all_embeddings")
        else TABLES[1:]
        if args.get("share_decoder_input_output_embed")
        else ()
    )
    named = {name: grads.get(name, torch.zeros_like(weight)) for name, weight in fixture.weights.items()}
    named |= dict.fromkeys(tied, next((grads[name] for name in tied if name in grads), torch.zeros(0)))
    parameters = dict(model.named_parameters(remove_duplicate=False))
    worst = 0.0
    largest = max(float(grad.abs().max()) for grad in grads.values())
    for name, expected in convert_model(args, named)[1].items():
        found, scale = parameters[name].grad, max(float(expected.abs().max()), 1e-3 * largest)
        assert found is not None, name
        worst = max(worst, float((found - expected).abs().max()) / scale)
    return worst


def measure_case(fixture: Fixture, case: dict[str, Any]) -> dict[str, float]:
    model, prev = fixture.model(), case["prev_tgt"]
    is_token = prev != PAD
    if isinstance(model, LanguageModel):
        logits, state = model(prev), model.start(len(prev), 1, prev.shape[1])
    else:
        logits = model(case["src"], case["src_lengths"], prev)
    found = {"logits": float((logits.detach() - case["logits"])[is_token].abs().max())}
    with torch.no_grad():
        if isinstance(model, Seq2Seq):
            state = model.start(model.encode(case["src"], case["src_lengths"]), 1, prev.shape[1])
        steps = torch.cat([model.step(part[:, None], state)[:, 0] for part in prev.split(1, dim=1)], dim=1)
    found["steps"] = float((steps - case["steps"])[is_token].abs().max())
    if isinstance(model, Seq2Seq):
        found["gradients"] = gradient_difference(fixture, model, case, logits)
    return found


def measure_search(fixture: Fixture, search: dict[str, Any], others: dict[Path, Fixture]) -> tuple[int, int, float]:
    """Hypotheses, how many of them are not fairseq's at the same rank, and the worst difference of scores."""
    chosen = [fixture, *([others[search["second"]]] if search["second"] else [])]
    models: Any = [each.model() for each in chosen]
    found = beam_search(models, search["src"], search["src_lengths"], search["config"], prefix=search["prefix"])
    count = different = 0
    worst = 0.0
    for ours, theirs in zip(found, search["found"], strict=True):
        for h, (tokens, score, _) in zip(ours, theirs, strict=True):
            count, different = count + 1, different + (h.tokens != tokens)
            worst = max(worst, abs(h.score - score))
    return count, different, worst


def report(title: str, fixtures: dict[Path, Fixture]) -> None:
    print(f"\n## {title}\n\n| fixture | logits | step by step | gradients (relative) |\n|---|---|---|---|")
    for fixture in fixtures.values():
        worst: dict[str, float] = {}
        for case in fixture.cases:
            worst |= {name: max(value, worst.get(name, 0.0)) for name, value in measure_case(fixture, case).items()}
        if worst:
            cells = [f"{worst[name]:.1e}" if name in worst else "–" for name in ("logits", "steps", "gradients")]
            print(f"| {fixture.name} | {' | '.join(cells)} |")
    print("\n| fixture | searches | hypotheses | of these different | worst score |\n|---|---|---|---|---|")
    for fixture in fixtures.values():
        results = [measure_search(fixture, search, fixtures) for search in fixture.searches]
        if results:
            count, different = (sum(result[index] for result in results) for index in (0, 1))
            print(f"| {fixture.name} | {len(results)} | {count} | {different} | {max(r[2] for r in results):.1e} |")


def main() -> None:
    torch.set_num_threads(1)
    print(f"Operators: {backend('cpu')}.")
    parity = Path(sys.argv[1]) if len(sys.argv) > 1 else PARITY
    report("tests/golden/fairseq", {GOLDEN / f"{each.name}.safetensors": each for each in golden_fixtures(GOLDEN)})
    if parity.is_dir():
        report("shared/parity", {parity / f"{each.name}.pt": each for each in parity_fixtures(parity)})


if __name__ == "__main__":
    main()
