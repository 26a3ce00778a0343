"""Where a system is good: scores of sentences by length, and of words by how often they occur."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dynconv_mt.evaluate.measure import Measure, Statistics


@dataclass(frozen=True)
class Bucket:
    """One class of sentences or words."""

    start: int
    end: int | None  # the last value that belongs to it; None: no limit
    count: int  # sentences, or words of the references, in it
    values: list[dict[str, float | None]]  # by system: a sentence class's scores, a word class's precision, recall, f1

    @property
    def label(self) -> str:
        """How people write it: 10–19, 5, 60+."""
        if self.end is None:
            return f"{self.start}+"
        return str(self.start) if self.start == self.end else f"{self.start}–{self.end}"


@dataclass(frozen=True)
class Breakdown:
    """Classes of one kind, those that are empty left out."""

    kind: str  # what the classes are made by, in words
    buckets: list[Bucket]

    def to_dict(self, systems: Sequence[str]) -> dict[str, Any]:
        """Return JSON values, the systems by name."""
        rows = [
            asdict(bucket) | {"label": bucket.label, "values": dict(zip(systems, bucket.values, strict=True))}
            for bucket in self.buckets
        ]
        return {"kind": self.kind, "buckets": rows}


def by_length(
    lines: Sequence[str],
    kind: str,
    bounds: Sequence[int],
    measures: Sequence[Measure],
    tables: Sequence[Sequence[Statistics]],
) -> Breakdown:
    """Return the scores of the sentences in classes by the number of words (separated by blanks) of `lines`."""
    classes = np.searchsorted(bounds, [len(line.split()) for line in lines], side="right")
    buckets = []
    for number, (start, end) in enumerate(_ranges(bounds)):
        members = classes == number
        if members.any():
            values: list[dict[str, float | None]] = [
                {
                    measure.key: measure.value(table[members].sum(axis=0).tolist())
                    for measure, table in zip(measures, system, strict=True)
                }
                for system in tables
            ]
            buckets.append(Bucket(start, end, int(members.sum()), values))
    return Breakdown(kind, buckets)


def by_frequency(
    systems: Sequence[Sequence[str]],
    references: Sequence[Sequence[str]],
    frequencies: Mapping[str, int],
    kind: str,
    bounds: Sequence[int],
) -> Breakdown:
    """Return precision, recall and F1 of words in classes by their frequency. All lines are tokens.

    A word is right as often as it stands in both sentences, whatever its place. With several references, matches and
    words are summed over them. A value is None in classes without words to find (precision: without words produced).
    """

    def counted(words: Mapping[str, int]) -> list[int]:
        totals = [0] * (len(bounds) + 1)
        classes = np.searchsorted(bounds, [frequencies.get(word, 0) for word in words], side="right").tolist()
        for group, count in zip(classes, words.values(), strict=True):
            totals[group] += count
        return totals

    expected = counted(count_words(line for reference in references for line in reference))
    produced = [[count * len(references) for count in counted(count_words(system))] for system in systems]
    matched = [counted(_matches(system, references)) for system in systems]
    buckets = [
        Bucket(
            start,
            end,
            expected[number],
            [
                _f1(matched[system][number], produced[system][number], expected[number])
                for system in range(len(systems))
            ],
        )
        for number, (start, end) in enumerate(_ranges(bounds))
        if expected[number] or any(words[number] for words in produced)
    ]
    return Breakdown(kind, buckets)


def count_words(lines: Iterable[str]) -> Counter[str]:
    """Return how often each token occurs in tokenised lines."""
    counts: Counter[str] = Counter()
    for line in lines:
        counts.update(line.split())
    return counts


def _matches(system: Sequence[str], references: Sequence[Sequence[str]]) -> Counter[str]:
    """How often each word stands in a translation and its reference, over all sentences and references."""
    matches: Counter[str] = Counter()
    for reference in references:
        for hypothesis, expected in zip(system, reference, strict=True):
            matches.update(Counter(hypothesis.split()) & Counter(expected.split()))
    return matches


def _f1(matched: int, produced: int, expected: int) -> dict[str, float | None]:
    """Precision, recall and their harmonic mean, 0 to 100."""
    return {
        "precision": 100 * matched / produced if produced else None,
        "recall": 100 * matched / expected if expected else None,
        "f1": 200 * matched / (produced + expected) if expected else None,
    }


def _ranges(bounds: Sequence[int]) -> list[tuple[int, int | None]]:
    """The first and last value of each class."""
    return list(zip([0, *bounds], [*(bound - 1 for bound in bounds), None], strict=True))
