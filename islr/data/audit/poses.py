"""The audit of a corpus's poses: coverage, detection, direction of y, ranges, agreement with the videos."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from islr.data.manifest import OK, SPLITS, Clip, Manifest
from islr.data.packs.format import is_packed
from islr.data.packs.reader import PackReader
from islr.data.poses.matching import pose_of_clip
from islr.data.poses.pose import BODY, LEFT_HAND, LEFT_SHOULDER, RIGHT_HAND, RIGHT_SHOULDER, Pose, normalise, read_pose
from islr.data.video.guard import DecodeError, check_path
from islr.errors import UserError

NOSE, LEFT_HIP, RIGHT_HIP = 0, 23, 24

# Legs are mostly extrapolated below the picture, so they are counted apart.
_PARTS = {"head and arms": slice(0, LEFT_HIP), "hips and legs": slice(LEFT_HIP, BODY.stop)}
_PARTS |= {"left hand": LEFT_HAND, "right hand": RIGHT_HAND}
_MOST_EXAMPLES, _MOST_JITTERY = 10, 3
_PERCENTILES = (0, 1, 50, 99, 100)
_SAME_SHAPE = 0.05  # relative; shrinking a video rounds its sides, turning or cropping it changes far more
_SAME_RATE = 0.01  # relative; containers round 30000/1001 in many ways
# Some points lie outside the picture (hips below the frame); if the median does, coordinates are pixels.
_FAR_OUTSIDE = 2.0

Agreement = Literal["aligned", "other rate", "resampled", "shorter", "longer", "unmeasured"]


@dataclass(frozen=True)
class Alignment:
    """The agreement of a pose's frames with those of its clip.

    `kind` is:
        aligned: as many poses as decoded frames, at the same rate;
        other rate: as many, but the pose file gives another rate; frames are matched by their number;
        resampled: another number, but the same duration to within a frame: the pose was made at another rate;
        shorter, longer: the pose covers less or more time than the clip;
        unmeasured: the manifest does not give the clip's number of frames.
    """

    kind: Agreement
    pose_frames: int
    video_frames: int | None
    pose_fps: float
    video_fps: float | None


def align(pose: Pose, clip: Clip) -> Alignment:
    """Compare a pose with its manifest row, whose frames and rate are measured, over the row's time range."""
    frames = len(pose_of_clip(pose, clip))

    def result(kind: Agreement) -> Alignment:
        return Alignment(kind, frames, clip.frames, pose.fps, clip.fps)

    if clip.frames is None or clip.fps is None:
        return result("unmeasured")
    same_rate = abs(pose.fps / clip.fps - 1) <= _SAME_RATE
    if frames == clip.frames:
        return result("aligned" if same_rate else "other rate")
    difference = frames / pose.fps - clip.frames / clip.fps
    if not same_rate and abs(difference) <= 1 / min(pose.fps, clip.fps):
        return result("resampled")
    return result("shorter" if difference < 0 else "longer")


def pose_audit(manifest: Manifest) -> dict[str, Any]:
    """Audit the pose of every clip that has a video; the result can be written as json."""
    present = [clip for clip in manifest if clip.status == OK]
    audit, packs = _PoseNumbers(), PackReader(manifest.root)
    for clip in present:
        path = manifest.pose_of(clip)
        if path is None:
            continue
        try:
            pose = packs.pose(path, clip.clip_id) if is_packed(path) else read_pose(check_path(path, manifest.root))
        except (UserError, DecodeError) as error:
            audit.unreadable[clip.clip_id] = str(error).removeprefix(f"{path}: ")
        else:
            audit.add(clip, pose)
    coverage = {}
    for split in SPLITS:
        clips = [clip for clip in present if clip.split == split]
        if clips:
            coverage[split] = {"clips": len(clips), "with_pose": sum(bool(clip.pose) for clip in clips)}
    return {
        "name": manifest.name,
        "clips": len(present),
        "with_pose": sum(bool(clip.pose) for clip in present),
        "coverage": coverage,
        **audit.report(),
    }


