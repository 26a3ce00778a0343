"""`dc-average`: one model from several checkpoints."""

from __future__ import annotations

from pathlib import Path

from dynconv_mt.cli.jobs import AverageJob, as_list
from dynconv_mt.errors import UserError
from dynconv_mt.models.io import resolve_model_dir
from dynconv_mt.models.layout import ENTRIES
from dynconv_mt.train import average_checkpoints, newest_checkpoints
from dynconv_mt.train.checkpoint import MANIFEST, find_damage


def run(job: AverageJob) -> int:
    """Average what `inputs` and `last` name, and say what it was."""
    folders = _folders(job)
    average_checkpoints(folders, Path(job.out_dir), replace=job.overwrite)
    print(f"{job.out_dir}: the average of {', '.join(map(str, folders))}")
    return 0


def _folders(job: AverageJob) -> list[Path]:
    inputs = as_list(job.inputs)
    if job.last:
        if not Path(inputs[0]).is_dir():
            raise UserError(f"inputs={inputs[0]}: no such folder; with last= it must be a run folder")
        return newest_checkpoints(Path(inputs[0]), job.last)
    if len(inputs) < 2:
        raise UserError(f"inputs=[{','.join(inputs)}]: name several models to average, or one run folder and last=N")
    try:
        folders = [resolve_model_dir(name) for name in inputs]
    except UserError as error:
        raise UserError(str(error).replace("model_dir=", "inputs=", 1)) from None
    for folder in folders:
        if (folder / MANIFEST).exists() and (damage := find_damage(folder, ENTRIES)):
            raise UserError(f"inputs={folder}: {damage}; name sound checkpoints")
    return folders
