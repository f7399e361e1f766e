"""The decode contract: exact frames of a video file, upright, as uint8 RGB, or a typed error.

Whatever the backend, frame i is the i-th frame that plays (edit lists honoured, rotation and mirroring applied),
counted by decoding and never taken from a header. A file that cannot give exactly the requested frames raises
`DecodeError`; no other frames take their place. Damage is what the decoder reports: it notices ten flipped bytes, but
one flipped bit can decode to another valid picture, which no decoder can tell.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from islr.data.video.backends import BACKENDS
from islr.data.video.guard import DecodeError, check_output, check_path
from islr.data.video.reader import MAX_RATE, Reader, inside, shrink
from islr.errors import UserError

__all__ = ["BACKENDS", "DecodeError", "VideoInfo", "decode", "measure", "play", "probe_video", "shrink"]


@dataclass(frozen=True)
class VideoInfo:
    """Measured by decoding: frames in the file or range, mean frames per second, upright width and height."""

    frames: int
    fps: float
    width: int
    height: int


def probe_video(
    path: str | Path, root: str | Path | None = None, *, start: float | None = None, end: float | None = None
) -> VideoInfo:
    """Measure a file by decoding it once; `frames` counts those in `[start, end)` seconds.

    Raises:
        DecodeError: The file cannot be decoded from its first frame to its last.
    """
    info, spans = measure(path, ((start, end),), root)
    return info if start is None and end is None else replace(info, frames=spans[0][1])


def measure(
    path: str | Path, ranges: Sequence[tuple[float | None, float | None]] = (), root: str | Path | None = None
) -> tuple[VideoInfo, tuple[tuple[int, int], ...]]:
    """Measure a whole file by one checked decode; also return the first frame of each time range and their number.

    Raises:
        DecodeError: The file cannot be decoded from its first frame to its last.
    """
    path = check_path(path, root)
    seconds: list[float] = []
    size: tuple[int, int] | None = None
    with Reader(path) as reader:
        for time, frame in reader.frames():
            size = size or reader.upright_size(frame)
            seconds.append(time)
        fallback = reader.header_fps
    if size is None:
        raise DecodeError("no frames", path)
    times = np.array(seconds)
    fps = (len(times) - 1) / float(times[-1]) if times[-1] > 0 else fallback
    if fps > MAX_RATE:
        raise DecodeError("times", path, f"{len(times)} frames within {times[-1]:.6f} s")
    masks = [inside(times, start, end) for start, end in ranges]
    return VideoInfo(len(times), fps, *size), tuple((int(mask.argmax()), int(mask.sum())) for mask in masks)


def decode(
    path: str | Path,
    indices: np.ndarray | None = None,
    *,
    start: float | None = None,
    end: float | None = None,
    backend: str = "pyav",
    root: str | Path | None = None,
    short_side: int | None = None,
) -> np.ndarray:
    """Decode frames of a file.

    Args:
        path: The file.
        indices: Frame numbers within the range, in any order, with repeats; None = all.
        start, end: Seconds from the file's first frame; frames with start <= time < end are the range.
        backend: A name in `BACKENDS`.
        root: If given, the file must be inside this folder.
        short_side: Shrink frames so that their shorter side has this many pixels (smaller frames stay).

    Returns:
        uint8 `[n, H, W, 3]`, RGB, upright.

    Raises:
        DecodeError: The file cannot give exactly those frames.
        UserError: The backend is unknown or not installed.
    """
    if backend not in BACKENDS:
        raise UserError(f"unknown video backend '{backend}'; known: {', '.join(BACKENDS)}")
    path = check_path(path, root)
    requested, places = None, None
    if indices is not None:
        requested, places = np.unique(np.asarray(indices, dtype=np.int64), return_inverse=True)
        if len(requested) == 0:
            raise DecodeError("index", path, "no frame is requested")
        if requested[0] < 0:
            raise DecodeError("index", path, f"frame {requested[0]}")
    frames = BACKENDS[backend](path, requested, start, end, short_side)
    if places is None or np.array_equal(places, np.arange(len(frames))):
        return frames
    check_output(path, len(places) * frames[0].nbytes)
    return frames[places]


def play(
    path: str | Path, *, start: float | None = None, end: float | None = None, root: str | Path | None = None
) -> Iterator[tuple[float, np.ndarray]]:
    """Decode the frames of a time range one at a time, however long the range is.

    Yields:
        Seconds from the file's first frame and the uint8 `[H, W, 3]` picture, RGB, upright, of each frame with
        start <= time < end.

    Raises:
        DecodeError: The file cannot give exactly those frames.
    """
    with Reader(check_path(path, root)) as reader:
        for time, frame in reader.frames(start, end):
            yield time, reader.picture(frame, None)
