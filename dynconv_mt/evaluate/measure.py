"""Corpus scores as functions of sums over sentences, by the sacrebleu library.

A sentence's statistics are counted once; the corpus score, every resampled score of the significance tests and the
score of every class of sentences are values of sums over some of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dynconv_mt.data.workers import Workers
from dynconv_mt.errors import UserError
from dynconv_mt.evaluate.config import EvaluateConfig, ScoreKind
from dynconv_mt.evaluate.treatment import Treatment
from dynconv_mt.runtime import num_cores
from dynconv_mt.text.config import base_language

Statistics = NDArray[np.float64]  # (lines, numbers): what a score needs to know of each sentence
_BLOCK = 250  # lines that a process counts at a time; fewer are not worth a process


@dataclass(frozen=True)
class Score:
    """A corpus score and how it was measured."""

    name: str
    value: float  # 0 to 100 (TER: above 100 too), not rounded
    signature: str  # sacreBLEU's, with our own tokenisation in place of its own
    detail: str = ""  # what it is made of: BLEU's n-gram precisions, brevity penalty and lengths

    def __str__(self) -> str:
        """Return one line for people."""
        detail = f"  {self.detail}" if self.detail else ""
        return f"{self.name} {self.value:.2f}{detail}  [{self.signature}]"

    def to_dict(self) -> dict[str, Any]:
        """Return the score as JSON values."""
        return asdict(self)


class Measure(Protocol):
    """One score, with the references (and sources) that it compares translations with."""

    key: str  # as in metrics=: sacrebleu
    name: str  # as people write it: sacreBLEU
    lower_is_better: bool

    def statistics(self, hypotheses: Sequence[str]) -> Statistics:
        """Return the sentences' statistics; hypotheses are detokenised lines."""
        ...

    def value(self, sums: Sequence[float]) -> float:
        """Return the score of the sentences whose statistics add up to `sums`."""
        ...

    def score(self, sums: Sequence[float]) -> Score:
        """Return the same with its signature."""
        ...


class SacrebleuMeasure:
    """A metric of sacrebleu, whose significance tests rest on the same three methods that are called here."""

    def __init__(
        self,
        metric: ScoreKind,
        references: Sequence[Sequence[str]],
        prepare: Callable[[str], str] | None = None,
        sign: Callable[[str], str] = str,
        **options: Any,
    ) -> None:
        """Set up a metric. prepare: what happens to each line first; sign: how that enters the signature.

        options: further ones of sacrebleu's class.
        """
        self.key = str(metric)
        self.name, build = _METRICS[metric]
        self.lower_is_better = metric is ScoreKind.ter
        self._prepare = prepare
        self._sign = sign
        self._metric = build(references=[self._prepared(reference) for reference in references], **options)

    def statistics(self, hypotheses: Sequence[str]) -> Statistics:
        """Return the counts of each sentence: matches, totals, lengths."""
        counts = self._metric._extract_corpus_statistics(self._prepared(hypotheses), None)
        return np.array(counts, dtype=np.float64)

    def value(self, sums: Sequence[float]) -> float:
        """Return the score of the summed counts, 0 to 100."""
        return float(self._metric._compute_score_from_stats(list(sums)).score)

    def score(self, sums: Sequence[float]) -> Score:
        """Return the score with signature and detail."""
        result = self._metric._compute_score_from_stats(list(sums))
        signature = self._sign(self._metric.get_signature().format())
        return Score(self.name, float(result.score), signature, _detail(result))

    def _prepared(self, lines: Sequence[str]) -> list[str]:
        return [self._prepare(line) for line in lines] if self._prepare else list(lines)


class TerMeasure(SacrebleuMeasure):
    """TER, whose search for shifts takes many times as long as all other scores together, in several processes."""

    def __init__(self, references: Sequence[Sequence[str]], workers: int) -> None:
        """Set up TER. workers: processes; 0: one per core."""
        super().__init__(ScoreKind.ter, references)
        self._references = references
        self._workers = workers

    def statistics(self, hypotheses: Sequence[str]) -> Statistics:
        """Return the edits and the (mean) reference length of each sentence."""
        blocks = [
            (hypotheses[start : start + _BLOCK], [reference[start : start + _BLOCK] for reference in self._references])
            for start in range(0, len(hypotheses), _BLOCK)
        ]
        with Workers(min(self._workers or num_cores(), len(blocks))) as workers:
            return np.concatenate(list(workers.map(_count_edits, blocks)))


