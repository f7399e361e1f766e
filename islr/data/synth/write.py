"""A corpus on disk: H.264 videos, exact poses, WLASL-schema json, ASL-LEX-schema csv, manifest, sample sheet.

Every clip is a function of (seed, sign, signer, rep), so the files are the same for any number of workers, and a
run that was stopped continues where it was: a file under its final name is complete.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from islr.data.guard import DecodeError
from islr.data.manifest import Clip, Manifest
from islr.data.pose import read_pose, write_pose
from islr.data.synth.clip import Take, box_around, encode, film, pose_of_shot
from islr.data.synth.design import built_in_lexicon
from islr.data.synth.coverage import coverage
from islr.data.synth.lexicon import Sign, read_lexicon, write_lexicon
from islr.data.synth.signer import FRAME_RATES, SETTINGS, make_signer
from islr.data.video import decode, probe_video
from islr.errors import UserError
from islr.files import file_sha256, write_atomic

RENDER_VERSION = 1  # raised whenever the same options give other pixels or poses
OPTIONS_FILE = "synth.json"
_SHEET_SIGNS, _SHEET_SIGNERS, _SHEET_CELL = 8, 6, 160
_SIGNERS_PER_SEED = 1000  # signer ids of different seeds differ: seed * this + index

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class SynthOptions:
    """What to render.

    Attributes:
        signs, signers, reps: a clip is made of every sign by every signer, `reps` times.
        seed: selects signers, their takes and the built-in lexicon's selection.
        size: side of the square picture in pixels, even.
        lexicon: csv in ASL-LEX columns; None is the built-in lexicon. The first `signs` rows are used.
        variant: "a" or "b", two built-in vocabularies without a common sign.
        val_signers, test_signers: the last signers belong to test, those before them to val, the others to train.
        fps: slowest and fastest frame rate among 24, 25, 29.97 and 30.
        workers: processes; the files do not depend on it.
        setting: "varied", everybody at home, or "studio", one wall and plain clothes.
        name: corpus name in the manifest; "" makes one from variant and seed.
    """

    signs: int = 48
    signers: int = 10
    reps: int = 2
    seed: int = 0
    size: int = 128
    lexicon: Path | None = None
    variant: str = "a"
    val_signers: int = 2
    test_signers: int = 2
    fps: tuple[float, float] = (24.0, 30.0)
    workers: int = 1
    setting: str = "varied"
    name: str = ""

    def __post_init__(self) -> None:
        for field in ("signs", "signers", "reps", "workers"):
            if getattr(self, field) < 1:
                raise UserError(f"{field} is {getattr(self, field)}; it must be at least 1")
        if self.seed < 0:
            raise UserError(f"seed is {self.seed}; it must not be negative")
        if self.size < 48 or self.size % 2:
            raise UserError(f"size is {self.size}; it must be even and at least 48 pixels")
        if min(self.val_signers, self.test_signers) < 0 or self.val_signers + self.test_signers >= self.signers:
            raise UserError(
                f"val_signers {self.val_signers} and test_signers {self.test_signers} leave none of"
                f" {self.signers} signers to train on"
            )
        if self.setting not in SETTINGS:
            raise UserError(f"setting is '{self.setting}'; it must be {' or '.join(SETTINGS)}")
        if not self.rates():
            raise UserError(f"fps {self.fps[0]:g} to {self.fps[1]:g} holds none of 24, 25, 29.97, 30")

    def rates(self) -> tuple[Fraction, ...]:
        """The frame rates signers are filmed at."""
        return tuple(rate for rate in FRAME_RATES if self.fps[0] <= float(rate) <= self.fps[1])

    def split_of(self, signer: int) -> str:
        """train, val or test, by signer."""
        if signer >= self.signers - self.test_signers:
            return "test"
        return "val" if signer >= self.signers - self.test_signers - self.val_signers else "train"

    def title(self) -> str:
        """The corpus's name."""
        return self.name or f"synth-{self.lexicon.stem if self.lexicon else self.variant}-{self.seed}"


def video_id(take: Take, options: SynthOptions) -> str:
    """Name of a clip, unlike that of any clip of another variant or seed."""
    prefix = "x" if options.lexicon else options.variant
    return f"{prefix}{options.seed}-{take.sign:04d}-{take.signer:02d}-{take.rep:02d}"


@dataclass(frozen=True)
class Written:
    """What was measured of a clip on disk."""

    video_id: str
    frames: int
    fps: float
    box: tuple[int, int, int, int]


