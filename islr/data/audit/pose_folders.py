"""Folders of poses audited without their videos, and the agreement of two folders that hold the same clips."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from islr.data.audit.poses import pose_audit
from islr.data.manifest import Clip, Manifest
from islr.data.poses.pose import BODY, LEFT_HAND, RIGHT_HAND, Pose, frame_of_reference, read_pose
from islr.errors import UserError
from islr.files import walk

_PARTS = {"body": BODY, "left hand": LEFT_HAND, "right hand": RIGHT_HAND}
_MOST_EXAMPLES = 5


def manifest_of_poses(folder: str | Path) -> Manifest:
    """Return the pose files below a folder as a manifest of clips without videos.

    Raises:
        UserError: There are none.
    """
    folder = Path(folder)
    found = [parent / name for parent, _, names in walk(folder) for name in names if name.endswith(".npz")]
    if not found:
        raise UserError(f"{folder}: holds no pose files (.npz)")
    places = [path.relative_to(folder) for path in sorted(found)]
    clips = [Clip(place.with_suffix("").as_posix(), place.as_posix(), pose=place.as_posix()) for place in places]
    return Manifest(folder.name, tuple(clips), folder)


def agreement(one: str | Path, other: str | Path) -> dict[str, Any]:
    """Compare the poses of the clips that are in both folders; the result can be written as json.

    Distances are in shoulder widths of the first folder's signer. A clip with another number of frames is only counted.

    Raises:
        UserError: A folder has no poses, or they share no clip.
    """
    folders = [Path(one), Path(other)]
    names = [{clip.clip_id for clip in manifest_of_poses(folder)} for folder in folders]
    shared = sorted(names[0] & names[1])
    if not shared:
        raise UserError(f"{one} and {other} share no clip")
    other_length: list[str] = []
    distances: dict[str, list[float]] = {part: [] for part in _PARTS}
    both, either = dict.fromkeys(_PARTS, 0), dict.fromkeys(_PARTS, 0)
    for name in shared:
        first, second = (read_pose(folder / f"{name}.npz") for folder in folders)
        if len(first) != len(second):
            other_length.append(f"{name}: {len(first)} and {len(second)} frames")
            continue
        for part, points in _PARTS.items():
            seen = [pose.confidences[:, points] > 0 for pose in (first, second)]  # [T, P]
            both[part] += int((seen[0] & seen[1]).sum())
            either[part] += int((seen[0] | seen[1]).sum())
            if (seen[0] & seen[1]).any():
                distances[part].append(float(np.median(_distance(first, second, points)[seen[0] & seen[1]])))
    return {
        "folders": [str(folder) for folder in folders],
        "clips_in_both": len(shared),
        "clips_in_one": len(names[0] ^ names[1]),
        "other_length": len(other_length),
        "other_length_examples": other_length[:_MOST_EXAMPLES],
        "share_of_points_seen_by_both": {part: round(both[part] / n, 4) for part, n in either.items() if n},
        "median_distance": {part: round(float(np.median(found)), 4) for part, found in distances.items() if found},
    }


def _distance(first: Pose, second: Pose, points: slice) -> np.ndarray:
    """Return the distance of each point `[T, P]`, in shoulder widths of the first pose."""
    shape = np.array([first.width / first.height, 1.0], np.float32)
    apart = np.linalg.norm((first.keypoints[:, points, :2] - second.keypoints[:, points, :2]) * shape, axis=2)
    return apart / _shoulder_width(first)


def _shoulder_width(pose: Pose) -> float:
    points = pose.keypoints[:, :, :2] * np.array([pose.width / pose.height, 1.0], np.float32)
    return frame_of_reference(points, pose.confidences)[1]


def render_agreement(report: dict[str, Any]) -> str:
    """Render the agreement as text."""
    shares = ", ".join(f"{part} {share:.1%}" for part, share in report["share_of_points_seen_by_both"].items())
    apart = ", ".join(f"{part} {value:g}" for part, value in report["median_distance"].items())
    return "\n".join(
        [
            f"agreement of {' and '.join(report['folders'])}: {report['clips_in_both']} clips in both,"
            f" {report['clips_in_one']} in one only, {report['other_length']} of other length",
            *(f"  {line}" for line in report["other_length_examples"]),
            f"points that both see, of those that one sees: {shares}",
            f"median distance in shoulder widths: {apart}",
        ]
    )


def audit_paths(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Audit manifests, and folders of poses that hold no manifest."""
    return [pose_audit(Manifest.load(path) if is_manifest(path) else manifest_of_poses(path)) for path in paths]


def is_manifest(path: Path) -> bool:
    """Return whether a path is a manifest or a folder with one."""
    return not path.is_dir() or (path / "manifest.csv").is_file()