class _PoseNumbers:
    """Statistics accumulated over clips."""

    def __init__(self) -> None:
        self.unreadable: dict[str, str] = {}
        self.alignments: dict[str, Alignment] = {}
        self.other_shape: list[str] = []
        self.scaled_by: Counter[str] = Counter()
        self.shares: dict[str, list[float]] = {"body": [], "left": [], "right": [], "either": []}
        self.y_down: dict[str, bool | None] = {}
        self.nose_below: list[str] = []
        self.hips_above: list[str] = []
        self.pixels: list[str] = []
        self.with_nan: list[str] = []
        self.xy: list[np.ndarray] = []
        self.frames = 0
        self.points: Counter[str] = Counter()
        self.outside: Counter[str] = Counter()
        self.programs: Counter[str] = Counter()
        self.without_points: list[str] = []
        self.at_one_place: list[str] = []
        self.jitter: dict[str, float] = {}

    def add(self, clip: Clip, pose: Pose) -> None:
        self.alignments[clip.clip_id] = align(pose, clip)
        if clip.width and clip.height and abs(clip.width / clip.height * pose.height / pose.width - 1) > _SAME_SHAPE:
            self.other_shape.append(f"{clip.clip_id}: {pose.width}x{pose.height}, video {clip.width}x{clip.height}")
        if not np.isfinite(pose.keypoints).all():
            self.with_nan.append(clip.clip_id)
        self.programs[pose.made_by or "not recorded"] += 1
        pose = pose_of_clip(pose, clip)
        if not pose.has_points:
            self.without_points.append(clip.clip_id)
        if not len(pose):
            return  # reported by its alignment
        self.frames += len(pose)
        normalised, scaled_by = normalise(pose)
        self.scaled_by[scaled_by] += 1
        jitter = jitter_of(normalised)
        if jitter is not None:
            self.jitter[clip.clip_id] = jitter
        if _at_one_place(pose).any():
            self.at_one_place.append(clip.clip_id)
        detected = pose.confidences > 0  # [T, J]
        body = detected[:, LEFT_SHOULDER] & detected[:, RIGHT_SHOULDER]
        left, right = (detected[:, hand].any(axis=1) for hand in (LEFT_HAND, RIGHT_HAND))
        for name, frames in (("body", body), ("left", left), ("right", right), ("either", left | right)):
            self.shares[name].append(float(frames.mean()))
        self._direction(clip, pose.keypoints[:, BODY, 1], detected[:, BODY])
        self._range(clip, pose.keypoints[:, :, :2][detected])
        outside = ((pose.keypoints[:, :, :2] < 0) | (pose.keypoints[:, :, :2] > 1)).any(axis=2) & detected
        for name, part in _PARTS.items():
            self.points[name] += int(detected[:, part].sum())
            self.outside[name] += int(outside[:, part].sum())

    def _direction(self, clip: Clip, y: np.ndarray, detected: np.ndarray) -> None:
        """Judge the direction of y `[T, 33]`: nose above shoulders or, without a nose, shoulders above hips."""
        shoulders = _mean_of(y, detected, LEFT_SHOULDER, RIGHT_SHOULDER)
        below_nose = shoulders - np.where(detected[:, NOSE], y[:, NOSE], np.nan)
        below_shoulders = _mean_of(y, detected, LEFT_HIP, RIGHT_HIP) - shoulders
        verdicts = [None if np.isnan(d).all() else bool(np.nanmedian(d) > 0) for d in (below_nose, below_shoulders)]
        if verdicts[0] is False:
            self.nose_below.append(clip.clip_id)
        if verdicts[1] is False:
            self.hips_above.append(clip.clip_id)
        self.y_down[clip.clip_id] = verdicts[0] if verdicts[0] is not None else verdicts[1]

    def _range(self, clip: Clip, xy: np.ndarray) -> None:
        """Add the range of the detected points xy `[N, 2]`."""
        if not len(xy):
            return
        if float(np.median(np.abs(xy))) > _FAR_OUTSIDE:
            self.pixels.append(clip.clip_id)
        self.xy.append(np.percentile(xy, _PERCENTILES, axis=0))  # [5, 2]

    def report(self) -> dict[str, Any]:
        flipped = [clip_id for clip_id, down in self.y_down.items() if down is False]
        hands = {name: self.shares[name] for name in ("left", "right", "either")}
        return {
            "read": len(self.alignments),
            "frames": self.frames,
            "unreadable": list(self.unreadable),
            "unreadable_because": self.unreadable,
            **self._agreement(),
            "y_direction": {
                "down": sum(down is True for down in self.y_down.values()),
                "up": len(flipped),
                "unknown": len(self.alignments) - sum(down is not None for down in self.y_down.values()),
            },
            "flipped": flipped,
            "nose_below_shoulders": self.nose_below,
            "hips_above_shoulders": self.hips_above,
            "pixels_instead_of_shares": self.pixels,
            "with_nan_where_missing": len(self.with_nan),
            "scaled_by": dict(self.scaled_by),
            "made_by": dict(self.programs.most_common()),
            "without_any_point": self.without_points,
            "hands_seen_at_one_place": self.at_one_place,
            "jitter": self._jitter(),
            "share_of_frames_with_body": _mean(self.shares["body"]),
            "share_of_frames_with_hand": {name: _mean(values) for name, values in hands.items() if values},
            "clips_where_never_seen": {name: sum(share == 0 for share in values) for name, values in hands.items()},
            "clips_where_body_never_seen": sum(share == 0 for share in self.shares["body"]),
            "range": self._ranges(),
            "share_of_points_outside_picture": {
                name: round(self.outside[name] / count, 4) for name, count in self.points.items() if count
            },
        }

    def _agreement(self) -> dict[str, Any]:
        """Return how poses and videos differ in rate, length and shape."""
        kinds = Counter(alignment.kind for alignment in self.alignments.values())
        other_rate = [
            f"{clip_id}: {a.kind}, {a.pose_fps:g} poses/s, video {a.video_fps:g}"
            for clip_id, a in self.alignments.items()
            if a.kind in ("other rate", "resampled")
        ]
        other_length = [
            f"{clip_id}: {a.pose_frames} poses, {a.video_frames} frames"
            for clip_id, a in self.alignments.items()
            if a.video_frames is not None and a.pose_frames != a.video_frames
        ]
        return {
            "alignment": dict(kinds.most_common()),
            "other_rate_examples": other_rate[:_MOST_EXAMPLES],
            "other_length_than_video": len(other_length),
            "other_length_examples": other_length[:_MOST_EXAMPLES],
            "other_shape_than_video": len(self.other_shape),
            "other_shape_examples": self.other_shape[:_MOST_EXAMPLES],
        }

    def _jitter(self) -> dict[str, Any]:
        """Return the median and the high end over clips, and the clips with most."""
        if not self.jitter:
            return {}
        median, high = np.percentile(list(self.jitter.values()), (50, 95))
        worst = sorted(self.jitter, key=lambda clip_id: -self.jitter[clip_id])[:_MOST_JITTERY]
        return {"median": round(float(median), 4), "p95": round(float(high), 4), "most": worst}

    def _ranges(self) -> dict[str, dict[str, float]]:
        """Return the smallest and largest value, and the medians over clips of each clip's percentiles."""
        if not self.xy:
            return {}
        clips = np.stack(self.xy)  # [clips, 5, 2]
        found = {}
        for axis, name in enumerate("xy"):
            middle = np.median(clips[:, 1:-1, axis], axis=0)
            values = (clips[:, 0, axis].min(), *middle, clips[:, -1, axis].max())
            names = ("min", *(f"p{p}" for p in _PERCENTILES[1:-1]), "max")
            found[name] = {key: round(float(value), 4) for key, value in zip(names, values, strict=True)}
        return found


