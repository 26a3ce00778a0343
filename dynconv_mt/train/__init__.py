"""Training: loss, optimizer, schedules, the loop, checkpoints that survive anything, reports."""

from typing import TYPE_CHECKING

from dynconv_mt.lazy import lazy_exports

if TYPE_CHECKING:
    from dynconv_mt.train.average import average_checkpoints as average_checkpoints
    from dynconv_mt.train.average import newest_checkpoints as newest_checkpoints
    from dynconv_mt.train.config import FitConfig as FitConfig
    from dynconv_mt.train.loop import FitResult as FitResult
    from dynconv_mt.train.loop import fit as fit
    from dynconv_mt.train.start import FitData as FitData

if not TYPE_CHECKING:  # a type checker is to see the names above alone
    __getattr__ = lazy_exports(
        __name__,
        {
            "FitConfig": "config",
            "FitData": "start",
            "FitResult": "loop",
            "average_checkpoints": "average",
            "fit": "loop",
            "newest_checkpoints": "average",
        },
    )
