"""What a run shows: metrics.jsonl, TensorBoard, a progress bar or lines, and a picture at the end."""

from __future__ import annotations

import json
import math
import os
import platform
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from dynconv_mt.files import writing
from dynconv_mt.progress import LINE_SECONDS, is_terminal, unless_closed
from dynconv_mt.train.checkpoint import write_text
from dynconv_mt.train.state import TrainerState

METRICS, TENSORBOARD = "metrics.jsonl", "tensorboard"
BAR_SECONDS = 1.0  # between two refreshes of the bar
Record = Mapping[str, Any]


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the records of a metrics.jsonl, leaving out lines that were cut off or damaged."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    return [record for line in lines if (record := _read(line)) is not None]


def _read(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_record = isinstance(record, dict) and {"kind", "update", "seconds"} <= record.keys()
    return record if is_record else None


class MetricsFile:
    """metrics.jsonl: one JSON object per line, of kind "train" (a stretch of updates) or "valid" (a validation).

    Opened at a state, it forgets the lines of what comes after it, which the run is about to write again.
    """

    def __init__(self, path: Path, state: TrainerState) -> None:
        self._path = path
        self.kept = [record for record in read_metrics(path) if _is_known(record, state)]
        write_text(path, "".join(_line(record) for record in self.kept))
        self._file: TextIO = path.open("a", encoding="utf-8", buffering=1)

    def add(self, record: Record) -> None:
        """Append a line. Numbers that are not finite become null, since JSON has none."""
        with writing(self._path):
            self._file.write(_line(record))

    def flush(self) -> None:
        """Have all lines on the disk."""
        with writing(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        with writing(self._path):
            self._file.close()


def _is_known(record: Record, state: TrainerState) -> bool:
    """Whether what `record` tells of lies before `state`: of the newest update perhaps all but the validation."""
    return bool(record["update"] <= (state.validated_at if record["kind"] == "valid" else state.update))


def _line(record: Record) -> str:
    clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
    return json.dumps(clean) + "\n"


class Progress:
    """A live bar where stderr is a terminal, else a line now and then.

    A terminal or a pager that is closed ends no training: from then on nothing is shown.
    """

    def __init__(self, update: int, total: int | None) -> None:
        """`total`: updates that the limits allow, None where only time or patience ends training."""
        share = "" if total is None else "{percentage:3.0f}% {bar:20} "
        layout = share + "{n_fmt}/{total_fmt} [{elapsed}, {rate_fmt}{postfix}]"
        options: dict[str, Any] = {"unit": " updates", "dynamic_ncols": True, "bar_format": layout}
        self._bar = tqdm(total=total, initial=update, **options) if is_terminal() else None
        self._interval = LINE_SECONDS if self._bar is None else BAR_SECONDS
        self._next = time.monotonic()

    def is_due(self) -> bool:
        """Whether it is time for new numbers."""
        return time.monotonic() >= self._next

    def tick(self) -> None:
        """Count one update."""
        if self._bar is not None:
            with unless_closed():
                self._bar.update()

    def show(self, record: Record, seconds_left: float) -> None:
        """Show the numbers of a "train" record, and the time that is left."""
        self._next = time.monotonic() + self._interval
        numbers = (
            f"loss {record['loss']:.3f}  ppl {record['ppl']:.2f}  lr {record['lr']:.3g}  |g| {record['grad_norm']:.3f}"
            f"  {record['tokens_per_second']:,.0f} tokens/s  left {format_seconds(seconds_left)}"
        )
        if self._bar is not None:
            with unless_closed():
                self._bar.set_postfix_str(numbers)
        else:
            self.say(f"update {record['update']}  epoch {record['epoch']:.2f}  {numbers}")

    def say(self, text: str) -> None:
        """Print a line to stderr, above the bar if there is one."""
        with unless_closed():
            if self._bar is not None:
                self._bar.write(text, file=sys.stderr)
            else:
                print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            with unless_closed():
                self._bar.close()


class TensorBoard:
    """An event file for TensorBoard with what metrics.jsonl holds. Raises ImportError without the package.

    It is made anew at every start, so the two always agree. Its clock is that of the run: the time between sessions is
    left out. Written at once, not in a thread as by torch's SummaryWriter, so that a full disk is heard of here.
    """

    def __init__(self, folder: Path, records: Iterable[Record], run_seconds: float) -> None:
        """Begin with `records`; the run has taken `run_seconds` so far."""
        from tensorboard.compat.proto import event_pb2, summary_pb2  # optional
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self._start = self._time = time.time() - run_seconds
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._path = folder / f"events.out.tfevents.{time.time():.0f}.{platform.node()}.{os.getpid()}"
        self._file = self._path.open("wb")
        self._writer = RecordWriter(self._file)
        self._writer.write(self._event(wall_time=self._start, file_version="brain.Event:2").SerializeToString())
        for record in records:
            self._write(record)
        self.flush()

    def add(self, record: Record) -> None:
        """Add the numbers of a record under `train/` or `valid/`."""
        with writing(self._path):
            self._write(record)
            self._file.flush()

    def _write(self, record: Record) -> None:
        if record["kind"] == "train":  # "seconds" of a validation are its own
            self._time = self._start + record["seconds"]
        values = [
            self._summary.Value(tag=f"{record['kind']}/{name}", simple_value=value)
            for name, value in record.items()
            if isinstance(value, (int, float)) and name != "update"
        ]
        summary = self._summary(value=values)
        event = self._event(wall_time=self._time, step=record["update"], summary=summary)
        self._writer.write(event.SerializeToString())

    def flush(self) -> None:
        """Write what is waiting."""
        with writing(self._path):
            self._file.flush()

    def close(self) -> None:
        """Close the event file."""
        with writing(self._path):
            self._file.close()


class Reporter:
    """Sends records and messages to wherever they are shown; silent on all ranks but 0."""

    def __init__(self, progress: Progress | None = None, sinks: Sequence[MetricsFile | TensorBoard] = ()) -> None:
        self._progress, self._sinks = progress, sinks

    @classmethod
    def open(cls, run: Path, state: TrainerState, total: int | None, tensorboard: bool) -> Reporter:
        """Begin (again) at `state`; `total` as in Progress."""
        progress, metrics = Progress(state.update, total), MetricsFile(run / METRICS, state)
        sinks: list[MetricsFile | TensorBoard] = [metrics]
        if tensorboard:
            try:
                sinks.append(TensorBoard(run / TENSORBOARD, metrics.kept, state.seconds))
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
