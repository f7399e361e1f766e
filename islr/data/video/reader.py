"""The checked decode with PyAV: every frame of a file in playing order, with its time, upright, or a typed error.

Files are measured by it and other decoders are compared with it.
"""

import itertools
import math
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.stream import Disposition
from av.video.reformatter import VideoReformatter

from islr.data.video.guard import MAX_FRAME_PIXELS, DecodeError

FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,swf,ogg,asf"
_OPEN = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
_SEEK_FROM_S = 4.0  # for a later start, jumping to a key frame is cheaper than decoding up to it
SAME_TIME_S = 1e-4  # containers round times to microseconds or to 1/90000 s
# An H.264 frame may depend on up to 16 frames that play after it; their damage spoils it without marking it.
_LOOK_AHEAD = 16
MAX_RATE = 1000.0  # frames a second; faster cameras store slow motion at usual rates
_REORDERING = ("h264", "hevc")
_STILL = ("mjpeg", "png", "bmp", "gif", "webp", "tiff")  # codecs of covers


class Reader:
    """An open file of PyAV: its frames in playing order, each with its time from the first frame."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # Real files carry titles in old encodings, for which PyAV refuses to open the file by default.
            self.container = av.open(str(path), options=_OPEN, metadata_errors="replace")
        except (av.error.FFmpegError, ValueError, OSError) as error:
            raise DecodeError("not a video", path, reason(error)) from None
        try:
            self.stream = _film(self.container, path)
        except DecodeError:
            self.container.close()
            raise
        # Callers run one process per core; more threads would only compete with each other.
        self.stream.codec_context.thread_count = 1
        width, height = self.stream.codec_context.width, self.stream.codec_context.height
        if width * height > MAX_FRAME_PIXELS:
            self.container.close()
            raise DecodeError("too large", path, f"{width}x{height} pixels")
        header_fps = float(self.stream.average_rate or self.stream.guessed_rate or 0.0)
        self.header_fps = header_fps if header_fps <= MAX_RATE else 0.0  # 90,000 is a clock's rate, not a film's
        # avi stores the order of decoding; with reordered frames its times are not those of playing.
        self._reordered = self.container.format.name == "avi" and self.stream.codec_context.name in _REORDERING
        self._converter = VideoReformatter()
        self._size: tuple[int, int] | None = None
        self._turn: tuple[int, bool] = (0, False)

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.container.close()

    def frames(
        self, start: float | None = None, end: float | None = None, count: int | None = None
    ) -> Iterator[tuple[float, Any]]:
        """Yield (time, frame) of at most `count` frames with start <= time < end, each checked."""
        frames = self._decoded()
        head = next(frames, None)
        if head is None:
            return
        first = head[0]
        self._turn = _turn_of(head[1])
        far = start is not None and start > _SEEK_FROM_S and not self._reordered
        frames = self._jump(first + start) if far and start else itertools.chain([head], frames)
        given = 0
        for time, frame in frames:
            if (end is not None and time - first >= end - SAME_TIME_S) or given == count:
                self._look_ahead(frame, frames)
                return
            self._check(frame)
            if start is None or time - first >= start - SAME_TIME_S:
                given += 1
                yield time - first, frame

    def upright_size(self, frame: Any) -> tuple[int, int]:
        """Return width and height of the upright frame."""
        return (frame.height, frame.width) if self._turn[0] % 2 else (frame.width, frame.height)

    def picture(self, frame: Any, short_side: int | None) -> np.ndarray:
        """Convert a frame to uint8 `[H, W, 3]`, upright and shrunk."""
        quarters, mirrored = self._turn
        # One converter per file, on one thread: the default starts a thread pool for every frame, and the results of
        # several threads are not reproducible.
        picture = self._converter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        if quarters:
            picture = np.rot90(picture, -quarters)
        if mirrored:
            picture = picture[:, ::-1]
        return shrink(np.ascontiguousarray(picture), short_side)

    def _jump(self, time: float) -> Iterator[tuple[float, Any]]:
        """Yield frames from a key frame at or before `time` on; from the file's first where seeking fails."""
        assert self.stream.time_base is not None
        try:
            self.container.seek(int(time / self.stream.time_base), stream=self.stream, backward=True)
            frames = self._decoded()
            # Frames that play before the key frame may depend on skipped frames.
            for first, frame in frames:
                if frame.key_frame and first <= time + SAME_TIME_S:
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
        count, last = 0, -math.inf
        slots: deque[float] = deque()  # times of packets; the i-th frame that plays has the i-th
        try:
            for packet in self.container.demux(self.stream):
                if packet.is_corrupt:
                    raise DecodeError("truncated", self.path, "a packet is cut short")
                if self._reordered and packet.dts is not None and packet.size:
                    slots.append(float(packet.dts * packet.time_base))
                for frame in packet.decode():
                    # Some avi files carry no times; their frames are evenly spaced.
                    time = float(frame.time) if frame.time is not None else count / rate
                    time = slots.popleft() if slots else time
                    if time < last - SAME_TIME_S:
                        raise DecodeError(
                            "times", self.path, f"frame {count} at {time:.3f} s follows one at {last:.3f} s"
                        )
                    last = max(last, time)
                    yield time, frame
                    count += 1
        except (av.error.FFmpegError, OSError) as error:
            raise DecodeError("damaged", self.path, reason(error)) from None

    def _check(self, frame: Any) -> None:
        if frame.is_corrupt:
            raise DecodeError("damaged", self.path, f"the frame at {frame.time} s decodes with errors")
        size = (frame.width, frame.height)
        self._size = self._size or size
        if size != self._size:
            raise DecodeError("size changes", self.path, f"{self._size} then {size}")

    def _look_ahead(self, frame: Any, frames: Iterator[tuple[float, Any]]) -> None:
        """Check the frames that the returned frames may depend on."""
        for _ in range(_LOOK_AHEAD):
            if frame.is_corrupt:
                raise DecodeError("damaged", self.path, f"the frame at {frame.time} s decodes with errors")
            step = next(frames, None)
            if step is None:
                return
            frame = step[1]


