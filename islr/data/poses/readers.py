"""Readers of foreign pose files; each returns the canonical pose of `islr.data.poses.pose`.

Canonical points are numbered as in MediaPipe Holistic: 33 body, 21 left hand, 21 right hand. Points that a format lacks
get confidence 0, and faces are dropped. A frame rate or picture size that it lacks comes from `VideoFacts`.
"""

import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from islr.data.poses.openpose import OPENPOSE_BODY, OPENPOSE_BODY_POINTS, accepts_openpose, read_openpose
from islr.data.poses.pickles import load_arrays
from islr.data.poses.pose import (
    BODY_POINTS,
    HAND_POINTS,
    LEFT_HAND,
    POINTS,
    RIGHT_HAND,
    Pose,
    VideoFacts,
    canonical,
    read_pose,
)
from islr.data.poses.tables import Read, accepts_kaggle, accepts_spoter, read_kaggle, spoter_clips
from islr.errors import UserError, one_line


@dataclass(frozen=True)
class PoseClip:
    """One clip of a source; `read` raises UserError when the clip cannot be read."""

    clip_id: str
    source: Path
    format: str
    read: Read
    label: str = ""


@dataclass(frozen=True)
class PoseFormat:
    """A foreign format.

    Attributes:
        about: One line of description.
        accepts: Returns whether a file or folder looks like this format.
        clips: Yields (name inside the source or "", label or "", reader) of each clip of a source.
    """

    about: str
    accepts: Callable[[Path], bool]
    clips: Callable[[Path], Iterator[tuple[str, str, Read]]]


def find_poses(source: str | Path, format_name: str = "auto") -> tuple[list[Path], list[Path]]:
    """Find the pose files (or folders of frames) below a folder, and the other files there.

    Args:
        source: A folder, or one pose file.
        format_name: A name in POSE_READERS, or "auto" for any of them.

    Raises:
        UserError: The format is unknown, or there is no pose.
    """
    if format_name not in ("auto", *POSE_READERS):
        raise UserError(f"unknown pose format '{format_name}'; known: auto, {', '.join(POSE_READERS)}")
    source = Path(source)
    if not source.exists():
        raise UserError(f"{source}: no such file or folder of poses")
    found: list[Path] = []
    others: list[Path] = []
    if format_of(source, format_name):
        found.append(source)
    elif source.is_dir():
        for parent, folders, names in os.walk(source):
            folders.sort()
            taken = [name for name in folders if format_of(Path(parent) / name, format_name)]
            found += [Path(parent) / name for name in taken]
            folders[:] = [name for name in folders if name not in taken]
            for name in sorted(names):
                path = Path(parent) / name
                (found if format_of(path, format_name) else others).append(path)
    if not found:
        requested = POSE_READERS[format_name].about if format_name in POSE_READERS else "any known format"
        raise UserError(f"{source}: holds no poses of {requested}; formats: {', '.join(POSE_READERS)}")
    return sorted(found), sorted(others)


def format_of(path: Path, format_name: str = "auto") -> str | None:
    """Return the format that a file or folder looks like; None if it is none of those allowed."""
    names = POSE_READERS if format_name == "auto" else (format_name,)
    return next((name for name in names if POSE_READERS[name].accepts(path)), None)


def pose_clips(found: Sequence[Path], source: str | Path, format_name: str = "auto") -> Iterator[PoseClip]:
    """Yield the clips of files found by `find_poses`; a clip's id is its path below `source` without suffix.

    Raises:
        UserError: Two files would be the same clip. (A file that cannot be read raises in its clip's `read`.)
    """
    source = Path(source)
    base = source.parent if list(found) == [source] else source
    by_stem: dict[str, Path] = {}
    for path in found:
        other = by_stem.setdefault(_stem(path, base), path)
        if other != path:
            raise UserError(f"{other} and {path} would be one clip; name one --format")
    for path in found:
        name = format_of(path, format_name)
        assert name is not None, path
        stem = _stem(path, base)
        try:
            for inside, label, read in POSE_READERS[name].clips(path):
                yield PoseClip(f"{stem}/{inside}" if inside else stem, path, name, read, label)
        except UserError as error:
            yield PoseClip(stem, path, name, _failing(error))


def _stem(path: Path, base: Path) -> str:
    relative = path.relative_to(base)
    return (relative if path.is_dir() else relative.with_suffix("")).as_posix()


def _failing(error: UserError) -> Read:
    def read(_: VideoFacts) -> Pose:
        raise error

    return read


def _single(read: Callable[[Path, VideoFacts], Pose]) -> Callable[[Path], Iterator[tuple[str, str, Read]]]:
    """Return the `clips` of a format with one clip per file."""

    def clips(path: Path) -> Iterator[tuple[str, str, Read]]:
        yield "", "", lambda facts: read(path, facts)

    return clips


def _by_suffix(*suffixes: str) -> Callable[[Path], bool]:
    return lambda path: path.suffix.lower() in suffixes and path.is_file()


# Canonical npz


def _read_canonical(path: Path, _: VideoFacts) -> Pose:
    return read_pose(path)


# .pose (pose-format)


