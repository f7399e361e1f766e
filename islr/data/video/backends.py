"""The decoders that a configuration can choose, all under the contract of `islr.data.video.decode`.

decord and torchcodec return damaged frames without an error, and decord also returns the wrong frames. So PyAV decodes
each of their files once, with checks, and every frame they return is compared with PyAV's by a thumbnail.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from islr.data.video.guard import DecodeError, check_output
from islr.data.video.reader import Reader, inside, reason, shrink
from islr.errors import UserError

# (file, sorted frame numbers within the range or None for all, start and end in seconds, shorter side in pixels).
Backend = Callable[[Path, np.ndarray | None, float | None, float | None, int | None], np.ndarray]

_THUMBNAIL = 8  # side of the grey thumbnails that backends are compared by
_TOLERANCE = 3.0  # grey levels; builds of the colour conversion differ by about one
_CACHE_BYTES = 16 * 2**20  # thumbnails per process: about 3,000 signs, or an hour of long videos

_INSTALL_DECORD = "`pip install decord` (`decord2` where decord has no wheel)"

_cache: dict[tuple[Path, int, int], tuple[np.ndarray, np.ndarray]] = {}  # the least recently used first


def _decode_pyav(
    path: Path, requested: np.ndarray | None, start: float | None, end: float | None, short_side: int | None
) -> np.ndarray:
    pictures: list[np.ndarray] = []
    played = 0
    with Reader(path) as reader:
        for _, frame in reader.frames(start, end, None if requested is None else int(requested[-1]) + 1):
            if requested is None or played == requested[len(pictures)]:
                pictures.append(reader.picture(frame, short_side))
                check_output(path, len(pictures) * pictures[0].nbytes)
            played += 1
    if played == 0:
        raise DecodeError("no frames", path)
    if requested is not None and len(pictures) < len(requested):
        raise DecodeError("index", path, f"frame {requested[len(pictures)]} of {played}")
    return np.stack(pictures)


def _decode_decord(
    path: Path, requested: np.ndarray | None, start: float | None, end: float | None, short_side: int | None
) -> np.ndarray:
    try:
        import decord
    except ImportError:
        raise UserError(f"backend decord is not installed; {_INSTALL_DECORD} or use backend pyav") from None

    def pictures(rows: Sequence[int]) -> Iterator[np.ndarray]:
        try:
            reader = decord.VideoReader(str(path), num_threads=1)
            for row in rows:
                yield reader[row].asnumpy()
        except (decord.DECORDError, RuntimeError, IndexError) as error:
            raise DecodeError("backend disagrees", path, reason(error)) from None

    return _compared_with_pyav("decord", pictures, path, requested, start, end, short_side)


def _decode_torchcodec(
    path: Path, requested: np.ndarray | None, start: float | None, end: float | None, short_side: int | None
) -> np.ndarray:
    try:
        from torchcodec.decoders import VideoDecoder
    except ImportError:
        raise UserError("backend torchcodec is not installed; `pip install torchcodec` or use backend pyav") from None
    except (RuntimeError, OSError):
        raise _no_ffmpeg() from None

    def pictures(rows: Sequence[int]) -> Iterator[np.ndarray]:
        try:
            # "exact" scans the file first; "approximate" trusts the header, which is wrong for variable frame rates.
            decoder: Any = VideoDecoder(
                str(path), seek_mode="exact", dimension_order="NHWC", num_ffmpeg_threads=1, device="cpu"
            )
            for row in rows:
                yield decoder.get_frame_at(row).data.numpy()
        except (RuntimeError, ValueError, IndexError) as error:
            if "load libtorchcodec" in str(error):
                raise _no_ffmpeg() from None
            raise DecodeError("backend disagrees", path, reason(error)) from None

    return _compared_with_pyav("torchcodec", pictures, path, requested, start, end, short_side)


BACKENDS: dict[str, Backend] = {"pyav": _decode_pyav, "decord": _decode_decord, "torchcodec": _decode_torchcodec}
# Distributions that provide each backend; the version of the installed one is recorded.
BACKEND_PACKAGES = {"pyav": ("av",), "decord": ("decord", "decord2"), "torchcodec": ("torchcodec",)}


def _no_ffmpeg() -> UserError:
    return UserError(
        "backend torchcodec finds no FFmpeg libraries on this machine; install them (`apt-get install ffmpeg` or "
        "`conda install ffmpeg`) or use backend pyav"
    )


def _compared_with_pyav(
    name: str,
    pictures_of: Callable[[Sequence[int]], Iterator[np.ndarray]],
    path: Path,
    requested: np.ndarray | None,
    start: float | None,
    end: float | None,
    short_side: int | None,
) -> np.ndarray:
    """Return another decoder's pictures of a range's frames, each compared with the checked decode."""
    times, thumbnails = _thumbnails(path)
    rows = np.flatnonzero(inside(times, start, end))
    if len(rows) == 0:
        raise DecodeError("no frames", path)
    if requested is not None:
        if requested[-1] >= len(rows):
            raise DecodeError("index", path, f"frame {requested[requested >= len(rows)][0]} of {len(rows)}")
        rows = rows[requested]
    pictures: list[np.ndarray] = []
    for row, picture in zip(rows, pictures_of(rows.tolist()), strict=True):
        difference = np.abs(_thumbnail(picture).astype(np.int16) - thumbnails[row]).max()
        if difference > _TOLERANCE:
            raise DecodeError("backend disagrees", path, f"{name} gives another picture for frame {row}")
        pictures.append(shrink(picture, short_side))
        check_output(path, len(pictures) * pictures[0].nbytes)
    return np.stack(pictures)


def _thumbnails(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return seconds from the first frame `[T]` and grey thumbnails `[T, 8, 8]`, from one checked decode."""
    status = path.stat()
    key = (path, status.st_size, status.st_mtime_ns)
    if key in _cache:
        _cache[key] = _cache.pop(key)
        return _cache[key]
    with Reader(path) as reader:
        frames = [(time, _thumbnail(reader.picture(frame, None))) for time, frame in reader.frames()]
    if not frames:
        raise DecodeError("no frames", path)
    _cache[key] = np.array([time for time, _ in frames]), np.stack([thumbnail for _, thumbnail in frames])
    while (
        len(_cache) > 1
        and sum(times.nbytes + thumbnails.nbytes for times, thumbnails in _cache.values()) > _CACHE_BYTES
    ):
        del _cache[next(iter(_cache))]
    return _cache[key]


def _thumbnail(picture: np.ndarray) -> np.ndarray:
    thumbnail = cv2.resize(picture, (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(thumbnail, cv2.COLOR_RGB2GRAY)


def decord_unchecked(path: str | Path, indices: np.ndarray) -> np.ndarray:
    """Return frames as decord gives them, right or wrong: for timing only, never a backend.

    Raises:
        UserError: decord is not installed.
    """
    try:
        import decord
    except ImportError:
        raise UserError(f"decord is not installed; {_INSTALL_DECORD}") from None
    return decord.VideoReader(str(path), num_threads=1).get_batch(indices).asnumpy()