def _film(container: Any, path: Path) -> Any:
    """Return the stream that is the film: never a cover picture, and the default one of several.

    Raises:
        DecodeError: There is none.
    """
    films = [s for s in container.streams.video if not _is_cover(s, container)]
    if not films:
        raise DecodeError("no video stream", path, "only a cover picture" if container.streams.video else "")
    return next((s for s in films if s.disposition & Disposition.default), films[0])


def _is_cover(stream: Any, container: Any) -> bool:
    """Return whether a stream is a picture that goes with the file; without its mark, a still beside other streams."""
    films = [other for other in container.streams.video if other.codec_context.name not in _STILL]
    # The header of some containers gives no number of frames, which is 0 here.
    alone = stream.frames == 1 and len(container.streams) > 1
    still = stream.codec_context.name in _STILL and (alone or (stream.frames <= 1 and bool(films)))
    return still or bool(stream.disposition & Disposition.attached_pic)


def shrink(picture: np.ndarray, short_side: int | None) -> np.ndarray:
    """Shrink uint8 `[H, W, 3]` by area averaging until its shorter side is `short_side`; never enlarge."""
    height, width = picture.shape[:2]
    if short_side is None or min(height, width) <= short_side:
        return picture
    scale = short_side / min(height, width)
    size = (max(short_side, round(width * scale)), max(short_side, round(height * scale)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _turn_of(frame: Any) -> tuple[int, bool]:
    """Return the clockwise quarter turns that make a frame upright, and whether it is then mirrored left to right.

    The display matrix maps a stored point (x, y), y down, to (a x + c y, b x + d y). The decoder's own angle ignores
    mirroring, and a mirrored signer changes hands.
    """
    # Reading side data puts a PyAV frame into a reference cycle, which keeps its pixels in memory until the next
    # garbage collection. So the matrix is read from a tiny copy.
    copy: Any = VideoReformatter().reformat(frame, width=16, height=16, format="gray", threads=1)
    matrix = next((item for item in copy.side_data if item.type.name == "DISPLAYMATRIX"), None)
    if matrix is None:
        return 0, False
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].astype(np.float64)
    mirrored = a * d - b * c < 0
    return round(float(np.degrees(np.arctan2(b, -a if mirrored else a))) / 90) % 4, mirrored


def reason(error: Exception) -> str:
    """Return a library's error message on one line."""
    return " ".join(str(error).split())[:200]


def inside(times: np.ndarray, start: float | None, end: float | None) -> np.ndarray:
    """Return which of the times `[T]`, in seconds, have start <= time < end: bool `[T]`."""
    late_enough = times >= (-np.inf if start is None else start - SAME_TIME_S)
    return late_enough & (times < (np.inf if end is None else end - SAME_TIME_S))
