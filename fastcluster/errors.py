"""What can go wrong in a way that a person can mend, and how a process ends.

The law: every message is one sentence that names the mend, no message needs a
traceback beside it, and no other file defines an exit code.  This file knows
nothing of the rest.
"""

EXIT_OK = 0
EXIT_UNEXPECTED = 1
EXIT_USAGE = 2
EXIT_APP = 3
EXIT_BIND = 4


class FastclusterError(Exception):
    """Say what went wrong and how to mend it; ``exit_code`` is what the process ends with.

    ``message`` is the one sentence.  ``detail`` may hold lines that belong to
    it, such as the traceback of an application; ``str()`` leaves them out.
    """

    exit_code = EXIT_UNEXPECTED

    def __init__(self, message: str, detail: str = "") -> None:
        # Both go to Exception, so that the error survives pickling.
        super().__init__(message, detail)
        self.message = message
        self.detail = detail

    def __str__(self) -> str:
        return self.message


class UsageError(FastclusterError):
    """A flag, a variable of the environment or a line of the file makes no sense."""

    exit_code = EXIT_USAGE


class AppLoadError(FastclusterError):
    """The application could not be loaded, or no worker ever came up with it."""

    exit_code = EXIT_APP


class ControlError(FastclusterError):
    """A running server cannot be found or reached, or refuses what it is asked for."""


class BindError(FastclusterError):
    """An address cannot be listened on."""

    exit_code = EXIT_BIND
