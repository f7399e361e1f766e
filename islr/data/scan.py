"""Decode every video of a corpus once, in parallel, to learn what it really holds.

Each file is measured in a worker process. One that does not come back in time, or dies, costs its worker and
marks that file; it never stops the scan. Results are kept in a small json by path, size and time of change,
so a second scan, or one that was interrupted, only decodes what is new.
"""

import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2

from islr.data.guard import DecodeError
from islr.data.manifest import CORRUPT, MISSING, OK
from islr.data.video import measure
from islr.data.workers import Clock, Lost, Pool
from islr.errors import UserError
from islr.files import write_atomic

VIDEO_SUFFIXES = frozenset(
    (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".flv", ".swf", ".mpg", ".mpeg", ".ts", ".ogv", ".wmv")
)
Range = tuple[float | None, float | None]
Progress = Callable[[int, int], None]

_VERSION = 1
_DEADLINE_S = 60.0  # per file; a clip takes well under a second
_DEADLINE_BYTES_PER_S = 100_000  # and more for long videos, at a rate any machine decodes
_SAVE_EVERY_S = 10.0
_MOST_WORKERS = 8  # beyond, one disk is the limit

_LOST_WORKER = (CORRUPT + "deadline", CORRUPT + "crash")


@dataclass(frozen=True)
class Job:
    """A file to measure, and the time ranges of it that are clips."""

    path: Path
    ranges: tuple[Range, ...] = ()


@dataclass(frozen=True)
class Scanned:
    """What a file holds; `counts` are the frames in each of the job's ranges. Zeros unless `status` is ok."""

    status: str
    frames: int = 0
    fps: float = 0.0
    width: int = 0
    height: int = 0
    counts: tuple[int, ...] = ()

    @property
    def duration(self) -> float:
        """Seconds from the first frame's start to the last frame's end."""
        return self.frames / self.fps if self.fps else 0.0


