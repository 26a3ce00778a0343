"""How far long work has come: a bar on a terminal, and in a log file a line now and then."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

LINE_SECONDS = 30.0  # between two lines of a log file


def is_terminal() -> bool:
    """Whether standard error is one."""
    return sys.stderr is not None and sys.stderr.isatty()


@contextmanager
def unless_closed() -> Iterator[None]:
    """Let standard error fall silent where nobody reads it any more."""
    try:
        yield
    except (OSError, ValueError):
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (to the end of the process)


class Bar(tqdm):  # type: ignore[type-arg]
    """tqdm's progress bar where standard error is a terminal or a notebook's, lines elsewhere: none of short work."""

    monitor_interval = 0  # no thread that watches, beside which forking is unsafe

    def __init__(self, *args: Any, **options: Any) -> None:
        """Take what tqdm takes."""
        self._draws = is_terminal() or "ipykernel" in sys.modules
        if not self._draws:
            options |= {"mininterval": LINE_SECONDS, "delay": LINE_SECONDS, "miniters": 1}
        super().__init__(*args, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Draw the bar, or write a line."""
        if self._draws:
            super().display(msg, pos)
            return
        if not self.n:  # nothing to say yet; tqdm.write() of other code asks at any time
            return
        rate = self.n / self.format_dict["elapsed"]
        of, left = "", ""
        if self.total:
            of, left = f" of {self.total:,}", f", left {self.format_interval(max(self.total - self.n, 0) / rate)}"
        with unless_closed():
            line = f"{self.desc}: {self.n:,}{of}{self.unit}, {rate:,.1f}{self.unit}/s{left}"
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """End. A log file gets no last line: what has done the work says so itself."""
        self.disable = self.disable or not self._draws
        super().close()
