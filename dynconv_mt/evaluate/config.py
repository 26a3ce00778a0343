"""The options of scoring: which scores, how the text is treated for the tokenised ones, which tests and breakdowns."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar

from dynconv_mt.errors import UserError, one_of
from dynconv_mt.text.config import Tokenization


class ScoreKind(StrEnum):
    """Corpus scores. Token-based BLEU scores tokenise both sides as configured; the others take detokenised text."""

    sacrebleu = "sacrebleu"  # BLEU with sacreBLEU's own tokeniser (13a; those for zh, ja, ko), cased
    chrf = "chrf"  # chrF2: F-score of character 6-grams, recall weighing twice
    ter = "ter"  # translation edit rate, lower-cased; lower is better
    tokenized_bleu = "tokenized_bleu"  # BLEU of Moses tokens, cased, unsmoothed: multi-bleu.perl
    tokenized_bleu_lc = "tokenized_bleu_lc"  # the same, lower-cased
    compound_split_bleu = "compound_split_bleu"  # the same, cased, with a-b as a ##AT##-##AT## b: WMT'14 En-De papers


DETOKENIZED = (ScoreKind.sacrebleu, ScoreKind.chrf, ScoreKind.ter)


@dataclass
class EvaluateConfig:
    """Which corpus scores to compute."""

    metrics_option: ClassVar[str] = "evaluate.metrics"
    metrics: list[ScoreKind] = field(default_factory=lambda: [ScoreKind.sacrebleu, ScoreKind.chrf])
    tokenization: Tokenization = Tokenization.moses  # tokenised scores: moses (hyphens whole, no escaping) or none
    normalize_punctuation: bool = True  # tokenised scores: Moses' normalize-punctuation first

    def __post_init__(self) -> None:
        """Raise UserError where there is nothing to compute, or twice the same, or a word that stands for nothing."""
        self.metrics = [one_of(ScoreKind, self.metrics_option, metric) for metric in self.metrics]
        self.tokenization = one_of(Tokenization, "tokenization", self.tokenization)
        if not self.metrics or len(set(self.metrics)) < len(self.metrics):
            typed = f"{self.metrics_option}=[{','.join(self.metrics)}]"
            raise UserError(f"{typed}: give at least one of {', '.join(ScoreKind)}, and each once")


@dataclass
class SignificanceConfig:
    """Is a difference more than chance? sacreBLEU's paired tests, on every score of every pair of systems."""

    samples: int = 1000  # paired bootstrap: test sets drawn with replacement; 0: no test and no confidence intervals
    trials: int = 10000  # paired approximate randomisation: random exchanges of translations; 0: no test
    seed: int = 12345  # of the random numbers of both

    def check(self) -> None:
        """Raise UserError for counts that cannot be."""
        for name in ("samples", "trials", "seed"):
            if getattr(self, name) < 0:
                raise UserError(f"significance.{name}={getattr(self, name)}: must be at least 0")


@dataclass
class BreakdownConfig:
    """Where the classes begin into which sentences and words are sorted; the first class begins at 0."""

    lengths: list[int] = field(default_factory=lambda: [10, 20, 30, 40, 50, 60])  # of sentences, in words
    frequencies: list[int] = field(default_factory=lambda: [1, 2, 5, 10, 100, 1000])  # of words: how often they occur

    def check(self) -> None:
        """Raise UserError for bounds that do not increase."""
        for name in ("lengths", "frequencies"):
            bounds = getattr(self, name)
            if any(second <= first for first, second in zip([0, *bounds], bounds, strict=False)):
                typed = f"breakdown.{name}=[{','.join(map(str, bounds))}]"
                raise UserError(f"{typed}: must be whole numbers above 0, each larger than the one before")


@dataclass
class ReportConfig(EvaluateConfig):
    """Everything that a report on several systems can be asked for."""

    metrics_option: ClassVar[str] = "metrics"
    metrics: list[ScoreKind] = field(default_factory=lambda: list(ScoreKind))
    significance: SignificanceConfig = field(default_factory=SignificanceConfig)
    breakdown: BreakdownConfig = field(default_factory=BreakdownConfig)
    workers: int = 0  # processes for TER, by far the slowest score; 0: one per core

    def check(self) -> None:
        """Raise UserError for values that cannot be."""
        if self.workers < 0:
            raise UserError(f"workers={self.workers}: must be at least 0")
        self.significance.check()
        self.breakdown.check()
