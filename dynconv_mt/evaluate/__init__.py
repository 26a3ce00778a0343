"""What a translation is worth: corpus scores, each with a signature that says how it was measured."""

from typing import TYPE_CHECKING

from dynconv_mt.lazy import lazy_exports

if TYPE_CHECKING:
    from dynconv_mt.evaluate.bleu import Score as Score
    from dynconv_mt.evaluate.bleu import corpus_scores as corpus_scores
    from dynconv_mt.evaluate.config import EvaluateConfig as EvaluateConfig
    from dynconv_mt.evaluate.config import Metric as Metric

__getattr__ = lazy_exports(
    __name__, {"EvaluateConfig": "config", "Metric": "config", "Score": "bleu", "corpus_scores": "bleu"}
)
