"""Poses as the readers give them, and as they are expected."""

from pathlib import Path

import numpy as np
import pytest

from islr.data.poses.pose import Pose, VideoFacts
from islr.data.poses.readers import find_poses, pose_clips
from support.pose_files import (
    FPS,
    HEIGHT,
    WIDTH,
)

FACTS = VideoFacts(FPS, WIDTH, HEIGHT)


def read(source: Path, format_name: str = "auto", facts: VideoFacts = FACTS) -> dict[str, Pose]:
    found, _ = find_poses(source, format_name)
    return {clip.clip_id: clip.read(facts) for clip in pose_clips(found, source, format_name)}


def one(source: Path, facts: VideoFacts = FACTS) -> Pose:
    poses = list(read(source, facts=facts).values())
    assert len(poses) == 1
    return poses[0]


def assert_pose(found: Pose, expected: Pose, confidences: np.ndarray, *, depth: bool = True) -> None:
    """Same points, same confidences, same facts; nothing where nothing was seen."""
    assert found.keypoints.dtype == found.confidences.dtype == np.float32
    assert found.confidences == pytest.approx(confidences, abs=1e-6)
    seen = confidences > 0
    axes = 3 if depth else 2
    assert found.keypoints[seen][:, :axes] == pytest.approx(expected.keypoints[seen][:, :axes], abs=1e-5)
    assert np.all(found.keypoints[~seen] == 0)
    assert (found.fps, found.width, found.height) == (expected.fps, expected.width, expected.height)
