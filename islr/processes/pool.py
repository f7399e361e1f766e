"""Processes that work through jobs and can be stopped in the middle of one.

A decoder that never returns cannot be interrupted from within its process when it holds the interpreter lock.
So a worker writes into shared memory which step of its job it has begun and until when that may take, and the
parent kills a worker that is late. What is lost is one step of one job: jobs that waited behind it go to a new
worker. Workers end with their parent, however that ends.
"""

import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any, Literal

import cv2

from islr.errors import RunFailed

START_S = 120.0  # for a process to start on a busy machine
_LOOK_EVERY_S = 1.0  # a worker that has just begun a step has set a deadline that the parent has not seen
_TRIES = 3  # workers in a row that may die outside a job before we give up
_NEVER = 2**62  # nanoseconds
_PR_SET_PDEATHSIG = 1  # prctl(2)


class Clock:
    """What a worker says of itself, in memory that it shares with its parent."""

    def __init__(self, shared: Any) -> None:
        self._shared = shared  # step, deadline in nanoseconds

    def begin(self, step: int, seconds: float) -> None:
        """The worker begins `step` (0, 1, ...) of its job; it may take so long."""
        # In this order, a process that is stopped between the two is never blamed for a step in time.
        self._shared[1] = time.monotonic_ns() + int(seconds * 1e9)
        self._shared[0] = step

    def rest(self) -> None:
        """The worker is in no job."""
        self._shared[1] = _NEVER
        self._shared[0] = -1

    @property
    def step(self) -> int:
        """-1: none."""
        return self._shared[0]

    @property
    def left_s(self) -> float:
        """Seconds to the deadline."""
        return (self._shared[1] - time.monotonic_ns()) / 1e9


@dataclass(frozen=True)
class Parcel:
    """A result with open files; the sender's descriptors are closed, the receiver's are the receiver's to close."""

    content: Any
    handles: tuple[int, ...]


@dataclass(frozen=True)
class Done:
    """The result of job number `job`."""

    job: int
    result: Any


@dataclass(frozen=True)
class Lost:
    """Job number `job` ended with its process in `step`: too late, or because the process died."""

    job: int
    step: int
    kind: Literal["deadline", "crash"]


Work = Callable[[Any, Clock], Any]


class Pool:
    """Up to `count` worker processes, started when there is work for them.

    Use it in a `with` statement; leaving that kills the workers at once. The thread that makes a pool has to live
    as long as the pool.

    Args:
        work: Called in a worker with (job, clock); it calls `clock.begin` at each step and returns the result.
            What it raises is raised by `wait`.
        count: Most workers at a time.
        method: How processes start: "fork" shares what the parent holds, "spawn" needs a `work` that pickles.
    """

    def __init__(self, work: Work, count: int, method: str) -> None:
        self.work, self.count = work, count
        self._context: Any = multiprocessing.get_context(method)
        self._workers: list[_Worker] = []
        self._died = 0

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.stop()

    def submit(self, number: int, job: Any) -> None:
        """Hand a job to the worker that has the least to do; its outcome comes from `wait` under this number."""
        worker = min(self._workers, key=lambda worker: len(worker.jobs), default=None)
        if worker is None or (worker.jobs and len(self._workers) < self.count):
            worker = _Worker(self._context, self.work)
            self._workers.append(worker)
        worker.give(number, job)

    def wait(self) -> list[Done | Lost]:
        """Block until jobs have ended, and say how; empty when none is under way.

        Raises:
            RunFailed: Workers keep dying without being in a job.
            Exception: What `work` raised.
        """
        outcomes: list[Done | Lost] = []
        while not outcomes and (busy := [worker for worker in self._workers if worker.jobs]):
            patience = min(_LOOK_EVERY_S, *(worker.clock.left_s for worker in busy))
            wait([end for worker in busy for end in (worker.pipe, worker.process.sentinel)], max(0.0, patience))
            for worker in busy:
                outcomes += worker.take()
                if not worker.alive or worker.clock.left_s < 0:
                    outcomes += self._give_up(worker)
        if outcomes:
            self._died = 0
        return outcomes

    def _give_up(self, worker: "_Worker") -> list[Done | Lost]:
        """Stop a worker, find out what it was doing, and hand what it had not begun to others."""
        late = worker.alive
        worker.stop()
        self._workers.remove(worker)
        outcomes = worker.take()  # it may have got done just before
        # Now that it has ended, what it said last stands.
        blamed = (
            worker.clock.step >= 0 and worker.jobs and (worker.clock.left_s < 0 if late else not worker.asked_to_end)
        )
        if blamed:
            number, _ = worker.jobs.popleft()
            outcomes.append(Lost(number, worker.clock.step, "deadline" if late else "crash"))
        elif not outcomes and not worker.asked_to_end:
            self._died += 1
            if self._died >= _TRIES:
                raise RunFailed(
                    f"{_TRIES} worker processes in a row ended before they began anything (exit code "
                    f"{worker.process.exitcode}); the machine may be out of memory"
                )
        for number, job in worker.jobs:
            self.submit(number, job)
        return outcomes


