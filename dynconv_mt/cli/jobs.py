"""The job of each command: all options, in one object. No torch and no Hydra here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dynconv_mt.data.config import BatchConfig
from dynconv_mt.data.preprocess import PreprocessConfig
from dynconv_mt.errors import UserError
from dynconv_mt.evaluate.config import EvaluateConfig
from dynconv_mt.models.config import ModelConfig
from dynconv_mt.runtime import RuntimeConfig
from dynconv_mt.search.config import SearchConfig
from dynconv_mt.train.config import FitConfig

STDIO = "-"  # as input= or output=: standard input or output


def as_list(value: Any) -> list[str]:
    """Return what may be given as one or as a list, as a list of text; None is an empty one."""
    if value is None:
        return []
    items = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return [str(item) for item in items]


@dataclass(kw_only=True)
class PreprocessJob(PreprocessConfig):
    """Make a data folder from raw parallel text."""


@dataclass(kw_only=True)
class TrainJob(FitConfig):
    """Train a model on a data folder."""

    data_dir: str  # folder that dc-preprocess made
    model: ModelConfig
    search: SearchConfig = field(default_factory=SearchConfig)  # of validate.bleu

    def check(self) -> None:
        """Raise UserError where the options do not fit together."""
        super().check()
        if self.seed >= 2**63:
            raise UserError(f"seed={self.seed}: must be below 2^63")
        if self.search.nbest != 1:
            raise UserError(f"search.nbest={self.search.nbest}: has no effect here; validation takes the best one")


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
    batch: BatchConfig = field(default_factory=lambda: BatchConfig(max_sentences=128))

    def check(self) -> None:
        """Raise UserError where the options do not fit together."""
        if not as_list(self.model_dir):
            raise UserError("model_dir=[]: give at least one model")
        if (self.input is None) == (self.data_dir is None):
            raise UserError("input=, data_dir=: give one of the two, a file or a preprocessed data folder")
        if self.split is not None and self.data_dir is None:
            raise UserError(f"split={self.split}: has an effect together with data_dir= only")
        if self.data_dir is not None and self.split not in (None, "valid", "test"):
            raise UserError(f"split={self.split}: must be valid or test; their raw lines are kept, those of train not")
        if self.data_dir is not None and self.reference is not None:
            raise UserError(f"reference={self.reference}: data_dir= brings its own; give input= and reference= instead")
        if self.scores_json is not None and self.data_dir is None and not as_list(self.reference):
            raise UserError(f"scores_json={self.scores_json}: there is nothing to score without reference=")
        if self.search.nbest > 1 and self.details is None:
            raise UserError(f"search.nbest={self.search.nbest}: only details=FILE holds more than the best translation")
        if self.batch.rows_multiple != 1:
            raise UserError(f"batch.rows_multiple={self.batch.rows_multiple}: has an effect in training only")


@dataclass(kw_only=True)
class InteractiveJob(RuntimeConfig):
    """Translate standard input line by line, each as soon as it is there."""

    model_dir: Any  # run folder, checkpoint or model directory; a list is an ensemble
    search: SearchConfig = field(default_factory=SearchConfig)

    def check(self) -> None:
        """Raise UserError for an option without effect."""
        if self.search.nbest != 1:
            raise UserError(f"search.nbest={self.search.nbest}: one translation a line is printed; use dc-generate")


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
        if self.last and len(as_list(self.inputs)) != 1:
            raise UserError(f"last={self.last}: needs one run folder as inputs=, and there are {len(self.inputs)}")
        self._check_out_dir(Path(self.out_dir))

    def _check_out_dir(self, out: Path) -> None:
        typed = f"out_dir={self.out_dir}"
        if out.exists() and not out.is_dir():
            raise UserError(f"{typed}: is a file; name a folder to make")
        if not out.exists() or not any(out.iterdir()):
            return
        if not (out / "model.safetensors").is_file() or (out / "manifest.json").exists():
            raise UserError(f"{typed}: holds other files than an averaged model; choose another folder")
        if not self.overwrite:
            raise UserError(f"{typed}: holds a model already; choose another folder, or overwrite=true to replace it")


@dataclass(kw_only=True)
class InfoJob:
    """Say what a model is: architecture, sizes, text pipeline, where its weights come from."""

    model_dir: str  # run folder, checkpoint or model directory
    json: bool = False  # print JSON
