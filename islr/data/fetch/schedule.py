"""A scheduler of downloads with per-host limits on concurrency and rate.

Every host has its own queue, its own number of simultaneous jobs and its own rate, so that no host is overloaded and a
slow host does not delay the others.
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
class _HostQueue(Generic[T]):
    jobs: list[tuple[float, int, T]] = field(default_factory=list)  # heap of (earliest start, number, job)
    active: int = 0
    not_before: float = 0.0


class Schedule(Generic[T]):
    """Thread-safe queues of jobs, one per host.

    Args:
        jobs: (host, job) pairs, taken in order within a host.
        per_host: Simultaneous jobs of one host.
        rate: Jobs of one host started per second.
    """

    def __init__(self, jobs: Iterable[tuple[str, T]], per_host: int, rate: float) -> None:
        self._per_host, self._gap = per_host, 1.0 / rate
        self._queues: dict[str, _HostQueue[T]] = {}
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._stopped = False
        self._open = 0
        for host, job in jobs:
            self._queues.setdefault(host, _HostQueue()).jobs.append((0.0, next(self._numbers), job))
            self._open += 1

    def take(self) -> tuple[str, T] | None:
        """Wait for a job that may start and return (host, job); None when no job is left or after `stop`."""
        with self._changed:
            while self._open and not self._stopped:
                now = time.monotonic()
                times = {
                    host: max(queue.jobs[0][0], queue.not_before)
                    for host, queue in self._queues.items()
                    if queue.jobs and queue.active < self._per_host
                }
                host = min(times, key=times.__getitem__, default=None)
                if host is not None and times[host] <= now:
                    queue = self._queues[host]
                    queue.active += 1
                    queue.not_before = now + self._gap
                    return host, heapq.heappop(queue.jobs)[2]
                self._changed.wait(None if host is None else times[host] - now)
            return None

    def done(self, host: str) -> None:
        """Mark a job of this host as finished."""
        with self._changed:
            self._queues[host].active -= 1
            self._open -= 1
            self._changed.notify_all()

    def again(self, host: str, job: T, wait: float) -> None:
        """Put a job back into its host's queue, to start after `wait` seconds."""
        with self._changed:
            queue = self._queues[host]
            queue.active -= 1
            heapq.heappush(queue.jobs, (time.monotonic() + wait, next(self._numbers), job))
            self._changed.notify_all()

    def pause(self, host: str, wait: float) -> None:
        """Start no job of this host for `wait` seconds."""
        with self._changed:
            queue = self._queues[host]
            queue.not_before = max(queue.not_before, time.monotonic() + wait)

    def drop(self, host: str) -> list[T]:
        """Remove and return the waiting jobs of this host."""
        with self._changed:
            queue = self._queues[host]
            jobs = [job for _, _, job in queue.jobs]
            queue.jobs.clear()
            self._open -= len(jobs)
            self._changed.notify_all()
            return jobs

    def stop(self) -> None:
        """Make `take` return None from now on."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
