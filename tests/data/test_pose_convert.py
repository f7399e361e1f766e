"""Converting a folder of poses: one outcome per clip, resumed, and good files are never lost."""

import csv
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.pose_files import FPS, HEIGHT, WIDTH, signer, write_parquet, write_pkl, write_spoter
from support.video_files import make_video

from islr.cli import run
from islr.data.corpora.folder import from_folder
from islr.data.manifest import Clip, Manifest
from islr.data.poses.convert import convert
from islr.data.poses.folder import PoseFolder
from islr.data.poses.pose import LEFT_HAND, Pose, VideoFacts, program_of, read_pose, write_pose
from islr.errors import UserError

FACTS = VideoFacts(FPS, WIDTH, HEIGHT)


def rows(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "outcomes.csv").open() as file:
        return {row["clip_id"]: row for row in csv.DictReader(file)}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three good clips in two formats, one broken, one file that is no pose."""
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    write_pkl(folder / "a.pkl", signer())
    write_spoter(folder / "deep" / "s.csv", [signer(4), signer(7)])
    (folder / "b.pkl").write_bytes(b"broken")
    (folder / "readme.txt").write_text("about")
    return folder


def test_every_clip_gets_a_file_or_a_reason(source: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    done = convert(source, tmp_path / "out", given=FACTS, progress=lambda *step: seen.append(step))
    assert [path.name for path in done.ignored] == ["readme.txt"]
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]
    table = rows(tmp_path / "out")
    assert {name: row["status"] for name, row in table.items()} == {
        "a": "ok",
        "b": "failed",
        "deep/s/00000": "ok",
        "deep/s/00001": "ok",
    }
    assert "refused" in table["b"]["detail"]
    assert (table["a"]["frames"], table["a"]["made_by"], table["a"]["source"]) == ("6", "openhands", "a.pkl")
    assert (table["deep/s/00001"]["frames"], table["deep/s/00001"]["label"]) == ("7", "2")
    files = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.npz"))
    assert files == ["a.npz", "deep/s/00000.npz", "deep/s/00001.npz"]
    assert len(read_pose(tmp_path / "out" / "deep" / "s" / "00001.npz")) == 7


def test_a_second_run_does_what_is_missing(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(source, out, given=FACTS)
    old = (out / "a.npz").stat().st_mtime_ns
    (out / "deep" / "s" / "00000.npz").unlink()
    (out / "deep" / "s" / "00001.npz").write_bytes(b"half a file")
    (out / ".a.npz.17.partial").write_bytes(b"left by a kill")
    (out / "outcomes.csv").unlink()
    write_pkl(source / "b.pkl", signer(5))
    convert(source, out, given=FACTS)
    assert (out / "a.npz").stat().st_mtime_ns == old
    assert [len(read_pose(out / "deep" / "s" / f"0000{n}.npz")) for n in (0, 1)] == [4, 7]
    assert {row["status"] for row in rows(out).values()} == {"ok"}
    assert not list(out.rglob("*.partial"))


def test_a_bad_source_never_replaces_a_good_pose(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(source, out, given=FACTS)
    before = (out / "a.npz").read_bytes()
    (source / "a.pkl").write_bytes(b"broken since")
    write_spoter(source / "deep" / "s.csv", [signer(5), signer(7)])
    convert(source, out, given=FACTS, overwrite=True)
    assert (out / "a.npz").read_bytes() == before
    assert (rows(out)["a"]["status"], rows(out)["a"]["frames"]) == ("kept", "6")
    assert len(read_pose(out / "deep" / "s" / "00000.npz")) == 5  # a good one does replace


def test_a_kill_while_writing_leaves_the_good_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    write_pkl(tmp_path / "in" / "a.pkl", signer(4))
    out = tmp_path / "out"
    convert(tmp_path / "in", out, given=FACTS)
    before = (out / "a.npz").read_bytes()
    write_pkl(tmp_path / "in" / "a.pkl", signer(9))

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dies)
        with pytest.raises(KeyboardInterrupt):
            convert(tmp_path / "in", out, given=FACTS, overwrite=True)
    assert (out / "a.npz").read_bytes() == before
    convert(tmp_path / "in", out, given=FACTS, overwrite=True)
    assert len(read_pose(out / "a.npz")) == 9


def test_rate_and_size_come_from_the_option_or_the_manifest(tmp_path: Path) -> None:
    write_parquet(tmp_path / "in" / "p" / "1.parquet", signer())
    clip = Clip("1", "1.mp4", fps=29.97, width=400, height=300)
    manifest = Manifest("m", (clip,), tmp_path)
    pose_file = tmp_path / "out" / "p" / "1.npz"
    convert(tmp_path / "in", tmp_path / "out", manifest=manifest)
    pose = read_pose(pose_file)
    assert (pose.fps, pose.width, pose.height) == (29.97, 400, 300)
    convert(tmp_path / "in", tmp_path / "out", manifest=manifest, given=VideoFacts(fps=10.0), overwrite=True)
    pose = read_pose(pose_file)
    assert (pose.fps, pose.width, pose.height) == (10.0, 400, 300)


def test_what_cannot_be_converted_is_said(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no pose could be read; the first error: .*--fps"):
        convert(source, tmp_path / "out")
    with pytest.raises(UserError, match="write elsewhere"):
        convert(source, source / "canonical", given=FACTS)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "outcomes.csv").write_text("clip_id,status\na,fine\n")
    with pytest.raises(UserError, match="not a table of pose outcomes"):
        convert(source, tmp_path / "other", given=FACTS)


def test_a_clip_name_cannot_leave_the_folder(tmp_path: Path) -> None:
    folder = PoseFolder(tmp_path / "out")
    with pytest.raises(UserError, match="outside"):
        folder.put("../evil", signer(), source="", made_by="")
    assert not (tmp_path / "evil.npz").exists()


def test_command(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["data", "poses", "convert", str(source), str(tmp_path / "out")]
    assert run([*arguments[:-1], str(tmp_path / "unused")]) == 2
    assert "--fps" in capsys.readouterr().err
    assert run([*arguments, "--fps", "25", "--size", "640by480"]) == 2
    assert run([*arguments, "--fps", "0", "--size", "640x480"]) == 2
    assert run([*arguments, "--fps", "25", "--size", "640x480", "--format", "csv"]) == 2
    assert run([*arguments, "--fps", "25", "--size", "640x480", "--format", "openhands"]) == 0
    shown = capsys.readouterr().out
    assert "1 failed, 1 ok" in shown
    assert "b: failed" in shown
    assert [path.name for path in (tmp_path / "out").rglob("*.npz")] == ["a.npz"]


def test_audit_command_takes_several_corpora(
    mini_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = str(mini_corpus / "manifest.csv")
    assert run(["data", "poses", "audit", manifest, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["with_pose"] == report["clips"] == report["alignment"]["aligned"] > 0
    assert report["y_direction"]["down"] == report["clips"]
    write_pose(tmp_path / "p.npz", flipped(signer()))
    Manifest("upside", (Clip("p", "p.mp4", pose="p.npz"),), tmp_path).save(tmp_path / "manifest.csv")
    assert run(["data", "poses", "audit", manifest, str(tmp_path / "manifest.csv")]) == 0
    shown = capsys.readouterr().out
    assert "flipped (y must point down): 1 (p)" in shown
    assert shown.count("frames with a hand:") == 2


def flipped(pose: Pose) -> Pose:
    keypoints = pose.keypoints.copy()
    keypoints[:, :, 1] = 1 - keypoints[:, :, 1]
    return Pose(np.ascontiguousarray(keypoints), pose.confidences, pose.fps, pose.width, pose.height)


def test_no_pose_without_a_point_is_ok(tmp_path: Path) -> None:
    pose = signer()
    (tmp_path / "in").mkdir()
    write_pkl(tmp_path / "in" / "seen.pkl", pose)
    write_pkl(tmp_path / "in" / "unseen.pkl", replace(pose, confidences=np.zeros_like(pose.confidences)))
    convert(tmp_path / "in", tmp_path / "out", given=FACTS)
    table = rows(tmp_path / "out")
    assert (table["seen"]["status"], table["unseen"]["status"]) == ("ok", "failed")
    assert table["unseen"]["detail"] == "no point in any of its 6 frames"
    write_pose(tmp_path / "out" / "unseen.npz", replace(pose, confidences=np.zeros_like(pose.confidences)))
    assert not PoseFolder(tmp_path / "out").has("unseen")


def test_what_was_read_as_missing_is_in_the_outcome(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pose = signer()
    pose.keypoints[:, LEFT_HAND] = 0
    write_parquet(tmp_path / "a.parquet", replace(pose, confidences=np.ones_like(pose.confidences)))
    words = ["--fps", "25", "--size", f"{WIDTH}x{HEIGHT}", "--made-by", "mediapipe 0.9.0.1"]
    assert run(["data", "poses", "convert", str(tmp_path / "a.parquet"), str(tmp_path / "out"), *words]) == 0
    assert "a: ok: left hand: points at (0, 0) read as missing, in 6 of 6 frames" in capsys.readouterr().out
    assert (
        program_of(tmp_path / "out" / "a.npz") == read_pose(tmp_path / "out" / "a.npz").made_by == "mediapipe 0.9.0.1"
    )


def test_poses_of_two_programs_are_never_mixed_silently(tmp_path: Path) -> None:
    for name, program in (("a", "one 1.0"), ("b", "two 2.0"), ("c", "two 2.0")):
        (tmp_path / "v").mkdir(exist_ok=True)
        (tmp_path / "p").mkdir(exist_ok=True)
        make_video(tmp_path / "v" / f"{name}.mp4", 3)
        write_pose(tmp_path / "p" / f"{name}.npz", replace(signer(), made_by=program))
    with pytest.raises(UserError, match=r"two 2.0 \(2 clips\), one 1.0 \(1 clips\); .* --mixed-poses"):
        from_folder(tmp_path / "v", poses=tmp_path / "p", workers=0)
    manifest = from_folder(tmp_path / "v", poses=tmp_path / "p", mixed_poses=True, workers=0)
    assert manifest.notes["poses_made_by"] == {"two 2.0": 2, "one 1.0": 1}
