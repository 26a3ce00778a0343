"""What a translation is worth: corpus scores, each with a signature that says how it was measured."""

from typing import TYPE_CHECKING

from dynconv_mt.lazy import lazy_exports

if TYPE_CHECKING:
    from dynconv_mt.evaluate.config import BreakdownConfig as BreakdownConfig
    from dynconv_mt.evaluate.config import EvaluateConfig as EvaluateConfig
    from dynconv_mt.evaluate.config import ReportConfig as ReportConfig
    from dynconv_mt.evaluate.config import ScoreKind as ScoreKind
    from dynconv_mt.evaluate.config import SignificanceConfig as SignificanceConfig
    from dynconv_mt.evaluate.measure import Score as Score
    from dynconv_mt.evaluate.report import Report as Report
    from dynconv_mt.evaluate.report import Texts as Texts
    from dynconv_mt.evaluate.report import evaluate_systems as evaluate_systems
    from dynconv_mt.evaluate.scores import corpus_scores as corpus_scores

if not TYPE_CHECKING:  # a type checker is to see the names above alone
    __getattr__ = lazy_exports(
        __name__,
        {
            "BreakdownConfig": "config",
            "EvaluateConfig": "config",
            "ScoreKind": "config",
            "Report": "report",
            "ReportConfig": "config",
            "Score": "measure",
            "SignificanceConfig": "config",
            "Texts": "report",
            "corpus_scores": "scores",
            "evaluate_systems": "report",
        },
    )
