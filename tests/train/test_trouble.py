"""What a run says when gradients stay non-finite."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynconv_mt.compute import Compute
from dynconv_mt.data.loader import Loader, Share
from dynconv_mt.errors import UserError
from dynconv_mt.models.seq2seq import Seq2Seq
from dynconv_mt.runtime import Precision
from dynconv_mt.text.bpe import learn_bpe
from dynconv_mt.text.config import BpeConfig, TextConfig
from dynconv_mt.text.pipeline import TextPipeline
from dynconv_mt.text.vocab import PAD
from dynconv_mt.train import FitConfig, FitData, fit
from dynconv_mt.train.distributed import Ranks
from dynconv_mt.train.step import UpdateStep
from dynconv_mt.train.trouble import Watch, give_up

NewModel = Callable[..., Seq2Seq]
NewJob = Callable[..., FitConfig]
NAN = float("nan")


@pytest.fixture
def step(new_model: NewModel, new_job: NewJob) -> UpdateStep:
    job = new_job(train__max_skipped=1)
    return UpdateStep(new_model(), job, Compute(torch.device("cpu"), Precision.fp32), Ranks())


def report_of(step: UpdateStep, data: FitData, run: Path) -> dict[str, Any]:
    """Make an update of two micro-batches; return what is written of the trouble in it."""
    loader = Loader(data.train, step.config.batch, 1, Share(2), prefetch=0)
    step(4, next(iter(loader.epoch(0))))
    with pytest.raises(UserError, match=r"train\.max_skipped=1: .* \(the last was 5\)") as caught:
        give_up(step, run, data.text)
    report: dict[str, Any] = json.loads((run / "trouble.json").read_text())
    assert report["update"] == 5 and report["rank"] == 0
    assert report["summary"] in str(caught.value) and "\n" not in str(caught.value)
    assert all(parameter.grad is None for parameter in step.module.parameters())
    return report


def spoil_row(row: int, min_rows: int) -> Callable[..., Tensor]:
    """A hook that makes one row of a module's output infinite, in batches of at least so many rows."""

    def hook(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        rows = torch.arange(len(output)) == row
        is_spoilt = rows[:, None, None] & (len(output) >= min_rows)
        return torch.where(is_spoilt, torch.inf, output)

    return hook


@pytest.mark.parametrize("passes", [1, 2])
def test_names_the_first_module_and_the_sentence(step: UpdateStep, data: FitData, tmp_path: Path, passes: int) -> None:
    """With R-Drop a batch goes through the model twice, side by side: here the second pass goes wrong."""
    step.config.train.r_drop = float(passes - 1)
    loader = Loader(data.train, step.config.batch, 1, Share(2), prefetch=0)
    sizes = [batch.num_sentences for batch in next(iter(loader.epoch(0))).batches]
    larger = int(sizes[1] > sizes[0])
    assert sizes[0] != sizes[1]
    hook = spoil_row((passes - 1) * max(sizes) + 2, passes * max(sizes))
    step.module.get_submodule("encoder.layers.0.ffn.input").register_forward_hook(hook)
    report = report_of(step, data, tmp_path)
    assert (report["place"], report["name"], report["kind"]) == ("forward", "encoder.layers.0.ffn.input", "Linear")
    assert report["micro_step"] == larger and report["loss"] == "nan"
    batch = next(iter(loader.epoch(0))).batches[larger]
    assert report["batch"] == list(batch.indices)
    (sentence,) = report["sentences"]
    assert sentence == {
        "index": batch.indices[2],
        "src": data.train.source(batch.indices[2])[:-1].tolist(),
        "tgt": data.train.target(batch.indices[2])[:-1].tolist(),
    }


def test_what_a_module_is_given_was_made_by_its_caller(step: UpdateStep, data: FitData, tmp_path: Path) -> None:
    ffn = step.module.get_submodule("decoder.layers.0.ffn")
    ffn.register_forward_pre_hook(lambda _, args: (args[0] * NAN, *args[1:]))
    report = report_of(step, data, tmp_path)
    assert (report["place"], report["name"]) == ("forward", "decoder.layers.0.ffn_residual")


def test_names_the_first_gradient(step: UpdateStep, data: FitData, tmp_path: Path) -> None:
    def hook(_: nn.Module, __: Any, output: Tensor) -> None:
        output.register_hook(lambda gradient: gradient * NAN)

    step.module.get_submodule("encoder.layers.0.ffn.input").register_forward_hook(hook)
    report = report_of(step, data, tmp_path)
    assert report["place"] == "backward" and report["name"].startswith("encoder.layers.0.ffn.input.")
    assert len(report["sentences"]) == len(report["batch"]) > 1
    assert isinstance(report["loss"], float)


def test_says_so_where_only_logits_overflow(step: UpdateStep, data: FitData, tmp_path: Path) -> None:
    step.module.decoder.norm.register_forward_hook(lambda *args: args[2].sign() * 3e38)
    report = report_of(step, data, tmp_path)
    assert (report["place"], report["loss"]) == ("loss", "nan")
    assert "the logits or the loss are not finite" in report["summary"]


def test_names_weights_that_came_broken(step: UpdateStep, data: FitData, tmp_path: Path) -> None:
    weight = dict(step.module.named_parameters())["decoder.layers.0.ffn.output.weight"]
    with torch.no_grad():
        weight[0, 0] = NAN
    report = report_of(step, data, tmp_path)
    assert (report["place"], report["name"]) == ("weights", "decoder.layers.0.ffn.output.weight")


def test_names_the_largest_where_only_the_norm_overflows(step: UpdateStep, data: FitData, tmp_path: Path) -> None:
    def hook(_: nn.Module, __: Any, output: Tensor) -> None:
        output.register_hook(lambda gradient: gradient.sign() * 1e36)

    step.module.get_submodule("encoder.layers.0.ffn.output").register_forward_hook(hook)
    report = report_of(step, data, tmp_path)
    assert report["place"] == "sum" and report["name"].startswith("encoder.")


def test_the_replay_is_exact_and_a_sound_model_is_not_blamed(step: UpdateStep, data: FitData, tmp_path: Path) -> None:
    outputs: list[Tensor] = []
    handle = step.module.decoder.norm.register_forward_hook(lambda *args: outputs.append(args[2].detach().clone()))
    with Watch(step.module, 0) as watch:
        step(0, next(iter(Loader(data.train, step.config.batch, 1, Share(2), prefetch=0).epoch(0))))
    assert watch.first(0.0) is None
    handle.remove()
    step.module.decoder.norm.register_forward_hook(lambda *args: outputs.append(args[2].detach().clone()))
    step.module.decoder.norm.register_forward_hook(lambda *args: args[2] * NAN)
    outputs.clear()
    report_of(step, data, tmp_path)
    made, again = outputs[:2], outputs[2:]
    assert all(map(torch.equal, made, again)) and len(made) == len(again)


def test_a_run_stops_soon_after_the_limit(data: FitData, new_model: NewModel, new_job: NewJob) -> None:
    """Not only where a line of metrics is due; and the checkpoint before it is kept."""
    model, job = new_model(), new_job(train__max_skipped=4, train__log_every=1000)
    calls = 0

    def spoil(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        nonlocal calls
        calls += model.training
        return output * NAN if calls > 2 * 9 else output  # from the tenth update on, of two micro-batches each

    model.decoder.norm.register_forward_hook(spoil)
    with pytest.raises(UserError, match=r"train\.max_skipped=4.*trouble\.json"):
        fit(job, model, data)
    run = Path(job.out_dir)
    assert json.loads((run / "trouble.json").read_text())["update"] == 16  # 9 good, 13 would be the first to know
    assert (run / "checkpoints" / "step_00000006").is_dir()


def test_padding_is_not_shown(step: UpdateStep, data: FitData, tmp_path: Path) -> None:
    step.module.decoder.norm.register_forward_hook(lambda *args: args[2] * NAN)
    report = report_of(step, data, tmp_path)
    assert len({len(sentence["src"]) for sentence in report["sentences"]}) > 1
    assert all(PAD not in sentence["src"] + sentence["tgt"] for sentence in report["sentences"])


def test_sentences_are_shown_in_pieces(step: UpdateStep, data: FitData, tmp_path: Path) -> None:
    """Where the text pipeline is at hand, as it is in dc-train."""
    bpe = learn_bpe(Counter({"ein": 4, "kleiner": 3, "hund": 3}), BpeConfig(vocab_size=270))
    text = TextPipeline("de", "en", TextConfig(), bpe, bpe)
    step.module.decoder.norm.register_forward_hook(lambda *args: args[2] * NAN)
    report = report_of(step, FitData(data.train, text=text), tmp_path)
    sentence = report["sentences"][0]
    assert sentence["src"] == text.source_pieces(data.train.source(sentence["index"])[:-1].tolist())
    assert sentence["tgt"] == text.target_pieces(data.train.target(sentence["index"])[:-1].tolist())
    assert all(isinstance(piece, str) for piece in sentence["src"])