def takes(options: SynthOptions) -> list[Take]:
    """All clips of a corpus, in the order of its manifest."""
    return [
        Take(sign, signer, rep)
        for sign in range(options.signs)
        for signer in range(options.signers)
        for rep in range(options.reps)
    ]


def load_signs(options: SynthOptions) -> list[Sign]:
    """The signs of a corpus.

    Raises:
        UserError: The lexicon cannot be read or rendered, or has fewer signs than asked for.
    """
    if options.lexicon is None:
        return built_in_lexicon(options.signs, options.seed, options.variant)
    signs = read_lexicon(options.lexicon)
    if len(signs) < options.signs:
        raise UserError(f"signs is {options.signs}, but {options.lexicon} has {len(signs)}")
    return signs[: options.signs]


def write_take(out: Path, sign: Sign, take: Take, options: SynthOptions) -> Written:
    """Render one clip into `videos/` and `poses/`, or keep it if both files are there and agree."""
    name = video_id(take, options)
    video, pose_file = out / "videos" / f"{name}.mp4", out / "poses" / f"{name}.npz"
    kept = _kept(video, pose_file, name)
    if kept is not None:
        return kept
    shot, pictures, fps = film(sign, take, options.seed, options.size, options.rates(), options.setting)
    data, count = encode(pictures, fps, options.size)
    pose = pose_of_shot(shot, float(fps))
    write_atomic(video, data)
    write_pose(pose_file, pose)  # last: a clip with a pose has its video
    measured = probe_video(video)
    if (measured.frames, measured.width, measured.height) != (count, options.size, options.size):
        raise RuntimeError(f"{video}: wrote {count} frames of {options.size} px, decoded {measured}")
    return Written(name, measured.frames, measured.fps, box_around(pose))


def _kept(video: Path, pose_file: Path, name: str) -> Written | None:
    """What is on disk already, if it is whole."""
    if not (video.exists() and pose_file.exists()):
        return None
    try:
        measured, pose = probe_video(video), read_pose(pose_file)
    except (DecodeError, UserError):
        return None  # a damaged clip is rendered again
    if measured.frames != len(pose.keypoints):
        return None
    return Written(name, measured.frames, measured.fps, box_around(pose))


def write_corpus(out: str | Path, options: SynthOptions, progress: Progress | None = None) -> Path:
    """Render a corpus into a folder and return the path of its manifest.

    The folder gets `videos/`, `poses/`, `wlasl.json`, `lexicon.csv`, `manifest.csv` with its json, `samples.png`
    and the options in `synth.json`. Run again with the same options it completes what is missing and leaves what is
    there.

    Args:
        progress: called with (clips done, clips in all).

    Raises:
        UserError: The folder holds a corpus of other options, or the lexicon cannot be used.
    """
    out = Path(out)
    signs = load_signs(options)
    for folder in (out / "videos", out / "poses"):
        folder.mkdir(parents=True, exist_ok=True)
        for partial in folder.glob(".*.partial"):  # left by a run that was killed
            partial.unlink(missing_ok=True)
    _claim(out, options, signs)
    todo = takes(options)
    written = []
    for done, result in enumerate(_run(out, signs, todo, options), start=1):
        written.append(result)
        if progress is not None:
            progress(done, len(todo))
    lexicon, index = out / "lexicon.csv", out / "wlasl.json"
    write_lexicon(lexicon, signs)
    write_atomic(index, json.dumps(_wlasl(signs, todo, written, options), indent=1, ensure_ascii=False) + "\n")
    manifest = _manifest(out, signs, todo, written, options)
    write_atomic(out / "samples.png", sample_sheet(out, signs, options))
    manifest.save(out / "manifest.csv")
    return out / "manifest.csv"


def _claim(out: Path, options: SynthOptions, signs: list[Sign]) -> None:
    """Record what the folder holds, or check that it holds the same."""
    about: dict[str, Any] = asdict(replace(options, workers=1)) | {"render_version": RENDER_VERSION}
    about["lexicon"] = None if options.lexicon is None else file_sha256(options.lexicon)
    about["fps"] = list(options.fps)
    del about["workers"]
    path = out / OPTIONS_FILE
    if path.exists():
        held = json.loads(path.read_text(encoding="utf-8"))
        different = [key for key in about if held.get(key) != about[key]]
        if different:
            key = different[0]
            raise UserError(
                f"{out} holds a corpus made with {key} {held.get(key)!r}, not {about[key]!r};"
                " choose another folder or delete it"
            )
        return
    write_atomic(path, json.dumps(about, indent=1) + "\n")


@dataclass(frozen=True)
class _Job:
    """Everything a worker needs for one clip."""

    out: Path
    sign: Sign
    take: Take
    options: SynthOptions


