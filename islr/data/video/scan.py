"""Measurement of every video of a corpus, by decoding each once in parallel.

Each file is measured in a worker process; a file that exceeds its deadline or crashes its worker is marked, and the
scan goes on. Results are cached in a small json by the hash of the file's bytes, so a second scan, or one of a folder
that was moved or renamed, decodes only new files.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from islr.config import Config
from islr.data.manifest import CORRUPT, MISSING, OK
from islr.data.video.decode import measure
from islr.data.video.guard import DecodeError, check_path
from islr.errors import UserError
from islr.files import file_sha256, walk, write_atomic
from islr.processes.pool import in_workers
from islr.untrusted.json_files import Count, Number, read_json

VIDEO_SUFFIXES = frozenset(
    (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".flv", ".swf", ".mpg", ".mpeg", ".ts", ".ogv", ".wmv")
)
Range = tuple[float | None, float | None]
Progress = Callable[[int, int], None]

_VERSION = 3
_DEADLINE_S = 60.0  # per file; a clip takes well under a second
_DEADLINE_BYTES_PER_S = 100_000  # long videos get more, at a rate that any machine decodes
_SAVE_EVERY_S = 10.0
_MOST_WORKERS = 8  # more workers only wait for the disk

_BY_RANGE = ("firsts", "counts")
_LOST_WORKER = (CORRUPT + "deadline", CORRUPT + "crash")


@dataclass(frozen=True)
class ScanJob:
    """A file to measure, and the time ranges of it that are clips."""

    path: Path
    ranges: tuple[Range, ...] = ()


@dataclass(frozen=True)
class Scanned:
    """The measurements of a file; zeros unless `status` is ok.

    Attributes:
        counts: Frames in each of the job's ranges.
        sha256: Of the file's bytes; empty for a file that cannot be read.
        firsts: Number of the first frame of each range.
    """

    status: str
    frames: int = 0
    fps: float = 0.0
    width: int = 0
    height: int = 0
    counts: tuple[int, ...] = ()
    sha256: str = ""
    firsts: tuple[int, ...] = ()

    @property
    def duration(self) -> float:
        """Seconds from the first frame's start to the last frame's end."""
        return self.frames / self.fps if self.fps else 0.0


def find_videos(folder: str | Path) -> list[Path]:
    """Return the video files below a folder and the folders that are linked there, sorted.

    Raises:
        UserError: The folder does not exist or holds no video.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of videos")
    videos = [parent / name for parent, _, names in walk(folder) for name in names if is_video(name)]
    if not videos:
        raise UserError(f"{folder}: holds no video file ({', '.join(sorted(VIDEO_SUFFIXES))})")
    return sorted(videos)


def is_video(name: str) -> bool:
    """Return whether a file's name is that of a video."""
    return not name.startswith(".") and Path(name).suffix.lower() in VIDEO_SUFFIXES


def cache_beside(manifest: str | Path | None) -> Path | None:
    """Return the cache of a scan: a file beside the manifest that the scan is for."""
    return None if manifest is None else Path(manifest).with_suffix(".scan.json")


def deadline_of(path: Path, small_s: float = _DEADLINE_S) -> float:
    """Return the seconds that decoding a file may take: `small_s`, and more in proportion to its bytes."""
    return small_s + (_stamp(path) or [0])[0] / _DEADLINE_BYTES_PER_S


def measure_job(job: ScanJob, root: Path) -> Scanned:
    """Decode one file from its first frame to its last."""
    try:
        info, spans = measure(job.path, job.ranges, root)
    except DecodeError as error:
        return Scanned(MISSING if error.kind == "missing" else CORRUPT + error.kind, sha256=_hash(job.path, root))
    firsts, counts = tuple(first for first, _ in spans), tuple(count for _, count in spans)
    return Scanned(OK, info.frames, info.fps, info.width, info.height, counts, _hash(job.path, root), firsts)


def _hash(path: Path, root: Path) -> str:
    try:
        return file_sha256(check_path(path, root))
    except (DecodeError, OSError):
        return ""


