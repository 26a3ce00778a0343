"""The last line of `make demo`: python -m dynconv_mt.cli.demo HYPOTHESIS REFERENCE WORD_FOR_WORD SOURCE."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from dynconv_mt.cli.main import MISTAKE, guarded
from dynconv_mt.evaluate import EvaluateConfig, ScoreKind, corpus_scores
from dynconv_mt.text.corpus import read_lines

USAGE = "usage: python -m dynconv_mt.cli.demo HYPOTHESIS REFERENCE WORD_FOR_WORD SOURCE"


def held_out_line(hypothesis: Path, reference: Path, word_for_word: Path, source: Path) -> str:
    """Return sacreBLEU of a translation beside that of a dictionary and of the untranslated source."""
    references = [list(read_lines(reference))]
    scoring = EvaluateConfig(metrics=[ScoreKind.sacrebleu])
    bleu, dictionary, copied = (
        corpus_scores(list(read_lines(path)), references, "de", scoring)[0].value
        for path in (hypothesis, word_for_word, source)
    )
    return f"held-out BLEU: {bleu:.1f} (word for word: {dictionary:.1f}, source copied: {copied:.1f})"


def main(argv: Sequence[str]) -> int:
    """Print the line; return the exit code."""
    if len(argv) != 4:
        print(USAGE, file=sys.stderr)
        return MISTAKE
    print(held_out_line(*map(Path, argv)))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:]), "demo"))
