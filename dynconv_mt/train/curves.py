"""A picture of a run: loss, and BLEU or learning rate, over the updates."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

from dynconv_mt.files import write_file
from dynconv_mt.train.report import METRICS, read_metrics

CURVES = "curves.png"


def draw_curves(run: Path) -> Path | None:
    """Draw RUN/curves.png from RUN/metrics.jsonl and return its path; None where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    records = read_metrics(run / METRICS)
    figure = Figure(figsize=(10, 4), layout="constrained")
    loss, other = figure.subplots(1, 2)
    for kind in ("train", "valid"):
        loss.plot(*_series(records, kind, "nll"), label=kind, marker="." if kind == "valid" else "")
    loss.set(xlabel="updates", ylabel="negative log-likelihood (nats per token)")
    loss.legend()
    name, kind = ("bleu", "valid") if any("bleu" in record for record in records) else ("lr", "train")
    other.plot(*_series(records, kind, name), marker="." if kind == "valid" else "")
    other.set(xlabel="updates", ylabel={"bleu": "validation BLEU", "lr": "learning rate"}[name])
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    write_file(run / CURVES, picture.getvalue())
    return run / CURVES


def _series(records: list[dict[str, Any]], kind: str, name: str) -> tuple[list[int], list[float]]:
    points = [(r["update"], r[name]) for r in records if r["kind"] == kind and r.get(name) is not None]
    return [update for update, _ in points], [value for _, value in points]
