"""The job of each command: all options, in one object. No torch and no Hydra here."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dynconv_mt.data.config import BatchConfig, translation_batch
from dynconv_mt.data.manifest import MANIFEST, read_manifest
from dynconv_mt.data.output import check_folder, check_replaceable
from dynconv_mt.data.preprocess import PreprocessConfig
from dynconv_mt.errors import UserError
from dynconv_mt.evaluate.config import DETOKENIZED, EvaluateConfig, ReportConfig, ScoreKind
from dynconv_mt.models.config import ModelConfig
from dynconv_mt.models.layout import ENTRIES, WEIGHTS
from dynconv_mt.runtime import Precision, RuntimeConfig
from dynconv_mt.search.config import SearchConfig
from dynconv_mt.text.config import TextConfig, Tokenization
from dynconv_mt.train.config import Final, FitConfig, ScheduleKind

STDIO = "-"  # as input= or output=: standard input or output


def as_list(value: Any) -> list[str]:
    """Return what may be given as one or as a list, as a list of text; None is an empty one."""
    if value is None:
        return []
    items = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return [str(item) for item in items]


def _refuse_typed(typed: Mapping[str, str], option: str, need: str) -> None:
    """Raise UserError where an option, or one of a section (`name.`), was typed that has no effect in this job.

    What a recipe sets says nothing of this job, and passes.
    """
    for name, value in typed.items():
        if name == option or (option.endswith(".") and name.startswith(option)):
            raise UserError(f"{name}={value}: only has an effect with {need}")


def _check_typed_search(typed: Mapping[str, str], search: SearchConfig) -> None:
    """Raise UserError where an option of the search was typed that has no effect in it."""
    if not search.normalize:
        _refuse_typed(typed, "search.length_penalty", "search.normalize=true")


def _check_typed_text(typed: Mapping[str, str], text: TextConfig) -> None:
    """Raise UserError where a step was typed that text.tokenization=none leaves out."""
    for name in ("normalize_punctuation", "remove_non_printing", "escape"):
        if text.tokenization is Tokenization.none and typed.get(f"text.{name}", "").lower() == "true":
            raise UserError(f"text.{name}=true: only has an effect with text.tokenization=moses")


def _check_batch(batch: BatchConfig) -> None:
    """Raise UserError for what only training knows."""
    if batch.is_auto:
        raise UserError("batch.max_tokens=auto: has an effect in training only; give a number")
    if batch.rows_multiple != 1:
        raise UserError(f"batch.rows_multiple={batch.rows_multiple}: has an effect in training only")


def _check_stdin(options: str, names: Sequence[str | None]) -> None:
    """Raise UserError where more than one of the files to read is standard input."""
    if names.count(STDIO) > 1:
        raise UserError(f"{options}: only one file can be -, standard input")


def _check_outputs(job: object, options: Sequence[str], inputs: Sequence[str | None]) -> None:
    """Raise UserError where a file would be written over another one of the job's, however its name is spelt."""
    taken = {os.path.realpath(name) for name in inputs if name not in (None, STDIO)}
    for option in options:
        name = getattr(job, option)
        if name in (None, STDIO):
            continue
        if os.path.realpath(name) in taken:
            raise UserError(f"{option}={name}: another option names this file as well; give one of its own")
        taken.add(os.path.realpath(name))


@dataclass(kw_only=True)
class PreprocessJob(PreprocessConfig):
    """Make a data folder from raw parallel text."""

    def check_typed(self, typed: Mapping[str, str]) -> None:
        """Raise UserError where an option on the command line, of the `typed` values, has no effect."""
        if self.text_from is not None:
            for section in ("text.", "bpe."):
                _refuse_typed(typed, section, "a vocabulary to be learned, without text_from=")
        _check_typed_text(typed, self.text)


