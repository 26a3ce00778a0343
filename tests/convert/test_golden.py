"""Converted miniatures of every kind against what fairseq itself computed (scripts/write_fairseq_goldens.py)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F

from dynconv_mt.convert import convert_model
from dynconv_mt.models import LanguageModel, Seq2Seq, build_model
from dynconv_mt.search import SearchConfig, beam_search

FOLDER = Path(__file__).parents[1] / "golden" / "fairseq"
PAD = 1
TABLES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "decoder.output_projection.weight")


@dataclass
class Golden:
    """One file."""

    tensors: dict[str, Tensor]
    data: dict[str, Any]

    @classmethod
    def load(cls, name: str) -> Golden:
        with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
            data = {key: json.loads(value) for key, value in file.metadata().items()}
            return cls({key: file.get_tensor(key) for key in file.keys()}, data)  # noqa: SIM118 (no mapping)

    def part(self, name: str) -> dict[str, Tensor]:
        prefix = f"{name}/"
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}

    def model(self) -> Seq2Seq | LanguageModel:
        config, weights = convert_model(self.data["args"], self.part("weights"))
        model = build_model(config)
        model.load_state_dict(weights, strict=True)
        return model.eval()

    def gradients(self) -> dict[str, Tensor]:
        """Under our names: they are called and shaped like weights, and so they are converted like weights."""
        args, grads = self.data["args"], self.part("grads")
        tied = TABLES if args.get("share_all_embeddings") else TABLES[1:] if _is_tied(args) else ()
        named = {name: grads.get(name, torch.zeros_like(weight)) for name, weight in self.part("weights").items()}
        named |= dict.fromkeys(tied, next((grads[name] for name in tied if name in grads), torch.zeros(0)))
        return convert_model(args, named)[1]


def _is_tied(args: dict[str, Any]) -> bool:
    return bool(args.get("share_decoder_input_output_embed"))


NAMES = sorted(path.stem for path in FOLDER.glob("*.safetensors"))
SEARCHES = [name for name in NAMES if name.startswith("beam_")]
LMS = [name for name in NAMES if name.startswith("lm_")]
TRANSLATION = [name for name in NAMES if name not in SEARCHES + LMS]


def test_nothing_is_missing() -> None:
    assert (len(TRANSLATION), len(LMS), len(SEARCHES)) == (24, 4, 3)


@pytest.mark.parametrize("name", TRANSLATION)
def test_logits_loss_and_gradients(name: str) -> None:
    golden = Golden.load(name)
    model, found = golden.model(), golden.tensors
    logits = model(found["src"], found["src_lengths"], found["prev_tgt"])
    is_token = found["prev_tgt"] != PAD
    torch.testing.assert_close(logits[is_token], found["logits"][is_token], atol=1e-5, rtol=0)
    smoothing = 0.1 * logits.shape[-1] / (logits.shape[-1] - 1)  # fairseq spreads it over the wrong types only
    loss = F.cross_entropy(
        logits.flatten(0, 1),
        found["tgt"].flatten(),
        ignore_index=PAD,
        reduction="sum",
        label_smoothing=smoothing,
    )
    assert loss.item() == pytest.approx(golden.data["loss"], rel=1e-5)
    loss.backward()
    parameters = dict(model.named_parameters(remove_duplicate=False))
    scale = max(float(parameter.grad.abs().max()) for parameter in parameters.values() if parameter.grad is not None)
    for key, expected in golden.gradients().items():
        grad = parameters[key].grad
        assert grad is not None, key
        # a gradient that is zero but for rounding (keys' biases) is held against the largest one
        assert (grad - expected).abs().max() <= 1e-4 * max(float(expected.abs().max()), 1e-3 * scale), key


@pytest.mark.parametrize("name", TRANSLATION + LMS)
@pytest.mark.parametrize("num_new", [1, 3])
@torch.no_grad()
def test_steps(name: str, num_new: int) -> None:
    golden = Golden.load(name)
    model, found = golden.model(), golden.tensors
    prev = found["prev_tgt"]
    if isinstance(model, LanguageModel):
        torch.testing.assert_close(model(prev)[prev != PAD], found["logits"][prev != PAD], atol=1e-5, rtol=0)
        state = model.start(len(prev), 1, prev.shape[1])
    else:
        state = model.start(model.encode(found["src"], found["src_lengths"]), 1, prev.shape[1])
    steps = [model.step(part[:, None], state)[:, 0] for part in prev.split(num_new, dim=1)]
    torch.testing.assert_close(torch.cat(steps, dim=1)[prev != PAD], found["logits"][prev != PAD], atol=1e-5, rtol=0)


def search_config(run: dict[str, Any], padded_length: int) -> SearchConfig:
    """Our options for those of a run; fairseq's length limit is that of the padded source, in every sentence."""
    beam = run.get("beam_size", 4)
    return SearchConfig(
        beam=beam,
        nbest=beam,
        length_penalty=run.get("len_penalty", 1.0),
        normalize=run.get("normalize_scores", True),
        min_length=run.get("min_len", 1),
        max_length_a=0,
        max_length_b=int(run.get("max_len_a", 1.2) * padded_length + run.get("max_len_b", 5)),
        temperature=run.get("temperature", 1.0),
        unk_penalty=run.get("unk_penalty", 0.0),
    )


@pytest.mark.parametrize("name", SEARCHES)
def test_hypotheses_and_scores(name: str) -> None:
    golden = Golden.load(name)
    models, tensors = [golden.model(), Golden.load(golden.data["second"]).model()], golden.tensors
    for run in golden.data["runs"]:
        prefix = tensors["prefix"][:, : run["prefix"]] if "prefix" in run else None
        config = search_config(run, tensors["src"].shape[1])
        chosen: Any = models if "ensemble" in run else models[:1]
        found = beam_search(chosen, tensors["src"], tensors["src_lengths"], config, prefix=prefix)
        for ours, theirs in zip(found, run["found"], strict=True):
            assert [h.tokens for h in ours] == [tokens for tokens, _, _ in theirs], run
            for h, (_, score, token_scores) in zip(ours, theirs, strict=True):
                assert h.score == pytest.approx(score, abs=1e-4), run
                assert h.token_scores == pytest.approx(token_scores, abs=1e-4), run
