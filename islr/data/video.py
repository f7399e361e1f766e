"""The decode contract: exact frames of a video file, upright, as uint8 RGB, or a typed error.

Whatever the backend, frame i is the i-th frame that plays (edit lists honoured, rotation and mirroring
applied), counted by decoding and never taken from a header. A file that cannot give exactly the frames asked
for raises `DecodeError`; it never gives others in their place. Damage is what the decoder reports: ten
flipped bytes are noticed, but one flipped bit can decode to another valid picture, which no decoder can tell.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter

from islr.data.guard import MAX_FRAME_PIXELS, DecodeError, check_output, check_path
from islr.errors import UserError

__all__ = ["BACKENDS", "DecodeError", "VideoInfo", "decode", "measure", "play", "probe_video", "shrink"]

FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,swf,ogg,asf"
_OPEN = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
_SEEK_FROM_S = 4.0  # for a later start, jumping to a key frame is cheaper than decoding up to it
_SAME_TIME_S = 1e-4  # containers round times to microseconds or to 1/90000 s
# H.264 lets a frame depend on up to 16 frames that play after it; damage there spoils it without marking it.
_LOOK_AHEAD = 16
_SKETCH = 8  # side of the grey thumbnails that backends are compared by
_SKETCH_TOLERANCE = 3.0  # grey levels; builds of the colour conversion differ by about one


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
    """Decode a file once and say what it holds; `frames` counts those in `[start, end)` seconds.

    Raises:
        DecodeError: The file cannot be decoded from its first frame to its last.
    """
    info, counts = measure(path, ((start, end),), root)
    return info if start is None and end is None else replace(info, frames=counts[0])


def measure(
    path: str | Path, ranges: Sequence[tuple[float | None, float | None]] = (), root: str | Path | None = None
) -> tuple[VideoInfo, tuple[int, ...]]:
    """One checked decode of a whole file: what it holds, and how many of its frames each time range has.

    Raises:
        DecodeError: The file cannot be decoded from its first frame to its last.
    """
    path = check_path(path, root)
    found: list[float] = []
    size: tuple[int, int] | None = None
    with _Reader(path) as reader:
        for time, frame in reader.frames():
            size = size or reader.upright_size(frame)
            found.append(time)
        fallback = reader.header_fps
    if size is None:
        raise DecodeError("no frames", path)
    times = np.array(found)
    fps = (len(times) - 1) / float(times[-1]) if times[-1] > 0 else fallback
    counts = tuple(int(_inside(times, start, end).sum()) for start, end in ranges)
    return VideoInfo(len(times), fps, *size), counts


def _inside(times: np.ndarray, start: float | None, end: float | None) -> np.ndarray:
    late_enough = times >= (-np.inf if start is None else start - _SAME_TIME_S)
    return late_enough & (times < (np.inf if end is None else end - _SAME_TIME_S))


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
    """Frames of a file.

    Args:
        path: The file.
        indices: Frame numbers within the range, in any order, repeats allowed; None = all.
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
    wanted, places = None, None
    if indices is not None:
        wanted, places = np.unique(np.asarray(indices, dtype=np.int64), return_inverse=True)
        if len(wanted) == 0:
            raise DecodeError("index", path, "no frame was asked for")
        if wanted[0] < 0:
            raise DecodeError("index", path, f"frame {wanted[0]}")
    frames = BACKENDS[backend](path, wanted, start, end, short_side)
    if places is None or np.array_equal(places, np.arange(len(frames))):
        return frames
    check_output(path, len(places) * frames[0].nbytes)
    return frames[places]


def play(
    path: str | Path, *, start: float | None = None, end: float | None = None, root: str | Path | None = None
) -> Iterator[tuple[float, np.ndarray]]:
    """Frames of a time range one at a time, however long it is: seconds from the file's first frame, picture.

    Yields:
        The time and the uint8 `[H, W, 3]` picture, RGB, upright, of each frame with start <= time < end.

    Raises:
        DecodeError: The file cannot give exactly those frames.
    """
    with _Reader(check_path(path, root)) as reader:
        for time, frame in reader.frames(start, end):
            yield time, reader.picture(frame, None)


