"""Makes a small WLASL: json in the published schema, nslt json, videos, poses."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from islr.data.poses.pose import POINTS, Pose, write_pose
from support.video_files import make_video


def instance(video_id: str, split: str, **changes: Any) -> dict[str, Any]:
    """One instance with the eleven keys of the published json."""
    values = {"bbox": [10, 5, 80, 64], "fps": 25, "frame_start": 1, "frame_end": -1, "instance_id": 0}
    values |= {"signer_id": 3, "source": "site", "split": split, "url": f"http://x/{video_id}.mp4"}
    return {**values, "variation_id": 0, "video_id": video_id, **changes}


def write_json(path: Path, glosses: dict[str, list[dict[str, Any]]]) -> Path:
    """Write glosses and their instances in the published schema."""
    path.write_text(json.dumps([{"gloss": gloss, "instances": items} for gloss, items in glosses.items()]))
    return path


def small_wlasl(folder: Path) -> tuple[Path, Path, Path]:
    """A json of 3 glosses and 9 instances, 6 with videos and 2 of these broken; poses for two clips."""
    glosses = {
        "book": [instance("00001", "train"), instance("00002", "val"), instance("00003", "test")],
        "don't want": [instance("00010", "train", signer_id=9), instance("00011", "test", signer_id=9)],
        "ice cream": [
            instance("00020", "train", url="http://x/00001.mp4", variation_id=1),
            instance("00021", "val"),
            instance("00022", "test"),
            instance("70023", "test"),
        ],
    }
    videos, poses = folder / "videos", folder / "poses"
    (videos / "deep").mkdir(parents=True)
    poses.mkdir()
    for number, name in enumerate(("00001", "00003", "deep/00010", "70023")):
        make_video(videos / f"{name}.mp4", 20 + number, first=number)
    (videos / "00020.mp4").write_bytes(b"")
    (videos / "00021.mp4").write_bytes((videos / "00001.mp4").read_bytes()[:3000])
    (videos / "99999.mp4").write_bytes((videos / "00001.mp4").read_bytes())
    (videos / "notes.txt").write_text("not a video")
    for name, frames in (("00001", 20), ("00003", 7)):
        pose = Pose(np.full((frames, POINTS, 3), 0.5, np.float32), np.ones((frames, POINTS), np.float32), 25, 96, 64)
        write_pose(poses / f"{name}.npz", pose)
    return write_json(folder / "WLASL.json", glosses), videos, poses
