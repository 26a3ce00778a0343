"""What a run ends with, RUN/model, and what becomes of a run that has ended already."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path

from dynconv_mt.train.average import write_final_model
from dynconv_mt.train.checkpoint import clean_temporary
from dynconv_mt.train.config import FitConfig
from dynconv_mt.train.disk import disk_failures
from dynconv_mt.train.run_folder import is_final_current, locked, write_finished
from dynconv_mt.train.state import TrainerState


def make_final(config: FitConfig, state: TrainerState, *, must_be_all: bool = False) -> str:
    """Make RUN/model; return a line that says of what. `must_be_all` as for `write_final_model`."""
    run = Path(config.out_dir)
    sources = write_final_model(run, config, state, must_be_all=must_be_all)
    made = f"{run / 'model'} is the {config.checkpoint.final} of {', '.join(path.name for path in sources.folders)}"
    return f"{made}; warning: {sources.shortage}" if sources.shortage else made


def keep_finished(config: FitConfig, state: TrainerState, reason: str, *, is_locked: bool) -> None:
    """Leave a finished run as it is, but make its model anew where checkpoint.final or what it needs has changed.

    `is_locked`: whether the caller holds the run folder.
    """
    run = Path(config.out_dir)
    print(
        f"{run}: this run has finished at update {state.update:,} ({reason}); raise the limit to train on",
        file=sys.stderr,
    )
    if is_final_current(config):
        return
    with nullcontext() if is_locked else locked(run), disk_failures(run):
        clean_temporary(run)
        made = make_final(config, state, must_be_all=True)
        write_finished(config, state, reason)
    print(made, file=sys.stderr)
