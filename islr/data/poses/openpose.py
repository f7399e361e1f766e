"""The reader of OpenPose's json: people, each with body, face and hands as flat lists x, y, confidence."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from islr.data.poses.pose import HAND_POINTS, LEFT_HAND, POINTS, RIGHT_HAND, Pose, VideoFacts, canonical, frame_rows
from islr.errors import UserError
from islr.untrusted.json_files import Plain, read_json

# OpenPose's BODY_25 (its documentation, "Pose Output Format") by canonical body point. Its neck and mid-hip have no
# counterpart, its big toes are the nearest to MediaPipe's foot tips. Its hands are numbered as MediaPipe's.
OPENPOSE_BODY = {0: 0, 2: 16, 5: 15, 7: 18, 8: 17, 11: 5, 12: 2, 13: 6, 14: 3, 15: 7, 16: 4}
OPENPOSE_BODY |= {23: 12, 24: 9, 25: 13, 26: 10, 27: 14, 28: 11, 29: 21, 30: 24, 31: 19, 32: 22}
OPENPOSE_BODY_POINTS = 25
# The 18 points of COCO, which its first version wrote.
_COCO_BODY = {0: 0, 2: 15, 5: 14, 7: 17, 8: 16, 11: 5, 12: 2, 13: 6, 14: 3, 15: 7, 16: 4}
_COCO_BODY |= {23: 11, 24: 8, 25: 12, 26: 9, 27: 13, 28: 10}
_BODIES = {OPENPOSE_BODY_POINTS: OPENPOSE_BODY, 18: _COCO_BODY}
_BODY_KEY, _HAND_KEYS = "pose_keypoints", {"hand_left_keypoints": LEFT_HAND, "hand_right_keypoints": RIGHT_HAND}

_FRAME_NUMBER = re.compile(r"(\d+)(?:_keypoints)?(?:\.json)?$")
_HEAD_BYTES = 65536


def accepts_openpose(path: Path) -> bool:
    """Return whether a path is a folder of per-frame files, or one json with the frames of a clip."""
    if path.is_dir():
        return next(path.glob("*_keypoints.json"), None) is not None
    if path.suffix.lower() != ".json" or path.name.endswith("_keypoints.json") or not path.is_file():
        return False
    with path.open("rb") as file:
        return b'"people"' in file.read(_HEAD_BYTES)


def read_openpose(path: Path, facts: VideoFacts) -> Pose:
    """Read the signer's points, which are pixels of the frame, y down.

    OpenPose does not track people from frame to frame. The signer is the person of highest confidence in the first
    frame with people, and then the person nearest to the signer's last position.
    """
    if path.is_dir():
        files = sorted(path.glob("*_keypoints.json"))
        named = {_frame_number(file.name, path): file for file in files}
        if len(named) < len(files):
            raise UserError(f"{path}: several files have one frame number; a folder holds the frames of one clip")
        frames = {number: _json(file) for number, file in named.items()}
    else:
        content = _json(path)
        if isinstance(content, list):
            frames = dict(enumerate(content))
        elif isinstance(content, dict) and "people" not in content:
            frames = {_frame_number(name, path): frame for name, frame in content.items()}
        else:
            raise UserError(f"{path}: holds one frame; give the folder with all frames of the clip")
    if not frames:
        raise UserError(f"{path}: the pose has no frames")
    if facts.width is None or facts.height is None:
        raise UserError(f"{path}: OpenPose points are pixels; give the picture's size (--size or --manifest)")
    numbers = sorted(frames)
    rows = frame_rows(numbers, path)
    whole = np.zeros((int(rows[-1]) + 1, POINTS, 3), np.float32)
    last: np.ndarray | None = None
    for row, number in zip(rows, numbers, strict=True):
        people = [points for points in _people(frames[number], path) if (points[:, 2] > 0).any()]
        if not people:
            continue
        centres = [points[points[:, 2] > 0, :2].mean(axis=0) for points in people]
        if last is None:
            chosen = int(np.argmax([points[:, 2].sum() for points in people]))
        else:
            chosen = int(np.argmin([np.linalg.norm(centre - last) for centre in centres]))
        whole[row], last = people[chosen], centres[chosen]
    points = whole[:, :, :2] / np.array([facts.width, facts.height], np.float32)
    return canonical(points, whole[:, :, 2], facts, path)


def _people(frame: Any, path: Path) -> list[np.ndarray]:
    """Return canonical points `[75, 3]` (x, y in pixels, confidence) of each person in a frame."""
    if not isinstance(frame, dict) or not isinstance(frame.get("people"), list):
        raise UserError(f"{path}: a frame without a list of 'people'; this is not OpenPose's json")
    found = []
    for person in frame["people"]:
        points = np.zeros((POINTS, 3), np.float32)
        known = 0
        for key, part in ((_BODY_KEY, None), *_HAND_KEYS.items()):
            flat = _flat(person, key)
            known += flat is not None
            if flat is None or not len(flat):
                continue
            if part is None:
                values = _triples(flat, key, tuple(_BODIES), path)
                pairs = _BODIES[len(values)]
                points[list(pairs)] = values[list(pairs.values())]
            else:
                points[part] = _triples(flat, key, (HAND_POINTS,), path)
        if not known:
            keys = ", ".join(map(str, person)) if isinstance(person, dict) else type(person).__name__
            raise UserError(f"{path}: a person without {_BODY_KEY}_2d, {_BODY_KEY} or hands; it has {keys}")
        found.append(points)
    return found


def _flat(person: Any, key: str) -> Any:
    """Return the list of a part, by its name or by that of OpenPose 1.0, which lacks "_2d"; None if there is none."""
    return person.get(f"{key}_2d", person.get(key)) if isinstance(person, dict) else None


def _triples(flat: Any, key: str, counts: tuple[int, ...], path: Path) -> np.ndarray:
    """Reshape a flat list x, y, confidence, ... to `[count, 3]`."""
    try:
        values = np.asarray(flat, np.float32)
    except (ValueError, TypeError):
        raise UserError(f"{path}: '{key}' is not a list of numbers") from None
    if values.ndim != 1 or values.size not in [3 * count for count in counts]:
        raise UserError(
            f"{path}: '{key}' has {values.size} numbers; we know {' or '.join(map(str, counts))} points of three"
        )
    return values.reshape(-1, 3)


def _frame_number(name: str, path: Path) -> int:
    match = _FRAME_NUMBER.search(name)
    if match is None:
        raise UserError(f"{path}: the name '{name}' does not end in a frame number")
    return int(match[1])


def _json(path: Path) -> Any:
    try:
        return read_json(Plain, path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
