"""A report as a picture: scores with their confidence, and the two breakdowns."""

from __future__ import annotations

import io
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dynconv_mt.errors import UserError
from dynconv_mt.evaluate.breakdown import Breakdown
from dynconv_mt.evaluate.report import Report

FORMATS = (".png", ".pdf", ".svg")


def check_plot(name: str) -> None:
    """Raise UserError where a picture of that file name could not be drawn."""
    if Path(name).suffix not in FORMATS:
        raise UserError(f"plot={name}: must end in {', '.join(FORMATS)}")
    if find_spec("matplotlib") is None:
        raise UserError(f"plot={name}: needs matplotlib: pip install matplotlib")


def draw_report(report: Report, ending: str = ".png") -> bytes:
    """Return the picture as the bytes of a file; `ending` is one of FORMATS. Needs matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4.5), layout="constrained")
    scores, length, frequency = figure.subplots(1, 3, width_ratios=[1.3, 1, 1])
    bars = _draw_scores(scores, report)
    first = report.measures[0]
    _draw_breakdown(length, report, report.length, first.key)
    length.set(ylabel=first.name)
    _draw_breakdown(frequency, report, report.frequency, "f1")
    frequency.set(ylabel="F1 of words")
    names = [name.replace("$", r"\$") for name in report.systems]  # which else begins a formula
    figure.legend(bars, names, loc="outside lower center", ncols=4, frameon=False)
    file = io.BytesIO()
    figure.savefig(file, format=ending.removeprefix("."), dpi=120)
    return file.getvalue()


def _draw_scores(axes: Any, report: Report) -> list[Any]:
    """A group of bars for each score, a bar for each system; the bars of each system."""
    bars = []
    width = 0.8 / len(report.systems)
    for number in range(len(report.systems)):
        places = [index + (number - (len(report.systems) - 1) / 2) * width for index in range(len(report.measures))]
        intervals = report.significance.intervals
        errors = [interval.half_width for interval in intervals[number]] if intervals else None
        values = [score.value for score in report.scores[number]]
        bars.append(axes.bar(places, values, width, yerr=errors, capsize=2))
    names = [measure.name + (" ↓" if measure.lower_is_better else "") for measure in report.measures]
    axes.set_xticks(range(len(names)), names, rotation=25, ha="right")
    axes.set(ylabel="score, 95 % confidence" if report.significance.intervals else "score")
    return bars


def _draw_breakdown(axes: Any, report: Report, breakdown: Breakdown, key: str) -> None:
    """A line for each system over the classes, with the number of sentences or words under each."""
    labels = [f"{bucket.label}\n({bucket.count:,})" for bucket in breakdown.buckets]
    for number in range(len(report.systems)):
        values = [bucket.values[number][key] for bucket in breakdown.buckets]
        axes.plot(range(len(values)), [float("nan") if value is None else value for value in values], "o-")
    axes.set_xticks(range(len(labels)), labels, fontsize="small")
    axes.set(xlabel=breakdown.kind)
