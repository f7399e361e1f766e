"""Checking a downloaded video and cutting a clip out of it, by decoding in a process that may crash or hang."""

import os
import threading
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from islr.data.fetch.failure import Stopped
from islr.data.video.decode import measure, play
from islr.data.video.guard import HEAD_BYTES, DecodeError, container_suffix
from islr.data.video.scan import Range, deadline_of
from islr.processes.worker import Clock, Worker, wait_for

# Visually lossless at this project's picture sizes; a cut of one sign takes about a second of one core.
CRF, PRESET = 17, "fast"
_TICKS = 90_000  # per second: any frame rate's times to within 6 microseconds
_BT601 = 6  # the matrix that the conversion from RGB uses (ITU-T H.273, table 4: SMPTE 170M)
_LIMITED = 1  # the range of grey levels it uses
_POLL_S = 0.2
# A range counts 25 frames a second whatever the file's rate is, so its end may round past the last frame.
_END_TOLERANCE_S = 0.2
# The shortest clip of the published WLASL release has 9 frames of 25 a second (half a frame for rounding).
SHORTEST_S = 8.5 / 25


@dataclass(frozen=True)
class CheckedVideo:
    """The measurements of a video that decodes, with its real container's suffix."""

    suffix: str
    frames: int
    fps: float
    width: int
    height: int


def check(path: Path) -> CheckedVideo:
    """Decode a file from its first frame to its last.

    Raises:
        DecodeError: It is no video, is damaged, or is shorter than any sign ("no frames").
    """
    info, _ = measure(path)
    with path.open("rb") as file:
        suffix = container_suffix(file.read(HEAD_BYTES))
    if suffix is None:
        raise DecodeError("not a video", path, "a container without a known beginning")
    seconds = info.frames / info.fps if info.fps else 0.0
    if seconds < SHORTEST_S:
        raise DecodeError("no frames", path, f"{info.frames} frames are shorter than any sign")
    return CheckedVideo(suffix, info.frames, info.fps, info.width, info.height)


def cut(path: Path, span: Range, target: Path) -> CheckedVideo:
    """Write the frames of a time range to an mp4: same pictures, upright, same times, no sound.

    Raises:
        DecodeError: The file cannot give these frames, or ends before the range does ("no frames").
    """
    times: list[float] = []
    with av.open(str(target), "w", format="mp4", options={"movflags": "faststart"}) as container:
        options = {"crf": str(CRF), "preset": PRESET, "x264-params": "mbtree=0"}  # mbtree: bytes vary by run
        stream = container.add_stream("libx264", rate=25, options=options)
        context = stream.codec_context
        context.time_base, context.thread_count = Fraction(1, _TICKS), 1
        context.colorspace, context.color_range = _BT601, _LIMITED
        converter = VideoReformatter()
        for seconds, picture in play(path, start=span[0], end=span[1]):
            if not times:
                stream.height, stream.width = picture.shape[:2]
                # Chroma at half size needs even sides, and boxes are in pixels, so an odd picture stays odd.
                stream.pix_fmt = "yuv444p" if any(side % 2 for side in picture.shape[:2]) else "yuv420p"
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame = converter.reformat(frame, format=stream.pix_fmt, threads=1)
            times.append(seconds)
            frame.pts, frame.time_base = round((seconds - times[0]) * _TICKS), context.time_base
            container.mux(stream.encode(frame))
        if not times:
            raise DecodeError("no frames", path, f"nothing from {span[0] or 0:.2f} s on")
        container.mux(stream.encode())
    step = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 0.0
    if span[1] is not None and times[-1] + step < span[1] - _END_TOLERANCE_S:
        raise DecodeError("no frames", path, f"ends at {times[-1] + step:.2f} s, the clip at {span[1]:.2f} s")
    made = check(target)
    if made.frames != len(times):
        raise DecodeError("damaged", target, f"{made.frames} frames were written of {len(times)}")
    with target.open("rb") as file:
        os.fsync(file.fileno())
    return made


class Checker:
    """A process that checks and cuts one file at a time, so that a file that crashes or hangs it costs nothing else."""

    def __init__(self) -> None:
        self._worker: Worker | None = None

    def run(self, path: Path, span: Range | None, target: Path | None, stop: threading.Event) -> CheckedVideo:
        """`check(path)`, or `cut(path, span, target)` if there is a range, within the file's deadline.

        Raises:
            DecodeError: As they do; also "deadline" and "crash".
            OSError: The disk refuses.
            Stopped: `stop` was set.
        """
        if self._worker is None:
            # Spawned: a forked one would inherit threads and an open progress bar. Not tied: any thread may end first.
            self._worker = Worker(_check_or_cut, "spawn", tied=False)
        worker = self._worker
        worker.give(0, (path, span, target))
        while not (results := worker.take()):
            if stop.is_set():
                raise Stopped
            late = worker.clock.left_s < 0
            if late or not worker.alive:
                self.close()
                raise (
                    DecodeError("deadline", path, f"{deadline_of(path):.0f} s") if late else DecodeError("crash", path)
                )
            wait_for([worker], min(_POLL_S, worker.clock.left_s))
        return results[0][1]

    def close(self) -> None:
        """End the process, whatever it is doing; the next file gets another one."""
        if self._worker is not None:
            self._worker.stop()
            self._worker = None


def _check_or_cut(job: tuple[Path, Range | None, Path | None], clock: Clock) -> CheckedVideo:
    path, span, target = job
    clock.begin(0, deadline_of(path))
    try:
        if span is None or target is None:
            return check(path)
        return cut(path, span, target)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(target)) from error
