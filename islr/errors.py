"""The ways a command ends on purpose before its work is done."""


class UserError(ValueError):
    """The user's input is wrong. The message is one line that says what to change; the command exits with 2."""


class RunFailed(RuntimeError):
    """A run cannot go on (a loss that is not finite, for instance). One line; the command exits with 1."""


class ProcessLost(RunFailed):
    """Another process of the run is gone or does not answer; each of the others says so."""


class Interrupted(Exception):
    """Work was stopped by a signal after its state was saved; the command exits with 75 and can be run again."""


def one_line(error: Exception, longest: int = 200) -> str:
    """The message of somebody else's exception, as part of a one-line message of ours."""
    return " ".join(str(error).split())[:longest] or type(error).__name__


def describe(error: Exception) -> str:
    """Return an error as one line; the type is named unless the error is a message for the user."""
    message = " ".join(str(error).split())
    return message if isinstance(error, UserError | RunFailed | Interrupted) else f"{type(error).__name__}: {message}"
