"""From ids on disk to batches on a device: token store, batch plan, loader, preprocessing.

`preprocess` itself stays `dynconv_mt.data.preprocess.preprocess`: a function exported here would share its name with
the module, and which of the two one gets would depend on what was imported before.
"""

from typing import TYPE_CHECKING

from dynconv_mt.lazy import lazy_exports

if TYPE_CHECKING:
    from dynconv_mt.data.batch import Batch as Batch
    from dynconv_mt.data.batch import blank_batch as blank_batch
    from dynconv_mt.data.batch import collate as collate
    from dynconv_mt.data.config import BatchConfig as BatchConfig
    from dynconv_mt.data.loader import Loader as Loader
    from dynconv_mt.data.loader import Update as Update
    from dynconv_mt.data.plan import epoch_plan as epoch_plan
    from dynconv_mt.data.plan import update_batches as update_batches
    from dynconv_mt.data.preprocess import PreprocessConfig as PreprocessConfig
    from dynconv_mt.data.store import StoreWriter as StoreWriter
    from dynconv_mt.data.store import TokenStore as TokenStore

_EXPORTS = {
    "Batch": "batch",
    "BatchConfig": "config",
    "Loader": "loader",
    "PreprocessConfig": "preprocess",
    "StoreWriter": "store",
    "TokenStore": "store",
    "Update": "loader",
    "blank_batch": "batch",
    "collate": "batch",
    "epoch_plan": "plan",
    "update_batches": "plan",
}

if not TYPE_CHECKING:  # a type checker is to see the names above alone
    __getattr__ = lazy_exports(__name__, _EXPORTS)
