"""`python -m dynconv_mt.cli train name=value ...`: the same commands as modules, which is what torchrun starts."""

from __future__ import annotations

import sys

import dynconv_mt
from dynconv_mt.cli.commands import COMMANDS
from dynconv_mt.cli.main import DONE, MISTAKE, final, run


def main() -> int:
    """Run the command that the first argument names."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name == "--version":
        print(f"dynconv_mt {dynconv_mt.__version__}")
        return DONE
    if name not in COMMANDS:
        print(f"usage: python -m dynconv_mt.cli {{{','.join(COMMANDS)}}} name=value ...", file=sys.stderr)
        return MISTAKE
    return run(COMMANDS[name], sys.argv[2:])


if __name__ == "__main__":
    sys.exit(final(main()))
