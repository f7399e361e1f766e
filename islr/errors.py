"""The ways a command ends: its exit codes, and the exceptions behind them."""

DONE, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 75


class UserError(ValueError):
    """Input that the user has to change; the message is one line that says how. The command exits with 2."""


class RunFailed(RuntimeError):
    """A run that cannot go on (its loss is not finite, for instance); one line. The command exits with 1."""


class ProcessLost(RunFailed):
    """A rank of the run that has died or does not answer; every other rank prints the message."""


class Interrupted(Exception):
    """Work that a signal stopped after it saved its state. The command exits with 75, and continues when run again."""


def out_of_memory(error: Exception) -> bool:
    """Return whether the machine or its GPU has no memory left, which torch says by errors of its own."""
    torch_says = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or torch_says


def one_line(error: Exception, longest: int = 200) -> str:
    """Return the message of another library's exception as one line of at most `longest` characters."""
    return " ".join(str(error).split())[:longest] or type(error).__name__


def describe(error: Exception) -> str:
    """Return an error as one line; the type is named unless the error is a message for the user."""
    message = " ".join(str(error).split())
    return message if isinstance(error, UserError | RunFailed | Interrupted) else f"{type(error).__name__}: {message}"
