"""One writer per run folder, also on a file system that several machines share.

The writer holds a record lock on `.lock`, and writes its host, its pid and a heartbeat into that file. Where locks
reach the other machines (local disks, NFS with its lock service, most parallel file systems) the lock alone decides.
Where they do not, the heartbeat does: a launch that finds the record of another machine waits `SILENCE_S` for a new
beat and takes the folder over when none comes. Not guaranteed: that two launches in the same second on a file system
without locks see each other; that a writer that stands still for longer than `SILENCE_S` (a suspended machine, a file
system that hangs) keeps the folder. The files are whole in any case, since each is written beside and renamed.

`filelock` does not replace this: its lock says neither who holds it nor, on a file system without locks, whether the
holder still lives.
"""

import errno
import fcntl
import json
import logging
import os
import platform
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

logger = logging.getLogger(__name__)


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold the folder as its only writer within the block.

    Raises:
        UserError: Another process is, or the folder cannot be written.
    """
    path = folder / LOCK
    handle, foreign = _take(path)
    if foreign:
        # Reading afresh needs another handle, and closing that one would release the lock: release it meanwhile.
        os.close(handle)
        _refuse_if_alive(path, foreign)
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
    """Return the locked file, and the record in it if only its heartbeat can tell whether its writer lives."""
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


def _refuse_if_alive(path: Path, record: bytes) -> None:
    """Wait for a heartbeat of another machine's writer.

    Raises:
        UserError: The writer lives.
    """
    holder = _named(record)
    logger.warning("%s was last written by %s; waiting %g s for its heartbeat", path.parent, holder, SILENCE_S)
    until = time.monotonic() + SILENCE_S
    while time.monotonic() < until:
        time.sleep(min(1.0, SILENCE_S / 10))
        found = path.read_bytes()
        if not found:
            return  # the writer has left the folder
        if found != record:
            raise UserError(_in_use(path, found))


def _in_use(path: Path, record: bytes) -> str:
    return f"run folder {path.parent} is in use by {_named(record)}; wait for it, or choose another run.out"


def _named(record: bytes) -> str:
    holder = _parsed(record)
    return f"another process (pid {holder['pid']} on {holder['host']})" if holder else "another process"


def _parsed(record: bytes) -> dict[str, Any]:
    """Return the record; empty when there is none or only part of one."""
    try:
        found = json.loads(record)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) and {"host", "pid"} <= found.keys() else {}


def _write(handle: int, beat: int) -> None:
    """Write one line of constant length, so that no reader sees two records mixed."""
    record = json.dumps({"host": platform.node(), "pid": os.getpid(), "beat": beat})
    os.pwrite(handle, f"{record:<{_LONGEST // 4}}".encode(), 0)
    os.fsync(handle)  # so that other machines see it


def _beat(handle: int, stop: threading.Event) -> None:
    beat = 0
    while not stop.wait(BEAT_S):
        beat += 1
        try:
            _write(handle, beat)
        except OSError:
            continue  # a full disk stops the run itself, a passing fault is over at the next beat
