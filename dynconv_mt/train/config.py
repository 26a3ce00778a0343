"""The options of training. No torch here, so that `--help` is fast."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from dynconv_mt.data.config import BatchConfig
from dynconv_mt.errors import UserError, one_of
from dynconv_mt.runtime import RuntimeConfig

MAX_LR = 1000.0


class ScheduleKind(StrEnum):
    """How the learning rate falls after the warm-up."""

    inverse_sqrt = "inverse_sqrt"
    cosine = "cosine"


class Metric(StrEnum):
    """What makes a validation the best: smoothed loss, perplexity (the lower the better) or BLEU (the higher)."""

    loss = "loss"
    ppl = "ppl"
    bleu = "bleu"


class Parallel(StrEnum):
    """How several ranks share a model: each holds all of it (DDP), or a part of weights, gradients, moments (FSDP2)."""

    ddp = "ddp"
    fsdp = "fsdp"


class Final(StrEnum):
    """What becomes RUN/model: the best checkpoint, the newest one, or the mean of the newest ones."""

    best = "best"
    last = "last"
    average = "average"


def require(rule: bool, option: str, value: object, message: str) -> None:
    """Raise UserError naming the option as typed unless `rule` holds."""
    if not rule:
        raise UserError(f"{option}={value}: {message}")


def _check_at_least(section: str, config: object, least: float, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(value >= least, f"{section}.{name}", value, f"must be at least {least:g}")


@dataclass
class TrainConfig:
    """How long to train, what an update is made of, and the loss. Training ends at whichever limit comes first."""

    max_updates: int = 0  # updates in all; 0: no limit
    max_epochs: int = 0  # passes over the training data; 0: no limit
    max_minutes: float = 0.0  # minutes in all, validation and earlier sessions of the run included; 0: no limit
    update_freq: int = 1  # micro-batches per update on each rank
    batches_per_update: int = 0  # micro-batches per update over all ranks; 0: update_freq on each. Sets update_freq
    label_smoothing: float = 0.1  # probability spread evenly over all types of the vocabulary
    r_drop: float = 0.0  # weight of R-Drop's divergence between two passes (twice the time and memory); 0: one pass
    ema_decay: float = 0.0  # exponential moving average of the weights, per update; 0: none
    parallel: Parallel = Parallel.ddp  # how several ranks share a model; ignored with a single rank
    max_skipped: int = 20  # updates in a row whose gradient is not finite before training gives up
    log_every: int = 50  # updates between two lines of metrics.jsonl
    tensorboard: bool = True  # write RUN/tensorboard

    def __post_init__(self) -> None:
        """Raise UserError for a value that makes no sense."""
        self.parallel = one_of(Parallel, "train.parallel", self.parallel)
        _check_at_least("train", self, 0, "max_updates", "max_epochs", "max_minutes", "batches_per_update", "r_drop")
        _check_at_least("train", self, 1, "update_freq", "max_skipped", "log_every")
        for name in ("label_smoothing", "ema_decay"):
            value = getattr(self, name)
            require(0.0 <= value < 1.0, f"train.{name}", value, "must be at least 0 and below 1")
        require(
            self.batches_per_update == 0 or self.update_freq == 1,
            "train.update_freq",
            self.update_freq,
            "has no effect beside train.batches_per_update; set one of the two",
        )

    def micro_batches(self, world_size: int) -> int:
        """Return the micro-batches per update of each of `world_size` ranks; UserError where they do not divide."""
        if self.batches_per_update == 0:
            return self.update_freq
        total = self.batches_per_update
        message = f"cannot be shared evenly by {world_size} ranks; choose a multiple, or other ranks"
        require(total % world_size == 0, "train.batches_per_update", total, message)
        return total // world_size


@dataclass
class OptimConfig:
    """Adam with decoupled weight decay (AdamW; each update shrinks weights by lr · weight_decay)."""

    lr: float = 5e-4  # peak learning rate
    betas: list[float] = field(default_factory=lambda: [0.9, 0.98])  # decay of the two moment estimates, per update
    eps: float = 1e-8  # added to the root of the second moment
    weight_decay: float = 1e-4  # on all weights
    clip_norm: float = 0.0  # largest 2-norm of the gradient of the mean loss per token; 0: no clipping

    def __post_init__(self) -> None:
        """Raise UserError for a value that makes no sense."""
        _check_at_least("optim", self, 0, "weight_decay", "clip_norm")
        require(0 < self.lr <= MAX_LR, "optim.lr", self.lr, f"must be above 0 and at most {MAX_LR:g}")
        require(self.eps > 0, "optim.eps", self.eps, "must be above 0")
        rule = f"must be below 1 / optim.lr={self.lr:g}: an update multiplies the weights by 1 - lr · weight_decay"
        require(self.lr * self.weight_decay < 1, "optim.weight_decay", self.weight_decay, rule)
        is_pair = len(self.betas) == 2 and all(0.0 <= beta < 1.0 for beta in self.betas)
        require(is_pair, "optim.betas", list(self.betas), "must be two numbers, at least 0 and below 1")


@dataclass
class ScheduleConfig:
    """The learning rate as a function of the update. It rises linearly to optim.lr, then falls."""

    kind: ScheduleKind = ScheduleKind.inverse_sqrt
    warmup_updates: int = 4000  # updates until the peak
    warmup_init_lr: float = 1e-7  # learning rate of the first update
    period_updates: int = 0  # cosine: updates from peak to min_lr, after which it starts over from the peak
    min_lr: float = 0.0  # the learning rate does not fall below it (warm-up apart)

    def __post_init__(self) -> None:
        """Raise UserError for a value that makes no sense."""
        self.kind = one_of(ScheduleKind, "schedule.kind", self.kind)
        _check_at_least("schedule", self, 0, "warmup_updates", "warmup_init_lr", "min_lr", "period_updates")
        message = "schedule.kind=cosine needs a period of at least 1 update"
        has_period = self.kind is not ScheduleKind.cosine or self.period_updates > 0
        require(has_period, "schedule.period_updates", self.period_updates, message)


@dataclass
class ValidateConfig:
    """When to validate, and what counts as better."""

    every: int = 0  # updates between validations; 0: no such rule
    every_epochs: int = 1  # epochs between validations; 0: no such rule
    bleu: bool = False  # also translate the validation source and score it
    metric: Metric = Metric.loss  # what "best" means, for checkpoint.keep_best, checkpoint.final and patience
    patience: int = 0  # validations in a row without a new best before training ends; 0: no early stopping

    def __post_init__(self) -> None:
        """Raise UserError for a value that makes no sense."""
        self.metric = one_of(Metric, "validate.metric", self.metric)
        _check_at_least("validate", self, 0, "every", "every_epochs", "patience")
        is_idle = self.patience > 0 and not (self.every or self.every_epochs)
        require(not is_idle, "validate.patience", self.patience, "needs validate.every or validate.every_epochs")
        needs = "needs validate.bleu=true"
        require(self.metric is not Metric.bleu or self.bleu, "validate.metric", self.metric, needs)


@dataclass
class CheckpointConfig:
    """When to save, which checkpoints to keep, and what the final model is made of.

    The end of training is saved as well. So is a validation among the best `keep_best`, and what a signal interrupts;
    these two do not count as the newest for keep_last and average.
    """

    every: int = 0  # updates between checkpoints; 0: no such rule
    every_epochs: int = 1  # epochs between checkpoints; 0: no such rule
    keep_last: int = 5  # newest checkpoints to keep
    keep_best: int = 1  # best checkpoints to keep
    keep_every: int = 0  # also keep those whose update is a multiple of this; 0: none
    final: Final = Final.best  # what becomes RUN/model
    average: int = 5  # checkpoints that final=average takes the mean of: the newest ones

    def __post_init__(self) -> None:
        """Raise UserError for a value that makes no sense."""
        self.final = one_of(Final, "checkpoint.final", self.final)
        _check_at_least("checkpoint", self, 0, "every", "every_epochs", "keep_best", "keep_every")
        _check_at_least("checkpoint", self, 1, "keep_last", "average")
        if self.final is Final.average:
            message = f"more than checkpoint.keep_last={self.keep_last} keeps; raise that, or lower this"
            require(self.average <= self.keep_last, "checkpoint.average", self.average, message)
        if self.final is Final.best:
            require(self.keep_best > 0, "checkpoint.keep_best", self.keep_best, "checkpoint.final=best needs the best")


@dataclass(kw_only=True)
class FitConfig(RuntimeConfig):
    """Everything that `fit` reads. A command's job extends it with where the data lie and what the model is."""

    out_dir: str  # the run folder, RUN
    seed: int = 1  # random seed of data order and dropout; in dc-train of the initial weights too
    batch: BatchConfig = field(default_factory=BatchConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    validate: ValidateConfig = field(default_factory=ValidateConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)

    def check(self) -> None:
        """Raise UserError where the options do not fit together."""
        require(bool(self.out_dir), "out_dir", self.out_dir, "must name the run folder")
        require(0 <= self.seed < 2**63, "seed", self.seed, "must be at least 0 and below 2^63")
        rule = f"must be at most optim.lr={self.optim.lr:g}"
        require(self.schedule.min_lr <= self.optim.lr, "schedule.min_lr", self.schedule.min_lr, rule)
        limits = (self.train.max_updates, self.train.max_epochs, self.train.max_minutes, self.validate.patience)
        if not any(limits):
            raise UserError(
                "train.max_updates=0: training has no end; set train.max_updates, train.max_epochs, train.max_minutes "
                "or validate.patience"
            )
