"""Makes small video files, good and faulty, whose frames carry their own number.

The number of frame i is drawn as a strip of black and white squares along the picture's top edge, so a test
can read from the decoded pixels which frame it was given.
"""

import struct
import wave
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import VideoReformatter

BITS = 8
FRAMES = 40
WIDTH, HEIGHT, FPS = 96, 64, 25
# Two frames of reordering, as in most real files. With x264's macroblock tree the bytes differ from run to
# run.
_X264 = {"bf": "2", "crf": "18", "preset": "veryfast", "x264-params": "mbtree=0"}
_TICKS = 12800  # time base of the files, a multiple of the usual frame rates


def picture(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """uint8 `[H, W, 3]`: the number's squares above a textured disc that moves with the number."""
    y, x = np.mgrid[:height, :width]
    centre = width * (0.2 + 0.6 * (number % 20) / 20)
    near = np.hypot(x - centre, y - height * 0.65) < height * 0.25
    texture = 128 + 60 * np.sin(x / 3 + number / 2) * np.cos(y / 4)
    frame = np.stack([texture, np.where(near, 220, 60), np.where(near, 40, 160)], axis=2).astype(np.uint8)
    block = width // BITS
    for bit in range(BITS):
        frame[: height // 4, bit * block : (bit + 1) * block] = 235 if number >> bit & 1 else 16
    return frame


def number_of(frame: np.ndarray) -> int:
    """The number drawn in an upright frame of any size."""
    height, width = frame.shape[:2]
    block = width / BITS
    row = frame[: max(1, height // 8)].mean(axis=(0, 2))
    square = [row[int((bit + 0.25) * block) : int((bit + 0.75) * block)].mean() for bit in range(BITS)]
    return sum(1 << bit for bit in range(BITS) if square[bit] > 125)


def numbers_of(frames: np.ndarray) -> list[int]:
    """The numbers of several frames."""
    return [number_of(frame) for frame in frames]


def _frame(rgb: np.ndarray, pixels: str) -> av.VideoFrame:
    """A frame ready to encode. Converted on one thread: with several, the bytes differ from run to run."""
    return VideoReformatter().reformat(av.VideoFrame.from_ndarray(rgb, format="rgb24"), format=pixels, threads=1)


def make_video(
    path: Path,
    frames: int = FRAMES,
    *,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    fps: int = FPS,
    times: Sequence[float] | None = None,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    gop: int = 12,
    front_index: bool = False,
    sample_aspect: Fraction | None = None,
    title: str | None = None,
    first: int = 0,
) -> Path:
    """Write a video; `times` (seconds per frame) gives a variable rate; `first` numbers the first frame."""
    with av.open(str(path), "w", options={"movflags": "faststart"} if front_index else {}) as container:
        if title is not None:
            container.metadata["title"] = title
        options = _X264 if codec == "libx264" else {}
        stream = container.add_stream(codec, rate=fps, options=options)
        stream.width, stream.height = size
        stream.pix_fmt = pixels
        stream.codec_context.gop_size = gop
        stream.codec_context.thread_count = 1
        variable = times is not None
        if variable:
            stream.codec_context.time_base = Fraction(1, _TICKS)
        if codec in ("mpeg4", "libvpx-vp9"):
            stream.bit_rate = 2_000_000
        if sample_aspect is not None:
            stream.codec_context.sample_aspect_ratio = sample_aspect
        for index in range(frames):
            frame = _frame(picture(first + index, *size), pixels)
            frame.time_base = Fraction(1, _TICKS) if variable else Fraction(1, fps)
            frame.pts = round(times[index] * _TICKS) if times is not None else index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def make_rotated(path: Path, degrees: int = 90, mirrored: bool = False) -> Path:
    """A video whose pictures are stored turned, with a display matrix that says how to turn them back.

    Args:
        path: Where to write.
        degrees: Clockwise turn a player has to apply: 0, 90, 180 or 270.
        mirrored: A player also has to mirror left and right, after turning.
    """
    flat = path.with_name(f"flat_{path.name}")
    stored = [picture(index)[:, ::-1] if mirrored else picture(index) for index in range(FRAMES)]
    stored = [np.ascontiguousarray(np.rot90(frame, degrees // 90)) for frame in stored]
    with av.open(str(flat), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options=_X264)
        stream.height, stream.width = stored[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in stored:
            container.mux(stream.encode(_frame(frame, "yuv420p")))
        container.mux(stream.encode())
    # The track header's matrix maps stored (x, y) to (a*x + c*y, b*x + d*y), with y down.
    a, b, c, d = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[degrees]
    if mirrored:
        a, c = -a, -c
    data = bytearray(flat.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version and flags 4, times and ids 20, reserved 8, layer..volume 8
    one = 1 << 16
    struct.pack_into(">9i", data, at, a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    flat.unlink()
    return path


def make_late_start(path: Path, start: float = 1.0) -> Path:
    """A video whose first frame has the time `start` (MPEG transport streams begin anywhere)."""
    make_video(path.with_suffix(".ts"), times=[start + index / FPS for index in range(FRAMES)])
    return path.with_suffix(".ts")


def make_trimmed(path: Path, skip: int = 5) -> Path:
    """A video trimmed without re-encoding: it holds `skip` frames too many, left out by its edit list."""
    whole = make_video(path.with_name(f"whole_{path.name}"))
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        video = source.streams.video[0]
        copy = target.add_stream_from_template(video)
        assert video.time_base is not None
        shift = round(skip / FPS / video.time_base)
        for packet in source.demux(video):
            if packet.dts is None or packet.pts is None:
                continue
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            packet.stream = copy
            target.mux(packet)
    whole.unlink()
    return path


def make_audio_only(path: Path) -> Path:
    """An mp4 with sound and no picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        for index in range(8):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, index * 1024
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def make_wave(path: Path) -> Path:
    """A sound file under a video's name."""
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(8000))
    return path


def media_span(data: bytes) -> tuple[int, int]:
    """Start and end of the coded pictures (the mdat box's content) in the bytes of an mp4."""
    at = data.index(b"mdat")
    return at + 4, at - 4 + struct.unpack(">I", data[at - 4 : at])[0]


def make_cut(path: Path, share: float = 0.5, front_index: bool = True) -> Path:
    """A download that stopped: the first `share` of a file whose index is at its front or at its end."""
    make_video(path, front_index=front_index)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def make_cut_between_frames(path: Path, keep: int = 20) -> Path:
    """A download that stopped exactly between two coded frames."""
    make_video(path, front_index=True)
    with av.open(str(path)) as container:
        end = [packet.pos + packet.size for packet in container.demux(video=0) if packet.size][keep - 1]
    path.write_bytes(path.read_bytes()[:end])
    return path


def make_zeroed(path: Path, share: float = 0.3) -> Path:
    """The last `share` of the coded pictures overwritten by zeros."""
    make_video(path, front_index=True)
    data = bytearray(path.read_bytes())
    start, end = media_span(bytes(data))
    first = end - int((end - start) * share)
    data[first:end] = bytes(end - first)
    path.write_bytes(data)
    return path


def make_flipped(path: Path, flips: int = 60, seed: int = 0) -> Path:
    """Some bytes of the coded pictures inverted."""
    make_video(path)
    data = bytearray(path.read_bytes())
    start, end = media_span(bytes(data))
    # The first kilobyte holds the encoder's own remark and the parameters; damage belongs in the pictures.
    for at in np.random.default_rng(seed).choice(np.arange(start + 1024, end), flips, replace=False):
        data[at] ^= 0xFF
    path.write_bytes(data)
    return path


def make_bad_title(path: Path) -> Path:
    """A good video whose title is not UTF-8."""
    make_video(path, title="QQQQ")
    path.write_bytes(path.read_bytes().replace(b"QQQQ", b"caf\xe9"))
    return path


def make_playlist(path: Path, target: Path) -> Path:
    """A text under a video's name that tells a player to open another file."""
    path.write_text(f"ffconcat version 1.0\nfile '{target}'\n")
    return path


def make_hls(path: Path, target: Path) -> Path:
    """A streaming playlist under a video's name."""
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.6,\nfile://{target}\n#EXT-X-ENDLIST\n")
    return path


def make_eight_k(path: Path, frames: int) -> Path:
    """The largest picture that is decoded: 7680x4320, 100 MB a frame."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 7680, 4320, "yuv420p"
        stream.codec_context.thread_count = 1
        for index in range(frames):
            large = picture(index, 96, 54).repeat(80, axis=0).repeat(80, axis=1)
            container.mux(stream.encode(_frame(large, "yuv420p")))
        container.mux(stream.encode())
    return path


def make_with_cover(path: Path, *, marked: bool = True, first: bool = True, film: bool = True) -> Path:
    """A file with a cover picture before or after its film (or its sound), marked as a cover or not."""
    parts = (
        make_video(path.with_name(f"film_{path.name}")) if film else make_audio_only(path.with_name(f"s_{path.name}"))
    )
    with av.open(str(parts)) as source, av.open(str(path), "w") as target:
        cover = target.add_stream("mjpeg", rate=FPS) if first else None
        copy = target.add_stream_from_template(source.streams[0])
        cover = cover or target.add_stream("mjpeg", rate=FPS)
        cover.width, cover.height, cover.pix_fmt = 128, 96, "yuvj420p"
        if marked:
            cover.disposition = Disposition.attached_pic
        for packet in cover.encode(_frame(picture(255, 128, 96), "yuvj420p")) + cover.encode():
            target.mux(packet)
        for packet in source.demux(source.streams[0]):
            if packet.dts is not None:
                packet.stream = copy
                target.mux(packet)
    parts.unlink()
    return path


def make_joined(path: Path) -> Path:
    """Two films joined byte by byte, so that the times start again."""
    parts = [make_video(path.with_name(f"{n}_{path.name}"), 10, codec="mpeg1video", first=10 * n) for n in range(2)]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path
