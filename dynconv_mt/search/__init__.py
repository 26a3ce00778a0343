"""From a model and source ids to hypotheses: beam search, ensembles, forced scores."""

from typing import TYPE_CHECKING

from dynconv_mt.lazy import lazy_exports

if TYPE_CHECKING:
    from dynconv_mt.search.beam import beam_search as beam_search
    from dynconv_mt.search.config import SearchConfig as SearchConfig
    from dynconv_mt.search.score import forced_scores as forced_scores
    from dynconv_mt.search.trellis import Hypothesis as Hypothesis

if not TYPE_CHECKING:  # a type checker is to see the names above alone
    __getattr__ = lazy_exports(
        __name__,
        {"Hypothesis": "trellis", "SearchConfig": "config", "beam_search": "beam", "forced_scores": "score"},
    )