@dataclass(kw_only=True)
class TrainJob(FitConfig):
    """Train the model given by model= or the recipe on a data folder, until the first limit in train.* is reached."""

    data_dir: str  # folder that dc-preprocess made
    init_from: str | None = None  # begin with this run's or model's weights; its architecture takes the place of model=
    model: ModelConfig
    search: SearchConfig = field(default_factory=SearchConfig)  # of validate.bleu

    def check(self) -> None:
        """Raise UserError where the options do not fit together."""
        super().check()
        if self.model.is_language_model:
            raise UserError("model.encoder.layers=0: a language model; dc-train trains translation models only")
        if self.search.nbest != 1:
            raise UserError(f"search.nbest={self.search.nbest}: has no effect here; validation takes the best one")
        replace(self.model, src_vocab_size=0, tgt_vocab_size=0).check()  # whose sizes the data will tell

    def check_typed(self, typed: Mapping[str, str]) -> None:
        """Raise UserError where an option on the command line, of the `typed` values, has no effect."""
        if self.init_from is not None:
            _refuse_typed(typed, "model", "fresh weights, without init_from=")
        if not self.validate.bleu:
            _refuse_typed(typed, "search.", "validate.bleu=true")
        _check_typed_search(typed, self.search)
        if self.checkpoint.final is not Final.average:
            _refuse_typed(typed, "checkpoint.average", "checkpoint.final=average")
        if self.schedule.kind is not ScheduleKind.cosine:
            _refuse_typed(typed, "schedule.period_updates", f"schedule.kind={ScheduleKind.cosine}")
        if self.schedule.warmup_updates == 0:
            _refuse_typed(typed, "schedule.warmup_init_lr", "schedule.warmup_updates above 0")
        if (Path(self.data_dir) / MANIFEST).is_file() and "valid" not in read_manifest(self.data_dir).splits:
            for option in ("validate.", "checkpoint.keep_best"):
                _refuse_typed(typed, option, "validation data (dc-preprocess valid=)")


