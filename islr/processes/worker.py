"""One worker process that its parent can kill in the middle of a job.

A decoder that never returns cannot be interrupted from within its process when it holds the interpreter lock. So a
worker writes into shared memory which step of its job it has begun and when that step is late, and its parent kills a
late worker. `concurrent.futures` has no deadlines. `pebble` has one for a whole job; here each step of a job has its
own, the parent learns which step was late, results carry open files, and the kernel ends a worker with its parent.
"""

import multiprocessing
import os
import pickle
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any

from islr.processes.parent import end_with_parent

START_S = 120.0  # for a process to start on a busy machine
_NEVER = 2**62  # nanoseconds


class Clock:
    """The step a worker is in and its deadline, in memory shared by the worker and its parent."""

    def __init__(self, shared: Any) -> None:
        self._shared = shared  # step, deadline in nanoseconds

    def begin(self, step: int, seconds: float) -> None:
        """Begin `step` (0, 1, ...) of the job, which is late after so many seconds; called by the worker."""
        # In this order, a worker that is paused between the two is never blamed for a step in time.
        self._shared[1] = time.monotonic_ns() + int(seconds * 1e9)
        self._shared[0] = step

    def rest(self) -> None:
        """End the job; called by the worker."""
        self._shared[1] = _NEVER
        self._shared[0] = -1

    @property
    def step(self) -> int:
        """Return the step under way; -1 between jobs."""
        return self._shared[0]

    @property
    def left_s(self) -> float:
        """Return the seconds to the deadline; negative once the step is late."""
        return (self._shared[1] - time.monotonic_ns()) / 1e9


@dataclass(frozen=True)
class Parcel:
    """A result with open files: the worker's descriptors are closed, the receiver closes its own."""

    content: Any
    handles: tuple[int, ...]


Work = Callable[[Any, Clock], Any]


class Worker:
    """One process, the jobs it has not answered, and its clock.

    Args:
        work: Called in the process with (job, clock); it calls `clock.begin` at each step and returns the result.
        method: How the process starts: "fork" shares what the parent holds, "spawn" needs a `work` that pickles.
        tied: Whether the kernel kills the process when the thread that made it ends. Otherwise the process ends
            after its job once its parent is gone; so it does not need a thread that lives as long.
    """

    def __init__(self, work: Work, method: str, tied: bool = True) -> None:
        context: Any = multiprocessing.get_context(method)
        self._pipe, other = context.Pipe()
        shared = context.RawArray("q", 2)
        shared[:] = [-1, time.monotonic_ns() + int(START_S * 1e9)]
        self.clock = Clock(shared)
        self.jobs: deque[tuple[int, Any]] = deque()
        self.alive = True
        self.process = context.Process(target=_serve, args=(other, shared, work, os.getpid(), tied), daemon=True)
        self.process.start()
        other.close()

    @property
    def ended_by_signal(self) -> bool:
        """Return whether SIGTERM ended the process: a scheduler or a terminal sent it to the whole group."""
        return self.process.exitcode == -signal.SIGTERM

    def give(self, number: int, job: Any) -> None:
        """Queue a job under a number."""
        self.jobs.append((number, job))
        try:
            self._pipe.send(job)
        except OSError:
            self.alive = False  # the owner finds out why when it next waits

    def take(self) -> list[tuple[int, Any]]:
        """Return the results that have come, as (number, result) in the order of the jobs.

        Raises:
            Exception: What `work` raised.
        """
        results: list[tuple[int, Any]] = []
        error: Exception | None = None
        try:
            while error is None and self._pipe.poll():
                result, error = self._pipe.recv()
                if isinstance(result, Parcel):
                    result = Parcel(result.content, tuple(recv_handle(self._pipe) for _ in result.handles))
                results.append((self.jobs.popleft()[0], result))
        except (EOFError, OSError):
            self.alive = False
        self.alive = self.alive and self.process.is_alive()
        if error is not None:
            raise error
        return results

    def stop(self) -> None:
        """Kill the process, whatever it is doing."""
        self.process.kill()
        self.process.join()


def wait_for(workers: Sequence[Worker], seconds: float) -> None:
    """Block until one of the workers has a result or has ended, or so many seconds have passed."""
    wait([end for worker in workers for end in (worker._pipe, worker.process.sentinel)], max(0.0, seconds))


def _serve(pipe: Connection, shared: Any, work: Work, parent: int, tied: bool) -> None:
    """Receive jobs and send their results until the pipe closes."""
    if tied:
        end_with_parent(parent)
    # A terminal sends an interrupt to all processes of the run, and the parent decides what becomes of its workers.
    # A forked process inherits handlers that are the parent's business too.
    for name in ("SIGINT", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    clock = Clock(shared)
    clock.rest()
    try:
        while True:
            job = pipe.recv()
            try:
                result, error = work(job, clock), None
            except Exception as raised:
                result, error = None, _portable(raised)
            clock.rest()
            pipe.send((result, error))
            handles: Sequence[int] = result.handles if isinstance(result, Parcel) else ()
            for handle in handles:
                send_handle(pipe, handle, parent)
                os.close(handle)
    except (EOFError, OSError):
        return


def _portable(error: Exception) -> Exception:
    """Return an error that survives the way to the parent, with the place where it was raised."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note("in a worker process:\n" + traceback.format_exc())
    return error
