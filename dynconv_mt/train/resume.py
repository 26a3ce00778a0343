"""Writing a run's checkpoint and taking it up again: weights, moments, averages, position, history."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from safetensors.torch import load_model as load_weights
from safetensors.torch import save_model as save_weights

from dynconv_mt.errors import UserError
from dynconv_mt.models.io import WEIGHTS, SavesItself, save_model
from dynconv_mt.train.checkpoint import STATE
from dynconv_mt.train.optim import optimizer_tensors, restore_optimizer
from dynconv_mt.train.state import TrainerState
from dynconv_mt.train.step import UpdateStep

OPTIMIZER, TRAINER = "optimizer.safetensors", "trainer.json"


def write_state(
    folder: Path, step: UpdateStep, state: TrainerState, text: SavesItself | None, provenance: dict[str, Any]
) -> None:
    """Write a model directory and `state/` into `folder`.

    With a moving average of the weights, the model directory holds the average, since that is what one uses, and
    state/model.safetensors the weights in training.
    """
    states = folder / STATE
    states.mkdir()
    with step.average.applied() if step.average else nullcontext():
        save_model(folder, step.module, text, provenance)
    if step.average:
        save_weights(step.module, str(states / WEIGHTS))
    save_file(optimizer_tensors(step.optimizer, step.module), states / OPTIMIZER)
    (states / TRAINER).write_text(json.dumps(state.to_json(), indent=1) + "\n", encoding="utf-8")


def read_state(folder: Path) -> TrainerState:
    """Return position and history of a checkpoint. Raises UserError where they are not those of this version."""
    path = folder / STATE / TRAINER
    try:
        return TrainerState.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); was it written by another version?") from None


def restore_step(folder: Path, step: UpdateStep, state: TrainerState) -> None:
    """Put the tensors of a checkpoint into `step`, which must be built with the same options."""
    device = str(step.compute.device)
    if step.average:
        with step.average.applied():
            load_weights(step.module, folder / WEIGHTS, device=device)
        load_weights(step.module, folder / STATE / WEIGHTS, device=device)
    else:
        load_weights(step.module, folder / WEIGHTS, device=device)
    restore_optimizer(step.optimizer, step.module, load_file(folder / STATE / OPTIMIZER))
    if state.scaler:
        step.scaler.load_state_dict(state.scaler)
    step.restore_sums(state.sums)
    step.skipped_in_a_row.fill_(state.skipped_in_a_row)
