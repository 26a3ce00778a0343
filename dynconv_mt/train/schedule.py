"""Learning rates as pure functions of the update, so that resuming needs no state.

`update` counts the updates already made: the first update has learning rate lr(0), as in fairseq.
"""

from __future__ import annotations

import math

from dynconv_mt.train.config import ScheduleConfig, ScheduleKind


def learning_rate(update: int, peak: float, config: ScheduleConfig) -> float:
    """Return the learning rate of the update that follows `update` earlier ones.

    Up to `warmup_updates` W it rises linearly from `warmup_init_lr` to `peak`; then it is
        inverse_sqrt: peak · √W / √update (W at least 1)
        cosine:       min_lr + ½ (peak - min_lr) (1 + cos(π t / period)), t = (update - W) mod period
    and never below `min_lr`.
    """
    warmup = config.warmup_updates
    if update < warmup:
        return config.warmup_init_lr + update * (peak - config.warmup_init_lr) / warmup
    if config.kind is ScheduleKind.cosine:
        t = (update - warmup) % config.period_updates
        return config.min_lr + 0.5 * (peak - config.min_lr) * (1.0 + math.cos(math.pi * t / config.period_updates))
    return max(config.min_lr, peak * math.sqrt(max(warmup, 1)) / math.sqrt(max(update, 1)))
