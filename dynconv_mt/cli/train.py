"""`dc-train`: put data, model and validation together, and train."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import nn

from dynconv_mt.cli.folders import read_raw_split
from dynconv_mt.cli.jobs import TrainJob
from dynconv_mt.compute import Compute, resolve_compute
from dynconv_mt.data.manifest import Manifest, read_manifest
from dynconv_mt.data.store import TokenStore
from dynconv_mt.errors import UserError, is_out_of_memory
from dynconv_mt.evaluate import EvaluateConfig, ScoreKind, corpus_scores
from dynconv_mt.evaluate.scores import check_scoring
from dynconv_mt.models.config import ModelConfig, Positions, Tying, config_to_dict
from dynconv_mt.models.io import fill_model, read_config, resolve_model_dir
from dynconv_mt.models.seq2seq import Model, Seq2Seq, build_model
from dynconv_mt.progress import unless_closed
from dynconv_mt.text.config import Tokenization
from dynconv_mt.text.pipeline import TextPipeline, find_text
from dynconv_mt.train import FitData, fit
from dynconv_mt.train.distributed import Ranks
from dynconv_mt.train.run_folder import differences, flatten, read_job_going_on
from dynconv_mt.translate import Translator


def run(job: TrainJob) -> int:
    """Train, or go on; return 0, also when a signal has stopped the run, which the same command continues."""
    manifest = read_manifest(job.data_dir)
    text = TextPipeline.load(Path(job.data_dir) / "text")
    data = FitData(
        train=_open_store(job.data_dir, "train", text),
        valid=_open_store(job.data_dir, "valid", text) if "valid" in manifest.splits else None,
        text=text,
    )
    validate = BleuValidation(job, text) if job.validate.bleu and data.valid else None
    init_from = job.init_from if read_job_going_on(Path(job.out_dir)) is None else None  # else it has its own weights
    if init_from is not None:
        _check_same_text(init_from, job.data_dir, text)
    job = replace(job, model=_with_vocabularies(job.model, text, manifest))
    torch.manual_seed(job.seed)
    model = _build(job.model)
    assert isinstance(model, Seq2Seq)  # TrainJob.check has seen to it
    if init_from is not None:
        _fill(model, init_from)
        if Ranks.from_environment().is_main:
            with unless_closed():
                print(f"begins with the weights of {init_from}", file=sys.stderr, flush=True)
    fit(job, model, data, validate)
    return 0


def _open_store(data_dir: str, split: str, text: TextPipeline) -> TokenStore:
    store = TokenStore.open(Path(data_dir) / split)
    store.check_fingerprint(text.fingerprint)
    if Ranks.from_environment().is_main:
        store.verify()  # a second a gigabyte; nothing else would show that other text is trained on
    return store


def _with_vocabularies(model: ModelConfig, text: TextPipeline, manifest: Manifest) -> ModelConfig:
    """The architecture with the vocabulary sizes of the data filled in."""
    for name in ("src_vocab_size", "tgt_vocab_size"):
        size = getattr(text, name)
        if getattr(model, name) not in (0, size):
            raise UserError(
                f"model.{name}={getattr(model, name)}: the data's vocabulary ({manifest.src}-{manifest.tgt}) has "
                f"{size} types; leave the option out"
            )
    if model.tying is Tying.all and not text.joint:
        raise UserError(
            "model.tying=all: needs one vocabulary for both sides, and this data has one for each; give "
            "model.tying=decoder, or preprocess with bpe.joint=true"
        )
    return replace(model, src_vocab_size=text.src_vocab_size, tgt_vocab_size=text.tgt_vocab_size)


def _build(config: ModelConfig) -> Model:
    """The model. Raises UserError where its sizes are beyond this machine, or beyond any."""
    try:
        return build_model(config)
    except (RuntimeError, OverflowError, MemoryError) as error:  # of torch, whose own messages name no option
        sizes = f"model.dim={config.dim} model.max_positions={config.max_positions}"
        is_memory = is_out_of_memory(error)
        what = (
            "does not fit in this machine's memory" if is_memory else f"cannot be built ({str(error).splitlines()[0]})"
        )
        raise UserError(f"{sizes}: a model of these sizes {what}; choose smaller ones") from None


def _check_same_text(init_from: str, data_dir: str, text: TextPipeline) -> None:
    """Raise UserError where the data's ids mean something else to the model to begin with."""
    folder = find_text(init_from, "init_from")
    if TextPipeline.load(folder).fingerprint != text.fingerprint:
        raise UserError(
            f"init_from={init_from}: has another vocabulary, or other text options, than data_dir={data_dir}; "
            f"preprocess with text_from={init_from}"
        )


def _fill(model: Seq2Seq, init_from: str) -> None:
    """Load the weights to begin with. Raises UserError where options of model.* have changed what they are for."""
    folder = resolve_model_dir(init_from, "init_from")
    theirs, ours = (flatten({"model": config_to_dict(config)}) for config in (read_config(folder), model.config))
    if changes := differences(theirs, ours, partial(_may_differ, model.config)):
        raise UserError(
            f"init_from={init_from}: its weights do not fit {'; '.join(changes)}; of the options model.* only dropouts "
            "and model.max_positions may be others: leave out the rest, on the command line and in the recipe"
        )
    fill_model(model, folder)


def _may_differ(config: ModelConfig, name: str) -> bool:
    """Whether an option of model.* leaves the meaning of weights as it is."""
    if name == "model.max_positions":
        return config.positions is not Positions.learned
    return name.endswith(("dropout", "_vocab_size"))  # vocabularies have been compared


class BleuValidation:
    """Translates the validation source by beam search and scores it: sacreBLEU, or BLEU of the tokens as they are."""

    def __init__(self, job: TrainJob, text: TextPipeline) -> None:
        """Read the raw validation lines; Raises UserError where they are missing, or the scorer."""
        self.job, self.text = job, text
        self.compute: Compute | None = None  # as the first call finds it
        self.raw = read_raw_split(job.data_dir, "valid")
        is_tokens = text.config.tokenization is Tokenization.none
        metric = ScoreKind.tokenized_bleu if is_tokens else ScoreKind.sacrebleu
        self.scoring = EvaluateConfig(metrics=[metric], tokenization=text.config.tokenization)
        check_scoring(self.raw.tgt, self.scoring)

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Return {"bleu": score}; `model` is in evaluation mode."""
        seq2seq = cast(Seq2Seq, model)
        if self.compute is None:
            size = Ranks.from_environment().local_world_size
            self.compute = resolve_compute(self.job, local_world_size=size, width=seq2seq.config.dim)
        translator = Translator([seq2seq], self.text, search=self.job.search, compute=self.compute)
        hypotheses = [translation.text for translation in translator.translate(self.raw.sources)]
        (score,) = corpus_scores(hypotheses, [self.raw.targets], self.raw.tgt, self.scoring)
        return {"bleu": score.value}
