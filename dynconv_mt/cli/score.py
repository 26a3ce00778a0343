"""`dc-score`: how probable a model finds given translations."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dynconv_mt.cli.jobs import STDIO, ScoreJob, as_list
from dynconv_mt.cli.lines import check_writable, read_aligned, read_input
from dynconv_mt.files import write_file
from dynconv_mt.train.loss import perplexity
from dynconv_mt.translate import Scored, load_translator


def run(job: ScoreJob) -> int:
    """Score every pair of lines, write the scores, and print the summary where it does not mix with them."""
    job = replace(job, output=None) if job.output == STDIO else job
    check_writable("output", job.output)
    sources = read_input("src", job.src)
    targets = read_aligned("tgt", job.tgt, f"src={job.src}", sources)
    translator = load_translator(
        as_list(job.model_dir), device=job.device, precision=job.precision, threads=job.threads, batch=job.batch
    )
    scored = translator.score(sources, targets, progress=sys.stderr.isatty())
    lines = "".join(f"{_to_json(each)}\n" for each in scored)
    if job.output is None:
        print(lines, end="")
    else:
        write_file(Path(job.output), lines)
    print(summary(scored), file=sys.stderr if job.output is None else sys.stdout)
    return 0


def summary(scored: Sequence[Scored]) -> str:
    """Return the line that says how probable all targets are together; </s> counts as a token."""
    num_tokens = sum(len(each.token_scores) for each in scored)
    total = math.fsum(each.score for each in scored)
    return (
        f"{len(scored):,} sentences, {num_tokens:,} tokens: log-probability {total:.4f} nats, "
        f"{total / num_tokens:.4f} a token, perplexity {perplexity(-total / num_tokens):.4f}"
    )


def _to_json(scored: Scored) -> str:
    per_token = perplexity(-scored.score / len(scored.token_scores))
    content = {
        "source": scored.source,
        "target": scored.target,
        "score": scored.score,
        "perplexity": per_token if math.isfinite(per_token) else None,
        "pieces": [*scored.pieces, "</s>"],
        "token_scores": list(scored.token_scores),
    }
    return json.dumps(content, ensure_ascii=False)
