"""Every video file and path that decoding has to survive, and what must come of it: exact frames or a typed error.

`python tests/support/fault_table.py` prints what each backend makes of each case. The tests run the same table.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np

from islr.data.video.decode import BACKENDS, DecodeError, decode
from islr.errors import UserError
from support.video_files import (
    FPS,
    FRAMES,
    make_audio_only,
    make_bad_title,
    make_cut,
    make_cut_between_frames,
    make_eight_k,
    make_flipped,
    make_hls,
    make_late_start,
    make_playlist,
    make_rotated,
    make_trimmed,
    make_video,
    make_wave,
    make_zeroed,
    numbers_of,
)


def _usable(backend: str) -> bool:
    """Whether a backend and the libraries it needs are installed."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            decode(make_video(Path(folder) / "one.mp4", 1), backend=backend)
        except UserError:
            return False
    return True


ENABLED = [backend for backend in BACKENDS if _usable(backend)]
_VARIED = np.cumsum(np.random.default_rng(0).choice([0.02, 0.04, 0.12], FRAMES)).tolist()


@dataclass(frozen=True)
class Case:
    """A file that is made, and what decoding it must give.

    Attributes:
        make: Writes what the case needs below a folder and returns the path to decode.
        expect: The frames' numbers, or the kind of the `DecodeError`.
        instead: Backend -> kind, where a backend may refuse what others decode.
        slow: Takes seconds.
    """

    make: Callable[[Path], Path]
    expect: list[int] | str
    instead: dict[str, str] = field(default_factory=dict)
    slow: bool = False

    def expected(self, backend: str) -> list[int] | str:
        """What this backend must give."""
        return self.instead.get(backend, self.expect)


def outcome(case: Case, folder: Path, backend: str) -> list[int] | str:
    """The frames' numbers or the error's kind that a backend gives, from a data root below `folder`."""
    root = folder / "root"
    root.mkdir(exist_ok=True)
    path = case.make(root)
    try:
        return numbers_of(decode(path, backend=backend, root=root, short_side=64 if case.slow else None))
    except DecodeError as error:
        return error.kind


def _written(data: bytes) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        (root / "clip.mp4").write_bytes(data)
        return root / "clip.mp4"

    return make


@cache
def _eight_k() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return make_eight_k(Path(folder) / "clip.mp4", 2).read_bytes()


def _named(name: str, **options: object) -> Callable[[Path], Path]:
    return lambda root: make_video(root / name, **options)  # type: ignore[arg-type]


def _folder(root: Path) -> Path:
    (root / "clip.mp4").mkdir(exist_ok=True)
    return root / "clip.mp4"


def _outside(root: Path) -> Path:
    return make_video(root.parent / "outside.mp4", 4)


def _link(root: Path) -> Path:
    (root / "link.mp4").unlink(missing_ok=True)
    (root / "link.mp4").symlink_to(_outside(root))
    return root / "link.mp4"


def _loop(root: Path) -> Path:
    (root / "loop.mp4").unlink(missing_ok=True)
    (root / "loop.mp4").symlink_to(root / "loop.mp4")
    return root / "loop.mp4"


