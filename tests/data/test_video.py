"""Decoding: exact frames, upright, from every backend; a typed error for everything that cannot give them."""

import csv
import gc
import pickle
import sys
import types
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from support.fault_table import CASES, ENABLED, outcome
from support.video_files import (
    FPS,
    FRAMES,
    HEIGHT,
    WIDTH,
    make_cut_between_frames,
    make_eight_k,
    make_flipped,
    make_joined,
    make_late_start,
    make_rotated,
    make_trimmed,
    make_video,
    make_with_cover,
    make_zeroed,
    numbers_of,
    picture,
)

from islr.data.video import backends, guard, reader
from islr.data.video.decode import BACKENDS, DecodeError, VideoInfo, decode, measure, probe_video, shrink
from islr.data.video.guard import KINDS
from islr.errors import UserError

ALL = list(range(FRAMES))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("good") / "good.mp4")


def kind_of(path: Path, **options: object) -> str:
    with pytest.raises(DecodeError) as caught:
        decode(path, **options)
    assert caught.value.kind in KINDS
    assert caught.value.path == str(path)
    return caught.value.kind


def same_picture(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether two decodes agree; each backend's build of FFmpeg may round a conversion to RGB its own way."""
    return one.shape == other.shape and np.abs(one.astype(int) - other).max() <= 3


@pytest.mark.parametrize("backend", ENABLED)
def test_frames_are_exactly_those_asked_for(good: Path, backend: str) -> None:
    frames = decode(good, backend=backend)
    assert frames.dtype == np.uint8
    assert frames.shape == (FRAMES, HEIGHT, WIDTH, 3)
    assert numbers_of(frames) == ALL
    assert numbers_of(decode(good, np.array([39, 3, 3, 17, 0]), backend=backend)) == [39, 3, 3, 17, 0]
    assert np.array_equal(decode(good, np.array([3, 17]), backend=backend), frames[[3, 17]])


def test_colours_survive(good: Path) -> None:
    assert np.abs(decode(good)[5].astype(int) - picture(5)).mean() < 6


@pytest.mark.parametrize("backend", ENABLED)
def test_frame_number_outside_the_clip_is_an_error(good: Path, backend: str) -> None:
    assert kind_of(good, indices=np.array([0, FRAMES]), backend=backend) == "index"
    assert kind_of(good, indices=np.array([-1]), backend=backend) == "index"
    assert kind_of(good, indices=np.array([], dtype=int), backend=backend) == "index"


@pytest.mark.parametrize("backend", ENABLED)
def test_time_range_selects_and_renumbers(good: Path, backend: str) -> None:
    # Frames 10..19 have start <= time < end; the indices count from the range's first frame.
    assert numbers_of(decode(good, start=10 / FPS, end=20 / FPS, backend=backend)) == ALL[10:20]
    picked = decode(good, np.array([0, 9]), start=10 / FPS, end=20 / FPS, backend=backend)
    assert numbers_of(picked) == [10, 19]
    assert kind_of(good, indices=np.array([10]), start=10 / FPS, end=20 / FPS, backend=backend) == "index"
    assert kind_of(good, start=5.0, backend=backend) == "no frames"
    assert probe_video(good, start=10 / FPS, end=20 / FPS).frames == 10


def test_range_far_into_a_long_video_is_reached_by_jumping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = make_video(tmp_path / "long.mp4", 200, gop=30)
    monkeypatch.setattr(reader, "_SEEK_FROM_S", 1.0)
    decoded: list[float] = []
    original = reader.Reader._decoded

    def counted(opened: reader.Reader):
        for time, frame in original(opened):
            decoded.append(time)
            yield time, frame

    monkeypatch.setattr(reader.Reader, "_decoded", counted)
    assert numbers_of(decode(long, start=150 / FPS, end=155 / FPS)) == list(range(150, 155))
    assert len(decoded) < 60  # one frame for the file's first time, then from the key frame at 150


def test_variable_frame_rate_is_exact_and_measured(tmp_path: Path) -> None:
    steps = np.random.default_rng(0).choice([0.02, 0.04, 0.12], FRAMES - 1)
    times = np.concatenate([[0.0], np.cumsum(steps)])
    path = make_video(tmp_path / "variable.mp4", times=list(times))
    for backend in ENABLED:
        assert numbers_of(decode(path, np.array([0, 7, 31, 39]), backend=backend)) == [0, 7, 31, 39]
        inside = [i for i in ALL if 0.5 <= times[i] < 1.5]
        assert numbers_of(decode(path, start=0.5, end=1.5, backend=backend)) == inside
    assert probe_video(path).fps == pytest.approx((FRAMES - 1) / times[-1], rel=1e-3)


@pytest.mark.parametrize("degrees", [90, 180, 270])
@pytest.mark.parametrize("backend", ENABLED)
def test_turned_video_comes_out_upright(tmp_path: Path, degrees: int, backend: str) -> None:
    path = make_rotated(tmp_path / "turned.mp4", degrees)
    assert numbers_of(decode(path, np.array([0, 20, 39]), backend=backend)) == [0, 20, 39]
    assert probe_video(path) == VideoInfo(FRAMES, pytest.approx(FPS), WIDTH, HEIGHT)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_mirrored_video_keeps_the_hands_on_their_side(tmp_path: Path, degrees: int) -> None:
    path = make_rotated(tmp_path / "mirrored.mp4", degrees, mirrored=True)
    assert numbers_of(decode(path)) == ALL


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("first", [True, False])
def test_cover_picture_is_never_the_film(tmp_path: Path, marked: bool, first: bool, suffix: str) -> None:
    path = make_with_cover(tmp_path / f"v{suffix}", marked=marked, first=first)
    assert numbers_of(decode(path)) == ALL
    assert probe_video(path) == VideoInfo(FRAMES, FPS, WIDTH, HEIGHT)
    sound = make_with_cover(tmp_path / f"s{suffix}", marked=marked, first=first, film=False)
    assert kind_of(sound) == "no video stream"


def test_reordered_frames_of_a_container_without_playing_times_keep_their_order(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.avi", 140)
    for start, end in ((0.4, 0.8), (4.4, 4.8)):
        first = round(start * FPS)
        assert numbers_of(decode(path, start=start, end=end)) == list(range(first, first + 10))
    assert measure(path, ((0.4, 0.8), (9.0, None)))[1] == ((10, 10), (0, 0))


def test_times_that_do_not_rise_are_refused(tmp_path: Path) -> None:
    assert kind_of(make_joined(tmp_path / "joined.mpg")) == "times"
    with pytest.raises(DecodeError, match=r"times \(frame 10 at"):
        measure(tmp_path / "joined.mpg")
    ticks = make_video(tmp_path / "ticks.mp4", 8, times=[number / 12800 for number in range(8)])
    with pytest.raises(DecodeError, match=r"times \(8 frames within 0.000"):
        measure(ticks)


def test_frames_are_counted_by_decoding(tmp_path: Path) -> None:
    assert probe_video(make_trimmed(tmp_path / "trimmed.mp4", skip=5)).frames == FRAMES - 5


def test_stream_that_starts_late_counts_time_from_its_first_frame(tmp_path: Path) -> None:
    assert numbers_of(decode(make_late_start(tmp_path / "late.ts"), start=0.0, end=4 / FPS)) == ALL[:4]


# Name -> options; the sizes, codecs, pixel formats, rates and containers that corpora hold.
VARIETY: dict[str, dict[str, Any]] = {
    "plain.mp4": {},
    "one.mp4": {"frames": 1},
    "odd.mp4": {"size": (322, 242), "pixels": "yuv444p"},
    "wide_pixels.mp4": {"sample_aspect": Fraction(2, 1)},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "mpeg4.avi": {"codec": "mpeg4"},
    "mpeg4.mp4": {"codec": "mpeg4", "size": (320, 240)},
    "one_key_frame.mp4": {"gop": 250},
    "all_key_frames.mp4": {"gop": 1},
    "fast.mkv": {"fps": 50, "size": (288, 192)},
    "variable.mp4": {"times": [0.04 * i + 0.01 * (i % 3) for i in range(FRAMES)]},
    "flash.flv": {},
    "upright.mp4": {"size": (64, 96)},
}


@pytest.mark.parametrize("name", VARIETY)
def test_every_backend_gives_the_same_pictures(tmp_path: Path, name: str) -> None:
    options = VARIETY[name]
    path = make_video(tmp_path / name, **options)
    width, height = options.get("size", (WIDTH, HEIGHT))
    expected = ALL[: options.get("frames", FRAMES)]
    frames = decode(path)
    assert numbers_of(frames) == expected
    assert frames.shape[1:] == (height, width, 3)
    for backend in ENABLED:
        assert same_picture(decode(path, backend=backend), frames), backend


@pytest.mark.parametrize("backend", BACKENDS)
def test_backend_decodes_or_says_what_to_install(good: Path, backend: str) -> None:
    if backend in ENABLED:
        assert numbers_of(decode(good, backend=backend)) == ALL
        return
    with pytest.raises(UserError, match=r"install|FFmpeg"):
        decode(good, backend=backend)
    pytest.skip(f"{backend}, or a library it needs, is not installed: the tests of all backends ran without it")


@pytest.mark.slow
def test_frames_that_do_not_fit_in_memory_are_refused(tmp_path: Path) -> None:
    path = make_eight_k(tmp_path / "large.mp4", 1)
    assert kind_of(path, indices=np.zeros(50, int)) == "too large"  # 5 GB of frames


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_decoding_starts_no_threads(good: Path) -> None:
    def threads() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    before = threads()
    with reader.Reader(good) as opened:
        for _, frame in opened.frames():
            opened.picture(frame, None)
            assert threads() <= before


@pytest.mark.parametrize("backend", ENABLED)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if case.slow else ()) for name, case in CASES.items()]
)
def test_faulty_file_gives_exact_frames_or_its_typed_error(tmp_path: Path, name: str, backend: str) -> None:
    case = CASES[name]
    found = outcome(case, tmp_path, backend)
    assert found == case.expected(backend)
    assert isinstance(found, list) or found in KINDS


