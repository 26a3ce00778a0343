"""BLEU and chrF of a corpus, by the sacrebleu library. A score without its signature means nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from dynconv_mt.errors import UserError
from dynconv_mt.evaluate.config import EvaluateConfig, Metric
from dynconv_mt.text.config import TextConfig, Tokenization
from dynconv_mt.text.moses import LineTokenizer


@dataclass(frozen=True)
class Score:
    """A corpus score and how it was measured."""

    name: str
    value: float  # 0 to 100, not rounded
    signature: str  # sacreBLEU's, with our own tokenisation in place of its own
    detail: str = ""  # what it is made of: BLEU's n-gram precisions, brevity penalty and lengths

    def __str__(self) -> str:
        """Return one line for people."""
        detail = f"  {self.detail}" if self.detail else ""
        return f"{self.name} {self.value:.2f}{detail}  [{self.signature}]"

    def to_dict(self) -> dict[str, Any]:
        """Return the score as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Corpus:
    """What is scored: lines of detokenised text in one language."""

    hypotheses: Sequence[str]
    references: Sequence[Sequence[str]]  # one list of lines per reference translation
    lang: str  # language code; decides about punctuation and abbreviations in the tokenised scores

    def __post_init__(self) -> None:
        """Raise UserError for unequal numbers of lines, or none."""
        if not self.references or isinstance(self.references[0], str):
            raise TypeError("references: give a list of references, each a list of lines")
        for number, reference in enumerate(self.references, start=1):
            if len(reference) != len(self.hypotheses):
                which = f"reference {number}" if len(self.references) > 1 else "the reference"
                raise UserError(
                    f"{len(self.hypotheses)} lines of translation, and {len(reference)} in {which}: line i of both "
                    "must belong together"
                )
        if not self.hypotheses:
            raise UserError("no lines to score: the translation and its reference are empty")

    def tokenized(self, config: EvaluateConfig, lowercase: bool) -> Corpus:
        """Return the corpus with every line, hypothesis or reference, as tokens separated by blanks."""
        options = TextConfig(
            normalize_punctuation=config.normalize_punctuation,
            remove_non_printing=False,
            tokenization=config.tokenization,
            lowercase=lowercase,
        )
        tokenize = LineTokenizer(self.lang, options).tokenize
        references = [[tokenize(line) for line in reference] for reference in self.references]
        return Corpus([tokenize(line) for line in self.hypotheses], references, self.lang)


def corpus_scores(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], lang: str, config: EvaluateConfig | None = None
) -> list[Score]:
    """Return the scores that `config.metrics` asks for, in that order.

    hypotheses: detokenised lines; references: one list of lines per reference translation; lang: their language.
    Raises UserError where the numbers of lines differ or there are none.
    """
    config = config or EvaluateConfig()
    corpus = Corpus(hypotheses, references, lang)
    return [_METRICS[metric](corpus, config) for metric in config.metrics]


def _sacrebleu(corpus: Corpus, config: EvaluateConfig) -> Score:
    from sacrebleu.metrics.bleu import BLEU

    return _measure("sacreBLEU", BLEU(), corpus)


def _chrf(corpus: Corpus, config: EvaluateConfig) -> Score:
    from sacrebleu.metrics.chrf import CHRF

    return _measure("chrF2", CHRF(), corpus)


def _tokenized_bleu(corpus: Corpus, config: EvaluateConfig) -> Score:
    return _bleu_of_tokens("tokenised BLEU", corpus, config, lowercase=False)


def _tokenized_bleu_lc(corpus: Corpus, config: EvaluateConfig) -> Score:
    return _bleu_of_tokens("tokenised BLEU, lower-cased", corpus, config, lowercase=True)


def _bleu_of_tokens(name: str, corpus: Corpus, config: EvaluateConfig, *, lowercase: bool) -> Score:
    """BLEU as multi-bleu.perl computes it: four-gram precisions without smoothing, of the tokens as they are."""
    from sacrebleu.metrics.bleu import BLEU

    score = _measure(name, BLEU(tokenize="none", force=True, smooth_method="none"), corpus.tokenized(config, lowercase))
    signature = score.signature.replace("case:mixed", "case:lc") if lowercase else score.signature
    return Score(name, score.value, signature.replace("tok:none", _treatment(corpus, config)), score.detail)


def _treatment(corpus: Corpus, config: EvaluateConfig) -> str:
    """What was done to the lines, in the style of a signature."""
    if config.tokenization is Tokenization.none:
        return "tok:none"
    punctuation = "yes" if config.normalize_punctuation else "no"
    return f"normpunct:{punctuation}|tok:moses-noescape-{corpus.lang}|sacremoses:{version('sacremoses')}"


def _measure(name: str, metric: Any, corpus: Corpus) -> Score:
    """Run a metric of sacrebleu."""
    result = metric.corpus_score(list(corpus.hypotheses), [list(reference) for reference in corpus.references])
    detail = ""
    if hasattr(result, "precisions"):
        precisions = "/".join(f"{precision:.1f}" for precision in result.precisions)
        detail = f"{precisions} (BP = {result.bp:.3f}, {result.sys_len} tokens, reference {result.ref_len})"
    return Score(name, float(result.score), metric.get_signature().format(), detail)


_METRICS: dict[Metric, Callable[[Corpus, EvaluateConfig], Score]] = {
    Metric.sacrebleu: _sacrebleu,
    Metric.chrf: _chrf,
    Metric.tokenized_bleu: _tokenized_bleu,
    Metric.tokenized_bleu_lc: _tokenized_bleu_lc,
}
