"""`dc-score`: how probable a model finds given translations."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from dynconv_mt.cli.jobs import STDIO, ScoreJob, as_list
from dynconv_mt.cli.lines import check_writable, read_aligned, read_input
from dynconv_mt.files import growing_files
from dynconv_mt.progress import unless_closed
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
    mixes = job.output is None and sys.stdout.isatty()  # lines and a bar on one terminal
    scored = translator.stream_scores(sources, targets, progress=not mixes)
    totals = Totals()
    with growing_files([Path(job.output)] if job.output is not None else []) as files:
        for each in scored:
            totals.add(each)
            line = _to_json(each)
            if job.output is None:
                print(line)
            for file in files:
                file.write(line)
        for file in files:
            file.commit()
    if job.output is not None:
        print(totals)
        return 0
    with unless_closed():
        print(totals, file=sys.stderr, flush=True)
    return 0


@dataclass
class Totals:
    """How probable all targets are together; </s> counts as a token."""

    scores: list[float] = field(default_factory=list)  # log-probabilities of the sentences, in nats
    num_tokens: int = 0

    def add(self, scored: Scored) -> None:
        """Count a sentence in."""
        self.scores.append(scored.score)
        self.num_tokens += len(scored.token_scores)

    def __str__(self) -> str:
        total = math.fsum(self.scores)
        return (
            f"{len(self.scores):,} sentences, {self.num_tokens:,} tokens: log-probability {total:.4f} nats, "
            f"{total / self.num_tokens:.4f} a token, perplexity {perplexity(-total / self.num_tokens):.4f}"
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