def find_videos(folder: str | Path) -> list[Path]:
    """The video files below a folder, sorted.

    Raises:
        UserError: The folder does not exist or holds no video.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of videos")
    found = [
        Path(parent) / name
        for parent, _, names in os.walk(folder)
        for name in names
        if not name.startswith(".") and Path(name).suffix.lower() in VIDEO_SUFFIXES
    ]
    if not found:
        raise UserError(f"{folder}: holds no video file ({', '.join(sorted(VIDEO_SUFFIXES))})")
    return sorted(found)


def cache_beside(manifest: str | Path | None) -> Path | None:
    """Where the results of a scan are kept: beside the manifest that is made of them."""
    return None if manifest is None else Path(manifest).with_suffix(".scan.json")


def measure_job(job: Job, root: Path) -> Scanned:
    """Decode one file from its first frame to its last."""
    try:
        info, counts = measure(job.path, job.ranges, root)
    except DecodeError as error:
        return Scanned(MISSING if error.kind == "missing" else CORRUPT + error.kind)
    return Scanned(OK, info.frames, info.fps, info.width, info.height, counts)


def scan(
    jobs: Sequence[Job],
    root: str | Path,
    *,
    workers: int | None = None,
    cache: str | Path | None = None,
    progress: Progress | None = None,
    deadline_s: float = _DEADLINE_S,
    measure_one: Callable[[Job, Path], Scanned] = measure_job,
) -> list[Scanned]:
    """Measure files, in the order of `jobs`.

    Args:
        jobs: Files and ranges; each path at most once.
        root: The data root that every file must be in.
        workers: Processes, one thread each; None = one per core, at most 8; 0 = in this process, no deadline.
        cache: A json of earlier results, read and updated; None = neither.
        progress: Called with (files done, files in all).
        deadline_s: Seconds a small file may take; a large one gets more in proportion to its bytes.
        measure_one: What is done with a file; a module-level function.
    """
    root = Path(root)
    store = _Cache(Path(cache) if cache is not None else None)
    done: dict[int, Scanned] = {}
    for index, job in enumerate(jobs):
        known = store.get(job)
        if known is not None:
            done[index] = known
    pending = [index for index in range(len(jobs)) if index not in done]
    if workers is None:
        workers = min(os.cpu_count() or 1, _MOST_WORKERS)
    workers = min(workers, len(pending))
    results = (
        _in_workers(jobs, pending, workers, _Measure(root, deadline_s, measure_one))
        if workers
        else ((index, measure_one(jobs[index], root)) for index in pending)
    )
    try:
        for index, result in results:
            done[index] = result
            store.put(jobs[index], result)
            if progress is not None:
                progress(len(done), len(jobs))
    finally:
        store.save()
    return [done[index] for index in range(len(jobs))]


class _Cache:
    """Earlier results by path, valid while the file's size and time of change stay the same."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.files: dict[str, dict[str, Any]] = {}
        self.changed, self.saved_at = False, time.monotonic()
        if path is None or not path.is_file():
            return
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored["version"] == _VERSION:
                self.files = dict(stored["files"])
        except (ValueError, KeyError, TypeError):
            self.files = {}  # a cache that cannot be read is made again

    def get(self, job: Job) -> Scanned | None:
        entry = self.files.get(str(job.path))
        if entry is None or entry["stamp"] != _stamp(job.path):
            return None
        if any(_range_key(span) not in entry["counts"] for span in job.ranges) and entry["status"] == OK:
            return None
        values = {key: entry[key] for key in ("status", "frames", "fps", "width", "height")}
        counts = tuple(entry["counts"].get(_range_key(span), 0) for span in job.ranges)
        return Scanned(**values, counts=counts)

    def put(self, job: Job, result: Scanned) -> None:
        # A missing file has nothing to stamp; a deadline or a crash may be the machine's fault, so try again.
        if result.status in (MISSING, *_LOST_WORKER):
            return
        counts = dict(zip(map(_range_key, job.ranges), result.counts, strict=False))
        self.files[str(job.path)] = {**asdict(result), "counts": counts, "stamp": _stamp(job.path)}
        self.changed = True
        if time.monotonic() - self.saved_at > _SAVE_EVERY_S:
            self.save()

    def save(self) -> None:
        if self.path is not None and self.changed:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self.path, json.dumps({"version": _VERSION, "files": self.files}))
            self.changed, self.saved_at = False, time.monotonic()


def _stamp(path: Path) -> list[int]:
    try:
        status = path.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]


def _range_key(span: Range) -> str:
    return f"{span[0]}..{span[1]}"


class _Measure:
    """What a worker does with a job."""

    def __init__(self, root: Path, deadline_s: float, measure_one: Callable[[Job, Path], Scanned]) -> None:
        self.root, self.deadline_s, self.measure_one = root, deadline_s, measure_one

    def __call__(self, job: Job, clock: Clock) -> Scanned:
        cv2.setNumThreads(1)
        size = (_stamp(job.path) or [0])[0]
        clock.begin(0, self.deadline_s + size / _DEADLINE_BYTES_PER_S)
        return self.measure_one(job, self.root)


def _in_workers(
    jobs: Sequence[Job], pending: list[int], count: int, measure: _Measure
) -> Iterator[tuple[int, Scanned]]:
    """(index, result) of the pending jobs, as they come."""
    waiting = iter(pending)
    # Spawned, not forked: the caller may hold threads and an open progress display.
    with Pool(measure, count, "spawn") as pool:
        for index in itertools.islice(waiting, count):
            pool.submit(index, jobs[index])
        while outcomes := pool.wait():
            for outcome in outcomes:
                for index in itertools.islice(waiting, 1):
                    pool.submit(index, jobs[index])
                yield outcome.job, (Scanned(CORRUPT + outcome.kind) if isinstance(outcome, Lost) else outcome.result)
