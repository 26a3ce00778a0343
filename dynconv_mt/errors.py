"""The two exceptions that are not bugs: a mistake that the user can fix, and a failure of the machine."""

from enum import StrEnum
from typing import TypeVar

Word = TypeVar("Word", bound=StrEnum)


class UserError(ValueError):
    """A mistake in what the user gave: an option, a file, a folder.

    The message is one paragraph that names the option as typed (or the file and line), its value, the rule and the
    remedy. The command line prints it without a traceback and exits with 2; a library user catches it as a ValueError.
    """


class SystemFailure(RuntimeError):
    """A full disk, a process of the job that died: neither the input nor the program is to blame.

    The message says what happened, what is safe, and how to go on. The command line prints it without a traceback and
    exits with 1.
    """


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out: Python's own error, a device's, or what torch and the operators say on a CPU."""
    is_device = type(error).__name__ == "OutOfMemoryError"  # torch's, which is not imported for it
    return is_device or isinstance(error, MemoryError) or "can't allocate memory" in str(error)


def one_of(words: type[Word], option: str, value: str) -> Word:
    """Return the member of `words` that an option's value is or names. Raises UserError where there is none."""
    try:
        return words(value)
    except ValueError:
        raise UserError(f"{option}={value}: must be one of {', '.join(words)}") from None
