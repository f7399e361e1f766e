"""Readers of foreign pose files; each returns the canonical pose of `islr.data.poses.pose`.

Canonical points are numbered as in MediaPipe Holistic: 33 body, 21 left hand, 21 right hand. Points that a format lacks
get confidence 0, and faces are dropped. A frame rate or picture size that it lacks comes from `VideoFacts`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from islr.data.poses.dotpose import read_dotpose
from islr.data.poses.openpose import accepts_openpose, read_openpose
from islr.data.poses.pickles import load_arrays
from islr.data.poses.pose import POINTS, Pose, VideoFacts, canonical, read_pose
from islr.data.poses.tables import Read, accepts_kaggle, accepts_spoter, read_kaggle, spoter_clips
from islr.errors import UserError, one_line
from islr.files import walk


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
        for parent, folders, names in walk(source):
            taken = [name for name in folders if format_of(parent / name, format_name)]
            found += [parent / name for name in taken]
            folders[:] = [name for name in folders if name not in taken]
            for name in names:
                path = parent / name
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


def _read_canonical(path: Path, facts: VideoFacts) -> Pose:
    pose = read_pose(path)
    known = VideoFacts(facts.fps or pose.fps, pose.width, pose.height)
    checked = canonical(pose.keypoints, pose.confidences, known, path, made_by=pose.made_by)
    return replace(checked, start=pose.start)


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
    "pose": PoseFormat(".pose of the pose-format library", _by_suffix(".pose"), _single(read_dotpose)),
    "openpose": PoseFormat(
        "OpenPose json: a folder of *_keypoints.json per clip, or one json with all frames",
        accepts_openpose,
        _single(read_openpose),
    ),
    "kaggle": PoseFormat(
        "Holistic landmarks: Kaggle's .parquet, or .npy of 543 (Kaggle) or 553 (Sem-Lex) points",
        accepts_kaggle,
        _single(read_kaggle),
    ),
    "openhands": PoseFormat("OpenHands .pkl", _by_suffix(".pkl", ".pickle"), _single(_read_openhands)),
    "spoter": PoseFormat("SPOTER .csv, a clip per row", accepts_spoter, spoter_clips),
}
