"""The checked decode: every frame of a file in playing order, with its time, upright, or a typed error.

This is what a file is measured by and what other decoders are held against. It reads with PyAV.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter

from islr.data.video.guard import MAX_FRAME_PIXELS, DecodeError

FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,swf,ogg,asf"
_OPEN = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
_SEEK_FROM_S = 4.0  # for a later start, jumping to a key frame is cheaper than decoding up to it
SAME_TIME_S = 1e-4  # containers round times to microseconds or to 1/90000 s
# H.264 lets a frame depend on up to 16 frames that play after it; damage there spoils it without marking it.
_LOOK_AHEAD = 16


class Reader:
    """One open file of PyAV: its frames in playing order, each with its time from the first frame."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # Real files carry titles in old encodings; by default these stop PyAV from opening the file.
            self.container = av.open(str(path), options=_OPEN, metadata_errors="replace")
        except (av.error.FFmpegError, ValueError, OSError) as error:
            raise DecodeError("not a video", path, reason(error)) from None
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

    def __enter__(self) -> "Reader":
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
            if (end is not None and time - first >= end - SAME_TIME_S) or given == count:
                self._look_ahead(frame, frames)
                return
            self._check(frame)
            if start is None or time - first >= start - SAME_TIME_S:
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
            raise DecodeError("damaged", self.path, reason(error)) from None

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
    # In PyAV a frame whose side data was looked at is part of a reference cycle, and its pixels stay in memory
    # until the garbage collector comes by. So they are read from a copy with hardly any pixels.
    copy: Any = VideoReformatter().reformat(frame, width=16, height=16, format="gray", threads=1)
    matrix = next((item for item in copy.side_data if item.type.name == "DISPLAYMATRIX"), None)
    if matrix is None:
        return 0, False
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].astype(np.float64)
    mirrored = a * d - b * c < 0
    return round(float(np.degrees(np.arctan2(b, -a if mirrored else a))) / 90) % 4, mirrored


def reason(error: Exception) -> str:
    """What a library says went wrong, on one line."""
    return " ".join(str(error).split())[:200]


def inside(times: np.ndarray, start: float | None, end: float | None) -> np.ndarray:
    """Which of the times `[T]`, in seconds, have start <= time < end: bool `[T]`."""
    late_enough = times >= (-np.inf if start is None else start - SAME_TIME_S)
    return late_enough & (times < (np.inf if end is None else end - SAME_TIME_S))