def _count_edits(block: tuple[Sequence[str], Sequence[Sequence[str]]]) -> Statistics:
    return np.array(_ter()._extract_corpus_statistics(*block), dtype=np.float64)


def build_measures(
    references: Sequence[Sequence[str]], config: EvaluateConfig, treatment: Treatment, workers: int = 1
) -> list[SacrebleuMeasure]:
    """Return a measure for each of `config.metrics`, in that order. workers: processes for TER; 0: one per core.

    Raises UserError where a language's tokeniser is not installed.
    """

    def build(metric: ScoreKind) -> SacrebleuMeasure:
        if metric in (ScoreKind.tokenized_bleu, ScoreKind.tokenized_bleu_lc):
            return SacrebleuMeasure(metric, references, treatment.tokenize, lambda text: _signed(text, treatment))
        if metric is ScoreKind.compound_split_bleu:
            return SacrebleuMeasure(
                metric, references, treatment.compounds_split, lambda text: _signed(text, treatment, "|compounds:split")
            )
        if metric is ScoreKind.ter:
            return TerMeasure(references, workers)
        if metric is ScoreKind.sacrebleu:
            return SacrebleuMeasure(metric, references, trg_lang=base_language(treatment.lang))
        return SacrebleuMeasure(metric, references)

    return [build(metric) for metric in config.metrics]


def _signed(signature: str, treatment: Treatment, more: str = "") -> str:
    return signature.replace("tok:none", f"{treatment}{more}")


def _detail(result: Any) -> str:
    """What a BLEU or a TER is made of."""
    if hasattr(result, "precisions"):
        precisions = "/".join(f"{precision:.1f}" for precision in result.precisions)
        return f"{precisions} (BP = {result.bp:.3f}, {result.sys_len} tokens, reference {result.ref_len})"
    if hasattr(result, "num_edits"):
        return f"{result.num_edits} edits, reference {result.ref_length:.1f} words"
    return ""


def _cased_bleu(trg_lang: str, **options: Any) -> Any:
    """BLEU with sacreBLEU's tokeniser for a language: 13a, but for Chinese, Japanese and Korean."""
    from sacrebleu.metrics.bleu import BLEU

    try:
        return BLEU(trg_lang=trg_lang, **options)
    except RuntimeError:  # a package is missing; it says so in five lines
        raise UserError(
            f"metrics: {ScoreKind.sacrebleu} needs a tokeniser for {trg_lang}: pip install 'sacrebleu[{trg_lang}]', "
            f"or leave it out, as with metrics=[{ScoreKind.chrf}]"
        ) from None


def _bleu_of_tokens(**options: Any) -> Any:
    """BLEU as multi-bleu.perl computes it: four-gram precisions without smoothing, of the tokens as they are."""
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(tokenize="none", force=True, smooth_method="none", **options)


def _chrf(**options: Any) -> Any:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF(**options)


def _ter(**options: Any) -> Any:
    from sacrebleu.metrics.ter import TER

    return TER(**options)


_METRICS: dict[ScoreKind, tuple[str, Callable[..., Any]]] = {
    ScoreKind.sacrebleu: ("sacreBLEU", _cased_bleu),
    ScoreKind.chrf: ("chrF2", _chrf),
    ScoreKind.ter: ("TER", _ter),
    ScoreKind.tokenized_bleu: ("tokenised BLEU", _bleu_of_tokens),
    ScoreKind.tokenized_bleu_lc: ("tokenised BLEU, lower-cased", partial(_bleu_of_tokens, lowercase=True)),
    ScoreKind.compound_split_bleu: ("compound-split BLEU", _bleu_of_tokens),
}
