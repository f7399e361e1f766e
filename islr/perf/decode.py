"""Speed of our code beside a named peer: interleaved in one run, on one thread, CPU time, minimum of the repeats.

A ratio from one run holds on a busy machine, where a time does not; the minimum is the
code's time without interference. The load is printed beside the numbers.
"""

import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import cv2
import numpy as np

from islr.data.loading.config import DataConfig
from islr.data.loading.loader import pin_threads
from islr.data.loading.store import ClipStore
from islr.data.manifest import Clip, Manifest
from islr.data.packs.writer import PackOptions, pack_manifest
from islr.data.video.backends import decord_unchecked
from islr.data.video.decode import VideoInfo, decode, probe_video, shrink
from islr.data.video.scan import find_videos
from islr.data.views.sampling import uniform_indices
from islr.synth.clip import Take, film
from islr.synth.design import built_in_lexicon

REPEATS = 15
DECODE_REPEATS = 5
DECODE_FRAMES = 16  # of a clip, uniformly: what most recipes read

# The commonest sizes of WLASL's original files, one clip of each.
_SIZES = ((288, 192), (320, 240), (640, 480), (656, 370), (736, 414), (854, 480), (1280, 720), (1920, 1080))
_LENGTH = 60  # frames; WLASL's median is 57
_GRAIN = 6.0  # grey levels of texture, without which a drawn picture is cheaper to decode than a filmed one
_PACK, _CHECKED = "pack", "PyAV, checked"


@dataclass(frozen=True)
class Contest:
    """Two functions that do the same work.

    Attributes:
        title: What the work is, with its size.
        ours, peer: Called without arguments, once per repeat.
        peer_name: Name of the peer.
        agree: Called once before timing; raises when the two results differ. Returns a line about how well they agree.
        repeats: Calls of each.
    """

    title: str
    ours: Callable[[], object]
    peer: Callable[[], object]
    peer_name: str
    agree: Callable[[], str]
    repeats: int = REPEATS


def run_contests(contests: Sequence[Contest]) -> None:
    """Measure and print one table."""
    pin_threads()
    load = f"{os.getloadavg()[0]:.1f} of {os.cpu_count()} cores busy"
    print(f"CPU milliseconds on one thread, minimum over interleaved repeats; load at start {load}")
    for contest in contests:
        agreement = contest.agree()
        best = fastest({"ours": contest.ours, "peer": contest.peer}, contest.repeats)
        ours, peer = 1000 * best["ours"], 1000 * best["peer"]
        print(f"{contest.title}: {ours:.2f} ms, {contest.peer_name} {peer:.2f} ms: {peer / ours:.1f} times faster")
        print(f"    {agreement}; {contest.repeats} repeats")


def fastest(
    functions: Mapping[str, Callable[[], object]], repeats: int, clock: Callable[[], float] = time.process_time
) -> dict[str, float]:
    """Return the seconds of the fastest call of each function, called in turn `repeats` times."""
    best = dict.fromkeys(functions, float("inf"))
    for _ in range(repeats):
        for name, function in functions.items():
            began = clock()
            function()
            best[name] = min(best[name], clock() - began)
    return best


def decode_speed(videos: Path | None, short_side: int, most: int, repeats: int = DECODE_REPEATS) -> str:
    """Return a table of decoding speed: the same 16 frames of each clip, from a pack and from the original files.

    Args:
        videos: Folder of clips; None = clips drawn now in the sizes of WLASL's original files.
        short_side: Pixels of the output's shorter side, and of the pack.
        most: Clips taken from the folder, evenly spaced in it.
        repeats: Readings of each clip by each reader; the fastest counts.

    Raises:
        UserError: The folder holds no video, a video cannot be packed, or decord is not installed.
    """
    pin_threads()
    load = f"{os.getloadavg()[0]:.1f} of {os.cpu_count()} cores busy"
    with tempfile.TemporaryDirectory() as folder:
        if videos is None:
            videos = Path(folder) / "originals"
            videos.mkdir()
            _draw_originals(videos)
        paths = find_videos(videos)
        paths = [paths[i] for i in np.unique(np.linspace(0, len(paths) - 1, most).round().astype(int))]
        infos = [probe_video(path) for path in paths]
        readers = _readers(videos, paths, infos, Path(folder) / _PACK, short_side)
        best, errors = _race(readers, len(paths), repeats)
        packed = sum(path.stat().st_size for path in (Path(folder) / _PACK).glob("*.pack"))
        original = sum(path.stat().st_size for path in paths)
    title = (
        f"{DECODE_FRAMES} uniform frames at short side {short_side} of {len(paths)} clips"
        f" ({sum(info.frames for info in infos)} frames); CPU time on one thread, minimum of {repeats} interleaved"
        f" readings; load at start {load}"
    )
    megabytes = f"The pack takes {packed / 1e6:.1f} MB, the files {original / 1e6:.1f} MB."
    return "\n".join([title, *_speed_lines(infos, best, errors, megabytes)])


