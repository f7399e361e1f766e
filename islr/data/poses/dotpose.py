"""The reader of .pose files: components and points are found by the names in the file's header.

Files differ in their components, in the points that each keeps, and in the values per point (XYC, XYZC, XYZKC).
"""

import struct
from pathlib import Path
from typing import Any

import numpy as np

from islr.data.poses.openpose import OPENPOSE_BODY
from islr.data.poses.pose import BODY_POINTS, HAND_POINTS, LEFT_HAND, POINTS, RIGHT_HAND, Pose, VideoFacts, canonical
from islr.errors import UserError, one_line

# MediaPipe's names of body and hand points, in the order of canonical points.
_SIDES = ("LEFT", "RIGHT")
BODY_NAMES = (
    *("NOSE", "LEFT_EYE_INNER", "LEFT_EYE", "LEFT_EYE_OUTER", "RIGHT_EYE_INNER", "RIGHT_EYE", "RIGHT_EYE_OUTER"),
    *("LEFT_EAR", "RIGHT_EAR", "MOUTH_LEFT", "MOUTH_RIGHT"),
    *(f"{side}_{joint}" for joint in ("SHOULDER", "ELBOW", "WRIST", "PINKY", "INDEX", "THUMB") for side in _SIDES),
    *(f"{side}_{joint}" for joint in ("HIP", "KNEE", "ANKLE", "HEEL", "FOOT_INDEX") for side in _SIDES),
)
_FINGERS = ("INDEX_FINGER", "MIDDLE_FINGER", "RING_FINGER", "PINKY")
HAND_NAMES = (
    *("WRIST", "THUMB_CMC", "THUMB_MCP", "THUMB_IP", "THUMB_TIP"),
    *(f"{finger}_{joint}" for finger in _FINGERS for joint in ("MCP", "PIP", "DIP", "TIP")),
)
# OpenPose's, in its own order; its neck and the middle of its hips have no canonical counterpart.
_OPENPOSE_BODY_NAMES = (
    *("NOSE", "NECK", "RSHOULDER", "RELBOW", "RWRIST", "LSHOULDER", "LELBOW", "LWRIST", "MIDHIP", "RHIP", "RKNEE"),
    *("RANKLE", "LHIP", "LKNEE", "LANKLE", "REYE", "LEYE", "REAR", "LEAR", "LBIGTOE", "LSMALLTOE", "LHEEL", "RBIGTOE"),
    *("RSMALLTOE", "RHEEL"),
)
_OPENPOSE_HAND_NAMES = (
    *("BASE", "T_STT", "T_BCMC", "T_MCP", "T_IP"),
    *(f"{finger}_{joint}" for finger in "IMRP" for joint in ("CMC", "MCP", "PIP", "DIP")),
)
_BODY = {name: point for point, name in enumerate(BODY_NAMES)}
_HAND = {name: point for point, name in enumerate(HAND_NAMES)}
_OPENPOSE = {_OPENPOSE_BODY_NAMES[theirs]: ours for ours, theirs in OPENPOSE_BODY.items()}
_OPENPOSE_HAND = {name: point for point, name in enumerate(_OPENPOSE_HAND_NAMES)}

# Component -> its first canonical point, its points by name, and the names of a whole component in order.
_COMPONENTS = {
    "POSE_LANDMARKS": (0, _BODY, BODY_NAMES),
    "POSE_KEYPOINTS_2D": (0, _OPENPOSE, _OPENPOSE_BODY_NAMES),
    "LEFT_HAND_LANDMARKS": (LEFT_HAND.start, _HAND, HAND_NAMES),
    "RIGHT_HAND_LANDMARKS": (RIGHT_HAND.start, _HAND, HAND_NAMES),
    "HAND_LEFT_KEYPOINTS_2D": (LEFT_HAND.start, _OPENPOSE_HAND, _OPENPOSE_HAND_NAMES),
    "HAND_RIGHT_KEYPOINTS_2D": (RIGHT_HAND.start, _OPENPOSE_HAND, _OPENPOSE_HAND_NAMES),
}
assert (len(BODY_NAMES), len(HAND_NAMES)) == (BODY_POINTS, HAND_POINTS)


def read_dotpose(path: Path, facts: VideoFacts) -> Pose:
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
        components = list(stored.header.components)
        width, height = stored.header.dimensions.width, stored.header.dimensions.height
        fps = float(stored.body.fps)
    except (
        *(OSError, struct.error, ValueError, LookupError, TypeError, AttributeError, MemoryError, ArithmeticError),
        *(AssertionError, NotImplementedError),  # another version of the format
    ) as error:
        raise UserError(f"{path}: cannot be read as a .pose file ({one_line(error)})") from None
    # Points are pixels of the header's picture; only where it has no size does another source's count.
    size = VideoFacts(facts.fps, width or facts.width, height or facts.height, facts.video_fps, facts.video_frames)
    if not len(data) or data.shape[1] == 0:
        raise UserError(f"{path}: the pose has no frames or nobody in them")
    person = int(np.argmax(certainty.sum(axis=(0, 2))))
    points = np.zeros((len(data), POINTS, 3), np.float32)
    confidences = np.zeros((len(data), POINTS), np.float32)
    # z is in the unit of x.
    scale = {"X": size.width or 1, "Y": size.height or 1, "Z": size.width or 1}
    for point, (place, axes) in _picks(components, path).items():
        for number, axis in enumerate("XYZ"):
            if axis in axes:
                points[:, point, number] = data[:, person, place, axes[axis]] / scale[axis]
        confidences[:, point] = certainty[:, person, place]
    return canonical(points, confidences, size, path, own_fps=fps)


def _picks(components: list[Any], path: Path) -> dict[int, tuple[int, dict[str, int]]]:
    """Return where each canonical point is in the file: its place, and the place of each axis in its values."""
    picks: dict[int, tuple[int, dict[str, int]]] = {}
    at = 0
    for component in components:
        known = _COMPONENTS.get(component.name.upper())
        if known is not None:
            axes = {axis: component.format.upper().find(axis) for axis in "XYZ" if axis in component.format.upper()}
            if not {"X", "Y"} <= set(axes):
                raise UserError(f"{path}: component {component.name} has values {component.format}, without X and Y")
            first, point_of, order = known
            names = [name.upper() for name in component.points]
            if not set(names) & set(point_of):
                if len(names) != len(order):
                    raise UserError(
                        f"{path}: component {component.name} has {len(names)} points whose names we do not know"
                        f" ({', '.join(component.points[:3])}, ...)"
                    )
                names = list(order)
            found = {point_of[name]: at + place for place, name in enumerate(names) if name in point_of}
            picks |= {first + point: (place, axes) for point, place in found.items()}
        at += len(component.points)
    if not picks:
        named = ", ".join(component.name for component in components)
        raise UserError(f"{path}: none of its components is a body or hand we know ({named})")
    return picks
