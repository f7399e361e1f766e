"""A corpus on disk: H.264 videos, exact poses, the lists of its kind, manifest, sample sheet.

Every clip is a function of (seed, what is performed, signer, rep), so the files are the same for any number of workers,
and a run that was stopped continues where it was: a file under its final name is complete.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import cv2

from islr.data.manifest import Manifest
from islr.data.poses.pose import read_pose, write_pose
from islr.data.video.decode import probe_video
from islr.data.video.guard import DecodeError
from islr.errors import Interrupted, RunFailed, UserError
from islr.files import file_sha256, write_atomic
from islr.processes.pool import in_workers
from islr.processes.signals import StopSignal
from islr.synth.clip import Take, box_around, encode, pose_of
from islr.synth.corpus import SynthCorpus, Written
from islr.synth.design import built_in_lexicon
from islr.synth.kinds.actions import Actions
from islr.synth.kinds.continuous import ContinuousSigning
from islr.synth.kinds.isolated import IsolatedSigns
from islr.synth.lexicon import Sign, read_lexicon
from islr.synth.options import SynthOptions
from islr.synth.sheet import sample_sheet

RENDER_VERSION = 3  # raised whenever the same options give other pixels or poses
OPTIONS_FILE = "synth.json"
_LONGEST_S = 3600.0  # for one clip, in its worker process

Progress = Callable[[int, int], None]


def corpus_of(options: SynthOptions) -> SynthCorpus:
    """Return the corpus that the options describe.

    Raises:
        UserError: The lexicon cannot be read or rendered, or has fewer signs than asked for.
    """
    if options.kind == "actions":
        return Actions(options)
    signs = tuple(load_signs(options))
    return IsolatedSigns(options, signs) if options.kind == "isolated" else ContinuousSigning(options, signs)


def load_signs(options: SynthOptions) -> list[Sign]:
    """Return the signs of a corpus.

    Raises:
        UserError: The lexicon cannot be read or rendered, or has fewer signs than asked for.
    """
    if options.lexicon is None:
        return built_in_lexicon(options.items, options.seed, options.vocabulary, options.homophones)
    signs = read_lexicon(options.lexicon)
    if len(signs) < options.items:
        raise UserError(f"signs is {options.items}, but {options.lexicon} has {len(signs)}")
    return signs[: options.items]


def write_take(out: Path, corpus: SynthCorpus, take: Take) -> Written:
    """Render one clip into `videos/` and `poses/`, or keep it if both files are there and agree."""
    name, size = corpus.name(take), corpus.options.size
    video, pose_file = out / "videos" / f"{name}.mp4", out / "poses" / f"{name}.npz"
    kept = _kept(video, pose_file, name)
    if kept is not None:
        return kept
    footage = corpus.film(take)
    data, count = encode(footage)
    pose = pose_of(footage)
    write_atomic(video, data)
    write_pose(pose_file, pose)  # last: a clip with a pose has its video
    measured = probe_video(video)
    if (measured.frames, measured.width, measured.height) != (count, size, size):
        raise RuntimeError(f"{video}: wrote {count} frames of {size} px, decoded {measured}")
    return Written(name, measured.frames, measured.fps, box_around(pose))


def _kept(video: Path, pose_file: Path, name: str) -> Written | None:
    """Return what is on disk already, if it is whole."""
    if not (video.exists() and pose_file.exists()):
        return None
    try:
        measured, pose = probe_video(video), read_pose(pose_file)
    except (DecodeError, UserError):
        return None  # a damaged clip is rendered again
    if measured.frames != len(pose.keypoints):
        return None
    return Written(name, measured.frames, measured.fps, box_around(pose))


def write_corpus(out: str | Path, options: SynthOptions, progress: Progress | None = None) -> Manifest:
    """Render a corpus into a folder and return its manifest, saved as `manifest.csv` there.

    The folder gets `videos/`, `poses/`, the lists of its kind (`wlasl.json`, `openasl.tsv` or `kinetics.csv`),
    `lexicon.csv` where there are signs, `manifest.csv` with its json, `samples.png` and the options in `synth.json`.
    Run again with the same options it completes what is missing and leaves what is there.

    Args:
        progress: Called with (clips done, clips in all).

    Raises:
        UserError: The folder holds a corpus of other options, or the lexicon cannot be used.
        Interrupted: A stop signal came; run again, the corpus is completed.
    """
    out = Path(out)
    corpus = corpus_of(options)
    for folder in (out / "videos", out / "poses"):
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".*.partial"):  # of a run that was killed
            leftover.unlink(missing_ok=True)
    _claim(out, options)
    takes = corpus.takes()
    written = _render(out, corpus, takes, progress)
    lists = corpus.write_lists(out, takes, written)
    manifest = Manifest(
        name=options.title(),
        clips=corpus.clips(takes, written),
        root=out,
        classes=corpus.classes(),
        sources={name: file_sha256(out / name) for name in (*lists, OPTIONS_FILE)},
        notes=corpus.notes(),
    )
    write_atomic(out / "samples.png", sample_sheet(out, corpus.sheet()))
    manifest.save(out / "manifest.csv")
    return manifest


def _claim(out: Path, options: SynthOptions) -> None:
    """Record what the folder holds, or check that it holds the same."""
    about: dict[str, Any] = asdict(options) | {"signs": options.items, "render_version": RENDER_VERSION}
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


def _render(out: Path, corpus: SynthCorpus, takes: list[Take], progress: Progress | None) -> list[Written]:
    """Render the clips, in the order of `takes` or in worker processes.

    Raises:
        Interrupted: A stop signal came; the clips that are done stay.
        RunFailed: A worker process died or hung.
    """
    written: dict[int, Written] = {}
    with StopSignal() as stop:
        for place, result in _rendered(out, corpus, takes):
            if isinstance(result, str):
                raise RunFailed(f"rendering {corpus.name(takes[place])} ended with its process ({result})")
            written[place] = result
            if progress is not None:
                progress(len(written), len(takes))
            if stop.received and len(written) < len(takes):
                raise Interrupted(f"stopped at clip {len(written)} of {len(takes)}; run the same command to go on")
    return [written[place] for place in range(len(takes))]


def _rendered(out: Path, corpus: SynthCorpus, takes: list[Take]) -> Iterator[tuple[int, Written | str]]:
    """Yield (place in `takes`, what was written, or how the process was lost)."""
    function = partial(write_take, out, corpus)
    workers = min(corpus.options.workers, len(takes))
    if workers > 1:
        yield from in_workers(function, takes, workers, seconds=_longest, lost=str)
        return
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield from enumerate(map(function, takes))
    finally:
        cv2.setNumThreads(threads)


def _longest(take: Take) -> float:
    return _LONGEST_S
