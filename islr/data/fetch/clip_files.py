"""The files of fetched clips: checked, cut, named and recorded in the table.

A file gets its final name only after it has been decoded from its first frame to its last, so every file of that name
is good, and only a good file replaces it.
"""

import os
import queue
import shutil
import threading
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from islr.data.corpora.wlasl_json import Instance
from islr.data.fetch import table
from islr.data.fetch.cut import CheckedVideo, Checker
from islr.data.fetch.table import FetchedClip, FetchTable
from islr.data.video.guard import DecodeError
from islr.data.video.scan import VIDEO_SUFFIXES
from islr.files import file_sha256, write_atomic_with

_OUTCOME_OF_FAULT = {
    "truncated": table.TRUNCATED,
    "no frames": table.TOO_SHORT,
    "not a video": table.WRONG_TYPE,
    "no video stream": table.WRONG_TYPE,
    "empty": table.WRONG_TYPE,
    "too large": table.TOO_LARGE,
    "deadline": table.TIMEOUT,
}


class ClipFiles:
    """The files of a folder of fetched clips; safe to use from several threads.

    Args:
        folder: The folder of the files, `<video_id>.<suffix>`.
        work: The folder of unfinished files.
        rows: The clips' table.
        ids: The clips' ids.
        workers: Processes that check and cut.
        trim: Whether clips are cut to their time range.
        stop: Ends all work when set.
    """

    def __init__(
        self,
        folder: Path,
        work: Path,
        rows: FetchTable,
        ids: Iterable[str],
        workers: int,
        trim: bool,
        stop: threading.Event,
    ) -> None:
        self._folder, self._work, self._rows, self._trim, self._stop = folder, work, rows, trim, stop
        requested = set(ids)
        self._existing: dict[str, Path] = {}
        for path in sorted(folder.iterdir()):
            if path.stem in requested and path.suffix.lower() in VIDEO_SUFFIXES:
                self._existing.setdefault(path.stem, path)
        self._all = [Checker() for _ in range(workers)]
        self._idle: queue.LifoQueue[Checker] = queue.LifoQueue()  # last in, first out: few files start few processes
        for checker in self._all:
            self._idle.put(checker)

    def close(self) -> None:
        """End the processes and remove their unfinished files."""
        for checker in self._all:
            checker.close()
        for leftover in self._work.glob("*.cut"):
            leftover.unlink()

    def needs_nothing(self, instance: Instance, retry_dead: bool) -> bool:
        """Return whether a clip needs no fetching: its file is as recorded, or its outcome is final.

        A good file that the table does not list is added to it as it is.
        """
        row, path = self._rows.get(instance.video_id), self._existing.get(instance.video_id)
        if path is not None and row is not None and row.sha256:
            if row.outcome == table.OK and file_sha256(path) == row.sha256:
                return True
        elif path is not None:
            checked = self._result(path)
            if isinstance(checked, CheckedVideo):
                self._rows.put(_row(instance, "was there before", path, checked, "", 0))
                return True
        return row is not None and row.outcome in table.FINAL and row.url == instance.url and not retry_dead

    def make(self, clips: Sequence[Instance], source: Path, attempts: int) -> None:
        """Make and record every clip of a downloaded video, and remove the download.

        The whole video is decoded once for all clips that are not cut.
        """
        whole: CheckedVideo | DecodeError | None = None
        for instance in clips:
            try:
                if self._trim and instance.span != (None, None):
                    made = self._work / f"{instance.video_id}.cut"
                    self._name(instance, made, self._checked(source, instance, made), "yes", attempts)
                    continue
                whole = whole or self._result(source)
                if isinstance(whole, DecodeError):
                    raise whole
                self._name(instance, source, whole, "no", attempts)
            except DecodeError as error:
                outcome = _OUTCOME_OF_FAULT.get(error.kind, table.DAMAGED)
                self.note_failure(instance, outcome, f"{error.kind} {error.detail}".strip(), attempts)
        source.unlink()

    def note_failure(self, instance: Instance, outcome: str, detail: str, attempts: int) -> None:
        """Record that fetching a clip failed.

        The row keeps the hash of an existing file, so that the next run does not take it for the user's own.
        """
        old = self._rows.get(instance.video_id)
        kept = old.sha256 if old is not None and instance.video_id in self._existing else ""
        self._rows.put(
            FetchedClip(
                video_id=instance.video_id,
                outcome=outcome,
                detail=detail,
                source=instance.source,
                url=instance.url,
                sha256=kept,
                attempts=attempts,
                at=_now(),
            )
        )

    def _name(self, instance: Instance, path: Path, checked: CheckedVideo, trimmed: str, attempts: int) -> None:
        """Give a good file the name of its clip."""
        target = self._folder / f"{instance.video_id}{checked.suffix}"
        if trimmed == "yes":
            os.replace(path, target)
        else:
            _link(path, target)
        old = self._existing.get(instance.video_id)
        if old is not None and old != target:
            old.unlink(missing_ok=True)  # the same clip in another container
        self._rows.put(_row(instance, "", target, checked, trimmed, attempts))

    def _result(self, path: Path) -> CheckedVideo | DecodeError:
        try:
            return self._checked(path)
        except DecodeError as error:
            return error

    def _checked(self, path: Path, instance: Instance | None = None, made: Path | None = None) -> CheckedVideo:
        checker = self._idle.get()
        try:
            return checker.run(path, instance.span if instance else None, made, self._stop)
        finally:
            self._idle.put(checker)


def _row(
    instance: Instance, detail: str, path: Path, checked: CheckedVideo, trimmed: str, attempts: int
) -> FetchedClip:
    return FetchedClip(
        video_id=instance.video_id,
        outcome=table.OK,
        detail=detail,
        source=instance.source,
        url=instance.url,
        file=path.name,
        trimmed=trimmed,
        frames=checked.frames,
        fps=round(checked.fps, 4),
        width=checked.width,
        height=checked.height,
        bytes=path.stat().st_size,
        sha256=file_sha256(path),
        attempts=attempts,
        at=_now(),
    )


def _link(whole: Path, target: Path) -> None:
    """Give a whole video another name, by a hard link where the file system has them, else by a copy."""
    beside = target.with_name(f".{target.name}.partial")
    beside.unlink(missing_ok=True)
    try:
        os.link(whole, beside)
    except OSError:  # no hard links here
        with whole.open("rb") as source:
            write_atomic_with(target, lambda file: shutil.copyfileobj(source, file))
        return
    os.replace(beside, target)
    beside.unlink(missing_ok=True)  # `os.replace` leaves it if the target is the same file already


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
