"""The canonical pose: 33 body, 21 left-hand and 21 right-hand points per frame, and its normalisation.

Shapes: T frames, J = 75 points. Coordinates are image-normalised (0..1, y down); "left" is the signer's own
left. A missing point has confidence 0, and its coordinates have no meaning.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from islr.errors import UserError
from islr.files import write_atomic_with
from islr.untrusted.npz_files import DamagedArrays, read_arrays

POINTS, BODY_POINTS, HAND_POINTS = 75, 33, 21
BODY, LEFT_HAND, RIGHT_HAND = slice(0, 33), slice(33, 54), slice(54, 75)
LEFT_SHOULDER, RIGHT_SHOULDER = 11, 12
HAND_ROOT, HAND_MIDDLE_MCP = 0, 9  # indices inside one hand

LONGEST_FILLED_GAP = 5  # frames; a hand tracker loses a fast hand for about this long
FILLED_CONFIDENCE = 0.5
PALMS_PER_SHOULDER_WIDTH = 3.0  # shoulders are about three palm lengths apart
_SMALLEST_SCALE = 1e-6
MAX_POSE_BYTES = 1 << 30  # of a clip's arrays: more than a week at 25 frames a second
_KEYS = ("keypoints", "confidences", "fps", "width", "height")
PARTS = {"body": BODY, "left hand": LEFT_HAND, "right hand": RIGHT_HAND}
_SAME_TIME_S = 1e-4  # as in decoding: containers round times


@dataclass(frozen=True)
class Pose:
    """Pose of one clip: keypoints float32 [T, 75, 3], confidences float32 [T, 75], and the video's rate and size.

    `start` is the time of the first pose in the video file, in seconds; it is above 0 for a range of a longer file.
    `made_by` names the program that estimated the points, its version and settings; "" = not recorded. `remarks` say
    what a reader had to decide.
    """

    keypoints: np.ndarray
    confidences: np.ndarray
    fps: float
    width: int
    height: int
    start: float = 0.0
    made_by: str = ""
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        frames = len(self.keypoints)
        assert self.keypoints.shape == (frames, POINTS, 3), self.keypoints.shape
        assert self.confidences.shape == (frames, POINTS), self.confidences.shape

    def __len__(self) -> int:
        return len(self.keypoints)

    @property
    def has_points(self) -> bool:
        """Whether a point is known in any frame."""
        return bool((self.confidences > 0).any())

    def within(self, start: float | None, end: float | None) -> "Pose":
        """Return the poses with start <= time < end, in seconds of the video file; None = no limit."""
        times = self.start + np.arange(len(self)) / self.fps
        inside = times >= (-np.inf if start is None else start - _SAME_TIME_S)
        inside &= times < (np.inf if end is None else end - _SAME_TIME_S)
        rows = np.flatnonzero(inside)
        return self.part(int(rows[0]), int(rows[-1]) + 1) if len(rows) else self.part(0, 0)

    def part(self, first: int, end: int) -> "Pose":
        """Return the poses of the frames from `first` to before `end`."""
        start = self.start + first / self.fps
        return replace(self, keypoints=self.keypoints[first:end], confidences=self.confidences[first:end], start=start)


@dataclass(frozen=True)
class VideoFacts:
    """What is known of a clip's video.

    Attributes:
        fps: Frame rate, as the user says it.
        width, height: Picture size, from the user or a manifest.
        video_fps: Frame rate, as measured.
        video_frames: How many frames the clip has, and the file that it is a range of.
    """

    fps: float | None = None
    width: int | None = None
    height: int | None = None
    video_fps: float | None = None
    video_frames: tuple[int | None, ...] = ()

    def rate(self, own: float | None, frames: int) -> float | None:
        """Return the rate of a pose of so many frames, whose file gives its own rate (None or 0 = it gives none).

        The measured rate counts for a pose of every frame, and where the file's is that rate rounded to a whole number.
        """
        if self.fps is not None or not own or self.video_fps is None:
            return self.fps or own or self.video_fps
        rounded = own.is_integer() and abs(own - self.video_fps) < 1
        return self.video_fps if frames in self.video_frames or rounded else own


def canonical(
    points: np.ndarray,
    confidences: np.ndarray,
    facts: VideoFacts,
    path: Path,
    *,
    bare: bool = False,
    made_by: str = "",
    own_fps: float | None = None,
) -> Pose:
    """Make a pose from points `[T, 75, 2 or 3]` in 0..1, y down; points that are not finite become missing.

    So do points at places that only a sentinel has: a part whose points all coincide and, in a format without
    confidences (`bare`), a point at 0, 0 or -1, -1. The pose's remarks name them.

    Raises:
        UserError: There is no frame, or frame rate or picture size is unknown.
    """
    if not len(points):
        raise UserError(f"{path}: the pose has no frames")
    fps = facts.rate(own_fps, len(points))
    if not fps or facts.width is None or facts.height is None:
        lacking = [] if fps else ["frame rate (--fps)"]
        lacking += ["picture size (--size)"] if facts.width is None or facts.height is None else []
        raise UserError(f"{path}: the format does not say its {' and '.join(lacking)}; or give a --manifest")
    whole = np.zeros((len(points), POINTS, 3), np.float32)
    whole[:, :, : points.shape[2]] = points
    known = np.isfinite(whole[:, :, :2]).all(axis=2) & np.isfinite(confidences) & (confidences > 0)
    remarks = []
    for name, part in PARTS.items():
        absent = _sentinels(whole[:, part, :2], known[:, part], bare)  # [T, points]
        if absent.any():
            frame, point = np.argwhere(absent)[0]
            x, y = whole[frame, part.start + point, :2]
            count = int(absent.any(axis=1).sum())
            remarks.append(f"{name}: points at ({x:g}, {y:g}) read as missing, in {count} of {len(whole)} frames")
        known[:, part] &= ~absent
    whole[~known] = 0.0
    whole = np.nan_to_num(whole, posinf=0.0, neginf=0.0)  # an unknown depth
    confidences = np.where(known, np.clip(confidences, 0.0, 1.0), 0.0).astype(np.float32)
    return Pose(whole, confidences, fps, facts.width, facts.height, made_by=made_by, remarks=tuple(remarks))


def _sentinels(xy: np.ndarray, known: np.ndarray, bare: bool) -> np.ndarray:
    """Return which known points `[T, P]` of a part, xy `[T, P, 2]`, stand for "not found"."""
    first = xy[np.arange(len(xy)), known.argmax(axis=1)][:, None]  # [T, 1, 2], of the first known point
    one_place = ((xy == first).all(axis=2) | ~known).all(axis=1) & (known.sum(axis=1) > 1)  # [T]
    corner = (xy == 0).all(axis=2) | (xy == -1).all(axis=2)
    return known & (one_place[:, None] | (corner & bare))


def read_pose(path: str | Path) -> Pose:
    """Read a canonical pose file: npz with keypoints, confidences, fps, width, height and, optionally, start.

    Raises:
        UserError: The file is missing, is not such an npz, or holds values that are not finite.
    """
    path = Path(path)
    try:
        stored = read_arrays(path, (*_KEYS, "start", "made_by"), MAX_POSE_BYTES)
    except FileNotFoundError:
        raise UserError(f"{path}: no such pose file") from None
    except DamagedArrays as error:
        raise UserError(f"{path}: cannot be read as a pose file ({error.reason})") from error
    missing = [key for key in _KEYS if key not in stored]
    if missing:
        raise UserError(f"{path}: not a canonical pose file, '{missing[0]}' is missing")
    try:
        keypoints = stored["keypoints"].astype(np.float32)
        confidences = stored["confidences"].astype(np.float32)
        fps, width, height = float(stored["fps"]), int(stored["width"]), int(stored["height"])
        start = float(stored["start"]) if "start" in stored else 0.0
        made_by = str(stored["made_by"]) if "made_by" in stored else ""
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{path}: cannot be read as a pose file ({error})") from error
    if keypoints.ndim != 3 or keypoints.shape[1:] != (POINTS, 3) or confidences.shape != keypoints.shape[:2]:
        raise UserError(
            f"{path}: keypoints are [T, {POINTS}, 3] and confidences [T, {POINTS}],"
            f" not {list(keypoints.shape)} and {list(confidences.shape)}"
        )
    if len(keypoints) == 0:
        raise UserError(f"{path}: the pose has no frames")
    if not np.isfinite(confidences).all() or not np.isfinite(keypoints[confidences > 0]).all():
        raise UserError(f"{path}: a point with confidence above 0 is not finite")
    if not (np.isfinite([fps, start]).all() and min(fps, width, height) > 0 and start >= 0):
        raise UserError(f"{path}: fps, width and height must be above 0, and start at least 0")
    return Pose(keypoints, confidences, fps, width, height, start, made_by)


def program_of(path: Path) -> str:
    """Return the program that made a pose file, as the file says; "" if it does not, or cannot be read."""
    try:
        return str(read_arrays(path, ("made_by",)).get("made_by", ""))
    except (OSError, UserError):
        return ""


def write_pose(path: str | Path, pose: Pose) -> None:
    """Write a canonical pose file, atomically."""
    write_atomic_with(
        Path(path),
        lambda file: np.savez_compressed(
            file,
            keypoints=pose.keypoints.astype(np.float32),
            confidences=pose.confidences.astype(np.float32),
            fps=np.float64(pose.fps),
            width=np.int64(pose.width),
            height=np.int64(pose.height),
            start=np.float64(pose.start),
            made_by=np.str_(pose.made_by),
        ),
    )


def frame_rows(numbers: Sequence[int], path: Path) -> np.ndarray:
    """Return the row of each numbered frame; frames that a file leaves out keep a row without points."""
    rows = np.asarray(numbers, np.int64)
    rows = rows - rows.min()
    if rows.max() >= 10 * len(set(numbers)) + 1000:  # a wrong number must not ask for millions of frames
        raise UserError(f"{path}: frame numbers reach from {min(numbers)} to {max(numbers)} for {len(numbers)} frames")
    return rows


def normalise(pose: Pose) -> tuple[np.ndarray, str]:
    """Centre and scale a clip by its signer's shoulders, which removes camera distance and picture shape.

    Short gaps in a hand are interpolated linearly. Centre and scale are the same for all frames, so that movement is
    preserved. Missing points become 0, 0 with confidence 0.

    Returns:
        float32 [T, 75, 3] of x, y, confidence, and the source of the scale: "shoulders", "wrists" (no shoulder was
        detected: the hands' roots and palm lengths) or "none" (neither: image coordinates stay).
    """
    points = pose.keypoints[:, :, :2].astype(np.float32)  # [T, J, 2], a copy
    points[:, :, 0] *= pose.width / pose.height
    points, confidence = fill_hand_gaps(points, pose.confidences.astype(np.float32))
    centre, scale, used = frame_of_reference(points, confidence)
    points = (points - centre) / np.float32(scale)
    points[confidence == 0] = 0.0
    return np.concatenate([points, confidence[:, :, None]], axis=2).astype(np.float32), used


def frame_of_reference(points: np.ndarray, confidence: np.ndarray) -> tuple[np.ndarray, float, str]:
    """Return a clip's centre, its scale, and what gives them, from points `[T, J, 2]` of one unit; see `normalise`."""
    detected = (confidence[:, LEFT_SHOULDER] > 0) & (confidence[:, RIGHT_SHOULDER] > 0)  # [T]
    if detected.any():
        left, right = points[detected, LEFT_SHOULDER], points[detected, RIGHT_SHOULDER]
        width = float(np.linalg.norm(left - right, axis=1).mean())
        if width > _SMALLEST_SCALE:
            return ((left + right) / 2).mean(axis=0), width, "shoulders"
    roots, palms = [], []
    for hand in (LEFT_HAND, RIGHT_HAND):
        root, knuckle = hand.start + HAND_ROOT, hand.start + HAND_MIDDLE_MCP
        both = (confidence[:, root] > 0) & (confidence[:, knuckle] > 0)
        roots.append(points[both, root])
        palms.append(np.linalg.norm(points[both, knuckle] - points[both, root], axis=1))
    lengths = np.concatenate(palms)
    if len(lengths) and float(np.median(lengths)) > _SMALLEST_SCALE:
        width = float(np.median(lengths)) * PALMS_PER_SHOULDER_WIDTH
        return np.concatenate(roots).mean(axis=0), width, "wrists"
    return np.zeros(2, np.float32), 1.0, "none"


def fill_hand_gaps(points: np.ndarray, confidence: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Interpolate gaps of at most LONGEST_FILLED_GAP frames between two detections of a hand point, linearly."""
    points, confidence = points.copy(), confidence.copy()
    detected = confidence > 0
    # Points of one hand nearly always vanish together, so equal columns are filled together.
    columns: dict[bytes, list[int]] = {}
    for joint in range(LEFT_HAND.start, RIGHT_HAND.stop):
        columns.setdefault(detected[:, joint].tobytes(), []).append(joint)
    for joints in columns.values():
        sighted = np.flatnonzero(detected[:, joints[0]])
        for before, after in itertools.pairwise(sighted):
            gap = after - before - 1
            if 0 < gap <= LONGEST_FILLED_GAP:
                share = (np.arange(1, gap + 1, dtype=np.float32) / (gap + 1))[:, None, None]  # [gap, 1, 1]
                first, last = points[before, joints], points[after, joints]
                points[before + 1 : after, joints] = first + share * (last - first)
                confidence[before + 1 : after, joints] = FILLED_CONFIDENCE
    return points, confidence
