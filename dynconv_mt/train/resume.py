"""Writing a run's checkpoint and taking it up again: weights, moments, averages, position, history."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dynconv_mt.errors import UserError
from dynconv_mt.models.config import ModelConfig
from dynconv_mt.models.io import SavesItself, Weights, save_tensors, save_weights, weights_of, write_model_dir
from dynconv_mt.models.layout import WEIGHTS
from dynconv_mt.train.checkpoint import STATE
from dynconv_mt.train.optim import optimizer_tensors, restore_optimizer
from dynconv_mt.train.parallel import assign, whole
from dynconv_mt.train.state import TrainerState
from dynconv_mt.train.step import UpdateStep

OPTIMIZER, TRAINER = "optimizer.safetensors", "trainer.json"


@dataclass(frozen=True)
class Snapshot:
    """The tensors of a run after an update, whole and on the CPU: training may go on while they are written."""

    model: ModelConfig
    weights: Weights  # those in training
    average: Weights | None  # their moving average
    optimizer: dict[str, Tensor]  # as optimizer_tensors


def take_snapshot(step: UpdateStep) -> Snapshot | None:
    """Copy the tensors of a run to the CPU of rank 0; None on the others, which take part where weights are sharded."""
    is_main = step.ranks.is_main
    live = weights_of(step.module)
    weights = _copy(live.tensors, is_main)
    average = _copy(_averaged(step, live.tensors), is_main) if step.average else None
    optimizer = _copy(optimizer_tensors(step.optimizer, step.module), is_main)
    if not is_main:
        return None
    averaged = None if average is None else Weights(average, live.aliases)
    return Snapshot(step.module.config, Weights(weights, live.aliases), averaged, optimizer)


def _copy(tensors: Mapping[str, Tensor], is_main: bool) -> dict[str, Tensor]:
    copies = {}
    for name, tensor in tensors.items():
        full = whole(tensor)  # one at a time, so that a GPU need not hold them all
        if is_main:
            copies[name] = full.to("cpu", copy=True)
    return copies


def _averaged(step: UpdateStep, live: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the moving averages under the names of the weights (what is not averaged as it is)."""
    assert step.average is not None
    parameters = dict(step.module.named_parameters(remove_duplicate=False))
    averages = {id(p): a for p, a in zip(step.average.parameters, step.average.tensors, strict=True)}
    return {name: averages[id(parameters[name])] if name in parameters else live[name] for name in live}


def write_snapshot(
    folder: Path, snapshot: Snapshot, state: Mapping[str, Any], text: SavesItself | None, provenance: Mapping[str, Any]
) -> None:
    """Write a model directory and `state/` into `folder`; `state` is the JSON form of a TrainerState.

    With a moving average of the weights, the model directory holds the average, since that is what one uses, and
    state/model.safetensors the weights in training.
    """
    states = folder / STATE
    states.mkdir()
    write_model_dir(folder, snapshot.model, snapshot.average or snapshot.weights, text, provenance)
    if snapshot.average:
        save_weights(states / WEIGHTS, snapshot.weights)
    save_tensors(states / OPTIMIZER, snapshot.optimizer)
    (states / TRAINER).write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")


def read_state(folder: Path) -> TrainerState:
    """Return position and history of a checkpoint. Raises UserError where they are not those of this version."""
    path = folder / STATE / TRAINER
    try:
        return TrainerState.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({error}); was it written by another version?") from None


def restore_step(folder: Path, step: UpdateStep, state: TrainerState) -> None:
    """Put the tensors of a checkpoint into `step`, which must be built with the same options."""
    live = weights_of(step.module).tensors
    if step.average:
        _restore(_averaged(step, live), folder / WEIGHTS)
        _restore(live, folder / STATE / WEIGHTS)
    else:
        _restore(live, folder / WEIGHTS)
    restore_optimizer(step.optimizer, step.module, _load(folder / STATE / OPTIMIZER))
    if state.scaler:
        step.scaler.load_state_dict(state.scaler)
    step.restore_sums(state.sums)
    step.skipped_in_a_row.fill_(state.skipped_in_a_row)


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}), though its hash is right; try again, or move the checkpoint away to go "
            "on from the one before"
        ) from None


def _restore(tensors: Mapping[str, Tensor], path: Path) -> None:
    stored = _load(path)
    if stored.keys() != tensors.keys():
        odd = sorted(stored.keys() ^ tensors.keys())[0]
        raise UserError(f"{path}: {odd} is {'missing' if odd in tensors else 'unknown'}; is it of another version?")
    with torch.no_grad():
        for name, tensor in tensors.items():
            assign(tensor, stored[name])
