"""What a run shows: metrics.jsonl, TensorBoard, a progress bar or lines, and a picture at the end."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

METRICS, TENSORBOARD = "metrics.jsonl", "tensorboard"
BAR_SECONDS, LINE_SECONDS = 1.0, 30.0  # between two refreshes of the bar; between two plain lines
Record = Mapping[str, Any]


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the records of a metrics.jsonl, leaving out a last line that was cut off."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


class MetricsFile:
    """metrics.jsonl: one JSON object per line, of kind "train" (a stretch of updates) or "valid" (a validation).

    Opened at an update, it forgets later lines, which the run is about to write again.
    """

    def __init__(self, path: Path, update: int) -> None:
        kept = [record for record in read_metrics(path) if record["update"] <= update]
        temporary = path.with_name(f".tmp_{path.name}")
        temporary.write_text("".join(_line(record) for record in kept), encoding="utf-8")
        os.replace(temporary, path)
        self._file: TextIO = path.open("a", encoding="utf-8", buffering=1)

    def add(self, record: Record) -> None:
        """Append a line. Numbers that are not finite become null, since JSON has none."""
        self._file.write(_line(record))

    def flush(self) -> None:
        """Have all lines on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _line(record: Record) -> str:
    clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
    return json.dumps(clean) + "\n"


class Progress:
    """A live bar where stderr is a terminal, else a line now and then."""

    def __init__(self, update: int, total: int | None) -> None:
        """`total`: updates that the limits allow, None where only time or patience ends training."""
        share = "" if total is None else "{percentage:3.0f}% {bar:20} "
        layout = share + "{n_fmt}/{total_fmt} [{elapsed}, {rate_fmt}{postfix}]"
        options: dict[str, Any] = {"unit": " updates", "dynamic_ncols": True, "bar_format": layout}
        self._bar = tqdm(total=total, initial=update, **options) if _is_terminal() else None
        self._interval = LINE_SECONDS if self._bar is None else BAR_SECONDS
        self._next = time.monotonic()

    def is_due(self) -> bool:
        """Whether it is time for new numbers."""
        return time.monotonic() >= self._next

    def tick(self) -> None:
        """Count one update."""
        if self._bar is not None:
            self._bar.update()

    def show(self, record: Record, seconds_left: float) -> None:
        """Show the numbers of a "train" record, and the time that is left."""
        self._next = time.monotonic() + self._interval
        numbers = (
            f"loss {record['loss']:.3f}  ppl {record['ppl']:.2f}  lr {record['lr']:.3g}  |g| {record['grad_norm']:.3f}"
            f"  {record['tokens_per_second']:,.0f} tokens/s  left {format_seconds(seconds_left)}"
        )
        if self._bar is not None:
            self._bar.set_postfix_str(numbers)
        else:
            self.say(f"update {record['update']}  epoch {record['epoch']:.2f}  {numbers}")

    def say(self, text: str) -> None:
        """Print a line to stderr, above the bar if there is one."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


class TensorBoard:
    """Event files for TensorBoard, cut at the update of a restart. Without the package it says so and does nothing."""

    def __init__(self, folder: Path, update: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow, and optional

        self._writer = SummaryWriter(str(folder), purge_step=update + 1 if update else None)

    def add(self, record: Record) -> None:
        """Add the numbers of a record under `train/` or `valid/`."""
        for name, value in record.items():
            if isinstance(value, (int, float)) and name != "update":
                self._writer.add_scalar(f"{record['kind']}/{name}", value, record["update"])

    def flush(self) -> None:
        """Write what is waiting."""
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


class Reporter:
    """Sends records and messages to wherever they are shown; silent on all ranks but 0."""

    def __init__(self, progress: Progress | None = None, sinks: Sequence[MetricsFile | TensorBoard] = ()) -> None:
        self._progress, self._sinks = progress, sinks

    @classmethod
    def open(cls, run: Path, update: int, total: int | None, tensorboard: bool) -> Reporter:
        """Begin (again) after `update` updates; `total` as in Progress."""
        progress = Progress(update, total)
        sinks: list[MetricsFile | TensorBoard] = [MetricsFile(run / METRICS, update)]
        if tensorboard:
            try:
                sinks.append(TensorBoard(run / TENSORBOARD, update))
            except ImportError:
                progress.say("train.tensorboard=true: the package tensorboard is not installed; going on without")
        return cls(progress, sinks)

    def say(self, text: str) -> None:
        """Print a line."""
        if self._progress is not None:
            self._progress.say(text)

    def tick(self) -> None:
        """Count one update."""
        if self._progress is not None:
            self._progress.tick()

    def is_due(self) -> bool:
        """Whether it is time for new numbers on the screen."""
        return self._progress is not None and self._progress.is_due()

    def show(self, record: Record, seconds_left: float) -> None:
        """Show the numbers of a record of kind "train" on the screen."""
        if self._progress is not None:
            self._progress.show(record, seconds_left)

    def add(self, record: Record) -> None:
        """Write a record of kind "train" or "valid"."""
        for sink in self._sinks:
            sink.add(record)

    def flush(self) -> None:
        """Have everything on the disk, before a checkpoint that builds on it."""
        for sink in self._sinks:
            sink.flush()

    def close(self) -> None:
        """Close all files."""
        if self._progress is not None:
            self._progress.close()
        for sink in self._sinks:
            sink.close()


def format_seconds(seconds: float) -> str:
    """Return h:mm:ss, or ? for what is not finite."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
