"""Finding poses in another process: with a stand-in for MediaPipe, and with MediaPipe itself where there is one.

The stand-in puts the frame's number, which is drawn in the picture, into the coordinates; so a test sees which
frames arrived and how the answer came back.
"""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.video_files import make_video

from islr.cli import run
from islr.data.manifest import Clip, Manifest
from islr.data.poses.extract import VERSION, ExtractorError, HolisticProcess, check_environment, extract
from islr.data.poses.folder import PoseFolder
from islr.data.poses.pose import LEFT_HAND, RIGHT_HAND, read_pose
from islr.data.video.decode import VideoInfo
from islr.errors import UserError
from islr.files import file_sha256

STAND_IN = """
import os, sys, time
from types import SimpleNamespace as Box
__version__ = os.environ.get("STAND_IN_VERSION", "{version}")
print("a message on standard output that must not end up in the answer")

class Holistic:
    def __init__(self, static_image_mode, model_complexity):
        folder = os.path.join(os.path.dirname(__file__), "modules", "pose_landmark")
        models = os.listdir(folder) if os.path.isdir(folder) else []
        names = {0: ["pose_landmark_lite.tflite"], 1: [], 2: ["pose_landmark_heavy.tflite"]}
        assert (static_image_mode, models) == (False, names[model_complexity])
        self.frames = 0
    def __enter__(self):
        return self
    def __exit__(self, *_):
        pass
    def process(self, frame):
        self.frames += 1
        trouble = os.environ.get("STAND_IN_TROUBLE")
        if trouble and frame.shape[1] == 128:
            print("the model is out of order", file=sys.stderr, flush=True)
            time.sleep(600) if trouble == "hang" else os._exit(3)
        block = frame.shape[1] // 8
        bits = [frame[1:4, int((i + .25) * block):int((i + .75) * block)].mean() > 125 for i in range(8)]
        number = sum(1 << i for i in range(8) if bits[i])
        def part(n):
            return Box(landmark=[Box(x=number / 100, y=i / 100, z=self.frames, visibility=0.5) for i in range(n)])
        right = part(21) if number % 2 else None
        return Box(pose_landmarks=part(33), left_hand_landmarks=None, right_hand_landmarks=right)

solutions = Box(holistic=Box(Holistic=Holistic))
"""
RUNNER = """
import runpy, sys
sys.path.insert(0, {folder!r})
assert sys.argv[1] == "-I"
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """An interpreter in whose environment the stand-in is called mediapipe."""
    folder = tmp_path / "env"
    folder.mkdir()
    (folder / "mediapipe.py").write_text(STAND_IN.replace("{version}", VERSION))
    (folder / "runner.py").write_text(RUNNER.format(folder=str(folder)))
    command = folder / "python"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{folder / "runner.py"}" "$@"\n')
    command.chmod(0o755)
    return command


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    (folder / "deep").mkdir(parents=True)
    make_video(folder / "a.mp4", 12)
    make_video(folder / "deep" / "b.mp4", 7)
    (folder / "broken.mp4").write_bytes(b"text")
    return folder


def numbers(path: Path) -> list[int]:
    return (read_pose(path).keypoints[:, 0, 0] * 100).round().astype(int).tolist()


def test_poses_of_a_folder_frame_by_frame(python: Path, videos: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    folder = extract(videos, tmp_path / "out", python=python, progress=lambda *step: seen.append(step))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert {name: row.status for name, row in folder.rows.items()} == {"a": "ok", "deep/b": "ok", "broken": "failed"}
    assert folder.rows["broken"].detail.startswith("not a video")
    assert folder.rows["a"].made_by == f"mediapipe {VERSION} holistic"
    assert PoseFolder(tmp_path / "out").rows == folder.rows
    pose = read_pose(tmp_path / "out" / "a.npz")
    assert numbers(tmp_path / "out" / "a.npz") == list(range(12))
    assert numbers(tmp_path / "out" / "deep" / "b.npz") == list(range(7))
    assert (pose.fps, pose.width, pose.height) == (25.0, 96, 64)
    assert np.all(pose.confidences[:, :33] == 0.5)
    assert pose.keypoints[0, :33, 1] == pytest.approx(np.arange(33) / 100)
    assert np.all(pose.confidences[:, LEFT_HAND] == 0)
    assert (pose.confidences[:, RIGHT_HAND].min(axis=1) == 1).tolist() == [bool(n % 2) for n in range(12)]
    # The stand-in counts the frames of its tracker: every clip starts with a fresh one.
    assert read_pose(tmp_path / "out" / "deep" / "b.npz").keypoints[0, 0, 2] == 1


def test_time_ranges_of_a_manifest_keep_their_place_in_the_file(python: Path, videos: Path, tmp_path: Path) -> None:
    row = Clip("r", "a.mp4", start=0.16, end=0.32, frames=4, fps=25.0, width=96, height=64)
    clips = (row, replace(row, clip_id="stale", width=64), Clip("gone", "c.mp4", status="missing"))
    manifest = Manifest("m", clips, videos)
    folder = extract(manifest, tmp_path / "out", python=python)
    assert numbers(tmp_path / "out" / "r.npz") == [4, 5, 6, 7]
    pose = read_pose(tmp_path / "out" / "r.npz")
    assert pose.start == 0.16
    assert len(pose.within(row.start, row.end)) == 4
    assert folder.rows["stale"].detail == "size changes: 96x64, listed as 64x64"
    assert "gone" not in folder.rows


def test_long_videos_are_sent_in_pieces(
    python: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("islr.data.poses.extract._CHUNK_BYTES", 96 * 64 * 3 * 5)
    extract(videos, tmp_path / "out", python=python)
    assert numbers(tmp_path / "out" / "a.npz") == list(range(12))


def test_a_second_run_does_what_is_missing_or_failed(python: Path, videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    extract(videos, out, python=python, workers=2)
    before = (out / "a.npz").stat().st_mtime_ns
    (out / "deep" / "b.npz").write_bytes(b"half")
    make_video(videos / "broken.mp4", 5)
    folder = extract(videos, out, python=python)
    assert (out / "a.npz").stat().st_mtime_ns == before
    assert numbers(out / "deep" / "b.npz") == list(range(7))
    assert folder.counts() == {"ok": 3}
    extract(videos, out, python=python, overwrite=True)
    assert (out / "a.npz").stat().st_mtime_ns > before


def test_a_process_that_dies_costs_its_clip(
    python: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_video(videos / "aa.mp4", 6, size=(128, 64))  # the size that the stand-in cannot stand; it comes second
    monkeypatch.setenv("STAND_IN_TROUBLE", "die")
    folder = extract(videos, tmp_path / "out", python=python)
    assert folder.rows["aa"].status == "failed"
    assert folder.rows["aa"].detail == "the pose estimation process died: the model is out of order"
    assert numbers(tmp_path / "out" / "a.npz") == list(range(12))
    assert numbers(tmp_path / "out" / "deep" / "b.npz") == list(range(7))


def test_a_process_that_hangs_is_ended(python: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_TROUBLE", "hang")
    extractor = HolisticProcess(python, start_s=1.0, frame_s=0.0)
    # More than a pipe holds: the sender waits too.
    with pytest.raises(ExtractorError, match="no pose after 1 s"):
        extractor.find(VideoInfo(400, 25.0, 128, 64), (np.zeros((1, 64, 128, 3), np.uint8) for _ in range(400)))
    monkeypatch.delenv("STAND_IN_TROUBLE")
    extractor = HolisticProcess(python)
    found = extractor.find(VideoInfo(2, 25.0, 128, 64), [np.zeros((2, 64, 128, 3), np.uint8)])
    extractor.stop()
    assert found.shape == (2, 75, 4)


def test_wrong_environments_are_one_line(python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_environment(python)
    monkeypatch.setenv("STAND_IN_VERSION", "1.2.2")
    with pytest.raises(UserError, match=f"has MediaPipe 1.2.2, poses are made with {VERSION}"):
        check_environment(python)
    with pytest.raises(UserError, match="does not run"):
        check_environment(tmp_path / "no" / "python")
    (python.parent / "mediapipe.py").write_text("raise ImportError('no such thing')")
    with pytest.raises(UserError, match=r"no working MediaPipe \(ImportError: no such thing\); run `.*pip install"):
        check_environment(python)


def test_other_complexities_take_their_model_by_path(python: Path, videos: Path, tmp_path: Path) -> None:
    model = tmp_path / "downloaded.tflite"
    model.write_bytes(b"heavy")
    (videos / "broken.mp4").unlink()
    extract(videos, tmp_path / "out", python=python, complexity=2, model=model)
    made_by = f"mediapipe {VERSION} holistic, complexity 2, model sha256 {file_sha256(model)[:12]}"
    assert read_pose(tmp_path / "out" / "a.npz").made_by == made_by
    extract(videos, tmp_path / "out", python=python, complexity=2, model=model, overwrite=True)  # it is there by now
    model.write_bytes(b"other")
    again = extract(videos, tmp_path / "other", python=python, complexity=2, model=model)
    assert "is another model than" in again.rows["a"].detail
    for complexity, given, message in (
        (2, None, "needs its model, pose_landmark_heavy.tflite"),
        (0, tmp_path / "absent", "needs its model, pose_landmark_lite.tflite"),
        (1, model, "the model of 1 is inside MediaPipe"),
        (3, None, "--complexity is 0, 1 or 2"),
    ):
        with pytest.raises(UserError, match=message):
            extract(videos, tmp_path / "out", python=python, complexity=complexity, model=given)


def test_names_that_would_be_one_file_are_refused(python: Path, videos: Path, tmp_path: Path) -> None:
    make_video(videos / "a.mkv", 3)
    with pytest.raises(UserError, match="several videos are called a"):
        extract(videos, tmp_path / "out", python=python)


def test_command(python: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["data", "poses", "extract", str(videos), str(tmp_path / "out")]
    assert run(arguments) == 2
    shown = capsys.readouterr()
    assert f"pip install 'mediapipe=={VERSION}'" in shown.out
    assert "pass --python" in shown.err
    assert run([*arguments, "--python", str(python)]) == 0
    assert "1 failed, 2 ok" in capsys.readouterr().out


@pytest.mark.real
def test_mediapipe_finds_what_was_recorded(shared: Path, tmp_path: Path) -> None:
    """ISLR_MEDIAPIPE names an interpreter with MediaPipe; recorded poses are rounded to half precision."""
    python = os.environ.get("ISLR_MEDIAPIPE", "")
    if not python or subprocess.run([python, "-c", "import mediapipe"], capture_output=True, check=False).returncode:
        pytest.skip("set ISLR_MEDIAPIPE to the python of an environment with MediaPipe")
    clip = Clip("05632", "wlasl100_clips/05632.mp4")
    extract(Manifest("m", (clip,), shared / "data"), tmp_path, python=python)
    found, recorded = read_pose(tmp_path / "05632.npz"), read_pose(shared / "data" / "wlasl100_poses" / "05632.npz")
    assert np.array_equal(found.confidences > 0, recorded.confidences > 0)
    assert found.keypoints == pytest.approx(recorded.keypoints, abs=2e-3)