def _read_pose_format(path: Path, facts: VideoFacts) -> Pose:
    """Read the person with the highest total confidence over the clip."""
    try:
        from pose_format import Pose as PoseFile
    except ImportError:
        raise UserError(
            f"{path}: .pose files need the pose-format package: pip install 'islr-bench[pose-io]'"
        ) from None
    try:
        stored = PoseFile.read(path.read_bytes())
        data = np.ma.getdata(stored.body.data).astype(np.float32)  # [T, persons, N, dimensions], pixels
        certainty = np.asarray(stored.body.confidence, np.float32)  # [T, persons, N]
        components = [(component.name, len(component.points)) for component in stored.header.components]
        width, height = stored.header.dimensions.width, stored.header.dimensions.height
        fps = float(stored.body.fps)
    except (OSError, struct.error, ValueError, KeyError, IndexError, TypeError, AttributeError, MemoryError) as error:
        raise UserError(f"{path}: cannot be read as a .pose file ({one_line(error)})") from None
    facts = VideoFacts(fps or facts.fps, width or facts.width, height or facts.height)
    if not len(data) or data.shape[1] == 0:
        raise UserError(f"{path}: the pose has no frames or nobody in them")
    person = int(np.argmax(certainty.sum(axis=(0, 2))))
    places: dict[str, tuple[int, int]] = {}
    at = 0
    for name, count in components:
        places[name.upper()] = (at, count)
        at += count
    picks = _component_picks(places, path)
    size = (facts.width or 1, facts.height or 1)
    scale = np.array([size[0], size[1], size[0]][: data.shape[3]], np.float32)  # z is in the unit of x
    points = np.zeros((len(data), POINTS, len(scale)), np.float32)
    confidences = np.zeros((len(data), POINTS), np.float32)
    points[:, list(picks)] = data[:, person, list(picks.values())] / scale
    confidences[:, list(picks)] = certainty[:, person, list(picks.values())]
    return canonical(points, confidences, facts, path)


def _component_picks(places: Mapping[str, tuple[int, int]], path: Path) -> dict[int, int]:
    """Map canonical points to points of the file, by the components' names, since files differ in their number."""
    body = dict(zip(range(BODY_POINTS), range(BODY_POINTS), strict=True))
    hand = range(HAND_POINTS)
    requested: dict[str, tuple[int, int, Mapping[int, int]]] = {
        "POSE_LANDMARKS": (0, BODY_POINTS, body),
        "POSE_KEYPOINTS_2D": (0, OPENPOSE_BODY_POINTS, OPENPOSE_BODY),
    }
    for side, part in (("LEFT", LEFT_HAND), ("RIGHT", RIGHT_HAND)):
        for name in (f"{side}_HAND_LANDMARKS", f"HAND_{side}_KEYPOINTS_2D"):
            requested[name] = (part.start, HAND_POINTS, dict(zip(hand, hand, strict=True)))
    picks: dict[int, int] = {}
    for name, (first, count, points) in requested.items():
        if name in places:
            at, held = places[name]
            if held != count:
                raise UserError(f"{path}: component {name} has {held} points, not {count}")
            picks |= {first + point: at + source_point for point, source_point in points.items()}
    if not picks:
        raise UserError(f"{path}: none of its components is a body or hand we know ({', '.join(places)})")
    return picks


# OpenHands pkl


def _read_openhands(path: Path, facts: VideoFacts) -> Pose:
    """Read `keypoints` [T, 75, 2 or 3] relative to the picture, y down, and `confidences` [T, 75]."""
    try:
        stored = load_arrays(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: refused, or not a pickle of arrays ({one_line(error)})") from None
    for key in ("keypoints", "confidences"):
        if key not in stored:
            raise UserError(f"{path}: holds no array '{key}'")
    points, confidences = stored["keypoints"], stored["confidences"]
    if points.ndim != 3 or points.shape[1] != POINTS or points.shape[2] not in (2, 3):
        raise UserError(f"{path}: keypoints are [T, {POINTS}, 3], not {list(points.shape)}")
    if confidences.shape != points.shape[:2]:
        raise UserError(f"{path}: confidences are {list(points.shape[:2])}, not {list(confidences.shape)}")
    return canonical(points, confidences, facts, path)


POSE_READERS: dict[str, PoseFormat] = {
    "npz": PoseFormat("canonical .npz", _by_suffix(".npz"), _single(_read_canonical)),
    "pose": PoseFormat(".pose of the pose-format library", _by_suffix(".pose"), _single(_read_pose_format)),
    "openpose": PoseFormat(
        "OpenPose json: a folder of *_keypoints.json per clip, or one json with all frames",
        accepts_openpose,
        _single(read_openpose),
    ),
    "kaggle": PoseFormat(
        "543 Holistic landmarks: .parquet with a row per landmark, or .npy", accepts_kaggle, _single(read_kaggle)
    ),
    "openhands": PoseFormat("OpenHands .pkl", _by_suffix(".pkl", ".pickle"), _single(_read_openhands)),
    "spoter": PoseFormat("SPOTER .csv, a clip per row", accepts_spoter, spoter_clips),
}
