"""The pose audit finds what is wrong with poses, and poses are compared with the frames of their clips."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.pose_files import MISSING_HAND, signer

from islr.data.audit.pose_folders import agreement, manifest_of_poses
from islr.data.audit.poses import align, pose_audit, render_pose_audit
from islr.data.manifest import Clip, Manifest
from islr.data.packs.reader import clip_pose
from islr.data.poses.matching import pose_of_clip
from islr.data.poses.pose import LEFT_HAND, RIGHT_HAND, Pose, read_pose, write_pose
from islr.data.video.guard import DecodeError
from islr.errors import UserError


def clip(**values: object) -> Clip:
    return Clip("a", "a.mp4", **{"frames": 50, "fps": 25.0, "width": 640, "height": 480, **values})  # type: ignore


@pytest.mark.parametrize(
    ("frames", "fps", "row", "kind"),
    [
        (50, 25.0, {}, "aligned"),
        (50, 25.02, {}, "aligned"),  # a rounded rate
        (50, 30.0, {}, "other rate"),
        (60, 30.0, {}, "resampled"),
        (20, 10.0, {}, "resampled"),
        (48, 25.0, {}, "shorter"),
        (51, 25.0, {}, "longer"),
        (90, 30.0, {}, "longer"),
        (50, 25.0, {"frames": None}, "unmeasured"),
        (200, 25.0, {"start": 2.0, "end": 4.0}, "aligned"),
        (200, 25.0, {"start": 7.0, "end": 9.0}, "shorter"),
    ],
)
def test_poses_against_frames(frames: int, fps: float, row: dict[str, object], kind: str) -> None:
    found = align(replace(signer(frames), fps=fps), clip(**row))
    assert found.kind == kind
    assert (found.pose_fps, found.video_fps) == (fps, 25.0)
    if "start" not in row:
        assert found.pose_frames == frames


def test_a_pose_made_for_a_range_is_aligned_with_it() -> None:
    pose = replace(signer(50), start=2.0)
    assert align(pose, clip(start=2.0, end=4.0)).kind == "aligned"
    assert align(pose, clip()).kind == "aligned"
    assert align(pose, clip(start=3.0, end=5.0)).kind == "shorter"


def changed(pose: Pose, **values: np.ndarray) -> Pose:
    return replace(pose, **values)


@pytest.fixture
def corpus(tmp_path: Path) -> Manifest:
    """Clips whose poses are good or wrong in one way each."""
    good = signer()
    upside = good.keypoints.copy()
    upside[..., 1] = 1 - upside[..., 1]
    headless = good.confidences.copy()
    headless[:, 0] = 0
    nothing = np.zeros_like(good.confidences)
    nan = good.keypoints.copy()
    nan[good.confidences == 0] = np.nan
    poses = {
        "good": good,
        "flipped": changed(good, keypoints=upside),
        "headless flipped": changed(good, keypoints=upside, confidences=headless),
        "nothing": changed(good, confidences=nothing),
        "nan": changed(good, keypoints=nan),
        "pixels": changed(good, keypoints=good.keypoints * 400),
        "short": signer(5),
    }
    clips = []
    for name, pose in poses.items():
        write_pose(tmp_path / f"{name}.npz", pose)
        split = "test" if name == "short" else "train"
        row = Clip(name, "v.mp4", split=split, frames=6, fps=25.0, width=640, height=480, pose=f"{name}.npz")
        clips.append(replace(row, width=480, height=640) if name == "short" else row)
    (tmp_path / "broken.npz").write_bytes(b"broken")
    clips.append(Clip("broken", "v.mp4", split="train", pose="broken.npz"))
    clips.append(Clip("none", "v.mp4", split="test"))
    clips.append(Clip("gone", "v.mp4", split="test", status="missing", pose="good.npz"))
    return Manifest("corpus", tuple(clips), tmp_path)


def test_the_audit_names_what_is_wrong(corpus: Manifest) -> None:
    report = pose_audit(corpus)
    assert (report["clips"], report["with_pose"], report["read"], report["frames"]) == (9, 8, 7, 41)
    assert report["coverage"] == {"train": {"clips": 7, "with_pose": 7}, "test": {"clips": 2, "with_pose": 1}}
    assert report["unreadable"] == ["broken"]
    assert report["flipped"] == ["flipped", "headless flipped"]
    assert report["nose_below_shoulders"] == ["flipped"]
    assert report["hips_above_shoulders"] == ["flipped", "headless flipped"]
    assert report["y_direction"] == {"down": 4, "up": 2, "unknown": 1}
    assert report["pixels_instead_of_shares"] == ["pixels"]
    assert report["with_nan_where_missing"] == 1
    assert report["scaled_by"] == {"shoulders": 6, "none": 1}
    assert report["alignment"] == {"aligned": 6, "shorter": 1}
    assert report["other_length_examples"] == ["short: 5 poses, 6 frames"]
    assert report["other_shape_examples"] == ["short: 640x480, video 480x640"]
    assert report["clips_where_body_never_seen"] == 1


def test_detection_is_a_share_of_frames(tmp_path: Path) -> None:
    pose = signer(10)  # the left hand is not seen in two frames
    confidences = pose.confidences.copy()
    confidences[:5, RIGHT_HAND] = 0
    confidences[0, 12] = 0  # one shoulder: not the body
    assert np.all(confidences[MISSING_HAND[0], LEFT_HAND] == 0)
    write_pose(tmp_path / "a.npz", changed(pose, confidences=confidences))
    write_pose(tmp_path / "b.npz", changed(pose, confidences=np.zeros_like(confidences)))
    clips = (Clip("a", "v.mp4", pose="a.npz"), Clip("b", "v.mp4", pose="b.npz"))
    report = pose_audit(Manifest("m", clips, tmp_path))
    assert report["share_of_frames_with_body"] == 0.45
    assert report["share_of_frames_with_hand"] == {"left": 0.4, "right": 0.25, "either": 0.4}
    assert report["clips_where_never_seen"] == {"left": 1, "right": 1, "either": 1}


def test_ranges_and_points_outside_the_picture(tmp_path: Path) -> None:
    pose = signer()
    keypoints = pose.keypoints.copy()
    keypoints[:, 25:33, 1] = 1.5
    keypoints[0, 54, 0] = -0.25
    write_pose(tmp_path / "a.npz", changed(pose, keypoints=keypoints))
    report = pose_audit(Manifest("m", (Clip("a", "v.mp4", pose="a.npz"),), tmp_path))
    assert (report["range"]["x"]["min"], report["range"]["y"]["max"]) == (-0.25, 1.5)
    outside = report["share_of_points_outside_picture"]
    assert outside == {"head and arms": 0, "hips and legs": 0.8, "left hand": 0, "right hand": round(1 / 126, 4)}
    assert report["flipped"] == []


def test_text_has_the_numbers_and_nothing_is_nothing(corpus: Manifest) -> None:
    shown = render_pose_audit(pose_audit(corpus))
    for part in (
        "corpus: poses for 8 of 9 clips (train 7/7, test 1/2)",
        "broken: cannot be read as a pose file",
        "down in 4 clips, up in 2, not known in 1",
        "flipped (y must point down): 2 (flipped, headless flipped)",
        "pixels instead of shares of the picture: 1 (pixels)",
        "frames against the video: aligned 6, shorter 1",
        "made for another picture size: 1",
    ):
        assert part in shown
    empty = render_pose_audit(pose_audit(corpus.replace(c for c in corpus if c.clip_id == "none")))
    assert empty.splitlines() == ["corpus: poses for 0 of 1 clips (test 0/1)", "read: 0 poses, 0 frames; 0 unreadable"]


@pytest.mark.real
def test_real_poses_point_down_and_are_aligned(shared: Path) -> None:
    names = [path.stem for path in sorted((shared / "data" / "wlasl100_poses").glob("*.npz"))[:20]]
    clips = tuple(Clip(name, f"{name}.mp4", pose=f"wlasl100_poses/{name}.npz") for name in names)
    report = pose_audit(Manifest("wlasl", clips, shared / "data"))
    assert report["y_direction"] == {"down": 20, "up": 0, "unknown": 0}
    assert report["unreadable"] == report["pixels_instead_of_shares"] == []
    assert report["share_of_frames_with_body"] > 0.95


def test_frames_are_matched_by_their_number_where_it_can_be_told() -> None:
    """A pose for each frame of a video of 29.97 frames a second says 30; far into the file, times are frames apart."""
    whole = replace(signer(1600), fps=30.0)
    whole.keypoints[:, 0, 0] = np.arange(1600)
    row = clip(start=49.98, end=51.98, frames=60, fps=29.97, first_frame=1498, file_frames=1600)
    assert pose_of_clip(whole, row).keypoints[:, 0, 0].tolist() == list(range(1498, 1558))
    assert whole.within(49.98, 51.98).keypoints[0, 0, 0] == 1500
    cut = replace(signer(60), fps=25.0)
    assert len(pose_of_clip(cut, row)) == 60
    assert pose_of_clip(cut, clip(frames=None)) is cut
    assert len(pose_of_clip(replace(whole, start=1.0), row)) == len(whole.within(48.98, 50.98))


@pytest.mark.parametrize("odd", ["outside", "link", "pipe", "folder"])
def test_poses_are_guarded_as_clips_are(tmp_path: Path, odd: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    write_pose(tmp_path / "secret.npz", signer(50))
    place = "../secret.npz" if odd == "outside" else "a.npz"
    if odd == "link":
        (root / "a.npz").symlink_to(tmp_path / "secret.npz")
    elif odd == "pipe":
        os.mkfifo(root / "a.npz")
    elif odd == "folder":
        (root / "a.npz").mkdir()
    manifest = Manifest("m", (clip(pose=place),), root)
    reason = {"outside": "outside root", "link": "a link to ", "pipe": "not a file", "folder": "not a file"}[odd]
    assert reason in pose_audit(manifest)["unreadable_because"]["a"]
    with pytest.raises(DecodeError, match=reason):
        clip_pose(manifest, manifest.clips[0])
    if odd == "pipe":
        with pytest.raises(UserError, match="not a regular file"):
            read_pose(root / "a.npz")


def test_jitter_and_hands_at_one_place_are_found(tmp_path: Path) -> None:
    still = signer(30)
    still.keypoints[:] = still.keypoints[:1]
    still = replace(still, confidences=np.ones_like(still.confidences))
    shaken = replace(still, keypoints=still.keypoints + np.random.default_rng(0).normal(0, 0.01, (30, 75, 3)))
    frozen = replace(still, keypoints=still.keypoints.copy())
    frozen.keypoints[:, RIGHT_HAND] = 0.5
    unseen = replace(still, confidences=np.zeros_like(still.confidences))
    for folder, poses in (
        ("p", {"still": still, "shaken": shaken, "frozen": frozen, "unseen": unseen}),
        ("q", {"still": shaken}),
    ):
        (tmp_path / folder).mkdir()
        for name, pose in poses.items():
            write_pose(tmp_path / folder / f"{name}.npz", replace(pose, made_by=folder))
    report = pose_audit(manifest_of_poses(tmp_path / "p"))
    assert report["jitter"]["most"][0] == "shaken"
    assert 0.05 < report["jitter"]["p95"] < 0.2  # a thousandth of the picture's hundredth, in shoulders of a fifth
    assert (report["hands_seen_at_one_place"], report["without_any_point"]) == (["frozen"], ["unseen"])
    assert report["made_by"] == {"p": 4}
    assert "a hand seen with all points at one place: 1 (frozen)" in render_pose_audit(report)
    compared = agreement(tmp_path / "p", tmp_path / "q")
    assert (compared["clips_in_both"], compared["clips_in_one"]) == (1, 3)
    assert compared["share_of_points_seen_by_both"] == {"body": 1.0, "left hand": 1.0, "right hand": 1.0}
    assert 0.03 < compared["median_distance"]["left hand"] < 0.1
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no pose files"):
        manifest_of_poses(tmp_path / "empty")