def scan(
    jobs: Sequence[ScanJob],
    root: str | Path,
    *,
    workers: int | None = None,
    cache: str | Path | None = None,
    progress: Progress | None = None,
    deadline_s: float = _DEADLINE_S,
    measure_one: Callable[[ScanJob, Path], Scanned] = measure_job,
) -> list[Scanned]:
    """Measure files, in the order of `jobs`.

    Args:
        jobs: Files and ranges; each path at most once.
        root: The data root that every file must be in.
        workers: Processes, one thread each; None = one per core, at most 8; 0 = this process, without a deadline.
        cache: A json of earlier results by file hash, read and updated; None = no cache.
        progress: Called with (files done, files in all).
        deadline_s: Seconds a small file may take; a large one gets more in proportion to its bytes.
        measure_one: Measures one file; a module-level function.
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
    function = partial(_call, measure_one=measure_one, root=root)
    waiting = [jobs[index] for index in pending]
    results = (
        in_workers(function, waiting, workers, seconds=partial(_job_seconds, deadline_s=deadline_s), lost=_lost)
        if workers
        else enumerate(map(function, waiting))
    )
    try:
        for place, result in results:
            index = pending[place]
            done[index] = result
            store.put(jobs[index], result)
            if progress is not None:
                progress(len(done), len(jobs))
    finally:
        store.save()
    return [done[index] for index in range(len(jobs))]


class _StoredFile(Config):
    """What a file holds, as the cache keeps it."""

    status: str
    frames: Count
    fps: Number
    width: Count
    height: Count
    counts: dict[str, Count]
    firsts: dict[str, Count]
    bytes: Count


class _Stored(Config):
    """The cache's file."""

    version: int
    content: dict[str, _StoredFile]
    stamps: dict[str, tuple[Count, int, str]]


class _Cache:
    """Earlier results by the hash of the file's bytes.

    A file is hashed again only if its size or time of change is new and a known file has its size.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.content: dict[str, dict[str, Any]] = {}  # sha256 -> what the file holds
        self.stamps: dict[str, list[Any]] = {}  # path -> [size, time of change, sha256]
        self.changed, self.saved_at = False, time.monotonic()
        if path is not None and path.is_file():
            try:
                stored: _Stored = read_json(_Stored, path)
                if stored.version == _VERSION:
                    self.content = {sha: entry.model_dump() for sha, entry in stored.content.items()}
                    self.stamps = {name: list(stamp) for name, stamp in stored.stamps.items()}
            except UserError:
                pass  # an unreadable cache is written anew
        self.sizes = {entry["bytes"] for entry in self.content.values()}

    def get(self, job: ScanJob) -> Scanned | None:
        """Return the result for a file; None = the file, or one of its ranges, has to be measured."""
        stamp = _stamp(job.path)
        known = self.stamps.get(str(job.path))
        if known is not None and known[:2] == stamp:
            sha = known[2]
        elif stamp and stamp[0] in self.sizes and job.path.is_file():
            sha = file_sha256(job.path)
        else:
            return None
        entry = self.content.get(sha)
        if entry is None:
            return None
        if any(_range_key(span) not in entry["counts"] for span in job.ranges) and entry["status"] == OK:
            return None
        if known is None or known[:2] != stamp:
            self.stamps[str(job.path)], self.changed = [*stamp, sha], True
        values = {key: entry[key] for key in ("status", "frames", "fps", "width", "height")}
        firsts, counts = (tuple(entry[what].get(_range_key(span), 0) for span in job.ranges) for what in _BY_RANGE)
        return Scanned(**values, counts=counts, sha256=sha, firsts=firsts)

    def put(self, job: ScanJob, result: Scanned) -> None:
        """Store a result, unless the file is missing or the machine may be to blame for the failure."""
        stamp = _stamp(job.path)
        if not result.sha256 or result.status in (MISSING, *_LOST_WORKER) or not stamp:
            return
        entry = {**asdict(result), "bytes": stamp[0]}
        entry |= {what: dict(zip(map(_range_key, job.ranges), entry[what], strict=False)) for what in _BY_RANGE}
        del entry["sha256"]
        self.content[result.sha256] = entry
        self.stamps[str(job.path)] = [*stamp, result.sha256]
        self.sizes.add(stamp[0])
        self.changed = True
        if time.monotonic() - self.saved_at > _SAVE_EVERY_S:
            self.save()

    def save(self) -> None:
        """Write the cache if it has changed."""
        if self.path is not None and self.changed:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            stored = {"version": _VERSION, "content": self.content, "stamps": self.stamps}
            write_atomic(self.path, json.dumps(stored))
            self.changed, self.saved_at = False, time.monotonic()


def _stamp(path: Path) -> list[int]:
    try:
        status = path.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]


def _range_key(span: Range) -> str:
    return f"{span[0]}..{span[1]}"


def _job_seconds(job: ScanJob, deadline_s: float) -> float:
    return deadline_of(job.path, deadline_s)


def _call(job: ScanJob, measure_one: Callable[[ScanJob, Path], Scanned], root: Path) -> Scanned:
    return measure_one(job, root)


def _lost(how: str) -> Scanned:
    return Scanned(CORRUPT + how)
