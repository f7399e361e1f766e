"""Fetching the videos of a WLASL json: one file and one outcome per clip, continued by running it again.

The folder holds `<video_id>.<suffix>`, `fetch.csv` (see `islr.data.fetch.table`), and unfinished files in `.fetch/`. A
video that several clips share is downloaded once.
"""

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from islr.data.corpora.wlasl_json import Instance, read_instances
from islr.data.corpora.youtube import on_youtube, youtube_id
from islr.data.fetch import table
from islr.data.fetch.clip_files import ClipFiles
from islr.data.fetch.failure import FetchFailure, Stopped, TransferLimits
from islr.data.fetch.http import download, host_of
from islr.data.fetch.schedule import Schedule
from islr.data.fetch.table import FetchedClip, FetchTable
from islr.data.fetch.youtube import HOST as YOUTUBE
from islr.data.fetch.youtube import download_youtube, find_command
from islr.errors import Interrupted, UserError
from islr.processes.lock import locked
from islr.processes.signals import StopSignal

logger = logging.getLogger(__name__)
_WORK = ".fetch"
_LONGEST_WAIT_S = 300.0  # hosts that ask for more are left to the next run
_GIVE_UP_AFTER = 5  # files of one host in a row without an answer, after which the host counts as down
_BACKOFF_FACTOR, _LONGEST_BACKOFF_S = 2.0, 60.0
_SAVE_EVERY_S = 30.0
_POLL_S = 0.2
_SLOW_S = 30.0  # after so long a download has a thread of its own, beside those of `jobs`
_MOST_SLOW = 4  # such downloads, in multiples of `jobs`
_STOPPING_S = 5.0  # for threads to end after a signal


@dataclass(frozen=True)
class FetchOptions:
    """Limits and choices of a fetch.

    Attributes:
        jobs: Simultaneous downloads, in all.
        per_host: Simultaneous downloads from one host.
        rate: Downloads from one host started per second.
        retries: Further attempts after a temporary failure, within this run.
        backoff_s: Seconds before the first retry; each later one waits twice as long.
        trim: Cut clips to their time range; False = keep whole videos.
        retry_dead: Also retry clips whose outcome is final.
        workers: Processes that decode.
        limits: Limits of one transfer.
        cookies: A cookies.txt for yt-dlp.
        yt_dlp: The command that starts yt-dlp; None = find it, empty = do without.
    """

    jobs: int = 8
    per_host: int = 2
    rate: float = 2.0
    retries: int = 3
    backoff_s: float = 2.0
    trim: bool = True
    retry_dead: bool = False
    workers: int = 2
    limits: TransferLimits = field(default_factory=TransferLimits)
    cookies: Path | None = None
    yt_dlp: tuple[str, ...] | None = None


@dataclass
class _Video:
    """A video to download, and the clips that are made from it."""

    key: str
    url: str
    youtube: str | None
    clips: list[Instance]
    attempts: int = 0


