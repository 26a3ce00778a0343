"""fairseq's checkpoint files, read without running anything in them.

A checkpoint is a pickle, and a pickle is a program. torch's restricted unpickler builds tensors, numbers, text and
containers and refuses every class that it was not told of by name. It is told of `argparse.Namespace`, which holds the
options, and of the names in `stand_ins.py`, which become inert classes of ours: no code of fairseq, omegaconf or numpy
runs.
"""

from __future__ import annotations

import re
import warnings
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from dynconv_mt.convert.stand_ins import ALLOWED, plain
from dynconv_mt.errors import UserError, is_out_of_memory

_REFUSED = re.compile(r"GLOBAL (\S+)")
_PREAMBLE = re.compile(r"^Weights only load failed\.[^\n]*\n(?:.*WeightsUnpickler error:)?", re.DOTALL)
_RESAVE = (
    "if you trust the file, load it with fairseq and save what is needed: "
    "torch.save({'args': argparse.Namespace(**options), 'model': state['model']}, FILE)"
)


@dataclass(frozen=True)
class Checkpoint:
    """What conversion needs of a fairseq checkpoint."""

    args: dict[str, Any]  # options of the model
    state_dict: dict[str, Tensor]  # weights under fairseq's names
    src: str | None = None  # language codes, where the checkpoint says them
    tgt: str | None = None
    num_updates: int | None = None  # of its training


def load_checkpoint(path: Path) -> Checkpoint:
    """Return options and weights of a fairseq checkpoint, of any release.

    Nothing in the file is executed. Raises UserError, naming the file, where it is missing, damaged, holds objects of
    a class that is not allowed, or is no checkpoint of a model.
    """
    data = _load(path)
    if not isinstance(data, dict) or not isinstance(data.get("model"), Mapping):
        raise UserError(f"{path}: is no fairseq checkpoint (it has no weights under 'model')")
    weights = {str(name): value for name, value in data["model"].items()}
    foreign = [name for name, value in weights.items() if not isinstance(value, Tensor)]
    if foreign:
        raise UserError(f"{path}: {foreign[0]}, among its weights, is no tensor")
    model, task = _options(path, data)
    return Checkpoint(
        args=model,
        state_dict=weights,
        src=_text(task.get("source_lang")),
        tgt=_text(task.get("target_lang")),
        num_updates=_num_updates(data),
    )


def _load(path: Path) -> Any:
    """The content of a file, by the restricted unpickler."""
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(ALLOWED):
            warnings.simplefilter("ignore")  # of pickle protocols
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; name the checkpoint file in it") from None
    except UnpicklingError as error:
        raise _refusal(path, str(error)) from None
    except PermissionError:
        raise
    except Exception as error:  # a damaged file can end in almost any
        if is_out_of_memory(error):
            raise
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(f"{path}: is damaged or no checkpoint ({reason}); take it from its source again") from None


def _refusal(path: Path, message: str) -> UserError:
    """What the restricted unpickler's complaint means to the user."""
    refused = _REFUSED.search(message)
    if refused:
        return UserError(
            f"{path}: holds an object of {refused[1]}, which was not loaded, since loading it could run code; {_RESAVE}"
        )
    reason = _PREAMBLE.sub("", message).strip().partition("\n")[0]
    return UserError(f"{path}: was not loaded, since it is damaged or could run code ({reason}); {_RESAVE}")


def _options(path: Path, data: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of the model and of the task: one namespace in old releases, parts of a configuration in new ones."""
    try:
        old, new = plain(data.get("args")), _mapping(plain(data.get("cfg")))
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    if old is not None:
        options = _mapping(old)
        return options, options
    model = _mapping(new.get("model"))
    if not model:
        raise UserError(f"{path}: has no options of a model, neither under 'args' nor under 'cfg'")
    return model, _mapping(new.get("task"))


def _mapping(value: Any) -> dict[str, Any]:
    if isinstance(value, Namespace):
        value = vars(value)
    return {str(name): entry for name, entry in value.items()} if isinstance(value, Mapping) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _num_updates(data: Mapping[str, Any]) -> int | None:
    history = data.get("optimizer_history")
    last = history[-1] if isinstance(history, list) and history else None
    count = last.get("num_updates") if isinstance(last, Mapping) else None
    return count if isinstance(count, int) else None
