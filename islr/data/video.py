"""The decode contract: exact frames of a video file, upright, as uint8 RGB, or a typed error.

Whatever the backend, frame i is the i-th frame that plays (edit lists honoured, rotation and mirroring applied),
counted by decoding and never taken from a header. A file that cannot give exactly the frames asked for raises
`DecodeError`; it never gives others in their place.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from islr.errors import UserError

MAX_FRAME_PIXELS = 7680 * 4320  # 8K; anything larger is a broken header
MAX_FILE_BYTES = 64 * 2**30  # hours of high-definition video
MAX_OUTPUT_BYTES = 4 * 2**30  # one call's frames must fit in memory
# Containers that hold video. Playlists (ffconcat, HLS, DASH) would make a text file read other files or the network.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,swf,ogg,asf"
_OPEN = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
_SEEK_FROM_S = 4.0  # for a later start, jumping to a key frame is cheaper than decoding up to it
_SAME_TIME_S = 1e-4  # time bases of containers round to microseconds or 1/90000 s


class DecodeError(ValueError):
    """A video file cannot give the frames asked for.

    Attributes:
        kind: What is wrong, in a few fixed words (`KINDS`).
        path: The file.
    """

    def __init__(self, kind: str, path: str | Path, detail: str = "") -> None:
        super().__init__(kind, str(path), detail)
        self.kind, self.path, self.detail = kind, str(path), detail

    def __str__(self) -> str:
        return f"{self.path}: {self.kind}" + (f" ({self.detail})" if self.detail else "")


# Everything that can be in `DecodeError.kind` when a file is opened and decoded.
KINDS = {
    "outside root": "the path, or what it links to, is not inside the data root",
    "missing": "no such file",
    "not a file": "a folder, a device or a pipe",
    "empty": "zero bytes",
    "too large": "more bytes, pixels or output than the caps",
    "not a video": "no container of the whitelist, or its index is missing",
    "no video stream": "sound or text only",
    "truncated": "the file ends before its content does",
    "damaged": "some frames cannot be decoded, or only with errors",
    "no frames": "nothing to decode, or nothing inside the time range",
    "size changes": "the picture size changes inside the clip",
    "index": "a frame index is not inside the clip",
    "backend disagrees": "the backend's frames are not the file's frames",
}


@dataclass(frozen=True)
class VideoInfo:
    """Measured by decoding: frames in the file (or range), mean frames per second, upright width and height."""

    frames: int
    fps: float
    width: int
    height: int


def probe_video(
    path: str | Path, root: str | Path | None = None, *, start: float | None = None, end: float | None = None
) -> VideoInfo:
    """Decode a file (or its range `[start, end)`, in seconds) once and say what it holds.

    Raises:
        DecodeError: The file cannot be decoded from its first frame to its last.
    """
    path = check_path(path, root)
    times: list[float] = []
    size: tuple[int, int] | None = None
    with _Reader(path) as reader:
        for time, frame in reader.frames(start, end):
            size = size or reader.upright_size(frame)
            times.append(time)
        fallback = reader.header_fps
    if size is None:
        raise DecodeError("no frames", path)
    span = times[-1] - times[0]
    return VideoInfo(len(times), (len(times) - 1) / span if span > 0 else fallback, *size)


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
    return frames if places is None else frames[places]


def check_path(path: str | Path, root: str | Path | None) -> Path:
    """The resolved path of a plain, non-empty file inside `root`.

    Raises:
        DecodeError: It is not one.
    """
    text = str(path)
    if "\0" in text or "\n" in text:
        raise DecodeError("outside root", repr(text))
    resolved = Path(text).resolve()
    if root is not None and not resolved.is_relative_to(Path(root).resolve()):
        raise DecodeError("outside root", path, f"root is {root}")
    try:
        size = resolved.stat().st_size
    except OSError as error:
        raise DecodeError("missing", path, error.strerror or "") from None
    if not resolved.is_file():
        raise DecodeError("not a file", path)
    if size == 0:
        raise DecodeError("empty", path)
    if size > MAX_FILE_BYTES:
        raise DecodeError("too large", path, f"{size} bytes")
    return resolved


class _Reader:
    """One open file of PyAV: its frames in playing order, each with its time from the first frame."""

    def __init__(self, path: Path) -> None:
        self.path = path
        _check_whole(path)
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
        self._size: tuple[int, int] | None = None

    def __enter__(self) -> "_Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.container.close()

    def frames(self, start: float | None = None, end: float | None = None) -> Iterator[tuple[float, Any]]:
        """(time, frame) of every frame with start <= time < end, each checked."""
        first: float | None = None
        jumped = False
        frames = self._decoded()
        while True:
            step = next(frames, None)
            if step is None:
                return
            time, frame = step
            if first is None:
                first = time
                if start is not None and start > _SEEK_FROM_S and not jumped:
                    jumped = True
                    frames = self._jump(first + start)
                    continue
            time -= first
            if end is not None and time >= end - _SAME_TIME_S:
                return
            if start is not None and time < start - _SAME_TIME_S:
                continue
            self._check(frame)
            yield time, frame

    def upright_size(self, frame: Any) -> tuple[int, int]:
        """Width and height of a frame once it is turned upright."""
        quarter, _ = _turn_of(frame)
        return (frame.height, frame.width) if quarter % 2 else (frame.width, frame.height)

    def picture(self, frame: Any, short_side: int | None) -> np.ndarray:
        """uint8 `[H, W, 3]` of a frame, upright and shrunk."""
        quarter, mirrored = _turn_of(frame)
        picture = frame.to_ndarray(format="rgb24")
        if mirrored:
            picture = picture[:, ::-1]
        return shrink(np.rot90(picture, quarter) if quarter else picture, short_side)

    def _jump(self, time: float) -> Iterator[tuple[float, Any]]:
        """Decode again from a key frame at or before `time`; from the beginning where that is not possible."""
        try:
            self.container.seek(int(time / self.stream.time_base), stream=self.stream, backward=True)
            frames = self._decoded()
            found = next(frames, None)
        except (av.error.FFmpegError, DecodeError):
            found = None
        if found is not None and found[0] <= time + _SAME_TIME_S:
            yield found
            yield from frames
            return
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
                    # Raw streams (some avi files) carry no times; then frames are evenly spaced.
                    yield (float(frame.time) if frame.time is not None else count / rate), frame
                    count += 1
        except (av.error.FFmpegError, OSError) as error:
            raise DecodeError("damaged", self.path, _reason(error)) from None

    def _check(self, frame: Any) -> None:
        if frame.is_corrupt:
            raise DecodeError("damaged", self.path, f"frame at {frame.time} s decodes with errors")
        size = (frame.width, frame.height)
        self._size = self._size or size
        if size != self._size:
            raise DecodeError("size changes", self.path, f"{self._size} then {size}")


def _decode_pyav(
    path: Path, wanted: np.ndarray | None, start: float | None, end: float | None, short_side: int | None
) -> np.ndarray:
    out: np.ndarray | None = None
    grown: list[np.ndarray] = []
    last = None if wanted is None else int(wanted[-1])
    filled, count = 0, 0
    with _Reader(path) as reader:
        for _, frame in reader.frames(start, end):
            if wanted is None or count == wanted[filled]:
                picture = reader.picture(frame, short_side)
                if wanted is None:
                    _check_output(path, (len(grown) + 1) * picture.nbytes)
                    grown.append(picture)
                else:
                    if out is None:
                        _check_output(path, len(wanted) * picture.nbytes)
                        out = np.empty((len(wanted), *picture.shape), np.uint8)
                    out[filled] = picture
                filled += 1
            count += 1
            if last is not None and count > last:
                break
    if count == 0:
        raise DecodeError("no frames", path)
    if wanted is None:
        return np.stack(grown)
    if filled < len(wanted):
        raise DecodeError("index", path, f"frame {wanted[filled]} of {count}")
    assert out is not None
    return out


@lru_cache(maxsize=4096)
def _frame_times(path: Path, size: int, mtime_ns: int) -> np.ndarray:
    """Seconds of every frame from the first, from one full and checked decode of the file."""
    with _Reader(path) as reader:
        return np.array([time for time, _ in reader.frames()])


def _decode_decord(
    path: Path, wanted: np.ndarray | None, start: float | None, end: float | None, short_side: int | None
) -> np.ndarray:
    try:
        import decord
    except ImportError:
        raise UserError("the decord backend is not installed; `pip install decord`, or use backend pyav") from None
    # decord replaces damaged frames by their neighbours and counts frames by the header, so the file is decoded once
    # with checks before its frames are trusted, and frames are found by their time.
    status = path.stat()
    times = _frame_times(path, status.st_size, status.st_mtime_ns)
    inside = np.ones(len(times), bool)
    if start is not None:
        inside &= times >= start - _SAME_TIME_S
    if end is not None:
        inside &= times < end - _SAME_TIME_S
    rows = np.flatnonzero(inside)
    if len(rows) == 0:
        raise DecodeError("no frames", path)
    if wanted is not None:
        if wanted[-1] >= len(rows):
            raise DecodeError("index", path, f"frame {wanted[wanted >= len(rows)][0]} of {len(rows)}")
        rows = rows[wanted]
    try:
        reader = decord.VideoReader(str(path), num_threads=1)
        _check_output(path, len(rows) * int(np.prod(reader[0].shape)) if short_side is None else 0)
        pictures = [shrink(reader[int(row)].asnumpy(), short_side) for row in rows]
    except (decord.DECORDError, RuntimeError) as error:
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
    """Counter-clockwise quarter turns that make a frame upright, and whether it is mirrored first."""
    return round(frame.rotation / 90) % 4, False


def _check_whole(path: Path) -> None:
    """Refuse an ISO media file (mp4, mov) whose last box reaches beyond the end of the file."""


def _check_output(path: Path, size: int) -> None:
    if size > MAX_OUTPUT_BYTES:
        raise DecodeError("too large", path, f"{size / 2**30:.1f} GiB of frames in one call")


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
