"""COMET, a learned score, with a checkpoint that lies on this machine. Needs the package unbabel-comet.

Nothing is downloaded: the checkpoint is a file, and the configuration of its encoder must be in Hugging Face's cache.
COMET's checkpoints are pickles, which COMET itself loads: take them from those whom you trust.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dynconv_mt.errors import UserError
from dynconv_mt.evaluate.measure import Score, Statistics

_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


class CometMeasure:
    """The mean of COMET's sentence scores, times 100; with several references, of the mean over them."""

    key = "comet"
    name = "COMET"
    lower_is_better = False

    def __init__(self, checkpoint: str, source: Sequence[str] | None, references: Sequence[Sequence[str]]) -> None:
        """Load a checkpoint. Raises UserError, which says what is missing, where it cannot be."""
        check_comet(checkpoint, source is not None)
        assert source is not None
        self._checkpoint = Path(checkpoint)
        self._model = _load(checkpoint)
        needs = getattr(self._model, "requires_references", None)
        self._references = list(references) if needs is None or needs() else []
        self._source = source

    def statistics(self, hypotheses: Sequence[str]) -> Statistics:
        """Return each sentence's score and a one."""
        pairs = [{"src": src, "mt": mt} for src, mt in zip(self._source, hypotheses, strict=True)]
        if not self._references:
            scores = self._predict(pairs)
        else:
            with_reference = [
                [pair | {"ref": ref} for pair, ref in zip(pairs, reference, strict=True)]
                for reference in self._references
            ]
            scores = np.mean([self._predict(samples) for samples in with_reference], axis=0)
        return np.stack([scores, np.ones(len(scores))], axis=1)

    def value(self, sums: Sequence[float]) -> float:
        """Return 100 times the mean."""
        return 100 * sums[0] / sums[1]

    def score(self, sums: Sequence[float]) -> Score:
        """Return the score; its signature names the checkpoint's folder or file."""
        file = self._checkpoint
        folder = _above(file).name
        try:
            version = importlib.metadata.version("unbabel-comet")
        except importlib.metadata.PackageNotFoundError:
            version = "unknown"
        signature = f"nrefs:{len(self._references)}|model:{folder}/{file.name}|scale:100|version:{version}"
        return Score(self.name, self.value(sums), signature)

    def _predict(self, samples: list[dict[str, str]]) -> Any:
        import torch

        gpus = int(torch.cuda.is_available())
        return np.array(self._model.predict(samples, batch_size=16, gpus=gpus, progress_bar=False).scores, dtype=float)


def check_comet(checkpoint: str, has_source: bool) -> None:
    """Raise UserError, before any work is done, that says what COMET lacks."""
    typed = f"comet_model={checkpoint}"
    if importlib.util.find_spec("comet") is None:
        raise UserError(
            f"{typed}: COMET needs the package unbabel-comet (pip install unbabel-comet; see docs/evaluation.md), a "
            "checkpoint that lies on this machine, and source=FILE"
        )
    if not has_source:
        raise UserError(f"{typed}: COMET reads the source as well; give source=FILE")
    if not Path(checkpoint).is_file():
        raise UserError(
            f"{typed}: no such file; give the path of a COMET checkpoint (.../checkpoints/model.ckpt) that lies on "
            "this machine: nothing is downloaded"
        )
    if not (_above(Path(checkpoint)) / "hparams.yaml").is_file():
        raise UserError(f"{typed}: COMET needs hparams.yaml in the folder above the checkpoint's, and there is none")


def _above(checkpoint: Path) -> Path:
    """The folder above the checkpoint's, by its name: in Hugging Face's cache the file is a link to elsewhere."""
    return checkpoint.absolute().parent.parent


def _load(checkpoint: str) -> Any:
    os.environ.update(dict.fromkeys(_OFFLINE, "1"))
    try:
        comet = importlib.import_module("comet")
        return comet.load_from_checkpoint(str(Path(checkpoint).absolute()), local_files_only=True)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"comet_model={checkpoint}: COMET cannot load it ({type(error).__name__}: {reason}); its encoder's "
            "configuration must be in Hugging Face's cache, since nothing is downloaded"
        ) from error