def jitter_of(normalised: np.ndarray) -> float | None:
    """Return how far hand points jump, in shoulder widths per frame: the mean length of their second difference.

    Args:
        normalised: `[T, 75, 3]` of `normalise`.

    Returns:
        None where no hand point is seen in three frames in a row.
    """
    hands = normalised[:, LEFT_HAND.start :]
    steady = (hands[:-2, :, 2] > 0) & (hands[1:-1, :, 2] > 0) & (hands[2:, :, 2] > 0)
    if not steady.any():
        return None
    jumps = hands[2:, :, :2] - 2 * hands[1:-1, :, :2] + hands[:-2, :, :2]
    return float(np.linalg.norm(jumps, axis=2)[steady].mean())


def _at_one_place(pose: Pose) -> np.ndarray:
    """Return the frames `[T]` in which all points of a hand that counts as seen coincide, as sentinels do."""
    found = np.zeros(len(pose), bool)
    for hand in (LEFT_HAND, RIGHT_HAND):
        xy = pose.keypoints[:, hand, :2]
        found |= (pose.confidences[:, hand] > 0).all(axis=1) & (xy == xy[:, :1]).all(axis=(1, 2))
    return found


def _mean_of(y: np.ndarray, detected: np.ndarray, one: int, other: int) -> np.ndarray:
    """Return the mean of two points per frame, NaN where one is missing."""
    both = detected[:, one] & detected[:, other]
    return np.where(both, (y[:, one] + y[:, other]) / 2, np.nan)


