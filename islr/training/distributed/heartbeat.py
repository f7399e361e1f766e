"""Heartbeats of the ranks of a run, so that one that is lost or late can be named.

When a rank dies, communication libraries report a broken connection, or nothing while they wait; they do not say which
rank is to blame. So every rank publishes, in the store through which the ranks found each other, that it lives, which
place of the run it has reached, and why it failed. A rank waits for the others at most `timeout_s`; then it ends with
one line that names the rank it waited for. The store is a small server beside rank 0 (torchrun's, on its node);
without it no rank can tell anything about the others.
"""

import json
import logging
import os
import platform
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

BEAT_S = 1.0  # between heartbeats
SILENCE_S = 5.0  # once a connection broke, a rank without a heartbeat for so long counts as dead
RESUME = "run the same command to go on from the last checkpoint"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RankStatus:
    """What a rank publishes about itself.

    Attributes:
        host, pid: Where it runs.
        beat: Counter that grows as long as the rank lives.
        place: How many places the rank has reached; all ranks pass the same ones in the same order.
        what: Description of the place.
        failed: Why the rank ended before its work was done; empty while it has not.
        ended: Whether the rank has left the run.
    """

    host: str
    pid: int
    beat: int = 0
    place: int = 0
    what: str = "start"
    failed: str = ""
    ended: bool = False


class Heartbeat:
    """Publishes this rank's status in a background thread, and follows that of the others.

    Args:
        store: Shared by all ranks; `set` and `get` of bytes.
        rank: This rank.
        size: Number of ranks.
        timeout_s: How long to wait for another rank.

    Attributes:
        on_give_up: Called with the reason before the process ends because another rank is late or gone.
    """

    def __init__(self, store: Any, rank: int, size: int, timeout_s: float) -> None:
        self.rank, self.size, self.timeout_s = rank, size, timeout_s
        self.on_give_up: Callable[[str], None] = lambda reason: None
        self._store, self._lock, self._stopping = store, threading.Lock(), threading.Event()
        self._own = RankStatus(platform.node(), os.getpid())
        self._since = self._answered = time.monotonic()
        self._publish()
        first = self.others()  # waits until all ranks have published
        self._beats = {rank: (status.beat, self._since) for rank, status in first.items()}
        self._known = first
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def at(self, what: str) -> None:
        """Record that this rank has reached a place that all ranks pass."""
        with self._lock:
            self._own = replace(self._own, place=self._own.place + 1, what=what)
            self._since = time.monotonic()

    def end(self, failed: str = "") -> None:
        """Record that this rank leaves the run; `failed` is why, when its work is not done."""
        self._stopping.set()
        self._thread.join()
        with self._lock:
            self._own = replace(self._own, failed=failed, ended=True)
        with suppress(RuntimeError):  # the store may be gone already; the others will notice that
            self._publish()

    def others(self) -> dict[int, RankStatus]:
        """Return the last published status of each other rank.

        Raises:
            RuntimeError: The store does not answer.
        """
        ranks = [rank for rank in range(self.size) if rank != self.rank]
        return {rank: RankStatus(**json.loads(self._store.get(_key(rank)))) for rank in ranks}

    def lost(self) -> str:
        """Return which ranks failed or died, after a connection broke; empty when none did."""
        until = time.monotonic() + SILENCE_S
        before = self._known
        try:
            before = self.others()
            while time.monotonic() < until:
                now = self.others()
                named = [self._describe(rank, status) for rank, status in now.items() if status.failed]
                if named:
                    return "; ".join(named)
                time.sleep(BEAT_S / 4)
            dead = [self._describe(rank, now[rank]) for rank in now if now[rank].beat == before[rank].beat]
        except RuntimeError:
            return f"{self._describe(0, before.get(0, self._own))}, or its machine; {RESUME}"
        return f"{'; '.join(dead)}; {RESUME}" if dead else ""

    def _name(self, rank: int, status: RankStatus) -> str:
        return f"process {rank} of {self.size} ({status.host}, pid {status.pid})"

    def _describe(self, rank: int, status: RankStatus) -> str:
        who = self._name(rank, status)
        return f"{who} failed: {status.failed}" if status.failed else f"{who} has died, last heard of at {status.what}"

    def _publish(self) -> None:
        with self._lock:
            self._own = replace(self._own, beat=self._own.beat + 1)
            content = json.dumps(asdict(self._own))
        self._store.set(_key(self.rank), content)

    def _run(self) -> None:
        while not self._stopping.wait(BEAT_S):
            try:
                self._publish()
                self._known = self.others()
            except RuntimeError:
                if time.monotonic() - self._answered > self.timeout_s:
                    self._give_up(f"{self._describe(0, self._known.get(0, self._own))}, or its machine; {RESUME}")
                continue
            self._answered = time.monotonic()
            reason = self.reason(self._known, self._answered)
            if reason:
                self._give_up(reason)

    def reason(self, others: dict[int, RankStatus], now: float) -> str:
        """Return why to wait no longer, at a moment of the monotonic clock; empty to go on waiting."""
        limit = f"for {self.timeout_s:g} s (run.timeout_s); {RESUME}"
        for rank, status in others.items():
            if status.beat != self._beats[rank][0]:
                self._beats[rank] = status.beat, now
            if not status.ended and now - self._beats[rank][1] > self.timeout_s:
                return f"{self._name(rank, status)} has sent no heartbeat {limit}"
        with self._lock:
            own, waited = self._own, now - self._since
        behind = {rank: status for rank, status in others.items() if status.place < own.place}
        if waited <= self.timeout_s or not behind:
            return ""
        rank = min(behind, key=lambda rank: behind[rank].place)
        return f"{self._name(rank, behind[rank])} is still at {behind[rank].what} and was waited {limit}"

    def _give_up(self, reason: str) -> None:
        """End the process: its main thread waits inside a library and cannot be interrupted."""
        self.on_give_up(reason)
        logger.critical("islr: process %s of %s gives up: %s", self.rank, self.size, reason)
        os._exit(1)


def _key(rank: int) -> str:
    return f"process/{rank}"