def fetch(
    json: str | Path,
    out: str | Path,
    options: FetchOptions | None = None,
    *,
    subset: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[FetchedClip]:
    """Fetch the clips of a WLASL json into a folder; return one row per clip, in the json's order.

    Args:
        json: `WLASL_v0.3.json` or a file of its schema.
        out: The folder.
        options: Limits and choices; None = the defaults.
        subset: Only the first n glosses.
        progress: Called with (clips done, clips in all).

    Raises:
        UserError: The json or the folder's table is wrong, or another process fetches into the folder.
        Interrupted: A signal arrived; finished clips are kept, and the same command continues.
        OSError: The disk is full or not writable.
    """
    instances, glosses, left_out = read_instances(json)
    for line in left_out:
        logger.warning("left out: %s", line)
    if subset is not None:
        if not 0 < subset <= len(glosses):
            raise UserError(f"subset {subset}: {json} has {len(glosses)} glosses")
        instances = [instance for instance in instances if instance.label < subset]
    for instance in instances:
        if not instance.video_id.replace("-", "").replace("_", "").isalnum():
            raise UserError(f"{json}: video_id '{instance.video_id}' cannot be a file name")
    with _folder(Path(out)) as (folder, lock):
        return _Run(folder, lock, instances, options or FetchOptions(), progress or (lambda done, total: None)).go()


@contextmanager
def _folder(path: Path) -> Iterator[tuple[Path, int]]:
    """Create and lock the folder; yield it and the lock's file descriptor."""
    work = path / _WORK
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be a folder of videos ({error.strerror})") from error
    with locked(work / "lock", f"{path}: another process, or a yt-dlp it left behind, still fetches into it") as lock:
        yield path.resolve(), lock


class _Run:
    """One run: the table, the queue of videos, and the threads that work through it."""

    def __init__(
        self,
        folder: Path,
        lock: int,
        instances: list[Instance],
        options: FetchOptions,
        progress: Callable[[int, int], None],
    ) -> None:
        self.folder, self.work, self.lock = folder, folder / _WORK, lock
        self.instances, self.options, self.progress = instances, options, progress
        self.command = find_command() if options.yt_dlp is None else options.yt_dlp
        self.ids = [instance.video_id for instance in instances]
        self.table = FetchTable(folder, self.work / "journal.jsonl", self.ids)
        self.stop = threading.Event()
        self.files = ClipFiles(folder, self.work, self.table, self.ids, options.workers, options.trim, self.stop)
        self.turn = threading.Lock()
        self.unanswered: Counter[str] = Counter()  # files of a host in a row without an answer
        self.since: dict[int, float] = {}  # thread -> when its download began
        self.done = 0
        self.fault: BaseException | None = None

    def go(self) -> list[FetchedClip]:
        """Fetch every clip that is not present."""
        try:
            with StopSignal() as signals:
                pending = self._work_through(self._all_present, signals)
                self.schedule = Schedule(self._videos(pending), self.options.per_host, self.options.rate)
                self._work_through(self._all_videos, signals)
        finally:
            self.stop.set()
            self.files.close()
            self.table.close()
        return self.table.rows(self.ids)

    def _work_through(self, task: Callable[[], None], signals: StopSignal) -> list[Instance]:
        """Run a task in all threads until they are done; return the instances that `_all_present` found missing.

        Raises:
            Interrupted: A signal arrived.
        """
        self.left: list[Instance] = []
        self.todo = iter(self.instances)
        threads: list[threading.Thread] = []
        saved = time.monotonic()
        self._add_threads(threads, task, self.options.jobs)
        while any(thread.is_alive() for thread in threads) and not signals.received and self.fault is None:
            next(thread for thread in threads if thread.is_alive() or thread is threads[-1]).join(_POLL_S)
            self.progress(self.done, len(self.instances))
            self._add_threads(threads, task, min(self._slow(), _MOST_SLOW * self.options.jobs) + self.options.jobs)
            if time.monotonic() - saved > _SAVE_EVERY_S:
                self.table.save()
                saved = time.monotonic()
        if signals.received or self.fault is not None:
            self.stop.set()
            if task == self._all_videos:
                self.schedule.stop()
            for thread in threads:
                thread.join(_STOPPING_S / len(threads))
        if self.fault is not None:
            raise self.fault
        if signals.received:
            raise Interrupted(f"stopped; run the same command again to go on ({self.folder / table.TABLE})")
        self.progress(self.done, len(self.instances))
        return self.left

    def _add_threads(self, threads: list[threading.Thread], task: Callable[[], None], count: int) -> None:
        """Start threads until there are `count`."""
        while len(threads) < count:
            threads.append(threading.Thread(target=self._guarded, args=(task,), daemon=True))
            threads[-1].start()

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Count the block as this thread's download."""
        with self.turn:
            self.since[threading.get_ident()] = time.monotonic()
        try:
            yield
        finally:
            with self.turn:
                del self.since[threading.get_ident()]

    def _slow(self) -> int:
        """Return how many downloads take so long that others should not have to wait for them."""
        with self.turn:
            return sum(time.monotonic() - since > _SLOW_S for since in self.since.values())

    def _guarded(self, task: Callable[[], None]) -> None:
        try:
            task()
        except Stopped:
            return
        except BaseException as error:  # raised again by the main thread
            self.fault = self.fault or error

    def _all_present(self) -> None:
        while not self.stop.is_set():
            with self.turn:
                instance = next(self.todo, None)
            if instance is None:
                return
            known = self.files.needs_nothing(instance, self.options.retry_dead)
            with self.turn:
                self.done += known
                if not known:
                    self.left.append(instance)

    def _videos(self, pending: list[Instance]) -> Iterator[tuple[str, _Video]]:
        """Yield (host, video) of the pending clips; record the outcome of those that no request can be made for."""
        videos: dict[str, _Video] = {}
        places = {video_id: place for place, video_id in enumerate(self.ids)}
        for instance in sorted(pending, key=lambda instance: places[instance.video_id]):
            video_id = youtube_id(instance.url)
            name = f"youtube:{video_id}" if video_id else instance.url
            key = f"yt-{video_id}" if video_id else sha256(name.encode()).hexdigest()[:24]
            video = videos.setdefault(name, _Video(key, instance.url, video_id, []))
            video.clips.append(instance)
        for video in videos.values():
            try:
                if on_youtube(video.url) and not video.youtube:
                    raise FetchFailure(table.BAD_LINK, "a YouTube address that shows no single video")
                if video.youtube and not self.command and not (self.work / video.key).is_file():
                    raise FetchFailure(table.NEEDS_YTDLP, "pip install 'islr-bench[fetch]'")
                host = YOUTUBE if video.youtube else host_of(video.url)
            except FetchFailure as failure:
                self._fail(video, failure)
                continue
            yield host, video

    def _all_videos(self) -> None:
        while (taken := self.schedule.take()) is not None:
            host, video = taken
            try:
                self._get(video)
            except FetchFailure as failure:
                if self._try_again(host, video, failure):
                    continue
                self._fail(video, failure)
                self._judge(host, failure)
            else:
                self.unanswered[host] = 0
                self.files.make(video.clips, self.work / video.key, video.attempts)
                self._count(video)
            self.schedule.done(host)

    def _get(self, video: _Video) -> None:
        """Make one attempt at downloading a video, unless an earlier run has completed it."""
        whole, limits = self.work / video.key, self.options.limits
        if whole.is_file():
            return
        video.attempts += 1
        with self._timed():
            if video.youtube:
                download_youtube(video.youtube, whole, limits, self.stop, self.command, self.options.cookies, self.lock)
            else:
                download(video.url, whole, limits, self.stop)

    def _try_again(self, host: str, video: _Video, failure: FetchFailure) -> bool:
        """Return a video to the schedule if another attempt in this run makes sense."""
        if not failure.retry or video.attempts > self.options.retries:
            return False
        if failure.wait is not None and failure.wait > _LONGEST_WAIT_S:
            return False
        backoff = self.options.backoff_s * _BACKOFF_FACTOR ** (video.attempts - 1)
        # Random, so that files which failed together are not retried together.
        wait = min(backoff, _LONGEST_BACKOFF_S) * random.uniform(1.0, 1.5)
        if failure.wait is not None:
            self.schedule.pause(host, failure.wait)
            wait = max(wait, failure.wait)
        self.schedule.again(host, video, wait)
        return True

    def _judge(self, host: str, failure: FetchFailure) -> None:
        """Drop a host for the rest of the run if it is down, or asks to wait for too long."""
        self.unanswered[host] = self.unanswered[host] + 1 if failure.of_host else 0
        too_long = failure.wait is not None and failure.wait > _LONGEST_WAIT_S
        if not too_long and self.unanswered[host] < _GIVE_UP_AFTER:
            return
        why = f"asks to wait {failure.wait:.0f} s" if too_long else f"failed {_GIVE_UP_AFTER} times in a row"
        for video in self.schedule.drop(host):
            self._fail(video, FetchFailure(failure.outcome, f"not tried, {host} {why}: {failure.detail}"))

    def _fail(self, video: _Video, failure: FetchFailure) -> None:
        for instance in video.clips:
            self.files.note_failure(instance, failure.outcome, failure.detail, video.attempts)
        self._count(video)

    def _count(self, video: _Video) -> None:
        with self.turn:
            self.done += len(video.clips)
