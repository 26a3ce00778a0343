"""What a full or failing disk does to training: it stops, and says what is safe."""

from __future__ import annotations

import errno
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dynconv_mt.errors import SystemFailure, UserError
from dynconv_mt.train.checkpoint import newest_sound

FAILURES = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


@contextmanager
def disk_failures(run: Path) -> Iterator[None]:
    """Turn what a full or failing disk raises inside the block into SystemFailure."""
    try:
        yield
    except OSError as error:
        if error.errno not in FAILURES:
            raise
        raise SystemFailure(_describe(run, error)) from error


def _describe(run: Path, error: OSError) -> str:
    free = shutil.disk_usage(next(path for path in (run, *run.absolute().parents) if path.exists())).free
    try:
        sound, _ = newest_sound(run)
    except UserError as trouble:
        return f"{error.filename or run}: {error.strerror}. Training has stopped, and {trouble}"
    kept = f"{sound} is whole, and" if sound else "There is no checkpoint yet;"
    return (
        f"{error.filename or run}: {error.strerror}; {free / 1e6:,.1f} MB are free there. Training has stopped. {kept} "
        f"with room made the same command goes on: {shlex.join(sys.argv)}"
    )
