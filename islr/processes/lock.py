"""A folder that one process at a time works in.

`filelock` takes the same kernel lock, and hides the descriptor that holds it. A fetch hands that descriptor to the
downloaders it starts, so that one which outlives a killed fetch keeps the folder locked.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from islr.errors import UserError


@contextmanager
def locked(path: Path, refusal: str) -> Iterator[int]:
    """Hold the exclusive lock of a file within the block, and yield its descriptor.

    The kernel frees the lock when every process that has the descriptor has ended. Spawned workers do not have it.

    Raises:
        UserError: Another process holds the lock, and the message is `refusal`; or the file cannot be written.
    """
    try:
        file = path.open("w")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(refusal) from None
        yield file.fileno()
