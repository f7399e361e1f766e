"""`python tests/support/decode_soak.py [BACKEND]`: memory, open files and threads over 2,000 decodes of mixed files.

Growth is between the means of the first and the last quarter, because single readings go up and down with the
size of the file that was decoded last.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from islr.data.video.decode import DecodeError, decode
from support.fault_table import ENABLED
from support.video_files import (
    make_audio_only,
    make_bad_title,
    make_flipped,
    make_hls,
    make_rotated,
    make_trimmed,
    make_video,
    make_zeroed,
)

DECODES, WARM_UP = 2000, 100


def _files(folder: Path) -> list[Path]:
    shapes = [("a.mp4", (320, 240)), ("b.mp4", (640, 360)), ("c.webm", (322, 242)), ("d.avi", (288, 192))]
    codecs = {".mp4": "libx264", ".webm": "libvpx-vp9", ".avi": "mpeg4"}
    files = [make_video(folder / name, 60, size=size, codec=codecs[Path(name).suffix]) for name, size in shapes]
    for make in (make_audio_only, make_bad_title, make_flipped, make_rotated, make_trimmed, make_zeroed):
        files.append(make(folder / f"{make.__name__}.mp4"))
    return [*files, make_hls(folder / "hls.mp4", files[0])]


def _state() -> tuple[float, int, int]:
    """Resident MiB, open files, threads."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return (
        pages * os.sysconf("SC_PAGESIZE") / 2**20,
        len(os.listdir("/proc/self/fd")),
        len(os.listdir("/proc/self/task")),
    )


def soak(backend: str) -> None:
    """Decode, and print one line."""
    rng, began, failed = np.random.default_rng(0), time.monotonic(), 0
    states = []
    with tempfile.TemporaryDirectory() as folder:
        files = _files(Path(folder))
        for number in range(-WARM_UP, DECODES):
            try:
                decode(files[number % len(files)], np.sort(rng.integers(0, 30, 16)), backend=backend)
            except DecodeError:
                failed += 1
            if number >= 0:
                states.append(_state())
    memory, descriptors, threads = (np.array(column) for column in zip(*states, strict=True))
    quarter = DECODES // 4
    growth = memory[-quarter:].mean() - memory[:quarter].mean()
    print(
        f"{backend}: {DECODES} decodes ({failed} refused) in {time.monotonic() - began:.0f} s; memory "
        f"{memory[:quarter].mean():.0f} -> {memory[-quarter:].mean():.0f} MiB ({growth:+.1f}; {memory.min():.0f} to "
        f"{memory.max():.0f}), open files {min(descriptors)} to {max(descriptors)}, threads {min(threads)} to "
        f"{max(threads)}",
        flush=True,
    )


if __name__ == "__main__":
    for name in sys.argv[1:] or ENABLED:
        soak(name)
