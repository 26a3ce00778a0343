"""The mean of the weights of several checkpoints, and the model that a run ends with."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from dynconv_mt.errors import UserError
from dynconv_mt.models.io import CONFIG, TEXT, WEIGHTS, open_weights, read_config_file
from dynconv_mt.train.checkpoint import MANIFEST, STATE, checkpoint_folder, find_damage, list_checkpoints, write_folder
from dynconv_mt.train.config import Final, FitConfig
from dynconv_mt.train.state import TrainerState, best_updates, stop_reason


def average_checkpoints(folders: Sequence[Path], out: Path) -> None:
    """Write into `out` a model directory whose weights are the mean of those of the model directories `folders`.

    Architecture and text pipeline must be the same in all of them. Sums are taken in float64. `out` appears whole or
    not at all and replaces an older one. Raises UserError where the folders do not fit together.
    """
    if not folders:
        raise UserError("inputs=[]: there is no checkpoint to average")
    _check_alike(folders)
    weights, metadata = _mean_weights(folders)
    config = read_config_file(folders[-1])
    config["provenance"] = {**config.get("provenance", {}), "average_of": [str(folder) for folder in folders]}

    def fill(folder: Path) -> None:
        save_file(weights, folder / WEIGHTS, metadata)
        (folder / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        if (folders[-1] / TEXT).is_dir():
            shutil.copytree(folders[-1] / TEXT, folder / TEXT)

    write_folder(out, fill, with_manifest=False)


def newest_checkpoints(run: Path, count: int) -> list[Path]:
    """Return the newest `count` checkpoints of a run, oldest first; UserError where too few or one is damaged."""
    found = list_checkpoints(run)
    if len(found) < count:
        raise UserError(f"last={count}: {run} has {len(found)} checkpoints; give a smaller number")
    for folder in found[-count:]:
        if damage := find_damage(folder):
            raise UserError(f"{folder}: {damage}; name sound checkpoints as inputs=[...] instead of last={count}")
    return found[-count:]


def write_final_model(run: Path, config: FitConfig, state: TrainerState, *, must_be_all: bool = False) -> list[Path]:
    """Make RUN/model as `checkpoint.final` says; return the checkpoints that it was made of.

    With `must_be_all`, UserError where some that it should be made of are there no more.
    """
    sources = _final_sources(run, config, state, must_be_all)
    if config.checkpoint.final is Final.average:
        average_checkpoints(sources, run / "model")
    else:
        write_folder(run / "model", lambda folder: _copy_model(sources[0], folder), with_manifest=False)
    return sources


def _final_sources(run: Path, config: FitConfig, state: TrainerState, must_be_all: bool) -> list[Path]:
    if config.checkpoint.final is Final.best:
        candidates = best_updates(state, config.validate.metric, len(state.validations))
        count = 1
    else:
        diverged = {entry["update"] for entry in state.validations if not math.isfinite(entry["loss"])}
        candidates = [update for update in state.saved[::-1] if update not in diverged]
        count = config.checkpoint.average if config.checkpoint.final is Final.average else 1
    metric = config.validate.metric
    if config.checkpoint.final is Final.best and not any(metric.value in entry for entry in state.validations):
        raise UserError(f"validate.metric={metric}: no validation of {run} measured it; choose another")
    folders = (checkpoint_folder(run, update) for update in candidates)
    sources = list(islice((folder for folder in folders if folder.exists() and find_damage(folder) is None), count))
    if not sources:
        option = f"checkpoint.final={config.checkpoint.final}"
        if not candidates and state.saved and state.validations:
            raise UserError(
                f"{option}: no validation of {run} had a finite result: training has diverged. Start again in another "
                f"out_dir with a lower optim.lr={config.optim.lr:g} or a longer schedule.warmup_updates="
                f"{config.schedule.warmup_updates}"
            )
        if not state.saved:
            raise UserError(f"{option}: {run} ended before its first update; raise {stop_reason(state, config)}")
        raise UserError(f"{option}: no sound checkpoint in {run} can serve for it")
    if must_be_all and config.checkpoint.final is Final.best and sources[0] != checkpoint_folder(run, candidates[0]):
        best = checkpoint_folder(run, candidates[0]).name
        raise UserError(
            f"validate.metric={metric}: the best checkpoint by it, {best}, is not in {run} any more, or damaged; "
            "choose another"
        )
    if must_be_all and len(sources) < (wanted := min(count, len(candidates))):
        raise UserError(
            f"checkpoint.average={count}: {len(sources)} of these {wanted} checkpoints are left in {run}; give "
            f"checkpoint.average={len(sources)}"
        )
    return sources[::-1]


def _copy_model(source: Path, folder: Path) -> None:
    shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(STATE, MANIFEST))


def _check_alike(folders: Sequence[Path]) -> None:
    first = folders[0]
    model, text = read_config_file(first)["model"], _text_bytes(first)
    for folder in folders[1:]:
        if read_config_file(folder)["model"] != model:
            raise UserError(f"{folder}: another architecture than {first}; only like models can be averaged")
        if _text_bytes(folder) != text:
            raise UserError(f"{folder}: another text pipeline than {first}; their ids mean other words")


def _text_bytes(folder: Path) -> dict[str, bytes]:
    files = (path for path in (folder / TEXT).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def _mean_weights(folders: Sequence[Path]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the mean of all floating tensors (others: of the last folder) and the last file's metadata."""
    sums: dict[str, Tensor] = {}
    for folder in folders:
        with open_weights(folder) as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        for name, tensor in tensors.items():
            if tensor.is_floating_point():
                sums[name] = sums.get(name, torch.zeros((), dtype=torch.float64)) + tensor.double()
    means = {name: (total / len(folders)).to(tensors[name].dtype) for name, total in sums.items()}
    return {**tensors, **means}, metadata
