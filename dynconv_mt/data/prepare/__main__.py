"""`python -m dynconv_mt.data.prepare RECIPE FOLDER OUT`: what scripts/prepare_*.sh call before dc-preprocess."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from dynconv_mt.data.prepare import iwslt14, wmt14
from dynconv_mt.data.prepare.layout import Options, as_arguments, plain_splits
from dynconv_mt.errors import UserError

MULTI30K = ("train", "val", "test_2016_flickr")
RECIPES: dict[str, Callable[[Path, Path], Options]] = {
    "iwslt14_de_en": iwslt14.prepare,
    "multi30k": lambda source, _: plain_splits(source, "en", "de", MULTI30K),
    "toy": lambda source, _: plain_splits(source, "en", "de"),
    "wmt14_en_de": wmt14.prepare,
}


def main(argv: Sequence[str]) -> int:
    """Print options of dc-preprocess, one a line; return the exit code, 2 for a mistake of the user."""
    if len(argv) != 3 or argv[0] not in RECIPES:
        print(f"usage: python -m dynconv_mt.data.prepare {{{','.join(RECIPES)}}} FOLDER OUT", file=sys.stderr)
        return 2
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files that are no UTF-8 go out as they are
        sys.stdout.reconfigure(errors="surrogateescape")
    name, source, out = argv[0], Path(argv[1]), Path(argv[2])
    try:
        if not source.is_dir():
            raise UserError(f"{source}: no such folder")
        print("\n".join(as_arguments(RECIPES[name](source, out))))
    except (UserError, OSError) as error:
        print(f"prepare {name}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nprepare {name}: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
