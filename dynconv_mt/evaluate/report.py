"""Several systems on one test set: scores, their uncertainty, their differences, and where they come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dynconv_mt.evaluate.breakdown import Breakdown, by_frequency, by_length, count_words
from dynconv_mt.evaluate.config import ReportConfig
from dynconv_mt.evaluate.measure import Measure, Score, Statistics, build_measures
from dynconv_mt.evaluate.scores import check_lines
from dynconv_mt.evaluate.significance import Significance, compare_systems
from dynconv_mt.evaluate.treatment import Treatment


@dataclass(frozen=True)
class Texts:
    """What is compared: detokenised lines, line i of all belonging together."""

    systems: Mapping[str, Sequence[str]]  # translations by the name of the system
    references: Sequence[Sequence[str]]
    lang: str  # language code of translations and references
    source: Sequence[str] | None = None

    def __post_init__(self) -> None:
        """Raise UserError where the numbers of lines differ or there are none."""
        for lines in self.systems.values():
            check_lines(lines, self.references)
        if self.source is not None:
            check_lines(self.source, self.references)

    def empty_lines(self) -> dict[str, list[int]]:
        """Return the numbers, from 1, of lines without words, for each text that has such."""
        texts = {f"reference {number}": lines for number, lines in enumerate(self.references, start=1)}
        texts |= {"source": self.source} if self.source is not None else {}
        systems = {f"system {name}" if name in texts else name: lines for name, lines in self.systems.items()}
        texts = systems | texts
        found = {
            name: [number for number, line in enumerate(lines, start=1) if not line.strip()]
            for name, lines in texts.items()
        }
        return {name: numbers for name, numbers in found.items() if numbers}


@dataclass(frozen=True)
class Report:
    """What `evaluate_systems` found. Lists are in the order of the systems and measures."""

    texts: Texts
    config: ReportConfig
    systems: list[str]
    measures: Sequence[Measure]
    scores: list[list[Score]]  # by system and measure
    significance: Significance
    length: Breakdown
    frequency: Breakdown

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the texts as JSON values."""
        return {
            "lines": len(self.texts.references[0]),
            "references": len(self.texts.references),
            "lang": self.texts.lang,
            "systems": [self._system(number) for number in range(len(self.systems))],
            "significance": asdict(self.config.significance),
            "comparisons": [asdict(comparison) for comparison in self.significance.comparisons],
            "breakdown": {
                "length": self.length.to_dict(self.systems),
                "frequency": self.frequency.to_dict(self.systems),
            },
            "empty_lines": self.texts.empty_lines(),
        }

    def _system(self, number: int) -> dict[str, Any]:
        scores = [
            {"metric": measure.key, **score.to_dict()}
            for measure, score in zip(self.measures, self.scores[number], strict=True)
        ]
        if self.significance.intervals:
            for score, interval in zip(scores, self.significance.intervals[number], strict=True):
                score["bootstrap_mean"], score["confidence_95"] = interval.mean, interval.half_width
        return {"system": self.systems[number], "scores": scores}


def evaluate_systems(
    texts: Texts, config: ReportConfig, *, train: Iterable[str] | None = None, more: Sequence[Measure] = ()
) -> Report:
    """Return scores, significance and breakdowns of every system.

    train: lines of training text in the language of the translations; word frequencies are counted there, and without
    it in the references. more: measures beside `config.metrics`, such as COMET.
    """
    treatment = Treatment(texts.lang, config)
    frequency = _frequency(texts, config, treatment, train)  # first, since it reads a file, which may be damaged
    measures: list[Measure] = [*build_measures(texts.references, config, treatment, config.workers), *more]
    tables = [[measure.statistics(lines) for measure in measures] for lines in texts.systems.values()]
    systems = list(texts.systems)
    return Report(
        texts=texts,
        config=config,
        systems=systems,
        measures=measures,
        scores=[
            [measure.score(table.sum(axis=0).tolist()) for measure, table in zip(measures, system, strict=True)]
            for system in tables
        ],
        significance=compare_systems(systems, measures, tables, config.significance),
        length=_length(texts, config, measures, tables),
        frequency=frequency,
    )


def _length(
    texts: Texts, config: ReportConfig, measures: Sequence[Measure], tables: Sequence[Sequence[Statistics]]
) -> Breakdown:
    """By the length of the source, or of the first reference where there is no source."""
    lines, which = (texts.source, "source") if texts.source is not None else (texts.references[0], "reference")
    return by_length(lines, f"words in the {which} sentence", config.breakdown.lengths, measures, tables)


def _frequency(texts: Texts, config: ReportConfig, treatment: Treatment, train: Iterable[str] | None) -> Breakdown:
    """By how often words occur in the training text, or in the references where there is none."""
    systems, references = (
        [[treatment.tokenize(line) for line in lines] for lines in group]
        for group in (texts.systems.values(), texts.references)
    )
    if train is not None:
        frequencies = count_words(map(treatment.tokenize_once, train))
        kind = "occurrences of a word in the training data"
    else:
        frequencies = count_words(line for reference in references for line in reference)
        kind = "occurrences of a word in the reference"
    return by_frequency(systems, references, frequencies, kind, config.breakdown.frequencies)