def test_cut_files_of_other_containers_are_noticed(tmp_path: Path) -> None:
    for name, codec in (("cut.webm", "libvpx-vp9"), ("cut.avi", "mpeg4"), ("cut.flv", "libx264")):
        path = make_video(tmp_path / name, codec=codec)
        path.write_bytes(path.read_bytes()[:-3000])
        assert kind_of(path) == "truncated"


@pytest.mark.parametrize("seed", range(6))
def test_flipped_bytes_never_give_wrong_frames_silently(tmp_path: Path, seed: int) -> None:
    path = make_flipped(tmp_path / "flipped.mp4", flips=10, seed=seed)
    assert kind_of(path) == "damaged"
    # Reading only up to a frame must not miss damage in a later one that it was predicted from.
    clean = decode(make_video(tmp_path / "clean.mp4"))
    for last in ALL[::3]:
        if _decodes(path, last):
            assert np.array_equal(decode(path, np.array([last]))[0], clean[last])


def test_damage_after_the_last_wanted_frame_is_checked_as_far_as_it_can_reach(tmp_path: Path) -> None:
    path = make_zeroed(tmp_path / "tail.mp4", share=0.2)
    first_bad = next(last for last in ALL if not _decodes(path, last))
    clean = decode(make_video(tmp_path / "clean.mp4"))
    assert 0 < first_bad < FRAMES - 1
    assert np.array_equal(decode(path, np.arange(first_bad)), clean[:first_bad])


