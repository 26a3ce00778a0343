"""What is checked and said before the first update."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dynconv_mt.compute import Compute
from dynconv_mt.data.loader import Loader
from dynconv_mt.data.plan import check_budget
from dynconv_mt.data.store import TokenStore
from dynconv_mt.errors import UserError
from dynconv_mt.models.config import ModelConfig
from dynconv_mt.models.io import SavesItself
from dynconv_mt.models.seq2seq import Seq2Seq
from dynconv_mt.ops import backend
from dynconv_mt.runtime import Precision
from dynconv_mt.train.config import Final, FitConfig, ScheduleKind, require
from dynconv_mt.train.distributed import Ranks
from dynconv_mt.train.run_folder import OWN, flatten, job_to_json
from dynconv_mt.train.schedule import learning_rate
from dynconv_mt.train.state import TrainerState


@dataclass(frozen=True)
class FitData:
    """What a model is trained on."""

    train: TokenStore
    valid: TokenStore | None = None
    text: SavesItself | None = None  # the text pipeline, saved with every model


def check_data(config: FitConfig, model: Seq2Seq, data: FitData) -> None:
    """Raise UserError where data, model and options do not fit together."""
    for name, store in (("train", data.train), ("valid", data.valid)):
        if store is not None:
            _check_store(name, store, model)
            if (fingerprint := getattr(data.text, "fingerprint", None)) is not None:
                store.check_fingerprint(fingerprint)
    if not config.batch.is_auto:
        check_budget(data.train.src_lengths, data.train.tgt_lengths, config.batch)
    if data.valid is None:
        message = "needs validation data, and there are none; preprocess with valid=, or choose checkpoint.final=last"
        require(config.checkpoint.final is not Final.best, "checkpoint.final", config.checkpoint.final, message)
        require(config.validate.patience == 0, "validate.patience", config.validate.patience, message)
        require(not config.validate.bleu, "validate.bleu", config.validate.bleu, message)


def check_same_data(state: TrainerState, data: FitData) -> dict[str, str]:
    """Return the digests of the data. Raises UserError where they have changed since the run was started."""
    found = _digests(data)
    if state.data and state.data != found:
        changed = sorted(name for name in state.data.keys() | found.keys() if state.data.get(name) != found.get(name))
        raise UserError(
            f"data_dir={data.train.folder.parent}: the {' and '.join(changed)} data have changed since this run was "
            "started; use the same data folder, or choose another out_dir"
        )
    return found


def _digests(data: FitData) -> dict[str, str]:
    return {name: store.digest for name, store in (("train", data.train), ("valid", data.valid)) if store is not None}


def check_ranks(config: FitConfig, model: ModelConfig, data: FitData, compute: Compute, ranks: Ranks) -> None:
    """Raise UserError on all ranks where one has other options or data than rank 0: their weights would diverge."""
    job = job_to_json(config, model)
    mine = {
        **{name: value for name, value in flatten(job).items() if name not in OWN},
        **{f"{name} data": digest for name, digest in _digests(data).items()},
        "kind of device": compute.device.type,
        "precision=fp16": compute.precision is Precision.fp16,  # which scales the loss; others may stand side by side
    }
    theirs = ranks.broadcast(mine)
    differing = sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))
    rank = ranks.lowest(bool(differing))
    if rank < ranks.world_size:
        names = ranks.broadcast(differing, src=rank)
        raise UserError(
            f"{', '.join(names)}: differs between rank {rank} and rank 0; start all ranks with the same options, data "
            "and kind of device"
        )


def check_resume(state: TrainerState, data: FitData, loader: Loader) -> Iterator[str]:
    """Fit `state` to the data and the ranks at hand; yield what changes by other ranks.

    Raises UserError where the data have changed since the run was started.
    """
    found = check_same_data(state, data)
    world_size, per_update = loader.share.world_size, loader.share.world_size * loader.share.update_freq
    if state.update and per_update != state.batches_per_update:
        yield f"warning: an update now has {per_update} batches, before it had {state.batches_per_update}"
        begun = int(state.epoch_update > 0)  # then the place stays within the epoch, whose beginning ends another
        state.epoch_update = max(begun, state.epoch_update * state.batches_per_update // per_update)
    elif state.update and world_size != state.world_size:
        yield f"note: {world_size} ranks, before {state.world_size}: the same batches, other dropout"
    if state.epoch_update >= loader.num_updates:
        state.epoch, state.epoch_update = state.epoch + 1, 0
    state.data, state.world_size, state.batches_per_update = found, world_size, per_update


def doubts(config: FitConfig) -> Iterator[str]:
    """Yield what is allowed, and probably not meant."""
    updates, rule = config.train.max_updates, config.schedule
    if 0 < updates < rule.warmup_updates:
        yield (
            f"warning: training ends after {updates:,} updates, and the learning rate rises for "
            f"schedule.warmup_updates={rule.warmup_updates}"
        )
    end = rule.warmup_updates + rule.period_updates
    if rule.kind is ScheduleKind.cosine and updates > end:
        yield (
            f"warning: after update {end:,} the learning rate begins anew at optim.lr={config.optim.lr:g}, by "
            f"schedule.period_updates={rule.period_updates}"
        )


def doubt_of_pace(config: FitConfig, last_update: float) -> str | None:
    """Return a warning where train.max_minutes will end training, at `last_update`, in the midst of a cosine."""
    minutes, rule = config.train.max_minutes, config.schedule
    end = rule.warmup_updates + rule.period_updates
    end = min(end, config.train.max_updates or end)
    if not minutes or rule.kind is not ScheduleKind.cosine or last_update > 0.95 * end:
        return None
    lr = learning_rate(round(last_update), config.optim.lr, rule)
    return (
        f"warning: at this pace train.max_minutes={minutes:g} ends training after some {last_update:,.0f} updates, at "
        f"a learning rate of {lr:.2g}; by schedule.period_updates={rule.period_updates} it falls until update {end:,}. "
        "Allow more time, or begin a run with a shorter period and train.max_updates to match"
    )


def max_positions(model: Seq2Seq) -> int:
    """Return the longest sentence that `model` takes on either side, in tokens, </s> included."""
    return min(model.config.stack(side).max_positions for side in ("encoder", "decoder"))


def num_too_long(store: TokenStore, model: Seq2Seq) -> int:
    """Return how many pairs have a side that is longer than `model` takes."""
    return int((np.maximum(store.src_lengths, store.tgt_lengths) > max_positions(model)).sum())


def _check_store(name: str, store: TokenStore, model: Seq2Seq) -> None:
    """Every training pair must fit the model; of the validation pairs, which nobody cleans, at least one."""
    if len(store) == 0:
        raise UserError(f"{store.folder}: the {name} data hold no sentence pair")
    longest = max(int(store.src_lengths.max()), int(store.tgt_lengths.max()))
    message = (
        f"the longest {name} sentence has {longest} tokens, </s> included; set at least model.max_positions={longest}, "
        "or drop long pairs when preprocessing (clean.max_length= with clean.after_bpe=true)"
    )
    allowed = len(store) - 1 if name == "valid" else 0
    require(num_too_long(store, model) <= allowed, "model.max_positions", max_positions(model), message)
    for side, largest in (("src", store.src_max_id), ("tgt", store.tgt_max_id)):
        size = getattr(model.config, f"{side}_vocab_size")
        message = f"the {name} data hold the id {largest}; they were made with another vocabulary"
        require(largest < size, f"model.{side}_vocab_size", size, message)


def describe(model: Seq2Seq, data: FitData, loader: Loader, compute: Compute, ranks: Ranks) -> Iterator[str]:
    """Yield the lines that a run begins with."""
    count = sum(parameter.numel() for parameter in model.parameters())
    kernels = backend(compute.device.type)
    shared = f", {ranks.world_size} ranks" if ranks.world_size > 1 else ""
    yield f"model: {count:,} parameters; {compute}, {kernels} kernels{shared}"
    train, num_updates = data.train, loader.num_updates
    sizes = f"train: {len(train):,} pairs, {train.num_src_tokens:,} source and {train.num_tgt_tokens:,} target tokens"
    yield sizes if data.valid is None else f"{sizes}; valid: {len(data.valid):,} pairs"
    if data.valid is not None and (num_left_out := num_too_long(data.valid, model)):
        yield (
            f"warning: {num_left_out:,} of the {len(data.valid):,} validation pairs are left out of the validation "
            f"loss, since they have a side of more than model.max_positions={max_positions(model)} tokens"
        )
    yield (
        f"an epoch has {num_updates:,} updates of about {train.num_tgt_tokens / num_updates:,.0f} target tokens "
        f"({loader.share.update_freq} x {ranks.world_size} batches of at most {loader.config.max_tokens:,})"
    )
