"""Makes one moving pose and writes it in the layouts of the foreign formats."""

import csv
import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from islr.data.poses.dotpose import BODY_NAMES
from islr.data.poses.openpose import OPENPOSE_BODY
from islr.data.poses.pose import LEFT_HAND, POINTS, RIGHT_HAND, Pose
from islr.data.poses.tables import SPOTER_BODY, SPOTER_HAND

WIDTH, HEIGHT, FPS = 640, 480, 25.0
MISSING_HAND = (2, 3)  # frames without a left hand


def signer(frames: int = 6, seed: int = 0) -> Pose:
    """Everything is seen but the left hand in two frames; nose above shoulders above hips."""
    rng = np.random.default_rng(seed)
    keypoints = rng.uniform(0.3, 0.7, (frames, POINTS, 3)).astype(np.float32)
    keypoints[:, 0, 1] = 0.2
    keypoints[:, 11:13, 1] = 0.4
    keypoints[:, 11, 0], keypoints[:, 12, 0] = 0.6, 0.4
    keypoints[:, 23:25, 1] = 0.8
    confidences = np.ones((frames, POINTS), np.float32)
    confidences[:, :33] = 0.75
    for frame in MISSING_HAND:
        confidences[frame, LEFT_HAND] = 0
    keypoints[confidences == 0] = 0
    return Pose(keypoints, confidences, FPS, WIDTH, HEIGHT)


def pose_of(frames: int = 12, *, width: int = 320, height: int = 240, seed: int = 0) -> Pose:
    """Random points within the picture, all of them visible, the shoulders where a signer has them."""
    rng = np.random.default_rng(seed)
    keypoints = rng.uniform(0.2, 0.8, (frames, POINTS, 3)).astype(np.float32)
    keypoints[:, 11, :2] = (0.6, 0.5)  # left shoulder: the signer's own left is on the picture's right
    keypoints[:, 12, :2] = (0.4, 0.5)
    return Pose(keypoints, np.ones((frames, POINTS), np.float32), 25.0, width, height)


def only(pose: Pose, points: list[int]) -> np.ndarray:
    """Confidences `[T, 75]` with all points but some (and both hands) missing."""
    kept = np.zeros(POINTS, bool)
    kept[points] = True
    kept[LEFT_HAND], kept[RIGHT_HAND] = True, True
    return np.where(kept, pose.confidences, 0)


def openpose_person(pose: Pose, frame: int, shift: float = 0.0, sure: float = 1.0) -> dict[str, Any]:
    """One person of one frame: flat lists of x, y in pixels and a confidence."""
    pixels = pose.keypoints[frame, :, :2] * (WIDTH, HEIGHT) + (shift, 0)
    rows = np.concatenate([pixels, sure * pose.confidences[frame, :, None]], axis=1)
    rows[pose.confidences[frame] == 0] = 0
    body = np.zeros((25, 3))
    for ours, theirs in OPENPOSE_BODY.items():
        body[theirs] = rows[ours]
    return {
        "person_id": [-1],
        "pose_keypoints_2d": body.ravel().tolist(),
        "face_keypoints_2d": [1.0] * 210,
        "hand_left_keypoints_2d": rows[LEFT_HAND].ravel().tolist(),
        "hand_right_keypoints_2d": rows[RIGHT_HAND].ravel().tolist(),
    }


def write_openpose(folder: Path, frames: dict[int, list[dict[str, Any]]]) -> Path:
    """A folder with a json per frame."""
    folder.mkdir(parents=True)
    for number, people in frames.items():
        file = folder / f"image_{number:05d}_keypoints.json"
        file.write_text(json.dumps({"version": 1.3, "people": people}))
    return folder


def landmarks(pose: Pose) -> np.ndarray:
    """float32 `[T, 543, 3]`: face, left hand, body, right hand; NaN where missing."""
    values = np.full((len(pose), 543, 3), 0.5, np.float32)
    points = np.where(pose.confidences[:, :, None] > 0, pose.keypoints, np.nan)
    values[:, 489:522], values[:, 468:489], values[:, 522:] = (
        points[:, :33],
        points[:, LEFT_HAND],
        points[:, RIGHT_HAND],
    )
    return values