def in_workers(
    function: Callable[[Any], Any],
    jobs: Sequence[Any],
    count: int,
    *,
    seconds: Callable[[Any], float],
    lost: Callable[[str], Any],
    window: int | None = None,
    method: str = "spawn",
) -> Iterator[tuple[int, Any]]:
    """A function over many jobs: (place in `jobs`, result) as they come.

    Args:
        function: Of one job, run in the workers on one thread each; module-level, where they are spawned.
        jobs: What to run it on; handed out in order.
        count: Worker processes.
        seconds: Of one job, as `function`: how long it may take before its process is killed.
        lost: The result of a job whose process was killed ("deadline") or died ("crash").
        window: How far the jobs handed out may run ahead of the first one without a result, so that a caller who
            wants them in order keeps few; None = any distance.
        method: See `Pool`; spawned processes do not mind that the caller holds threads and an open progress display.
    """
    following, oldest, under_way = 0, 0, 0
    finished: set[int] = set()
    with Pool(_OneStep(function, seconds), count, method) as pool:
        while True:
            while under_way < count and following < len(jobs) and (window is None or following < oldest + window):
                pool.submit(following, jobs[following])
                following, under_way = following + 1, under_way + 1
            outcomes = pool.wait()
            if not outcomes:
                return
            for outcome in outcomes:
                under_way -= 1
                finished.add(outcome.job)
                while oldest in finished:
                    finished.remove(oldest)
                    oldest += 1
                yield outcome.job, lost(outcome.kind) if isinstance(outcome, Lost) else outcome.result


class _OneStep:
    """A plain function of a job as the work of a pool: one step, on one thread."""

    def __init__(self, function: Callable[[Any], Any], seconds: Callable[[Any], float]) -> None:
        self.function, self.seconds = function, seconds

    def __call__(self, job: Any, clock: Clock) -> Any:
        cv2.setNumThreads(1)
        clock.begin(0, self.seconds(job))
        return self.function(job)


class _Worker:
    """One process, the jobs it was given and has not answered, and its clock."""

    def __init__(self, context: Any, work: Work) -> None:
        self.pipe, other = context.Pipe()
        shared = context.RawArray("q", 2)
        shared[:] = [-1, time.monotonic_ns() + int(START_S * 1e9)]
        self.clock = Clock(shared)
        self.jobs: deque[tuple[int, Any]] = deque()
        self.alive = True
        self.process = context.Process(target=_serve, args=(other, shared, work, os.getpid()), daemon=True)
        self.process.start()
        other.close()

    @property
    def asked_to_end(self) -> bool:
        """A signal to the whole group (a scheduler, a terminal) ended the process; no job did."""
        return self.process.exitcode == -signal.SIGTERM

    def give(self, number: int, job: Any) -> None:
        self.jobs.append((number, job))
        try:
            self.pipe.send(job)
        except OSError:
            self.alive = False  # `Pool.wait` finds out why

    def take(self) -> list[Done | Lost]:
        """The results that have come, in the order of the jobs."""
        outcomes: list[Done | Lost] = []
        try:
            while self.pipe.poll():
                result, error = self.pipe.recv()
                if error is not None:
                    raise error
                if isinstance(result, Parcel):
                    result = Parcel(result.content, tuple(recv_handle(self.pipe) for _ in result.handles))
                outcomes.append(Done(self.jobs.popleft()[0], result))
        except (EOFError, OSError):
            self.alive = False
        self.alive = self.alive and self.process.is_alive()
        return outcomes

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        self.process.kill()
        self.process.join()


def _serve(pipe: Connection, shared: Any, work: Work, parent: int) -> None:
    _end_with(parent)
    # An interrupt at the terminal goes to all processes of the run; what becomes of the workers is the parent's
    # decision. The handlers a forked process inherits are the parent's business too.
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
    """An error that survives the way to the parent, with the place where it was raised."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note("in a worker process:\n" + traceback.format_exc())
    return error


def _end_with(parent: int) -> None:
    """Let the system kill this process when its parent ends: one in an endless loop would not notice."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
