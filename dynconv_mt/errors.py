"""The one exception that means: the user can mend this."""


class UserError(ValueError):
    """A mistake in what the user gave: an option, a file, a folder.

    The message is one paragraph that names the option as typed (or the file and line), its value, the rule and the
    remedy. The command line prints it without a traceback and exits with 2; a library user catches it as a ValueError.
    """
