"""Progress of long work: a bar with an ETA on a terminal, one log line per interval elsewhere; readable durations."""

import logging
import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

# Seconds between lines of progress where the output is not a terminal.
LINE_INTERVAL = 20.0

logger = logging.getLogger(__name__)


def duration(seconds: float) -> str:
    """Return a time for readers: `48 s`, `12 min`, `3 h 20 min`, `12 days`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes < 72 * 60 else f"{minutes / 1440:.0f} days"


class ProgressBar:
    """A progress bar with an ETA on a terminal; one log line per interval elsewhere. Use as a context manager.

    It is silent where its logger is: below level INFO there is neither bar nor line.
    """

    def __init__(self, title: str, total: int, start: int = 0, enabled: bool = True) -> None:
        self.title, self.total, self.done = title, total, start
        self.enabled = enabled and logger.isEnabledFor(logging.INFO)
        self._start, self._began, self._logged = start, time.monotonic(), time.monotonic()
        self._bar: Progress | None = None
        console = Console(file=sys.stderr)
        if self.enabled and console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
            )
            self._bar = Progress(*columns, console=console, transient=True)
            self._task = self._bar.add_task(title, total=total, completed=start, note="")

    def __enter__(self) -> "ProgressBar":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int, note: str = "") -> None:
        """Show that `done` of the total are finished."""
        self.done = done
        if self._bar is not None:
            self._bar.update(self._task, completed=done, note=note)
        elif self.enabled and time.monotonic() - self._logged > LINE_INTERVAL:
            self._logged = time.monotonic()
            rate = (self._logged - self._began) / max(done - self._start, 1)
            left = rate * (self.total - done)
            logger.info("%s: %s/%s %s (%.0f s left)", self.title, done, self.total, note, left)

    def callback(self, done: int, total: int) -> None:
        """Show progress in the `progress(done, total)` form that library functions call."""
        self.total = total
        self.update(done)
