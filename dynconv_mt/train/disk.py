"""What a full or failing disk does to training: it stops, and says what is safe."""

from __future__ import annotations

import errno
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from dynconv_mt.errors import SystemFailure
from dynconv_mt.train.checkpoint import newest_sound

FAILURES = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Let an error of the system inside the block name `path` unless it names a file; those of safetensors likewise."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    except SafetensorError as error:
        if (code := re.search(r"os error (\d+)", str(error))) is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from None


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
    sound, _ = newest_sound(run)
    kept = f"{sound} is whole, and" if sound else "There is no checkpoint yet;"
    return (
        f"{error.filename or run}: {error.strerror}; {free / 1e6:,.1f} MB are free there. Training has stopped. {kept} "
        f"with room made the same command goes on: {shlex.join(sys.argv)}"
    )