def _mean(values: Sequence[float]) -> float | None:
    return round(float(np.mean(values)), 4) if values else None


def render_pose_audit(report: dict[str, Any]) -> str:
    """Render the pose audit as text."""
    coverage = ", ".join(f"{split} {row['with_pose']}/{row['clips']}" for split, row in report["coverage"].items())
    lines = [
        f"{report['name']}: poses for {report['with_pose']} of {report['clips']} clips ({coverage})",
        f"read: {report['read']} poses, {report['frames']} frames; {len(report['unreadable'])} unreadable"
        + "".join(f"\n  {name}: {why}" for name, why in _first(report["unreadable_because"])),
    ]
    if report["read"]:
        hands = report["share_of_frames_with_hand"]
        never = report["clips_where_never_seen"]
        shares = ", ".join(f"{name} {share:.1%}" for name, share in hands.items())
        y = report["y_direction"]
        body = report["share_of_frames_with_body"]
        lines += [
            f"frames with the body: {'-' if body is None else f'{body:.1%}'};"
            f" never in {report['clips_where_body_never_seen']} clips",
            f"frames with a hand: {shares}; never: " + ", ".join(f"{name} {n} clips" for name, n in never.items()),
            f"y points: down in {y['down']} clips, up in {y['up']}, not known in {y['unknown']}",
            *_listed("flipped (y must point down)", report["flipped"]),
            *_listed("hips above shoulders", report["hips_above_shoulders"]),
            *_listed("pixels instead of shares of the picture", report["pixels_instead_of_shares"]),
        ]
        for axis, row in report["range"].items():
            lines.append(
                f"{axis} (percentiles are medians over clips): "
                + ", ".join(f"{name} {value:g}" for name, value in row.items())
            )
        outside = report["share_of_points_outside_picture"].items()
        lines.append("points outside the picture: " + ", ".join(f"{name} {share:.1%}" for name, share in outside))
        lines.append(f"NaN at missing points: {report['with_nan_where_missing']} clips")
        lines += _render_quality(report)
        lines.append("scaled by: " + ", ".join(f"{name} {n}" for name, n in report["scaled_by"].items()))
        lines.append("frames against the video: " + ", ".join(f"{k} {n}" for k, n in report["alignment"].items()))
        lines += [f"  {line}" for line in (*report["other_length_examples"], *report["other_rate_examples"])]
        lines += _listed("made for another picture size", report["other_shape_examples"])
    return "\n".join(lines)


def _render_quality(report: dict[str, Any]) -> list[str]:
    """Render who made the poses, what is wrong with them, and how much they jump."""
    lines = ["made by: " + ", ".join(f"{name} {n}" for name, n in report["made_by"].items())]
    lines += _listed("without any point", report["without_any_point"])
    lines += _listed("a hand seen with all points at one place", report["hands_seen_at_one_place"])
    if report["jitter"]:
        j = report["jitter"]
        most = ", ".join(j["most"])
        lines.append(
            f"jitter of hands (shoulder widths per frame): median {j['median']:g}, p95 {j['p95']:g}; most in {most}"
        )
    return lines


def _first(items: dict[str, str]) -> list[tuple[str, str]]:
    return list(items.items())[:_MOST_EXAMPLES]


def _listed(title: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _MOST_EXAMPLES} more" if len(names) > _MOST_EXAMPLES else ""
    return [f"{title}: {len(names)} ({', '.join(names[:_MOST_EXAMPLES])}{more})"]