class _Reader:
    """One open file of PyAV: its frames in playing order, each with its time from the first frame."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # Real files carry titles in old encodings; by default these stop PyAV from opening the file.
            self.container = av.open(str(path), options=_OPEN, metadata_errors="replace")
        except (av.error.FFmpegError, ValueError, OSError) as error:
            raise DecodeError("not a video", path, _reason(error)) from None
        if not self.container.streams.video:
            self.container.close()
            raise DecodeError("no video stream", path)
        self.stream = self.container.streams.video[0]
        # Callers run one process per core; more threads here would only make them wait for each other.
        self.stream.codec_context.thread_count = 1
        width, height = self.stream.codec_context.width, self.stream.codec_context.height
        if width * height > MAX_FRAME_PIXELS:
            self.container.close()
            raise DecodeError("too large", path, f"{width}x{height} pixels")
        self.header_fps = float(self.stream.average_rate or self.stream.guessed_rate or 0.0)
        self._converter = VideoReformatter()
        self._size: tuple[int, int] | None = None
        self._turn: tuple[int, bool] = (0, False)

    def __enter__(self) -> "_Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.container.close()

    def frames(
        self, start: float | None = None, end: float | None = None, count: int | None = None
    ) -> Iterator[tuple[float, Any]]:
        """(time, frame) of the frames with start <= time < end, at most `count`, each checked."""
        frames = self._decoded()
        head = next(frames, None)
        if head is None:
            return
        first = head[0]
        self._turn = _turn_of(head[1])
        far = start is not None and start > _SEEK_FROM_S
        frames = self._jump(first + start) if far and start else itertools.chain([head], frames)
        given = 0
        for time, frame in frames:
            if (end is not None and time - first >= end - _SAME_TIME_S) or given == count:
                self._look_ahead(frame, frames)
                return
            self._check(frame)
            if start is None or time - first >= start - _SAME_TIME_S:
                given += 1
                yield time - first, frame

    def upright_size(self, frame: Any) -> tuple[int, int]:
        """Width and height of a frame once it is turned upright."""
        return (frame.height, frame.width) if self._turn[0] % 2 else (frame.width, frame.height)

    def picture(self, frame: Any, short_side: int | None) -> np.ndarray:
        """uint8 `[H, W, 3]` of a frame, upright and shrunk."""
        quarters, mirrored = self._turn
        # One converter per file, on one thread: the default starts a pool of threads for every frame, and
        # what several threads compute is not always the same.
        picture = self._converter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        if quarters:
            picture = np.rot90(picture, -quarters)
        if mirrored:
            picture = picture[:, ::-1]
        return shrink(np.ascontiguousarray(picture), short_side)

    def _jump(self, time: float) -> Iterator[tuple[float, Any]]:
        """Frames from a key frame at or before `time` on; from the file's first where that fails."""
        assert self.stream.time_base is not None
        try:
            self.container.seek(int(time / self.stream.time_base), stream=self.stream, backward=True)
            frames = self._decoded()
            # Frames that play before the key frame may lean on frames that were jumped over.
            for first, frame in frames:
                if frame.key_frame and first <= time + _SAME_TIME_S:
                    yield first, frame
                    yield from frames
                    return
                if first > time:
                    break
        except (av.error.FFmpegError, DecodeError):
            pass
        self.container.seek(0, stream=self.stream, backward=True)
        yield from self._decoded()

    def _decoded(self) -> Iterator[tuple[float, Any]]:
        rate = self.header_fps or 25.0
        count = 0
        try:
            for packet in self.container.demux(self.stream):
                if packet.is_corrupt:
                    raise DecodeError("truncated", self.path, "a packet is cut short")
                for frame in packet.decode():
                    # Some avi files carry no times; their frames are evenly spaced.
                    yield (float(frame.time) if frame.time is not None else count / rate), frame
                    count += 1
        except (av.error.FFmpegError, OSError) as error:
            raise DecodeError("damaged", self.path, _reason(error)) from None

    def _check(self, frame: Any) -> None:
        if frame.is_corrupt:
            raise DecodeError("damaged", self.path, f"the frame at {frame.time} s decodes with errors")
        size = (frame.width, frame.height)
        self._size = self._size or size
        if size != self._size:
            raise DecodeError("size changes", self.path, f"{self._size} then {size}")

    def _look_ahead(self, frame: Any, frames: Iterator[tuple[float, Any]]) -> None:
        """Check the frames that those already given may depend on."""
        for _ in range(_LOOK_AHEAD):
            if frame.is_corrupt:
                raise DecodeError("damaged", self.path, f"the frame at {frame.time} s decodes with errors")
            step = next(frames, None)
            if step is None:
                return
            frame = step[1]


