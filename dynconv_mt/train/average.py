"""The mean of the weights of several checkpoints, and the model that a run ends with."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from dynconv_mt.data.output import build_folder
from dynconv_mt.errors import UserError
from dynconv_mt.files import copy_folder, to_json
from dynconv_mt.models.io import open_weights, read_config_file, save_tensors
from dynconv_mt.models.layout import CONFIG, ENTRIES, TEXT, WEIGHTS
from dynconv_mt.train.checkpoint import MANIFEST, STATE, checkpoint_folder, find_damage, list_checkpoints, write_folder
from dynconv_mt.train.config import Final, FitConfig
from dynconv_mt.train.state import TrainerState, best_updates, stop_reason


def average_checkpoints(folders: Sequence[Path], out: Path, *, replace: bool = False) -> None:
    """Write into `out` a model directory whose weights are the mean of those of the model directories `folders`.

    Architecture and text pipeline must be the same in all of them. Sums are taken in float64. `out` appears whole or
    not at all, and takes the place of another folder with `replace` only. Raises UserError where the folders do not fit
    together.
    """
    fill = _averaging(folders)
    with build_folder(out, replace=replace) as partial:
        fill(partial)


def _averaging(folders: Sequence[Path]) -> Callable[[Path], None]:
    """Compute the average; return what writes it into a folder."""
    if not folders:
        raise UserError("inputs=[]: there is no checkpoint to average")
    _check_alike(folders)
    weights, metadata = _mean_weights(folders)
    config = read_config_file(folders[-1])
    last = config.get("provenance", {})
    kept = {name: value for name, value in last.items() if name != "validation"}  # which is of the last one's weights
    config["provenance"] = {**kept, "average_of": [str(folder) for folder in folders]}

    def fill(folder: Path) -> None:
        save_tensors(folder / WEIGHTS, weights, metadata)
        (folder / CONFIG).write_text(to_json(config), encoding="utf-8")
        copy_folder(folders[-1] / TEXT, folder / TEXT)

    return fill


def newest_checkpoints(run: Path, count: int) -> list[Path]:
    """Return the newest `count` checkpoints of a run, oldest first; UserError where too few or one is damaged."""
    found = list_checkpoints(run)
    if not found and any(run.glob("step_*")):
        raise UserError(f"inputs={run}: holds checkpoints itself; name the run folder above it")
    if len(found) < count:
        raise UserError(f"last={count}: {run} has {len(found)} checkpoints; give a smaller number")
    for folder in found[-count:]:
        if damage := find_damage(folder, ENTRIES):
            raise UserError(f"{folder}: {damage}; name sound checkpoints as inputs=[...] instead of last={count}")
    return found[-count:]


@dataclass(frozen=True)
class Sources:
    """The checkpoints that RUN/model is made of, oldest first."""

    folders: list[Path]
    shortage: str | None = None  # what is wrong where they are not all that it should be made of, and the remedy


def write_final_model(run: Path, config: FitConfig, state: TrainerState, *, must_be_all: bool = False) -> Sources:
    """Make RUN/model as `checkpoint.final` says; return of what.

    With `must_be_all`, UserError where some that it should be made of are there no more.
    """
    sources = _final_sources(run, config, state)
    if must_be_all and sources.shortage:
        raise UserError(sources.shortage)
    if config.checkpoint.final is Final.average:
        write_folder(run / "model", _averaging(sources.folders), with_manifest=False)
    else:
        (source,), leave_out = sources.folders, (STATE, MANIFEST)
        write_folder(run / "model", lambda folder: copy_folder(source, folder, leave_out), with_manifest=False)
    return sources


def _final_sources(run: Path, config: FitConfig, state: TrainerState) -> Sources:
    final, metric = config.checkpoint.final, config.validate.metric
    count = config.checkpoint.average if final is Final.average else 1
    if final is Final.best:
        is_finite = any(math.isfinite(entry["loss"]) for entry in state.validations)
        if state.saved and is_finite and not any(metric.value in entry for entry in state.validations):
            raise UserError(f"validate.metric={metric}: no validation of {run} measured it; choose another")
        candidates = best_updates(state, metric, len(state.validations))
    else:
        diverged = {entry["update"] for entry in state.validations if not math.isfinite(entry["loss"])}
        candidates = [update for update in state.saved[::-1] if update not in diverged]
    folders = (checkpoint_folder(run, update) for update in candidates)
    sound = (folder for folder in folders if folder.exists() and find_damage(folder, ENTRIES) is None)
    found = list(islice(sound, count))
    if not found:
        raise UserError(_why_none(run, config, state, has_candidates=bool(candidates)))
    shortage = None
    if final is Final.best and found[0] != (best := checkpoint_folder(run, candidates[0])):
        shortage = (
            f"validate.metric={metric}: the best checkpoint by it, {best.name}, is not in {run} any more, or damaged; "
            "choose another"
        )
    elif len(found) < (wanted := min(count, len(candidates))):
        shortage = (
            f"checkpoint.average={count}: {len(found)} of these {wanted} checkpoints are left in {run}; give "
            f"checkpoint.average={len(found)}"
        )
    return Sources(found[::-1], shortage)


def _why_none(run: Path, config: FitConfig, state: TrainerState, has_candidates: bool) -> str:
    option = f"checkpoint.final={config.checkpoint.final}"
    if not state.saved:
        return f"{option}: {run} ended before its first update; raise {stop_reason(state, config)}"
    if not has_candidates and state.validations:
        return (
            f"{option}: no validation of {run} had a finite result: training has diverged. Start again in another "
            f"out_dir with a lower optim.lr={config.optim.lr:g} or a longer schedule.warmup_updates="
            f"{config.schedule.warmup_updates}"
        )
    return f"{option}: no sound checkpoint in {run} can serve for it"


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
    shapes: dict[str, torch.Size] = {}
    for folder in folders:
        with open_weights(folder) as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        here = {name: tensor.shape for name, tensor in tensors.items()}
        shapes = shapes or here
        if here != shapes:
            raise UserError(f"{folder}: its weights are others than those of {folders[0]}; was one of them altered?")
        for name, tensor in tensors.items():
            if tensor.is_floating_point():
                sums[name] = sums.get(name, torch.zeros((), dtype=torch.float64)) + tensor.double()
    means = {name: (total / len(folders)).to(tensors[name].dtype) for name, total in sums.items()}
    return {**tensors, **means}, metadata