def _work(job: _Job) -> Written:
    return write_take(job.out, job.sign, job.take, job.options)


def _single_thread() -> None:
    cv2.setNumThreads(1)


def _run(out: Path, signs: list[Sign], todo: list[Take], options: SynthOptions) -> Iterator[Written]:
    jobs = [_Job(out, signs[take.sign], take, options) for take in todo]
    workers = min(options.workers, len(jobs))
    if workers == 1:
        threads = cv2.getNumThreads()
        _single_thread()
        try:
            yield from map(_work, jobs)
        finally:
            cv2.setNumThreads(threads)
        return
    context = multiprocessing.get_context("spawn")  # forking a process that has threads can deadlock
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_single_thread) as pool:
        try:
            yield from pool.map(_work, jobs, chunksize=4)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _signer_id(options: SynthOptions, signer: int) -> int:
    return options.seed * _SIGNERS_PER_SEED + signer


def _wlasl(signs: list[Sign], todo: list[Take], written: list[Written], options: SynthOptions) -> list[dict[str, Any]]:
    """The corpus in WLASL v0.3's schema."""
    entries: list[dict[str, Any]] = [{"gloss": sign.entry_id, "instances": []} for sign in signs]
    for take, clip in zip(todo, written, strict=True):
        instances = entries[take.sign]["instances"]
        instances.append(
            {
                "bbox": list(clip.box),
                "fps": 25,  # WLASL's constant: the rate frame_start and frame_end refer to
                "frame_end": -1,
                "frame_start": 1,
                "instance_id": len(instances),
                "signer_id": _signer_id(options, take.signer),
                "source": options.title(),
                "split": options.split_of(take.signer),
                "url": f"synth:{clip.video_id}",
                "variation_id": 0,
                "video_id": clip.video_id,
            }
        )
    return entries


def _manifest(
    out: Path, signs: list[Sign], todo: list[Take], written: list[Written], options: SynthOptions
) -> Manifest:
    clips = tuple(
        Clip(
            clip_id=clip.video_id,
            path=f"videos/{clip.video_id}.mp4",
            gloss=signs[take.sign].entry_id,
            form=signs[take.sign].entry_id,
            label=take.sign,
            split=options.split_of(take.signer),
            variation="0",
            signer=str(_signer_id(options, take.signer)),
            source=options.title(),
            frames=clip.frames,
            fps=clip.fps,
            width=options.size,
            height=options.size,
            pose=f"poses/{clip.video_id}.npz",
        )
        for take, clip in zip(todo, written, strict=True)
    )
    covered = coverage(signs)
    return Manifest(
        name=options.title(),
        clips=clips,
        root=out,
        classes=tuple(sign.entry_id for sign in signs),
        sources={name: file_sha256(out / name) for name in ("lexicon.csv", "wlasl.json", OPTIONS_FILE)},
        notes={
            "rendered_in_full": covered.full,
            "rendered_with_fallback": covered.fallback,
            "fallbacks": covered.reasons,
            "left_handed_signers": [
                str(_signer_id(options, index))
                for index in range(options.signers)
                if make_signer(options.seed, index).style.left_handed
            ],
        },
    )


def sample_sheet(out: Path, signs: list[Sign], options: SynthOptions) -> bytes:
    """The middle frame of some signs (rows) by some signers (columns), from the encoded videos, as png bytes."""
    rows = []
    columns = np.unique(np.linspace(0, options.signers - 1, min(_SHEET_SIGNERS, options.signers)).astype(int))
    for sign in range(min(_SHEET_SIGNS, len(signs))):
        cells = []
        for signer in columns.tolist():
            name = video_id(Take(sign, signer, 0), options)
            pose = read_pose(out / "poses" / f"{name}.npz")
            picture = decode(out / "videos" / f"{name}.mp4", np.array([len(pose.keypoints) // 2]))[0]
            cell = cv2.resize(picture, (_SHEET_CELL, _SHEET_CELL), interpolation=cv2.INTER_AREA)
            cells.append(_captioned(cell, signs[sign].entry_id if signer == columns[0] else ""))
        rows.append(np.concatenate(cells, axis=1))
    done, data = cv2.imencode(".png", cv2.cvtColor(np.concatenate(rows), cv2.COLOR_RGB2BGR))
    assert done
    return data.tobytes()


def _captioned(cell: np.ndarray, text: str) -> np.ndarray:
    cell = np.ascontiguousarray(cell)
    for color, width in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(cell, text, (5, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.42, color, width, cv2.LINE_AA)
    return cell
