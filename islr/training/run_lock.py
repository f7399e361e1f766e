"""One writer per run folder, also on a file system that several machines share.

The writer holds a record lock on `.lock` and writes there who it is and that it lives. Where locks reach the other
machines (local disks, NFS with its lock service, most parallel file systems) the lock alone decides. Where they do not,
the signs of life do: whoever finds another machine's record waits `SILENCE_S` for a new sign and takes the folder over
when none comes. Not guaranteed: that two launches in the same second on a file system without locks see each other; or
that a writer that stands still for longer than `SILENCE_S` (a suspended machine, a file system that hangs) keeps the
folder. The files are whole in any case, since each is written beside and renamed.
"""

import errno
import fcntl
import json
import os
import platform
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from islr.errors import UserError

LOCK = ".lock"
BEAT_S = 5.0
SILENCE_S = 20.0
_LONGEST = 4096  # bytes of a record
_HELD = (errno.EACCES, errno.EAGAIN)
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Be the folder's only writer within the block.

    Raises:
        UserError: Another process is, or the folder cannot be written.
    """
    path = folder / LOCK
    handle, foreign = _take(path)
    if foreign:
        # Reading afresh needs another handle, and closing that would give the lock away: leave it while looking.
        os.close(handle)
        _refuse_the_living(path, foreign)
        handle, _ = _take(path)
    stop = threading.Event()
    thread = threading.Thread(target=_beat, args=(handle, stop), name="lock", daemon=True)
    _write(handle, 0)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        os.ftruncate(handle, 0)
        os.close(handle)


def _take(path: Path) -> tuple[int, bytes]:
    """The locked file, and the record in it if only its signs of life can tell whether its writer lives."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise UserError(f"run folder {path.parent} cannot be written ({error.strerror})") from error
    locks = True
    try:
        # A record lock belongs to this process alone: loader workers that outlive a kill do not hold it.
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        record = os.pread(handle, _LONGEST, 0)
        if error.errno in _HELD:
            os.close(handle)
            raise UserError(_in_use(path, record)) from error
        if error.errno not in _NO_LOCKS:
            raise
        locks = False
    record = os.pread(handle, _LONGEST, 0)
    here = _parsed(record).get("host") == platform.node()
    return handle, b"" if locks and here else record


def _refuse_the_living(path: Path, record: bytes) -> None:
    """Wait for a sign of life of another machine's writer.

    Raises:
        UserError: It lives.
    """
    print(
        f"{path.parent} was written by {_named(record)} last; {SILENCE_S:g} s for a sign of life",
        file=sys.stderr,
        flush=True,
    )
    until = time.monotonic() + SILENCE_S
    while time.monotonic() < until:
        time.sleep(min(1.0, SILENCE_S / 10))
        found = path.read_bytes()
        if not found:
            return  # it has left
        if found != record:
            raise UserError(_in_use(path, found))


def _in_use(path: Path, record: bytes) -> str:
    return f"run folder {path.parent} is in use by {_named(record)}; wait for it, or choose another run.out"


def _named(record: bytes) -> str:
    who = _parsed(record)
    return f"another process (pid {who['pid']} on {who['host']})" if who else "another process"


def _parsed(record: bytes) -> dict[str, Any]:
    """A record; empty when there is none or only part of one."""
    try:
        found = json.loads(record)
    except ValueError:
        return {}
    return found if isinstance(found, dict) and {"host", "pid"} <= found.keys() else {}


def _write(handle: int, beat: int) -> None:
    """One line of constant length, so that no reader sees two of them mixed."""
    record = json.dumps({"host": platform.node(), "pid": os.getpid(), "beat": beat})
    os.pwrite(handle, f"{record:<{_LONGEST // 4}}".encode(), 0)
    os.fsync(handle)  # other machines see it from now on


def _beat(handle: int, stop: threading.Event) -> None:
    beat = 0
    while not stop.wait(BEAT_S):
        beat += 1
        try:
            _write(handle, beat)
        except OSError:
            continue  # a full disk stops the run itself; a passing fault is over at the next beat
