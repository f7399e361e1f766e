"""Stop signals, as a flag that long work reads between its steps."""

import os
import signal
import time
from types import FrameType
from typing import Any

_SAME_REQUEST_S = 1.0
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopSignal:
    """Turn SIGTERM, SIGINT and SIGUSR1 into a flag within a `with` block; a later signal ends the process at once.

    What arrives within a second of the first is the same request: a terminal and a scheduler signal every process of a
    job, and the launcher among them passes the signal on.
    """

    def __init__(self) -> None:
        self.received = False
        self._first = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        for number in STOP_SIGNALS:
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received and now - self._first > _SAME_REQUEST_S:
            os._exit(128 + number)
        if not self.received:
            self.received, self._first = True, now
