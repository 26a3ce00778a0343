"""What the reports of `bench_*.py` have in common: the name of the machine, the commit, and Markdown as it grows."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]


def cpu_name() -> str:
    """Return the name of the processor and its number of cores, where the system tells."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor()


def commit() -> str:
    """Return the commit that is checked out, and whether files differ from it."""
    if shutil.which("git") is None:
        return "unknown"
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


class Report:
    """Markdown that is printed, and written to a file if there is one, as it grows: a run may be cut short."""

    def __init__(self, out: Path | None) -> None:
        self.lines: list[str] = []
        self.out = out

    def add(self, *lines: str) -> None:
        """Add lines."""
        self.lines += lines
        print("\n".join(lines), flush=True)
        if self.out:
            self.out.write_text("\n".join([*self.lines, ""]), encoding="utf-8")

    def table(self, title: str, header: list[str], rows: Iterator[list[str]]) -> None:
        """Add a table as its rows come."""
        self.add("", f"## {title}", "", f"| {' | '.join(header)} |", "|---" * len(header) + "|")
        for row in rows:
            self.add(f"| {' | '.join(row)} |")
