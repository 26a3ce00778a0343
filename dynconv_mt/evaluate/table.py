"""A report as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dynconv_mt.evaluate.breakdown import Breakdown
from dynconv_mt.evaluate.report import Report
from dynconv_mt.tables import aligned

_SHOWN = 5  # line numbers of empty lines


def report_text(report: Report) -> str:
    """Return the tables, headings and notes, ending in a line feed."""
    return "\n".join([*_scores(report), *_comparisons(report), *_breakdowns(report), *_notes(report)]) + "\n"


def _scores(report: Report) -> Iterator[str]:
    references = report.texts.references
    counts = f"{_count(len(references[0]), 'line')}, {_count(len(references), 'reference')}"
    yield f"{counts}, language {report.texts.lang}"
    yield ""
    rows = [["score", *report.systems]]
    for number, measure in enumerate(report.measures):
        arrow = " ↓" if measure.lower_is_better else ""
        rows.append([measure.name + arrow, *(_score(report, system, number) for system in range(len(report.systems)))])
    yield from _table(rows)
    if report.significance.intervals:
        yield f"± 95 % confidence, {report.config.significance.samples} bootstrap samples"
    yield "\nSignatures"
    yield from (f"  {score.name}: {score.signature}" for score in report.scores[0])


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _score(report: Report, system: int, measure: int) -> str:
    value = f"{report.scores[system][measure].value:.2f}"
    if not report.significance.intervals:
        return value
    return f"{value} ± {report.significance.intervals[system][measure].half_width:.2f}"


def _comparisons(report: Report) -> Iterator[str]:
    if not report.significance.comparisons:
        return
    names = {measure.key: measure.name for measure in report.measures}
    rows = [["difference", "score", "", "p bootstrap", "p randomisation"]]
    for found in report.significance.comparisons:
        tests = [_p(found.bootstrap_p), _p(found.randomization_p)]
        pair = f"{found.system} − {found.baseline}"
        rows.append([pair, names[found.metric], f"{found.difference:+.2f}", *tests])
    config = report.config.significance
    yield f"\nPaired tests, {config.samples} bootstrap samples, {config.trials} trials, seed {config.seed}"
    yield from _table(rows, left=2)


def _p(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _breakdowns(report: Report) -> Iterator[str]:
    first = report.measures[0]
    yield f"\n{first.name} by {report.length.kind}"
    yield from _table(_rows(report.length, report.systems, "sentences", first.key))
    yield f"\nF1 of words by {report.frequency.kind}"
    yield from _table(_rows(report.frequency, report.systems, "reference words", "f1"))


def _rows(breakdown: Breakdown, systems: Sequence[str], unit: str, key: str) -> list[list[str]]:
    rows = [["", unit, *systems]]
    for bucket in breakdown.buckets:
        values = [bucket_values[key] for bucket_values in bucket.values]
        rows.append(
            [bucket.label, f"{bucket.count:,}", *("–" if value is None else f"{value:.2f}" for value in values)]
        )
    return rows


def _notes(report: Report) -> Iterator[str]:
    empty = report.texts.empty_lines()
    if empty:
        yield "\nEmpty lines (scored like others)"
    for name, numbers in empty.items():
        more = ", ..." if len(numbers) > _SHOWN else ""
        yield f"  {name}: {len(numbers):,} (line {', '.join(map(str, numbers[:_SHOWN]))}{more})"


def _table(rows: Sequence[Sequence[str]], left: int = 1) -> Iterator[str]:
    yield from (f"  {line}" for line in aligned(rows, left))
