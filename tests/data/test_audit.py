"""The audit: it counts what is there, finds twins and leaks, and refuses a selection set that meets the test set."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from support.video_files import make_video
from support.wlasl_files import small_wlasl

from islr.data.audit.corpus import audit, render_audit
from islr.data.audit.duplicates import check_disjoint, same_content, shared_clips, without_shared
from islr.data.corpora.wlasl import from_wlasl
from islr.data.manifest import Clip, Manifest
from islr.data.poses.pose import POINTS, Pose, write_pose
from islr.errors import UserError


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    json_file, videos, poses = small_wlasl(tmp_path_factory.mktemp("wlasl"))
    return from_wlasl(json_file, videos, poses=poses, workers=0)


def twins(folder: Path) -> Manifest:
    """Six clips: a and b are byte-equal, c differs, d, e and f are ranges of one file."""
    make_video(folder / "a.mp4", 4)
    (folder / "b.mp4").write_bytes((folder / "a.mp4").read_bytes())
    changed = bytearray((folder / "a.mp4").read_bytes())
    changed[-1] ^= 1
    (folder / "c.mp4").write_bytes(changed)
    make_video(folder / "long.mp4", 40)
    rows = [
        Clip("a", "a.mp4", gloss="doctor", label=0, split="train"),
        Clip("b", "b.mp4", gloss="physician", label=1, split="test"),
        Clip("c", "c.mp4", gloss="physician", label=1, split="val"),
        Clip("d", "long.mp4", gloss="mom", label=2, split="train", start=0.0, end=0.5),
        Clip("e", "long.mp4", gloss="mom", label=2, split="test", start=0.4, end=0.8),
        Clip("f", "long.mp4", gloss="mom", label=2, split="val", start=0.8, end=1.2),
    ]
    return Manifest("twins", tuple(rows), folder, ("doctor", "physician", "mom", "ghost"))


def test_counts_per_split(manifest: Manifest) -> None:
    report = audit(manifest)
    assert (report["clips"], report["present"]) == (9, 4)
    row = report["splits"]["test"]
    assert (row["expected"], row["present"], row["missing"], row["corrupt"]) == (4, 2, 2, 0)
    assert (row["classes"], row["classes_present"], row["signers"]) == (3, 2, 2)
    assert row["fingerprint"] == manifest.fingerprint("test")
    assert report["corrupt_by_kind"] == {"empty": 1, "truncated": 1}
    assert report["corrupt_clips"] == {"00020": "corrupt:empty", "00021": "corrupt:truncated"}
    assert report["fps"] == {"25.00": 4}
    assert report["resolution"] == {"96x64": 4}
    assert report["duration_s"]["train"]["p50"] == pytest.approx((20 / 25 + 22 / 25) / 2, abs=1e-3)
    assert report["duration_s"]["val"] == {}


def test_signers_and_classes(manifest: Manifest) -> None:
    report = audit(manifest)
    assert report["signers"]["all"] == 2
    assert report["signers"]["overlap"]["train/test"] == {"signers": 2, "test_clips_of_signers_in_train": 4}
    assert report["signers"]["overlap"]["val/test"] == {"signers": 1, "test_clips_of_signers_in_val": 3}
    assert report["classes"]["without_val_clips"] == ["don't want"]
    assert report["classes"]["without_test_clips"] == []
    assert report["classes"]["without_present_test_clips"] == 1


def test_one_recording_under_two_glosses_is_reported(manifest: Manifest) -> None:
    row = audit(manifest)["same_origin"]
    assert (row["groups"], row["clips"], row["groups_across_labels"], row["groups_across_splits"]) == (
        1,
        2,
        1,
        0,
    )
    assert row["examples"] == [["00001 (train, book)", "00020 (train, ice cream)"]]


def test_poses_are_looked_at(manifest: Manifest) -> None:
    row = audit(manifest)["poses"]
    assert (row["clips"], row["with_pose"], row["other_length_than_video"]) == (4, 2, 1)
    assert row["other_length_examples"] == ["00003: 7 poses, 21 frames"]
    assert row["share_of_frames_with_hand"] == {"left": 1.0, "right": 1.0, "either": 1.0}


def test_hands_broken_files_and_turned_axes_in_poses(tmp_path: Path) -> None:
    make_video(tmp_path / "v.mp4", 10)
    keypoints = np.full((10, POINTS, 3), 0.5, np.float32)
    keypoints[:, 0, 1] = 0.9  # the nose below the shoulders: y points up in this file
    confidences = np.ones((10, POINTS), np.float32)
    confidences[:, 33:54] = 0
    confidences[5:, 54:] = 0
    write_pose(tmp_path / "p.npz", Pose(keypoints, confidences, 25.0, 96, 64))
    (tmp_path / "q.npz").write_bytes(b"broken")
    clips = (Clip("p", "v.mp4", pose="p.npz", frames=10), Clip("q", "v.mp4", pose="q.npz", start=5.0))
    row = audit(Manifest("m", clips, tmp_path))["poses"]
    assert row["unreadable"] == ["q"]
    assert row["nose_below_shoulders"] == ["p"]
    assert row["share_of_frames_with_hand"] == {"left": 0.0, "right": 0.5, "either": 0.5}
    assert row["clips_where_never_seen"] == {"left": 1, "right": 0, "either": 0}


def test_equal_files_and_overlapping_ranges_are_twins(tmp_path: Path) -> None:
    manifest = twins(tmp_path)
    groups = [[clip.clip_id for clip in group] for group in same_content(manifest)]
    assert sorted(groups) == [["a", "b"], ["d", "e"]]
    row = audit(manifest)["same_content"]
    assert (row["groups"], row["groups_across_splits"], row["groups_across_labels"]) == (2, 2, 1)
    assert row["test_clips_in_train_with_another_label"] == 1
    assert row["test_clips_in_train_with_the_same_label"] == 1
    assert audit(manifest)["classes"]["without_train_clips"] == ["physician", "ghost"]
    assert "same_content" not in audit(manifest, content=False)


def test_selection_that_meets_the_test_set_is_refused(tmp_path: Path) -> None:
    manifest = twins(tmp_path)
    train, val, test = (manifest.select(split) for split in ("train", "val", "test"))
    check_disjoint(val, test)
    assert shared_clips(train, test) == [("a", "b"), ("d", "e")]
    with pytest.raises(UserError, match=r"share 2 clips \(a = b, d = e\)"):
        check_disjoint(train, test)
    with pytest.raises(UserError, match=r"b = b"):
        check_disjoint(val.replace([*val, test.clips[0]]), test)
    # A clip under another id in another manifest is found by its bytes.
    renamed = test.replace(dataclasses.replace(clip, clip_id=f"new-{clip.clip_id}") for clip in test)
    assert shared_clips(renamed, test) == [("new-b", "b"), ("new-e", "e")]
    kept, dropped = without_shared(train, test)
    assert (len(kept), dropped) == (0, ["a", "d"])
    check_disjoint(kept, test)


def test_report_is_json_and_text_names_what_matters(manifest: Manifest, tmp_path: Path) -> None:
    report = audit(manifest)
    assert json.loads(json.dumps(report)) == report
    text = render_audit(report)
    assert "4 of 9 clips present" in text
    assert "broken files: empty (1), truncated (1)" in text
    assert "00001 (train, book) = 00020 (train, ice cream)" in text
    assert "instances in json: 9" in text
    bare = render_audit(audit(Manifest("bare", (Clip("x", "x.mp4", status="missing"),), tmp_path)))
    assert "0 of 1 clips present" in bare


@pytest.mark.real
def test_wlasl_json_shows_its_known_leaks(shared: Path, tmp_path: Path) -> None:
    make_video(tmp_path / "00623.mp4", 2)
    manifest = from_wlasl(shared / "data" / "wlasl" / "WLASL_v0.3.json", tmp_path, workers=0)
    row = audit(manifest)["same_origin"]
    assert (row["groups"], row["clips"]) == (897, 1978)
    assert (row["groups_across_labels"], row["groups_across_splits"]) == (804, 442)
    assert row["test_clips_in_train_with_another_label"] == 142
    assert row["test_clips_in_train_with_the_same_label"] == 16


def test_files_that_have_gone_are_not_present(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.mp4").write_bytes(b"x")
    manifest = Manifest("m", tuple(Clip(name, f"{name}.mp4", split="train") for name in "ab"), tmp_path)
    assert audit(manifest)["present"] == 2
    (tmp_path / "b.mp4").unlink()
    report = audit(manifest)
    assert (report["present"], report["splits"]["train"]["missing"], report["files_gone"]) == (1, 1, ["b"])
    assert "files gone since the manifest was made: 1 (b)" in render_audit(report)
