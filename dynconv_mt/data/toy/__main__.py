"""`python -m dynconv_mt.data.toy OUT [--train N] [--valid N] [--test N] [--seed N]`: write the embedded corpus."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dynconv_mt.data.toy.corpus import Sizes, write_corpus
from dynconv_mt.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code, 2 for a mistake of the user."""
    sizes = Sizes()
    parser = argparse.ArgumentParser(prog="python -m dynconv_mt.data.toy", description="Write the embedded corpus.")
    parser.add_argument("out", type=Path, help="folder for {train,valid,test}.{en,de} and test.word_for_word.de")
    for name, value in vars(sizes).items():
        parser.add_argument(f"--{name}", type=int, default=value, help=f"sentence pairs to {name} with ({value})")
    parser.add_argument("--seed", type=int, default=1, help="same seed and sizes, same bytes (1)")
    options = parser.parse_args(argv)
    try:
        write_corpus(options.out, Sizes(train=options.train, valid=options.valid, test=options.test), options.seed)
    except (UserError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
