"""Many jobs in several killable workers; see `islr/processes/worker.py`.

A worker that is late or dies loses one step of one job: jobs that waited behind it go to a new worker.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2

from islr.errors import RunFailed
from islr.processes.worker import Clock, Work, Worker, wait_for

_POLL_S = 1.0  # a worker that has just begun a step has set a deadline that the parent has not seen
_TRIES = 3  # workers in a row that may die outside a job before the pool gives up


@dataclass(frozen=True)
class Done:
    """The result of job number `job`."""

    job: int
    result: Any


@dataclass(frozen=True)
class Lost:
    """Job number `job` ended with its process in `step`: that was late, or the process died."""

    job: int
    step: int
    kind: Literal["deadline", "crash"]


class Pool:
    """Up to `count` worker processes, started when there is work for them.

    Use it in a `with` statement: leaving that kills the workers at once. The thread that makes a pool has to live as
    long as the pool.

    Args:
        work: See `Worker`; what it raises is raised by `wait`.
        count: Most workers at a time.
        method: See `Worker`.
    """

    def __init__(self, work: Work, count: int, method: str) -> None:
        self.work, self.count, self.method = work, count, method
        self._workers: list[Worker] = []
        self._died = 0

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.stop()

    def submit(self, number: int, job: Any) -> None:
        """Hand a job to the worker with the fewest jobs; `wait` returns its outcome under this number."""
        worker = min(self._workers, key=lambda worker: len(worker.jobs), default=None)
        if worker is None or (worker.jobs and len(self._workers) < self.count):
            worker = Worker(self.work, self.method)
            self._workers.append(worker)
        worker.give(number, job)

    def wait(self) -> list[Done | Lost]:
        """Block until jobs have ended, and return their outcomes; empty when none is under way.

        Raises:
            RunFailed: Workers keep dying without being in a job.
            Exception: What `work` raised.
        """
        outcomes: list[Done | Lost] = []
        while not outcomes and (busy := [worker for worker in self._workers if worker.jobs]):
            wait_for(busy, min(_POLL_S, *(worker.clock.left_s for worker in busy)))
            for worker in busy:
                outcomes += _results(worker)
                if not worker.alive or worker.clock.left_s < 0:
                    outcomes += self._replace(worker)
        if outcomes:
            self._died = 0
        return outcomes

    def _replace(self, worker: Worker) -> list[Done | Lost]:
        """Stop a worker, find out what it was doing, and hand the jobs it had not begun to others."""
        late = worker.alive
        worker.stop()
        self._workers.remove(worker)
        outcomes = _results(worker)  # it may have finished a job just before
        # The process has ended, so its clock stands still.
        blamed = (
            worker.clock.step >= 0 and worker.jobs and (worker.clock.left_s < 0 if late else not worker.ended_by_signal)
        )
        if blamed:
            number, _ = worker.jobs.popleft()
            outcomes.append(Lost(number, worker.clock.step, "deadline" if late else "crash"))
        elif not outcomes and not worker.ended_by_signal:
            self._died += 1
            if self._died >= _TRIES:
                raise RunFailed(
                    f"{_TRIES} worker processes in a row ended before they began anything (exit code "
                    f"{worker.process.exitcode}); the machine may be out of memory"
                )
        for number, job in worker.jobs:
            self.submit(number, job)
        return outcomes


def _results(worker: Worker) -> list[Done | Lost]:
    return [Done(number, result) for number, result in worker.take()]


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
    """Yield (place in `jobs`, result) of a function over many jobs, as the results come.

    Args:
        function: Of one job, run in the workers on one thread each; it pickles where they are spawned.
        jobs: What to run it on; handed out in order.
        count: Worker processes.
        seconds: Of one job: how long it may take before its process is killed; pickles as `function`.
        lost: The result of a job whose process was killed ("deadline") or died ("crash").
        window: How far the jobs handed out may run ahead of the first one without a result, so that a caller who
            wants them in order keeps few; None = any distance.
        method: See `Worker`; spawned processes do not mind that the caller holds threads and an open progress bar.
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
