"""Who may be asked next: many hosts at once, each of them rarely.

Work waits in one queue per host. A host is given only so many jobs at a time and so many a second, so one
slow host neither is pressed nor holds up the others.
"""

import heapq
import itertools
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass
class _Lane(Generic[T]):
    jobs: list[tuple[float, int, T]] = field(default_factory=list)  # heap of (not before, number, job)
    active: int = 0
    not_before: float = 0.0


class Schedule(Generic[T]):
    """Hands out jobs to threads.

    Args:
        jobs: (host, job) pairs, taken in order within a host.
        per_host: Jobs of one host at a time.
        rate: Jobs of one host started per second.
    """

    def __init__(self, jobs: Iterable[tuple[str, T]], per_host: int, rate: float) -> None:
        self._per_host, self._gap = per_host, 1.0 / rate
        self._lanes: dict[str, _Lane[T]] = {}
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._stopped = False
        self._open = 0
        for host, job in jobs:
            self._lanes.setdefault(host, _Lane()).jobs.append((0.0, next(self._numbers), job))
            self._open += 1

    def take(self) -> tuple[str, T] | None:
        """(host, job), as soon as one may start; None when nothing is left to do or it was told to stop."""
        with self._changed:
            while self._open and not self._stopped:
                now = time.monotonic()
                times = {
                    host: max(lane.jobs[0][0], lane.not_before)
                    for host, lane in self._lanes.items()
                    if lane.jobs and lane.active < self._per_host
                }
                host = min(times, key=times.__getitem__, default=None)
                if host is not None and times[host] <= now:
                    lane = self._lanes[host]
                    lane.active += 1
                    lane.not_before = now + self._gap
                    return host, heapq.heappop(lane.jobs)[2]
                self._changed.wait(None if host is None else times[host] - now)
            return None

    def done(self, host: str) -> None:
        """A job that was taken is finished."""
        with self._changed:
            self._lanes[host].active -= 1
            self._open -= 1
            self._changed.notify_all()

    def again(self, host: str, job: T, wait: float) -> None:
        """A job that was taken shall be handed out once more, after `wait` seconds."""
        with self._changed:
            lane = self._lanes[host]
            lane.active -= 1
            heapq.heappush(lane.jobs, (time.monotonic() + wait, next(self._numbers), job))
            self._changed.notify_all()

    def pause(self, host: str, wait: float) -> None:
        """Start nothing of this host for `wait` seconds."""
        with self._changed:
            lane = self._lanes[host]
            lane.not_before = max(lane.not_before, time.monotonic() + wait)

    def drop(self, host: str) -> list[T]:
        """Take away and return what still waits for this host."""
        with self._changed:
            lane = self._lanes[host]
            jobs = [job for _, _, job in lane.jobs]
            lane.jobs.clear()
            self._open -= len(jobs)
            self._changed.notify_all()
            return jobs

    def stop(self) -> None:
        """Hand out nothing more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