@dataclass(kw_only=True)
class GenerateJob(RuntimeConfig):
    """Translate a file or a preprocessed split, and score it against references."""

    model_dir: Any  # run folder, checkpoint or model directory; a list is an ensemble
    input: str | None = None  # file to translate, one sentence a line, plain or gzip; - is standard input
    output: str | None = None  # file for the translations; null: standard output
    reference: Any = None  # file or files with reference translations, line by line; scored when given
    data_dir: str | None = None  # take input and reference from this data folder
    split: str | None = None  # of data_dir: valid or test; null: test
    details: str | None = None  # JSON lines file: pieces, scores and the search.nbest translations of every line
    scores_json: str | None = None  # JSON file for the scores and their signatures
    search: SearchConfig = field(default_factory=SearchConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    batch: BatchConfig = field(default_factory=translation_batch)

    def check(self) -> None:
        """Raise UserError where the options do not fit together."""
        if (self.input is None) == (self.data_dir is None):
            raise UserError("input=, data_dir=: give one of the two, a file or a preprocessed data folder")
        if self.split is not None and self.data_dir is None:
            raise UserError(f"split={self.split}: only has an effect with data_dir=")
        if self.data_dir is not None and self.split not in (None, "valid", "test"):
            raise UserError(f"split={self.split}: must be valid or test; their raw lines are kept, those of train not")
        if self.data_dir is not None and self.reference is not None:
            raise UserError(f"reference={self.reference}: data_dir= brings its own; give input= and reference= instead")
        if self.scores_json is not None and self.data_dir is None and not as_list(self.reference):
            raise UserError(f"scores_json={self.scores_json}: there is nothing to score without reference=")
        if self.search.nbest > 1 and self.details is None:
            raise UserError(f"search.nbest={self.search.nbest}: only details=FILE holds more than the best translation")
        _check_batch(self.batch)
        inputs = [self.input, *as_list(self.reference)]
        _check_stdin("input=, reference=", inputs)
        _check_outputs(self, ("output", "details", "scores_json"), inputs)

    def check_typed(self, typed: Mapping[str, str]) -> None:
        """Raise UserError where an option on the command line, of the `typed` values, has no effect."""
        if self.data_dir is None and not as_list(self.reference):
            _refuse_typed(typed, "evaluate.", "reference=")
        if set(self.evaluate.metrics) <= set(DETOKENIZED):
            for option in ("tokenization", "normalize_punctuation"):
                _refuse_typed(typed, f"evaluate.{option}", f"evaluate.metrics=[{ScoreKind.tokenized_bleu}] or the like")
        if self.evaluate.tokenization is Tokenization.none:
            _refuse_typed(typed, "evaluate.normalize_punctuation", "evaluate.tokenization=moses")
        _check_typed_search(typed, self.search)


@dataclass(kw_only=True)
class InteractiveJob(RuntimeConfig):
    """Translate standard input line by line, each as soon as it is there."""

    model_dir: Any  # run folder, checkpoint or model directory; a list is an ensemble
    search: SearchConfig = field(default_factory=SearchConfig)

    def check(self) -> None:
        """Raise UserError for an option without effect."""
        if self.search.nbest != 1:
            raise UserError(f"search.nbest={self.search.nbest}: one translation a line is printed; use dc-generate")

    def check_typed(self, typed: Mapping[str, str]) -> None:
        """Raise UserError where an option on the command line, of the `typed` values, has no effect."""
        _check_typed_search(typed, self.search)


@dataclass(kw_only=True)
class AverageJob:
    """Average the weights of checkpoints of one run, or of models of one architecture and vocabulary."""

    inputs: Any  # checkpoints or model directories; with last=, one run folder
    last: int = 0  # average the newest checkpoints of the run, as many as this; 0: what inputs= names
    out_dir: str  # model directory to write
    overwrite: bool = False  # replace a model directory at out_dir

    def check(self) -> None:
        """Raise UserError where the options do not fit together, or out_dir holds something."""
        if self.last < 0:
            raise UserError(f"last={self.last}: must be at least 0")
        num_inputs = len(as_list(self.inputs))
        if self.last and num_inputs != 1:
            raise UserError(f"last={self.last}: needs one run folder as inputs=, and there are {num_inputs}")
        _check_out_dir(self.out_dir, self.overwrite)


def _check_out_dir(out_dir: str, overwrite: bool) -> None:
    """Raise UserError where a model directory may not be written to `out_dir`."""
    out, typed = Path(out_dir), f"out_dir={out_dir}"
    if out.name in ("", ".."):
        raise UserError(f"{typed}: name a folder to make, which has a name of its own")
    check_folder("out_dir", out_dir, is_renamed=True)
    if not out.exists() or not any(out.iterdir()):
        return
    if not (out / WEIGHTS).is_file() or (out / "manifest.json").exists():
        raise UserError(f"{typed}: holds other files than a model; choose another folder")
    if not overwrite:
        raise UserError(f"{typed}: holds a model already; choose another folder, or overwrite=true to replace it")
    check_replaceable("out_dir", out, ENTRIES)


@dataclass(kw_only=True)
class InfoJob:
    """Say what a model is: architecture, sizes, text pipeline, where its weights come from."""

    model_dir: str  # run folder, checkpoint or model directory
    json: bool = False  # print JSON


@dataclass(kw_only=True)
class ConvertJob:
    """Make a model directory from a fairseq checkpoint. Nothing in the checkpoint is executed."""

    checkpoint: str  # fairseq checkpoint of a LightConv, DynamicConv or Transformer model: checkpoint_best.pt
    dict: str | None = None  # folder with dict.SRC.txt and dict.TGT.txt; null: a model without a text pipeline
    bpe_codes: str | None = None  # merges of subword-nmt, for both languages; null: the text comes in pieces
    src: str | None = None  # source language code; null: what the checkpoint says
    tgt: str | None = None  # target language code; null: what the checkpoint says
    out_dir: str  # model directory to write
    overwrite: bool = False  # replace a model directory at out_dir
    text: TextConfig = field(default_factory=lambda: TextConfig(escape=True))  # as fairseq's scripts prepare text

    def check(self) -> None:
        """Raise UserError where the options do not fit together, or out_dir holds something."""
        for option in ("bpe_codes", "src", "tgt"):
            if self.dict is None and getattr(self, option) is not None:
                raise UserError(f"{option}={getattr(self, option)}: only has an effect with dict=")
        replace(self.text, escape=False).check()  # that default says nothing where text.tokenization=none is given
        _check_out_dir(self.out_dir, self.overwrite)

    def check_typed(self, typed: Mapping[str, str]) -> None:
        """Raise UserError where an option on the command line, of the `typed` values, has no effect."""
        if self.dict is None:
            _refuse_typed(typed, "text.", "dict=")
        _check_typed_text(typed, self.text)


@dataclass(kw_only=True)
class ScoreJob(RuntimeConfig):
    """Say how probable a model finds given translations, token by token, by forced decoding."""

    model_dir: Any  # run folder, checkpoint or model directory; a list is an ensemble
    src: str  # file with source sentences, one a line, plain or gzip; - is standard input
    tgt: str  # file with their translations, line by line
    output: str | None = None  # JSON lines file: pieces and log-probabilities of every line; null: standard output
    precision: Precision = Precision.fp32  # arithmetic of matrix products; auto is faster, and rounds
    batch: BatchConfig = field(default_factory=translation_batch)

    def check(self) -> None:
        """Raise UserError where the options do not fit together."""
        _check_stdin("src=, tgt=", [self.src, self.tgt])
        _check_batch(self.batch)
        _check_outputs(self, ("output",), [self.src, self.tgt])


@dataclass(kw_only=True)
class _EvaluationFiles:
    hypotheses: Any  # file or files with translations, one for each system: one sentence a line, plain or gzip
    reference: Any  # file or files with reference translations, line by line
    source: str | None = None  # file with what was translated; null: sentences are sorted by the reference's length
    names: Any = None  # what to call the systems; null: by the names of their files
    lang: str | None = None  # language code of the translations; null: the ending of the reference's name, or en
    train: Any = None  # training text in that language, where words are counted; null: counted in the reference
    comet_model: str | None = None  # COMET checkpoint on this machine; needs source= and the package unbabel-comet
    output: str | None = None  # JSON file for everything
    plot: str | None = None  # picture of scores and breakdowns: a file that ends in .png, .pdf or .svg


@dataclass(kw_only=True)
class EvaluateJob(ReportConfig, _EvaluationFiles):
    """Score translations against references, compare the systems, and say where they differ."""

    @property
    def inputs(self) -> list[str]:
        """The files that are read."""
        return [name for given in (self.hypotheses, self.reference, self.source, self.train) for name in as_list(given)]

    def check(self) -> None:
        """Raise UserError where the options do not fit together."""
        super().check()
        files, names = as_list(self.hypotheses), as_list(self.names)
        for option, given in (("hypotheses", files), ("reference", as_list(self.reference))):
            if not given:
                raise UserError(f"{option}=[]: give at least one file")
        _check_stdin("hypotheses=, reference=, source=", self.inputs)
        if len(set(files)) < len(files):
            raise UserError(f"hypotheses=[{','.join(files)}]: names a file twice")
        if names and (len(names) != len(files) or len(set(names)) < len(names)):
            raise UserError(f"names=[{','.join(names)}]: give {len(files)}, one for each of hypotheses=, all different")
        _check_outputs(self, ("output", "plot"), self.inputs)

    def check_typed(self, typed: Mapping[str, str]) -> None:
        """Raise UserError where an option on the command line, of the `typed` values, has no effect."""
        tests = self.significance
        if ScoreKind.ter not in self.metrics:
            _refuse_typed(typed, "workers", f"metrics=[{ScoreKind.ter}] or the like")
        if len(as_list(self.hypotheses)) < 2:
            _refuse_typed(typed, "significance.trials", "several hypotheses=")
        if not tests.samples and (not tests.trials or len(as_list(self.hypotheses)) < 2):
            _refuse_typed(typed, "significance.seed", "significance.samples or significance.trials above 0")
        if self.tokenization is Tokenization.none:
            _refuse_typed(typed, "normalize_punctuation", "tokenization=moses")
