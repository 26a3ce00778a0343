"""`dc-preprocess`."""

from __future__ import annotations

from dynconv_mt.cli.jobs import PreprocessJob
from dynconv_mt.data.preprocess import preprocess


def run(job: PreprocessJob) -> int:
    """Make the data folder and print its summary."""
    print(preprocess(job), end="")
    return 0
