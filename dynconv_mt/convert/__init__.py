"""Models of other toolkits as model directories of this one."""

from typing import TYPE_CHECKING

from dynconv_mt.lazy import lazy_exports

if TYPE_CHECKING:
    from dynconv_mt.convert.checkpoint import Checkpoint as Checkpoint
    from dynconv_mt.convert.checkpoint import load_checkpoint as load_checkpoint
    from dynconv_mt.convert.fairseq import convert_model as convert_model

if not TYPE_CHECKING:  # a type checker is to see the names above alone
    __getattr__ = lazy_exports(
        __name__, {"Checkpoint": "checkpoint", "convert_model": "fairseq", "load_checkpoint": "checkpoint"}
    )
