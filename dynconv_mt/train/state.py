"""What a run remembers besides its tensors, and where its random numbers come from."""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch

from dynconv_mt.train.config import FitConfig, Metric

FORMAT = 1
Validation = dict[str, float]  # update, epoch, loss, nll, ppl, and what the caller's `validate` measured


@dataclass
class TrainerState:
    """Position and history of a run: all that a restart needs besides weights and moments. Written as JSON.

    Position counts updates consumed. Nothing here depends on what was prefetched, or on the random generator's state:
    every micro-step seeds it anew (see `seed_micro_step`).
    """

    update: int = 0  # updates made, skipped ones included
    epoch: int = 0  # epochs finished
    epoch_update: int = 0  # updates of the present epoch that are consumed
    batches_per_update: int = 1  # micro-batches of an update over all ranks: the unit of epoch_update
    world_size: int = 1  # ranks
    seconds: float = 0.0  # spent on the run, all sessions and validation included
    target_tokens: int = 0  # trained on, padding not counted
    skipped: int = 0  # updates skipped since their gradient was not finite
    skipped_in_a_row: int = 0
    sums: list[list[float]] = field(default_factory=list)  # of each rank since the last train line of metrics.jsonl
    validations: list[Validation] = field(default_factory=list)  # all so far, in order
    saved: list[int] = field(default_factory=list)  # updates of the checkpoints due by count, epoch or end
    data: dict[str, str] = field(default_factory=dict)  # of the train and valid data: their digests
    scaler: dict[str, float] = field(default_factory=dict)  # of fp16 losses

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TrainerState:
        """Return the state whose JSON form is `data`. Raises ValueError where it is not one."""
        names = {entry.name for entry in fields(cls)}
        if data.get("format") != FORMAT or set(data) != names | {"format"}:
            raise ValueError("not a trainer state of this version")
        return cls(**{name: data[name] for name in names})

    @property
    def validated_at(self) -> int:
        """Update of the newest validation; -1 before the first."""
        return int(self.validations[-1]["update"]) if self.validations else -1


def seed_micro_step(seed: int, update: int, micro_step: int, rank: int, first_row: int = 0) -> None:
    """Seed torch's generators of all devices for one forward and backward pass.

    The seed is a hash of the four numbers, so dropout does not depend on what a restart changes; `first_row` tells the
    parts of a micro-batch that had to be split from each other.
    """
    key = (seed, update, micro_step, rank, first_row)[: 5 if first_row else 4]
    digest = hashlib.blake2b(struct.pack(f"<{len(key)}q", *key), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest, "little") >> 1)


def badness(validation: Validation, metric: Metric) -> float:
    """Return a number that is the lower the better the validation; not-a-number counts as worst."""
    value = validation.get(metric.value, math.nan)
    if math.isnan(value):
        return math.inf
    return -value if metric is Metric.bleu else value


def best_updates(state: TrainerState, metric: Metric, count: int) -> list[int]:
    """Return the updates of the `count` best validations, best first; of equals the earlier is the better.

    One whose result is not a finite number is never among them.
    """
    ranked = sorted((badness(entry, metric), int(entry["update"])) for entry in state.validations)
    return [update for value, update in ranked[:count] if math.isfinite(value)]


def best_validation(state: TrainerState, metric: Metric) -> Validation | None:
    """Return the best validation so far."""
    best = best_updates(state, metric, 1)
    return next((entry for entry in state.validations if entry["update"] in best), None)


def stop_reason(state: TrainerState, config: FitConfig) -> str | None:
    """Return which limit the run has reached, as typed on the command line; None while it may go on."""
    train, patience = config.train, config.validate.patience
    if train.max_updates and state.update >= train.max_updates:
        return f"train.max_updates={train.max_updates}"
    if train.max_epochs and state.epoch >= train.max_epochs:
        return f"train.max_epochs={train.max_epochs}"
    if train.max_minutes and state.seconds >= 60.0 * train.max_minutes:
        return f"train.max_minutes={train.max_minutes:g}"
    if (
        patience
        and state.update == state.validated_at
        and _validations_since_best(state, config.validate.metric) >= patience
    ):
        return f"validate.patience={patience}"
    return None


def _validations_since_best(state: TrainerState, metric: Metric) -> int:
    judged = [entry for entry in state.validations if metric.value in entry]
    best = best_updates(state, metric, 1)
    return sum(entry["update"] > best[0] for entry in judged) if best else len(judged)
