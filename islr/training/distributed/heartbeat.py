"""Who of a run's processes is where, so that one that is lost or late can be named.

Communication libraries say that a connection broke, or nothing at all while they wait; not for whom. So every process
tells the others, through the store by which they found each other, that it lives, which place of the run it came to,
and why it failed. A process waits for the others `timeout_s` at most, then it ends with one line that names whom it
waited for. The store is a small server beside the first process (torchrun's on its node); without it nobody can wait.
"""

import json
import os
import platform
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

BEAT_S = 1.0  # between signs of life
SILENCE_S = 5.0  # without one, a process is taken for dead once a connection broke
RESUME = "run the same command to go on from the last checkpoint"


@dataclass(frozen=True)
class RankStatus:
    """What a process tells of itself.

    Attributes:
        host, pid: Where it runs.
        beat: Grows as long as it lives.
        place: How many places it has come to; all processes pass the same ones in the same order.
        what: The place in words.
        failed: Why it ends before its work is done; empty as long as it does not.
        ended: It has left the run.
    """

    host: str
    pid: int
    beat: int = 0
    place: int = 0
    what: str = "start"
    failed: str = ""
    ended: bool = False


class Heartbeat:
    """This process's signs, and its look at those of the others.

    Args:
        store: Shared by all processes; `set` and `get` of bytes.
        rank: This process.
        size: How many there are.
        timeout_s: How long others are waited for.
    """

    def __init__(self, store: Any, rank: int, size: int, timeout_s: float) -> None:
        self.rank, self.size, self.timeout_s = rank, size, timeout_s
        self._store, self._lock, self._stopping = store, threading.Lock(), threading.Event()
        self._own = RankStatus(platform.node(), os.getpid())
        self._since = self._answered = time.monotonic()
        self._publish()
        first = self.others()  # waits until all are there
        self._beats = {rank: (sign.beat, self._since) for rank, sign in first.items()}
        self._known = first
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def at(self, what: str) -> None:
        """This process has come to a place that all processes pass."""
        with self._lock:
            self._own = replace(self._own, place=self._own.place + 1, what=what)
            self._since = time.monotonic()

    def end(self, failed: str = "") -> None:
        """This process leaves; with a reason, before its work is done."""
        self._stopping.set()
        self._thread.join()
        with self._lock:
            self._own = replace(self._own, failed=failed, ended=True)
        with suppress(RuntimeError):  # where the store left first, whoever asks will find it gone
            self._publish()

    def others(self) -> dict[int, RankStatus]:
        """The last signs of the other processes.

        Raises:
            RuntimeError: The store does not answer.
        """
        ranks = [rank for rank in range(self.size) if rank != self.rank]
        return {rank: RankStatus(**json.loads(self._store.get(_key(rank)))) for rank in ranks}

    def lost(self) -> str:
        """Which processes failed or died, after a connection broke; empty when none did."""
        until = time.monotonic() + SILENCE_S
        before = self._known
        try:
            before = self.others()
            while time.monotonic() < until:
                now = self.others()
                named = [self._words(rank, sign) for rank, sign in now.items() if sign.failed]
                if named:
                    return "; ".join(named)
                time.sleep(BEAT_S / 4)
            dead = [self._words(rank, sign) for rank, sign in now.items() if sign.beat == before[rank].beat]
        except RuntimeError:
            return f"{self._words(0, before.get(0, self._own))}, or its machine; {RESUME}"
        return f"{'; '.join(dead)}; {RESUME}" if dead else ""

    def _words(self, rank: int, sign: RankStatus) -> str:
        who = f"process {rank} of {self.size} ({sign.host}, pid {sign.pid})"
        return f"{who} failed: {sign.failed}" if sign.failed else f"{who} has died, last heard of at {sign.what}"

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
                    self._give_up(f"{self._words(0, self._known.get(0, self._own))}, or its machine; {RESUME}")
                continue
            self._answered = time.monotonic()
            reason = self.reason(self._known, self._answered)
            if reason:
                self._give_up(reason)

    def reason(self, others: dict[int, RankStatus], now: float) -> str:
        """Why to wait no longer, at a moment of the monotonic clock; empty to go on waiting."""
        limit = f"for {self.timeout_s:g} s (run.timeout_s); {RESUME}"
        for rank, sign in others.items():
            if sign.beat != self._beats[rank][0]:
                self._beats[rank] = sign.beat, now
            if not sign.ended and now - self._beats[rank][1] > self.timeout_s:
                return f"process {rank} of {self.size} ({sign.host}, pid {sign.pid}) has given no sign of life {limit}"
        with self._lock:
            own, waited = self._own, now - self._since
        behind = {rank: sign for rank, sign in others.items() if sign.place < own.place}
        if waited <= self.timeout_s or not behind:
            return ""
        rank = min(behind, key=lambda rank: behind[rank].place)
        sign = behind[rank]
        return (
            f"process {rank} of {self.size} ({sign.host}, pid {sign.pid}) is still at {sign.what} and was waited "
            f"{limit}"
        )

    def _give_up(self, reason: str) -> None:
        """End the process: its main thread is inside a library that waits and cannot be interrupted."""
        print(f"islr: process {self.rank} of {self.size} gives up: {reason}", file=sys.stderr, flush=True)
        os._exit(1)


def _key(rank: int) -> str:
    return f"process/{rank}"
