"""From a command line to an exit code: 0 done, 2 the user's mistake, 1 ours or the machine's, 130 interrupted."""

from __future__ import annotations

import errno
import importlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import dynconv_mt
from dynconv_mt.cli.arguments import check_names, parse
from dynconv_mt.cli.commands import COMMANDS, Command
from dynconv_mt.errors import SystemFailure, UserError, is_out_of_memory
from dynconv_mt.plugins import import_plugins
from dynconv_mt.train.interrupt import SIGNALS

DONE, FAILED, MISTAKE, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 130, 141
# what the system refuses is for the user to mend; other OSErrors are bugs until shown otherwise
REFUSALS = {
    errno.EACCES,
    errno.EPERM,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ENAMETOOLONG,
}


def _entry(section: str) -> Callable[[], int]:
    """The function that the console script of a command calls."""
    return lambda: final(run(COMMANDS[section], sys.argv[1:]))


preprocess = _entry("preprocess")
train = _entry("train")
generate = _entry("generate")
interactive = _entry("interactive")
score = _entry("score")
evaluate = _entry("evaluate")
average = _entry("average")
convert = _entry("convert")
info = _entry("info")


def final(code: int) -> int:
    """Return the exit code of a process whose work is done, from here on deaf to signals, which schedulers repeat."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    return code


def run(command: Command, argv: Sequence[str]) -> int:
    """Run a command and return its exit code; what goes wrong is said on standard error."""
    # threads that wait burn the cores that they wait for: on a shared machine training is five times as slow with them
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # the shell has closed it: >&-
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (to the end of the process)
    logging.basicConfig(format=f"{command.name}: %(levelname)s: %(message)s", level=logging.WARNING)
    logging.addLevelName(logging.WARNING, "warning")
    if hasattr(sys.stdout, "reconfigure"):
        # UTF-8 whatever the locale; bytes of file names that are none go out as they are
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape", newline="\n")
    return guarded(lambda: _run(command, argv), command.name)


def guarded(action: Callable[[], int], name: str) -> int:
    """Return the exit code of `action`, or the one that belongs to the exception it raises, which is reported."""
    try:
        code = action()
        sys.stdout.flush()
        return code
    except UserError as error:
        return _complain(name, str(error))
    except SystemFailure as error:
        return _fail(name, str(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it exits
        return BROKEN_PIPE
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if isinstance(error, OSError) and error.errno in REFUSALS:
            return _complain(name, f"{f'{error.filename}: ' if error.filename else ''}{error.strerror}")
        if isinstance(error, FloatingPointError):
            return _fail(name, str(error))
        if is_out_of_memory(error):
            return _fail(name, f"out of memory; lower batch.max_tokens, or search.beam where there is one. {error}")
        traceback.print_exc()
        print(f"{name}: this is a bug in dynconv_mt {dynconv_mt.__version__}, not in your input", file=sys.stderr)
        return FAILED


def _run(command: Command, argv: Sequence[str]) -> int:
    arguments = parse(argv)
    if "version" in arguments.flags:
        print(f"{command.name} {dynconv_mt.__version__}")
        return DONE
    import_plugins()
    if "help" in arguments.flags:
        from dynconv_mt.cli.help import help_text

        print(help_text(command), end="")
        return DONE
    check_names(command, arguments.values)  # before Hydra is imported: a wrong option is answered at once
    from dynconv_mt.cli import hydra

    composed = hydra.compose(command, arguments)
    if "cfg" in arguments.flags:
        print(composed.yaml(), end="", flush=True)
        if composed.missing():
            return DONE
    job = composed.job()
    if hasattr(job, "check"):
        job.check()
    if hasattr(job, "check_typed"):
        job.check_typed(arguments.values)
    if "cfg" in arguments.flags:
        return DONE
    module: Any = importlib.import_module(f"dynconv_mt.cli.{command.section}")
    return int(module.run(job))


def _fail(name: str, message: str) -> int:
    print(f"{name}: error: {message}", file=sys.stderr)
    return FAILED


def _complain(name: str, message: str) -> int:
    """Print one paragraph, from one process only of those that torchrun started on this machine."""
    is_alone = os.environ.get("WORLD_SIZE", "") in ("", "1")
    if is_alone or os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"{name}: error: {message}", file=sys.stderr)
    return MISTAKE
