"""`dc-interactive`: a line in, its translation out, at once."""

from __future__ import annotations

import sys

from dynconv_mt.cli.jobs import InteractiveJob, as_list
from dynconv_mt.text.corpus import decode_lines
from dynconv_mt.translate import load_translator


def run(job: InteractiveJob) -> int:
    """Translate standard input line by line until it ends."""
    translator = load_translator(
        as_list(job.model_dir), device=job.device, precision=job.precision, threads=job.threads, search=job.search
    )
    if sys.stdin.isatty():
        languages = f"{translator.text.src}-{translator.text.tgt}"
        print(f"{languages} on {translator.compute}; one sentence a line, Ctrl-D ends", file=sys.stderr)
    for line in decode_lines(sys.stdin.buffer, "standard input"):
        print(translator.translate([line])[0].text, flush=True)
    return 0
