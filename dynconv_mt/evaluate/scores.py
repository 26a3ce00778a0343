"""The scores of one set of translations. A score without its signature means nothing."""

from __future__ import annotations

from collections.abc import Sequence

from dynconv_mt.errors import UserError
from dynconv_mt.evaluate.config import EvaluateConfig
from dynconv_mt.evaluate.measure import Score, build_measures
from dynconv_mt.evaluate.treatment import Treatment


def corpus_scores(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], lang: str, config: EvaluateConfig | None = None
) -> list[Score]:
    """Return the scores that `config.metrics` asks for, in that order.

    hypotheses: detokenised lines; references: one list of lines per reference translation; lang: their language code,
    which decides about punctuation and abbreviations in the tokenised scores.
    Raises UserError where the numbers of lines differ or there are none.
    """
    config = config or EvaluateConfig()
    check_lines(hypotheses, references)
    measures = build_measures(references, config, Treatment(lang, config))
    return [measure.score(measure.statistics(hypotheses).sum(axis=0).tolist()) for measure in measures]


def check_scoring(lang: str, config: EvaluateConfig) -> None:
    """Raise UserError where a score cannot be computed in this language, before there is anything to score."""
    build_measures([[""]], config, Treatment(lang, config))


def check_lines(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Raise UserError where the numbers of lines differ or there are none."""
    if not references or isinstance(references[0], str):
        raise TypeError("references: give a list of references, each a list of lines")
    for number, reference in enumerate(references, start=1):
        if len(reference) != len(hypotheses):
            which = f"reference {number}" if len(references) > 1 else "the reference"
            raise UserError(
                f"{len(hypotheses)} lines of translation, and {len(reference)} in {which}: line i of both must belong "
                "together"
            )
    if not hypotheses:
        raise UserError("no lines to score: the translation and its reference are empty")
