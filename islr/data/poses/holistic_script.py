"""A script that runs MediaPipe Holistic on frames from another process; not a module of this package.

MediaPipe cannot share an environment with the rest of the suite (it needs older numpy and protobuf), so `extract.py`
starts this file with the Python of another environment. It imports nothing but MediaPipe and numpy.

Protocol, per clip: a line of json {"frames", "height", "width"} and that many frames, uint8 [H, W, 3] RGB, arrive on
standard input; a line of json {"bytes"} and float32 [T, 75, 4] (x, y, z, confidence) leave on standard output. Points:
33 body, 21 left hand, 21 right hand; a part that was not detected is all zeros.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

BODY, HAND = 33, 21


def main() -> None:
    # MediaPipe prints from its import on, which must not mix with the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    import mediapipe

    if "--check" in sys.argv:
        legacy = hasattr(mediapipe, "solutions")
        answers.write(json.dumps({"mediapipe": mediapipe.__version__, "holistic": legacy}).encode() + b"\n")
        return
    options = dict(word[2:].split("=", 1) for word in sys.argv[1:] if "=" in word)
    if "model" in options:
        _place(options["model"], Path(mediapipe.__file__).parent / "modules" / "pose_landmark" / options["name"])
    complexity = int(options.get("complexity", "1"))
    while line := sys.stdin.buffer.readline():
        # A new tracker for every clip, so that clips do not influence each other.
        with mediapipe.solutions.holistic.Holistic(static_image_mode=False, model_complexity=complexity) as tracker:
            points = _clip(tracker, json.loads(line), sys.stdin.buffer).tobytes()
        answers.write(json.dumps({"bytes": len(points)}).encode() + b"\n")
        answers.write(points)
        answers.flush()


def _place(model: str, place: Path) -> None:
    """Put a model where MediaPipe looks for it; its own download would write the same file."""
    content = Path(model).read_bytes()
    if place.exists() and place.read_bytes() != content:
        sys.exit(f"{place} is another model than {model}; move it away")
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_name(f"{place.name}.{os.getpid()}.partial")
        partial.write_bytes(content)
        partial.replace(place)


def _clip(tracker: Any, clip: dict[str, int], frames: BinaryIO) -> np.ndarray:
    """Return float32 [T, 75, 4] of the frames of one clip."""
    shape = (clip["height"], clip["width"], 3)
    found = np.zeros((clip["frames"], BODY + 2 * HAND, 4), np.float32)
    for row in found:
        content = frames.read(shape[0] * shape[1] * 3)
        result = tracker.process(np.frombuffer(content, np.uint8).reshape(shape))
        _fill(row[:BODY], result.pose_landmarks, has_visibility=True)
        _fill(row[BODY : BODY + HAND], result.left_hand_landmarks, has_visibility=False)
        _fill(row[BODY + HAND :], result.right_hand_landmarks, has_visibility=False)
    return found


def _fill(row: np.ndarray, landmarks: Any, *, has_visibility: bool) -> None:
    if landmarks is not None:
        row[:] = [(p.x, p.y, p.z, p.visibility if has_visibility else 1.0) for p in landmarks.landmark]


if __name__ == "__main__":
    main()