def _decodes(path: Path, last: int) -> bool:
    try:
        decode(path, np.array([last]))
    except DecodeError:
        return False
    return True


def test_without_a_root_only_existing_plain_files_are_opened(good: Path) -> None:
    assert len(decode(good, np.array([0]), root=None)) == 1
    assert kind_of(good.parent) == "not a file"
    for name in ("http://127.0.0.1:9/clip.mp4", "concat:a.mp4|b.mp4", "pipe:0"):
        assert kind_of(Path(name)) == "missing"


def test_caps_on_pixels_bytes_and_output(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = WIDTH * HEIGHT * 3
    monkeypatch.setattr(guard, "MAX_OUTPUT_BYTES", 10 * frame)
    assert len(decode(good, np.arange(10))) == 10
    for backend in ENABLED:
        assert kind_of(good, backend=backend) == "too large"
        assert kind_of(good, indices=np.zeros(11, int), backend=backend) == "too large"
    monkeypatch.setattr(reader, "MAX_FRAME_PIXELS", WIDTH * HEIGHT - 1)
    assert kind_of(good, indices=np.array([0])) == "too large"
    monkeypatch.setattr(guard, "MAX_FILE_BYTES", 1000)
    assert kind_of(good, indices=np.array([0])) == "too large"


def test_shrinking_is_the_same_in_every_backend_and_never_enlarges(good: Path) -> None:
    small = [decode(good, np.array([0, 20]), backend=backend, short_side=32) for backend in ENABLED]
    assert small[0].shape == (2, 32, 48, 3)
    assert all(same_picture(small[0], other) for other in small[1:])
    assert decode(good, np.array([0]), short_side=500).shape == (1, HEIGHT, WIDTH, 3)
    block = np.arange(16, dtype=np.uint8).reshape(4, 4, 1).repeat(3, axis=2)
    assert shrink(block, 2)[:, :, 0].tolist() == [[3, 5], [11, 13]]  # means of 2x2 blocks, half up


def test_measure_counts_ranges_in_one_pass(good: Path) -> None:
    info, spans = measure(good, [(None, None), (0.4, 0.8), (None, 0.2), (1.5, None), (9.0, None)])
    assert info == VideoInfo(FRAMES, pytest.approx(FPS), WIDTH, HEIGHT)
    assert spans == ((0, FRAMES), (10, 10), (0, 5), (38, 2), (0, 0))


def test_error_travels_between_processes_and_says_what_and_where() -> None:
    error = pickle.loads(pickle.dumps(DecodeError("damaged", "/data/a.mp4", "frame 3")))
    assert (error.kind, error.path, str(error)) == (
        "damaged",
        "/data/a.mp4",
        "/data/a.mp4: damaged (frame 3)",
    )


def test_unknown_backend_lists_the_known_ones(good: Path) -> None:
    with pytest.raises(UserError, match="pyav, decord, torchcodec"):
        decode(good, backend="opencv")


@pytest.mark.parametrize("backend", ["decord", "torchcodec"])
def test_absent_backend_is_the_users_to_install(good: Path, monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    monkeypatch.setitem(sys.modules, backend, None)
    monkeypatch.setitem(sys.modules, f"{backend}.decoders", None)
    with pytest.raises(UserError, match=f"pip install {backend}"):
        decode(good, backend=backend)


def test_torchcodec_without_ffmpeg_says_how_to_get_it(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*_: object, **__: object) -> None:
        raise RuntimeError("Could not load libtorchcodec. Likely causes:\n 1. FFmpeg is not properly installed")

    decoders = types.ModuleType("torchcodec.decoders")
    decoders.VideoDecoder = opened  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchcodec", types.ModuleType("torchcodec"))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", decoders)
    with pytest.raises(UserError, match="apt-get install ffmpeg") as caught:
        decode(good, backend="torchcodec")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("backend", ENABLED[1:])
def test_backend_that_gives_another_picture_is_caught(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    # As if the file had changed under the backend only: what it gives is compared with what the checks saw.
    status = good.stat()
    other = make_video(tmp_path / "other.mp4", first=1)
    with reader.Reader(other) as opened:
        seen = [(time, backends._thumbnail(opened.picture(frame, None))) for time, frame in opened.frames()]
    kept = np.array([time for time, _ in seen]), np.stack([sketch for _, sketch in seen])
    monkeypatch.setitem(backends._cache, (good, status.st_size, status.st_mtime_ns), kept)
    assert kind_of(good, backend=backend) == "backend disagrees"


def test_thumbnails_kept_are_bounded(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_cache", {})
    monkeypatch.setattr(backends, "_CACHE_BYTES", 2 * FRAMES * (8 + 64))
    paths = [make_video(tmp_path / f"{number}.mp4") for number in range(3)]
    for path in (*paths[:2], paths[0], paths[2]):
        backends._thumbnails(path)
    assert [key[0] for key in backends._cache] == [paths[0], paths[2]]  # the least recently used went


def test_decoding_leaves_no_frames_to_the_garbage_collector(good: Path) -> None:
    decode(good)
    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            decode(good)
        large = [thing for thing in gc.get_objects() if type(thing) is av.VideoFrame and thing.width > 16]
        assert large == []
    finally:
        gc.enable()


def test_file_cut_between_frames_would_decode_without_error(tmp_path: Path) -> None:
    """Without the check of the container's own size, the decoder calls this file whole."""
    path = make_cut_between_frames(tmp_path / "cut.mp4", keep=20)
    with reader.Reader(path) as opened:
        assert len(list(opened.frames())) == 20


@pytest.mark.real
def test_untouched_clips_have_the_frames_that_were_counted(shared: Path) -> None:
    folder = shared / "data" / "wlasl_originals"
    with open(folder / "index.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 36
    for row in rows:
        info = probe_video(folder / row["file"], root=folder)
        size = (int(row["width"]), int(row["height"]))
        assert (info.frames, info.width, info.height) == (int(row["frames_decoded"]), *size), row["why"]
    for name in ("07074.mp4", "10892.mp4", "45261.mp4"):  # edit list, mpeg4, 50 frames a second
        pictures = [decode(folder / name, np.array([0, 1, 10, 30]), backend=backend) for backend in ENABLED]
        for other in pictures[1:]:
            assert same_picture(pictures[0], other)
