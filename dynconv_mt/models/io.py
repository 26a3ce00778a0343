"""Reading and writing model directories."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model as load_weights
from safetensors.torch import save_file
from torch import Tensor, nn

import dynconv_mt
from dynconv_mt.errors import UserError, is_out_of_memory
from dynconv_mt.files import to_json
from dynconv_mt.models.config import ModelConfig, config_from_dict, config_to_dict
from dynconv_mt.models.layout import CONFIG, TEXT, WEIGHTS
from dynconv_mt.models.seq2seq import Model, check_complete, new_model

FORMAT = 1


class SavesItself(Protocol):
    """What stands for the text pipeline here: models know nothing of text."""

    def save(self, folder: Path) -> None:
        """Write everything into `folder`."""


class Weights(NamedTuple):
    """The tensors of a model by name, as a file holds them: tied ones once."""

    tensors: dict[str, Tensor]
    aliases: dict[str, str]  # from a name left out to the one that stands for it


def _plain(module: Any) -> Any:
    """Return what torch.compile has wrapped, whose weights would have other names, and any other module as it is."""
    return getattr(module, "_orig_mod", module)


def weights_of(module: nn.Module) -> Weights:
    """Return the weights of a module, not copied. Of several names for one tensor the first in order stands for all."""
    module = _plain(module)
    names: dict[int, list[str]] = {}
    state = module.state_dict(keep_vars=True)  # keep_vars: else tied weights could not be told by identity
    for name in sorted(state):
        names.setdefault(id(state[name]), []).append(name)
    tensors = {kept: state[kept].detach() for kept, *_ in names.values()}
    return Weights(tensors, {alias: kept for kept, *others in names.values() for alias in others})


def save_weights(path: Path, weights: Weights) -> None:
    """Write weights to a file of safetensors that `load_weights` reads. Raises as `save_tensors` does."""
    tensors = {name: tensor.contiguous() for name, tensor in weights.tensors.items()}
    save_tensors(path, tensors, weights.aliases)


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a file of safetensors, which whoever may read a new file can read; safetensors' own is its owner's alone.

    Raises OSError where the system fails, a full disk for one.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.touch()
        mode = stat.S_IMODE(partial.stat().st_mode)
        save_file(tensors, partial, metadata or None)
        partial.chmod(mode)
        partial.replace(path)
    except SafetensorError as error:
        if (code := re.search(r"os error (\d+)", str(error))) is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from None
    finally:
        partial.unlink(missing_ok=True)


def save_model(
    folder: str | Path, model: Model, text: SavesItself | None = None, provenance: Mapping[str, Any] | None = None
) -> None:
    """Write a model directory into `folder`, which is made if need be.

    `provenance` (JSON values) says where the weights come from: data, updates, scores. Tied weights are stored once.
    """
    write_model_dir(Path(folder), _plain(model).config, weights_of(model), text, provenance)


def write_model_dir(
    folder: Path,
    config: ModelConfig,
    weights: Weights,
    text: SavesItself | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Do what `save_model` does, for weights that are no longer, or not wholly, in a model."""
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(folder / WEIGHTS, weights)
    data = {
        "format": FORMAT,
        "version": dynconv_mt.__version__,
        "model": config_to_dict(config),
        "provenance": dict(provenance or {}),
    }
    (folder / CONFIG).write_text(to_json(data), encoding="utf-8")
    if text is not None:
        text.save(folder / TEXT)


def read_config_file(folder: Path) -> dict[str, Any]:
    """Return the whole `config.json` of a model directory. Raises UserError where it is missing or no such file."""
    path = folder / CONFIG
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {folder} is not a model directory") from None
    except PermissionError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: is damaged ({error}); take the model from its source again") from None
    if not isinstance(data, dict) or "model" not in data:
        raise UserError(f"{path}: does not describe a model; {folder} is not a model directory")
    if not isinstance(data.get("version", ""), str) or not isinstance(data.get("provenance", {}), dict):
        raise UserError(f"{path}: is damaged (version or provenance); take the model from its source again")
    if data.get("format") != FORMAT:
        raise UserError(
            f"{path}: format {data.get('format')}, and this version reads format {FORMAT}; upgrade dynconv-mt"
        )
    return data


def read_config(folder: Path) -> ModelConfig:
    """Return the architecture of a model directory. Raises UserError where it is none."""
    config = config_from_dict(read_config_file(folder)["model"])
    with _of_config(folder):
        check_complete(config)
    return config


@contextmanager
def _of_config(folder: Path) -> Iterator[None]:
    """Turn what a type or a size that makes no model raises into UserError."""
    try:
        yield
    except (TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        what = "a model that fits in this machine's memory" if is_out_of_memory(error) else "a model"
        raise UserError(f"{folder / CONFIG}: does not describe {what} ({reason}); was it altered?") from None


def load_model(folder: str | Path, device: str | torch.device = "cpu") -> Model:
    """Return the model of a model directory, in evaluation mode. Weights must match the architecture exactly."""
    folder = Path(folder)
    config = read_config(folder)
    with _of_config(folder):
        model = new_model(config)
    fill_model(model, folder)
    return model.to(device).eval()


def fill_model(model: Model, folder: Path) -> None:
    """Load the weights of a model directory into `model`. Raises UserError where they do not match it exactly."""
    path = folder / WEIGHTS
    if not path.is_file():
        raise UserError(f"{path}: no such file; {folder} is not a model directory")
    try:
        load_weights(model, path, strict=True)
    except PermissionError:
        raise
    except (SafetensorError, RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path}: is damaged or belongs to another architecture ({reason})") from None


def open_weights(folder: Path) -> Any:
    """Return the weights of a model directory as an open file of safetensors, a context manager that reads by name.

    Raises UserError where they are missing or damaged.
    """
    try:
        return safe_open(folder / WEIGHTS, framework="pt")
    except FileNotFoundError:
        raise UserError(f"{folder / WEIGHTS}: no such file; {folder} is not a model directory") from None
    except PermissionError:
        raise
    except (SafetensorError, OSError) as error:
        raise UserError(f"{folder / WEIGHTS}: is damaged ({error})") from None


def resolve_model_dir(path: str | Path, option: str = "model_dir") -> Path:
    """Return the model directory that `path` means: a run folder's `model/`, a checkpoint or a model directory itself.

    Raises UserError, naming the option, where there is none, and says what a run that has not finished offers instead.
    """
    folder = Path(path)
    if (folder / WEIGHTS).is_file():
        return folder
    if (folder / "model" / WEIGHTS).is_file():
        return folder / "model"
    if not folder.exists():
        raise UserError(f"{option}={path}: no such folder")
    checkpoints = sorted((folder / "checkpoints").glob("step_*")) if folder.is_dir() else []
    if checkpoints:
        raise UserError(f"{option}={path}: this run has not finished; name a checkpoint, such as {checkpoints[-1]}")
    if inside := sorted(folder.glob("step_*")):
        raise UserError(
            f"{option}={path}: holds checkpoints; name the run folder above it, or one, such as {inside[-1]}"
        )
    if (folder / "data.json").is_file():
        raise UserError(f"{option}={path}: is a data folder, which {folder / 'summary.txt'} describes; name a model")
    raise UserError(f"{option}={path}: neither a run folder nor a model directory (there is no {WEIGHTS} in it)")