def write_parquet(path: Path, pose: Pose, first: int = 20, without: tuple[int, ...] = ()) -> Path:
    """A row per landmark and frame; frame numbers start anywhere."""
    import pyarrow
    from pyarrow import parquet

    rows: dict[str, list[Any]] = {name: [] for name in ("frame", "row_id", "type", "landmark_index", "x", "y", "z")}
    for number, frame in enumerate(landmarks(pose), start=first):
        if number - first in without:
            continue
        at = 0
        for kind, count in (("face", 468), ("left_hand", 21), ("pose", 33), ("right_hand", 21)):
            for index in range(count):
                values = [None if np.isnan(v) else float(v) for v in frame[at + index]]
                for name, value in zip(rows, (number, f"{number}-{kind}-{index}", kind, index, *values), strict=True):
                    rows[name].append(value)
            at += count
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table(rows), path)
    return path


def write_pkl(path: Path, pose: Pose, protocol: int = 4) -> Path:
    """float64 arrays in a pickled dict."""
    arrays = {"keypoints": pose.keypoints.astype(np.float64), "confidences": pose.confidences.astype(np.float64)}
    path.write_bytes(pickle.dumps(arrays, protocol=protocol))
    return path


def write_spoter(path: Path, poses: list[Pose], sides: tuple[str, str] = ("left", "right")) -> Path:
    """A row per clip, a list per coordinate, y up, 0 = missing."""
    columns = dict(SPOTER_BODY)
    for side, part in zip(sides, (LEFT_HAND, RIGHT_HAND), strict=True):
        columns |= {f"{name}_{side}": part.start + index for index, name in enumerate(SPOTER_HAND)}
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["", *(f"{name}_{axis}" for name in [*columns, "neck"] for axis in "XY"), "labels"])
        for number, pose in enumerate(poses):
            cells: list[Any] = [number]
            for point in columns.values():
                seen = pose.confidences[:, point] > 0
                xy = np.where(seen[:, None], pose.keypoints[:, point, :2] * (1, -1) + (0, 1), 0).astype(float)
                cells += [str(xy[:, 0].tolist()), str(xy[:, 1].tolist())]
            writer.writerow([*cells, str([0] * len(pose)), str([0] * len(pose)), number + 1])
    return path


def write_pose_format(
    path: Path,
    pose: Pose,
    *,
    world: bool = True,
    people: int = 1,
    values: str = "XYZC",
    body: Sequence[str] | None = None,
    version: float = 0.2,
) -> Path:
    """A .pose file of Holistic: body (or its points of some names), face, hands and, in some, the body in metres."""
    from pose_format import Pose as PoseFile
    from pose_format.numpy import NumPyPoseBody
    from pose_format.pose_header import PoseHeader, PoseHeaderComponent, PoseHeaderDimensions

    kept = list(range(33)) if body is None else [BODY_NAMES.index(name) for name in body]
    parts: list[tuple[str, int, Any]] = [("POSE_LANDMARKS", len(kept), kept), ("FACE_LANDMARKS", 468, None)]
    parts += [("LEFT_HAND_LANDMARKS", 21, LEFT_HAND), ("RIGHT_HAND_LANDMARKS", 21, RIGHT_HAND)]
    parts += [("POSE_WORLD_LANDMARKS", 33, None)] if world else []
    scale = np.array([WIDTH, HEIGHT, WIDTH], np.float32)
    data = [
        np.full((len(pose), n, 3), 7, np.float32) if s is None else pose.keypoints[:, s] * scale for _, n, s in parts
    ]
    sure = [np.ones((len(pose), n), np.float32) if s is None else pose.confidences[:, s] for _, n, s in parts]
    whole, certain = np.concatenate(data, axis=1)[:, None], np.concatenate(sure, axis=1)[:, None]
    columns = [
        whole[..., "XYZ".index(axis)] if axis in "XYZ" else np.full(whole.shape[:-1], 9.0) for axis in values[:-1]
    ]
    whole = np.stack(columns, axis=-1).astype(np.float32)
    if people == 2:  # the first is somebody in the background
        whole, certain = np.concatenate([whole + 99, whole], axis=1), np.concatenate([certain / 9, certain], axis=1)
    components = [
        PoseHeaderComponent(name, [f"p{i}" for i in range(n)], [], [(0, 0, 0)], values) for name, n, _ in parts
    ]
    if body is not None:
        components[0].points = list(body)
    header = PoseHeader(version, PoseHeaderDimensions(WIDTH, HEIGHT), components)
    with path.open("wb") as file:
        PoseFile(header, NumPyPoseBody(pose.fps, whole, certain)).write(file)
    return path