def _decode_pyav(
    path: Path, wanted: np.ndarray | None, start: float | None, end: float | None, short_side: int | None
) -> np.ndarray:
    pictures: list[np.ndarray] = []
    seen = 0
    with _Reader(path) as reader:
        for _, frame in reader.frames(start, end, None if wanted is None else int(wanted[-1]) + 1):
            if wanted is None or seen == wanted[len(pictures)]:
                pictures.append(reader.picture(frame, short_side))
                check_output(path, len(pictures) * pictures[0].nbytes)
            seen += 1
    if seen == 0:
        raise DecodeError("no frames", path)
    if wanted is not None and len(pictures) < len(wanted):
        raise DecodeError("index", path, f"frame {wanted[len(pictures)]} of {seen}")
    return np.stack(pictures)


@lru_cache(maxsize=4096)
def _sketches(path: Path, size: int, mtime_ns: int) -> tuple[np.ndarray, np.ndarray]:
    """Seconds from the first frame `[T]` and grey thumbnails `[T, 8, 8]`, from one checked decode."""
    with _Reader(path) as reader:
        found = [(time, _sketch(reader.picture(frame, None))) for time, frame in reader.frames()]
    if not found:
        raise DecodeError("no frames", path)
    return np.array([time for time, _ in found]), np.stack([thumbnail for _, thumbnail in found])


def _sketch(picture: np.ndarray) -> np.ndarray:
    thumbnail = cv2.resize(picture, (_SKETCH, _SKETCH), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(thumbnail, cv2.COLOR_RGB2GRAY)


def _decode_decord(
    path: Path, wanted: np.ndarray | None, start: float | None, end: float | None, short_side: int | None
) -> np.ndarray:
    try:
        import decord
    except ImportError:
        raise UserError("backend decord is not installed; `pip install decord` or use backend pyav") from None
    # decord counts frames by the header, replaces damaged ones by their neighbours and loses the first
    # pictures of some streams, all without an error. So a file is decoded once with checks, and each frame is
    # held against that.
    status = path.stat()
    times, sketches = _sketches(path, status.st_size, status.st_mtime_ns)
    rows = np.flatnonzero(_inside(times, start, end))
    if len(rows) == 0:
        raise DecodeError("no frames", path)
    if wanted is not None:
        if wanted[-1] >= len(rows):
            raise DecodeError("index", path, f"frame {wanted[wanted >= len(rows)][0]} of {len(rows)}")
        rows = rows[wanted]
    pictures: list[np.ndarray] = []
    try:
        reader = decord.VideoReader(str(path), num_threads=1)
        for row in rows:
            picture = reader[int(row)].asnumpy()
            difference = np.abs(_sketch(picture).astype(np.int16) - sketches[row]).max()
            if difference > _SKETCH_TOLERANCE:
                raise DecodeError("backend disagrees", path, f"decord gives another picture for frame {row}")
            pictures.append(shrink(picture, short_side))
            check_output(path, len(pictures) * pictures[0].nbytes)
    except (decord.DECORDError, RuntimeError, IndexError) as error:
        raise DecodeError("backend disagrees", path, _reason(error)) from None
    return np.stack(pictures)


Backend = Callable[[Path, np.ndarray | None, float | None, float | None, int | None], np.ndarray]
BACKENDS: dict[str, Backend] = {"pyav": _decode_pyav, "decord": _decode_decord}


def shrink(picture: np.ndarray, short_side: int | None) -> np.ndarray:
    """Shrink uint8 `[H, W, 3]` by area averaging until its shorter side is `short_side`; never enlarge."""
    height, width = picture.shape[:2]
    if short_side is None or min(height, width) <= short_side:
        return picture
    scale = short_side / min(height, width)
    size = (max(short_side, round(width * scale)), max(short_side, round(height * scale)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _turn_of(frame: Any) -> tuple[int, bool]:
    """Clockwise quarter turns that make a frame upright, and whether it is then mirrored left to right.

    The display matrix maps a stored point (x, y), y down, to (a x + c y, b x + d y). It is read here because
    the decoder's own angle says nothing of mirroring, and a mirrored signer changes hands.
    """
    if not frame.rotation and "DISPLAYMATRIX" not in {item.type.name for item in frame.side_data}:
        return 0, False
    matrix = next(item for item in frame.side_data if item.type.name == "DISPLAYMATRIX")
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].astype(np.float64)
    mirrored = a * d - b * c < 0
    return round(float(np.degrees(np.arctan2(b, -a if mirrored else a))) / 90) % 4, mirrored


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def decord_unchecked(path: str | Path, indices: np.ndarray) -> np.ndarray:
    """Frames as decord gives them, right or wrong: the peer that our reading is timed beside, never a backend.

    Raises:
        UserError: decord is not installed.
    """
    try:
        import decord
    except ImportError:
        raise UserError("decord is not installed; `pip install decord`") from None
    return decord.VideoReader(str(path), num_threads=1).get_batch(indices).asnumpy()