def _readers(
    videos: Path, paths: Sequence[Path], infos: Sequence[VideoInfo], folder: Path, short_side: int
) -> dict[str, Callable[[int], np.ndarray]]:
    """Pack the clips and return each way to read one by its row."""
    clips = [
        Clip(str(i), path.relative_to(videos).as_posix(), fps=info.fps, width=info.width, height=info.height)
        for i, (path, info) in enumerate(zip(paths, infos, strict=True))
    ]
    pack = pack_manifest(Manifest("perf", tuple(clips), videos), folder, PackOptions(short_side), workers=0)
    store = ClipStore(pack, DataConfig(manifest=(_PACK,)))
    chosen = [uniform_indices(info.frames, DECODE_FRAMES) for info in infos]
    return {
        _PACK: lambda row: store.read(row, chosen[row]),
        _CHECKED: lambda row: decode(paths[row], chosen[row], short_side=short_side),
        "decord": lambda row: _shrunk(decord_unchecked(paths[row], chosen[row]), short_side),
        "PyAV, plain": lambda row: _plain(paths[row], chosen[row], short_side),
    }


def _race(
    readers: Mapping[str, Callable[[int], np.ndarray]], clips: int, repeats: int
) -> tuple[dict[str, np.ndarray], dict[str, list[float]]]:
    """Return each reader's fastest seconds for each clip, and its mean squared error against the checked decode."""
    best = {name: np.full(clips, np.inf) for name in readers}
    errors: dict[str, list[float]] = defaultdict(list)
    for row in range(clips):
        pictures = {name: reader(row) for name, reader in readers.items()}  # also warms the file cache
        for name, found in pictures.items():
            errors[name].append(float(((found - pictures[_CHECKED].astype(np.float32)) ** 2).mean()))
        for name, seconds in fastest({name: partial(read, row) for name, read in readers.items()}, repeats).items():
            best[name][row] = seconds
    return best, errors


def _speed_lines(
    infos: Sequence[VideoInfo], best: Mapping[str, np.ndarray], errors: Mapping[str, list[float]], megabytes: str
) -> list[str]:
    lines = [f"{'size':<12}{'clips':>6}" + "".join(f"{name + ' ms':>18}" for name in best)]
    sizes = sorted({(info.width, info.height) for info in infos}, key=lambda size: size[0] * size[1])
    for width, height in sizes:
        rows = [row for row, info in enumerate(infos) if (info.width, info.height) == (width, height)]
        cells = "".join(f"{1000 * seconds[rows].mean():>18.2f}" for seconds in best.values())
        lines.append(f"{f'{width}x{height}':<12}{len(rows):>6}{cells}")
    rates = {name: len(infos) / seconds.sum() for name, seconds in best.items()}
    return [
        *lines,
        f"{'clips/s':<18}" + "".join(f"{rate:>18.1f}" for rate in rates.values()),
        f"{'pack is faster':<18}" + "".join(f"{rates[_PACK] / rate:>17.1f}x" for rate in rates.values()),
        f"{'PSNR, dB':<18}" + "".join(f"{_decibels(errors[name]):>18}" for name in best),
        f"PSNR: mean over clips against PyAV, checked. {megabytes}",
    ]


def _decibels(errors: Sequence[float]) -> str:
    """Return the mean PSNR of clips with these mean squared errors."""
    if not any(errors):
        return "equal"
    return f"{np.mean([10 * np.log10(255**2 / max(error, 1e-3)) for error in errors]):.1f}"


def _shrunk(frames: np.ndarray, short_side: int) -> np.ndarray:
    return np.stack([shrink(frame, short_side) for frame in frames])


def _plain(path: Path, indices: np.ndarray, short_side: int) -> np.ndarray:
    """Decode in order and keep the requested frames: the usual first loop."""
    requested = set(indices.tolist())
    kept: dict[int, np.ndarray] = {}
    with av.open(str(path), metadata_errors="replace") as container:
        container.streams.video[0].codec_context.thread_count = 1
        for number, frame in enumerate(container.decode(video=0)):
            if number in requested:
                kept[number] = shrink(frame.to_ndarray(format="rgb24"), short_side)
            if number == indices[-1]:
                break
    return np.stack([kept[number] for number in indices.tolist()])


def _draw_originals(folder: Path) -> None:
    """Draw signers in clips of many sizes, encoded as most original files are (H.264, B-frames, long GOP)."""
    rng = np.random.default_rng(0)
    for number, sign in enumerate(built_in_lexicon(len(_SIZES))):
        width, height = _SIZES[number]
        drawn = list(film(sign, Take(number, number, 0), 0, 256).pictures)
        grain = rng.normal(0, _GRAIN, (height, width, 3)).astype(np.float32)
        with av.open(str(folder / f"{number}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=Fraction(30), options={"preset": "veryfast", "threads": "2"})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for index in range(_LENGTH):
                picture = cv2.resize(drawn[index % len(drawn)], (width, height), interpolation=cv2.INTER_CUBIC)
                picture = np.clip(picture + grain, 0, 255).astype(np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode(None))