_WHOLE = list(range(FRAMES))
_ONLY_PYAV = {"decord": "backend disagrees", "torchcodec": "backend disagrees"}
CASES: dict[str, Case] = {
    "zero bytes": Case(_written(b""), "empty"),
    "random bytes": Case(_written(np.random.default_rng(0).bytes(5000)), "not a video"),
    "text": Case(_written(b"<html><body>404 not found</body></html>\n" * 20), "not a video"),
    "directory": Case(_folder, "not a file"),
    "missing": Case(lambda root: root / "absent.mp4", "missing"),
    "cut, index lost": Case(lambda root: make_cut(root / "clip.mp4", front_index=False), "truncated"),
    "cut at 50 %, index in front": Case(lambda root: make_cut(root / "clip.mp4"), "truncated"),
    "cut between frames": Case(lambda root: make_cut_between_frames(root / "clip.mp4"), "truncated"),
    "audio only": Case(lambda root: make_audio_only(root / "clip.mp4"), "no video stream"),
    "sound file": Case(lambda root: make_wave(root / "clip.mp4"), "not a video"),
    "last 30 % zeroed": Case(lambda root: make_zeroed(root / "clip.mp4"), "damaged"),
    "60 bytes flipped": Case(lambda root: make_flipped(root / "clip.mp4"), "damaged"),
    "variable frame rate": Case(_named("clip.mp4", times=_VARIED), _WHOLE),
    "rotation 90": Case(lambda root: make_rotated(root / "clip.mp4"), _WHOLE),
    # Some backends turn pictures but do not mirror them: refused, so that no signer changes hands.
    "mirrored": Case(lambda root: make_rotated(root / "clip.mp4", 0, mirrored=True), _WHOLE, _ONLY_PYAV),
    "edit list": Case(lambda root: make_trimmed(root / "clip.mp4"), _WHOLE[5:]),
    "pts starts at 1 s": Case(_named("clip.mp4", times=[1 + i / FPS for i in _WHOLE]), _WHOLE),
    # Some backends lose the first pictures of this stream and give others in their place.
    "pts starts at 1 s, transport stream": Case(lambda root: make_late_start(root / "clip.mp4"), _WHOLE, _ONLY_PYAV),
    "one frame": Case(_named("clip.mp4", frames=1), [0]),
    "yuv444p 322x242": Case(_named("clip.mp4", size=(322, 242), pixels="yuv444p"), _WHOLE),
    "sample aspect 2:1": Case(_named("clip.mp4", sample_aspect=Fraction(2, 1)), _WHOLE),
    "VP9 webm": Case(_named("clip.webm", codec="libvpx-vp9"), _WHOLE),
    "MPEG-4 avi": Case(_named("clip.avi", codec="mpeg4"), _WHOLE),
    "8K, two frames": Case(lambda root: _written(_eight_k())(root), [0, 1], slow=True),
    "metadata not UTF-8": Case(lambda root: make_bad_title(root / "clip.mp4"), _WHOLE),
    "ffconcat naming another file": Case(lambda root: make_playlist(root / "clip.mp4", _outside(root)), "not a video"),
    "HLS naming another file": Case(lambda root: make_hls(root / "clip.mp4", _outside(root)), "not a video"),
    "URL": Case(lambda root: Path("http://127.0.0.1:9/clip.mp4"), "outside root"),
    "protocol prefix": Case(lambda root: Path("concat:a.mp4|b.mp4"), "outside root"),
    "../": Case(lambda root: root / ".." / _outside(root).name, "outside root"),
    "absolute path": Case(_outside, "outside root"),
    "symlink to outside": Case(_link, "outside root"),
    "symlink to itself": Case(_loop, "missing"),
    "NUL in the path": Case(lambda root: root / "nul\0.mp4", "outside root"),
    "newline in the path": Case(lambda root: root / "line\n.mp4", "outside root"),
}


def _described(found: list[int] | str, case: Case, backend: str) -> str:
    if found != case.expected(backend):
        return f"WRONG: {found}"
    return found if isinstance(found, str) else f"{len(found)} exact frame{'s' * (len(found) > 1)}"


def main() -> None:
    """Print the table."""
    began, wrong = time.monotonic(), 0
    print(f"| case | {' | '.join(ENABLED)} |")
    print(f"|---|{'---|' * len(ENABLED)}")
    for name, case in CASES.items():
        cells = []
        for backend in ENABLED:
            with tempfile.TemporaryDirectory() as folder:
                cells.append(_described(outcome(case, Path(folder), backend), case, backend))
        wrong += sum(cell.startswith("WRONG") for cell in cells)
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    print(f"{len(CASES)} cases, {wrong} wrong, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
