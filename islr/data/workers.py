"""A function over many jobs in worker processes that may hang or die: a lost job costs its worker, nothing else."""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

START_S = 120.0  # for a process to start on a busy machine


def in_workers(
    function: Callable[[Any], Any],
    jobs: Sequence[Any],
    count: int,
    *,
    seconds: Callable[[Any], float],
    lost: Callable[[str], Any],
    window: int | None = None,
) -> Iterator[tuple[int, Any]]:
    """(place in `jobs`, result) as they come.

    Args:
        function: Module-level function of one job, run in the workers on one thread each.
        jobs: What to run it on; handed out in order.
        count: Worker processes.
        seconds: How long a job may take before its process is killed.
        lost: The result of a job whose process was killed ("deadline") or died ("crash").
        window: How far the jobs handed out may run ahead of the first one without a result, so that a caller who
            wants them in order keeps few; None = any distance.
    """
    workers = [_Worker(function) for _ in range(count)]
    following, oldest = 0, 0
    finished: set[int] = set()
    try:
        while True:
            for worker in workers:
                near = window is None or following < oldest + window
                if worker.place is None and following < len(jobs) and near:
                    worker.give(following, jobs[following], seconds(jobs[following]))
                    following += 1
            busy = [worker for worker in workers if worker.place is not None]
            if not busy:
                return
            soonest = min(worker.deadline for worker in busy)
            ready = wait([worker.pipe for worker in busy], timeout=max(0.0, soonest - time.monotonic()))
            for worker in busy:
                place = worker.place
                assert place is not None
                found = worker.collect(worker.pipe in ready)
                if found is None:
                    continue
                if isinstance(found, str):
                    worker.stop()
                    workers[workers.index(worker)] = _Worker(function)
                    result = lost(found)
                else:
                    (result,) = found
                finished.add(place)
                while oldest in finished:
                    finished.remove(oldest)
                    oldest += 1
                yield place, result
    finally:
        for worker in workers:
            worker.stop()


class _Worker:
    """A process that does one job at a time."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        # Spawned, not forked: the caller may hold threads and an open progress display.
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, function), daemon=True)
        self.process.start()
        other.close()
        self.ready = False
        self.place: int | None = None
        self.seconds = self.deadline = float("inf")

    def give(self, place: int, job: Any, seconds: float) -> None:
        """Hand over a job; its time runs from now, or from when the process has started."""
        self.place, self.seconds = place, seconds
        self.deadline = time.monotonic() + seconds + (0 if self.ready else START_S)
        self.pipe.send(job)

    def collect(self, ready: bool) -> tuple[Any] | str | None:
        """The job's result in a tuple, how the process was lost, or None = not yet."""
        if not ready:
            return "deadline" if time.monotonic() > self.deadline else None
        try:
            found = self.pipe.recv()
        except EOFError:
            return "crash"
        if found is None:
            self.ready = True
            self.deadline = time.monotonic() + self.seconds
            return None
        self.place = None
        return found

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _serve(pipe: Connection, function: Callable[[Any], Any]) -> None:
    import cv2

    cv2.setNumThreads(1)
    try:
        pipe.send(None)
        while True:
            pipe.send((function(pipe.recv()),))
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        return
