"""The options `evaluate.*`: which scores, and how the text is treated for the tokenised ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from dynconv_mt.errors import UserError
from dynconv_mt.text.config import Tokenization


class Metric(StrEnum):
    """Corpus scores. The first two take detokenised text as it is; the others treat both sides as `evaluate.*` says."""

    sacrebleu = "sacrebleu"  # BLEU with sacreBLEU's own tokeniser (13a), cased
    chrf = "chrf"  # chrF2: F-score of character 6-grams, recall weighing twice
    tokenized_bleu = "tokenized_bleu"  # BLEU of Moses tokens, cased, unsmoothed: multi-bleu.perl
    tokenized_bleu_lc = "tokenized_bleu_lc"  # the same, lower-cased


@dataclass
class EvaluateConfig:
    """Which corpus scores to compute."""

    metrics: list[Metric] = field(default_factory=lambda: [Metric.sacrebleu, Metric.chrf])
    tokenization: Tokenization = Tokenization.moses  # tokenised scores: moses (hyphens whole, no escaping) or none
    normalize_punctuation: bool = True  # tokenised scores: Moses' normalize-punctuation first

    def __post_init__(self) -> None:
        """Raise UserError where there is nothing to compute."""
        if not self.metrics:
            raise UserError(f"evaluate.metrics=[]: give at least one of {', '.join(Metric)}")
