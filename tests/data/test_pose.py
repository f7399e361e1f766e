"""The canonical pose: files, normalisation, gaps, and what stands in when the shoulders are not seen."""

from pathlib import Path

import numpy as np
import pytest
from support.pose_files import pose_of

from islr.data.poses.pose import LEFT_HAND, POINTS, RIGHT_HAND, Pose, normalise, read_pose, write_pose
from islr.errors import UserError


def changed(pose: Pose, **changes: np.ndarray) -> Pose:
    values = {"keypoints": pose.keypoints, "confidences": pose.confidences, **changes}
    return Pose(values["keypoints"], values["confidences"], pose.fps, pose.width, pose.height)


def test_file_round_trip(tmp_path: Path) -> None:
    pose = pose_of()
    write_pose(tmp_path / "a.npz", pose)
    back = read_pose(tmp_path / "a.npz")
    assert back.keypoints.dtype == np.float32
    assert np.array_equal(back.keypoints, pose.keypoints)
    assert np.array_equal(back.confidences, pose.confidences)
    assert (back.fps, back.width, back.height) == (25.0, 320, 240)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_shoulders_become_the_unit_and_the_origin() -> None:
    result, used = normalise(pose_of(width=400, height=200))
    assert used == "shoulders"
    assert result.shape == (12, POINTS, 3)
    assert result.dtype == np.float32
    assert result[:, 11, :2] == pytest.approx(np.tile([0.5, 0.0], (12, 1)), abs=1e-6)
    assert result[:, 12, :2] == pytest.approx(np.tile([-0.5, 0.0], (12, 1)), abs=1e-6)


def test_camera_distance_place_and_picture_shape_drop_out() -> None:
    pose = pose_of(width=320, height=320)
    reference, _ = normalise(pose)
    moved = pose.keypoints * np.float32(0.4) + np.float32(0.1)
    assert normalise(changed(pose, keypoints=moved))[0] == pytest.approx(reference, abs=1e-4)
    # The same scene in a picture twice as wide: x shrinks by two, the wide picture gives it back.
    wide = pose.keypoints * np.array([0.5, 1, 1], np.float32)
    shown = Pose(wide, pose.confidences, 25.0, 640, 320)
    assert normalise(shown)[0] == pytest.approx(reference, abs=1e-4)


def test_movement_of_the_whole_body_is_kept() -> None:
    pose = pose_of()
    drift = np.linspace(0, 0.2, 12, dtype=np.float32)[:, None]
    keypoints = pose.keypoints.copy()
    keypoints[:, :, 1] += drift
    result, _ = normalise(changed(pose, keypoints=keypoints))
    assert result[-1, 11, 1] - result[0, 11, 1] == pytest.approx(0.2 / (0.2 * 320 / 240), abs=1e-5)


def test_missing_points_are_zero_whatever_their_coordinates() -> None:
    pose = pose_of()
    keypoints, confidences = pose.keypoints.copy(), pose.confidences.copy()
    confidences[:, LEFT_HAND] = 0
    keypoints[:, LEFT_HAND] = np.nan
    confidences[3, 0] = 0
    result, _ = normalise(changed(pose, keypoints=keypoints, confidences=confidences))
    assert np.all(result[:, LEFT_HAND] == 0)
    assert np.all(result[3, 0] == 0)
    assert np.isfinite(result).all()
    at_zero = pose.keypoints.copy()
    at_zero[:, 0] = 0  # a seen point at the picture's corner is not missing
    assert np.all(normalise(changed(pose, keypoints=at_zero))[0][:, 0, 2] == 1)


@pytest.mark.parametrize("hand", [LEFT_HAND, RIGHT_HAND])
@pytest.mark.parametrize(("gap", "filled"), [(1, True), (5, True), (6, False)])
def test_short_hand_gaps_are_bridged_by_a_line(hand: slice, gap: int, filled: bool) -> None:
    pose = pose_of(20)
    keypoints, confidences = pose.keypoints.copy(), pose.confidences.copy()
    keypoints[:, hand, 0] = np.linspace(0.1, 0.9, 20, dtype=np.float32)[:, None]
    whole, _ = normalise(changed(pose, keypoints=keypoints))
    confidences[8 : 8 + gap, hand] = 0
    keypoints[8 : 8 + gap, hand] = np.nan
    result, _ = normalise(changed(pose, keypoints=keypoints, confidences=confidences))
    inside = result[8 : 8 + gap, hand]
    if filled:
        assert inside[..., 0] == pytest.approx(whole[8 : 8 + gap, hand, 0], abs=1e-4)
        assert np.all(inside[..., 2] == 0.5)
    else:
        assert np.all(inside == 0)


def test_gaps_at_the_ends_stay_and_the_body_is_never_filled() -> None:
    pose = pose_of(20)
    confidences = pose.confidences.copy()
    confidences[:2, RIGHT_HAND] = 0
    confidences[-2:, RIGHT_HAND] = 0
    confidences[9, 15] = 0
    result, _ = normalise(changed(pose, confidences=confidences))
    assert np.all(result[[0, 1, -2, -1]][:, RIGHT_HAND] == 0)
    assert np.all(result[9, 15] == 0)


def test_without_shoulders_the_hands_give_the_scale_and_without_hands_nothing_does() -> None:
    pose = pose_of(width=240, height=240)
    keypoints, confidences = pose.keypoints.copy(), np.zeros_like(pose.confidences)
    keypoints[:, 33, :2], keypoints[:, 42, :2] = (0.5, 0.5), (0.5, 0.4)
    confidences[:, [33, 42]] = 1
    result, used = normalise(changed(pose, keypoints=keypoints, confidences=confidences))
    assert used == "wrists"
    assert result[:, 33, :2] == pytest.approx(np.zeros((12, 2)), abs=1e-6)
    assert result[:, 42, 1] == pytest.approx(np.full(12, -1 / 3), abs=1e-5)  # a palm is a third of the shoulders
    only_nose = np.zeros_like(confidences)
    only_nose[:, 0] = 1
    result, used = normalise(changed(pose, confidences=only_nose))
    assert used == "none"
    assert result[:, 0, :2] == pytest.approx(pose.keypoints[:, 0, :2])
    turned_aside = changed(
        pose, keypoints=np.where(np.arange(POINTS)[:, None] == 12, pose.keypoints[:, 11:12], keypoints)
    )
    assert normalise(turned_aside)[1] != "shoulders"  # a width of zero is no unit


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"keypoints": np.zeros((4, 54, 3))}, r"keypoints are \[T, 75, 3\]"),
        ({"confidences": np.zeros((5, POINTS))}, r"confidences \[T, 75\]"),
        ({"keypoints": np.full((4, POINTS, 3), np.nan)}, "not finite"),
        ({"fps": 0.0}, "must be above 0"),
        ({"keypoints": np.zeros((0, POINTS, 3)), "confidences": np.zeros((0, POINTS))}, "no frames"),
        ({"width": None}, "'width' is missing"),
        ({"fps": np.array({"a": 1}, dtype=object)}, "cannot be read"),
    ],
)
def test_wrong_pose_file_is_one_line(tmp_path: Path, values: dict, message: str) -> None:
    stored = {"keypoints": np.zeros((4, POINTS, 3)), "confidences": np.ones((4, POINTS)), "fps": 25.0}
    stored |= {"width": 320, "height": 240} | values
    np.savez(tmp_path / "a.npz", **{key: value for key, value in stored.items() if value is not None})
    with pytest.raises(UserError, match=message) as caught:
        read_pose(tmp_path / "a.npz")
    assert "\n" not in str(caught.value)


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such pose file"):
        read_pose(tmp_path / "a.npz")
    write_pose(tmp_path / "b.npz", pose_of())
    data = (tmp_path / "b.npz").read_bytes()
    for content in (b"", b"text", data[: len(data) // 2]):
        (tmp_path / "b.npz").write_bytes(content)
        with pytest.raises(UserError, match="cannot be read as a pose file"):
            read_pose(tmp_path / "b.npz")


def test_a_range_of_a_pose_is_cut_in_the_time_of_the_video(tmp_path: Path) -> None:
    pose = pose_of(50)
    cut = pose.within(0.4, 1.2)  # 25 per second: frames 10 to 29
    assert np.array_equal(cut.keypoints, pose.keypoints[10:30])
    assert cut.start == pytest.approx(0.4)
    write_pose(tmp_path / "cut.npz", cut)
    back = read_pose(tmp_path / "cut.npz")
    assert back.start == cut.start
    again = back.within(0.8, None)
    assert np.array_equal(again.keypoints, pose.keypoints[20:30])
    assert np.array_equal(again.confidences, pose.confidences[20:30])
    assert len(back.within(0.4, 1.2)) == len(back.within(None, None)) == 20  # the range it was made for
    assert len(back.within(5.0, 6.0)) == 0
    third = Pose(pose.keypoints, pose.confidences, 29.97, 320, 240)
    assert np.array_equal(third.within(0.3337, None).keypoints, pose.keypoints[10:])  # frame 10 is at 0.333667


def test_a_file_without_start_begins_with_the_video(tmp_path: Path) -> None:
    pose = pose_of()
    stored = {name: getattr(pose, name) for name in ("keypoints", "confidences", "fps", "width", "height")}
    np.savez(tmp_path / "a.npz", **stored)
    assert read_pose(tmp_path / "a.npz").start == 0
    np.savez(tmp_path / "a.npz", **stored, start=-1.0)
    with pytest.raises(UserError, match="start at least 0"):
        read_pose(tmp_path / "a.npz")


@pytest.mark.oracle
def test_shoulder_normalisation_is_that_of_openhands(oracles: Path) -> None:
    """Recorded from its CenterAndScaleNormalize over the clip. It has no aspect ratio and fills no gaps."""
    recorded = np.load(oracles / "pose" / "openhands_transforms.npz")
    points, chosen = recorded["kps75"], recorded["idx27"]
    confidences = recorded["conf75"]
    result, used = normalise(Pose(points, confidences, 25.0, 100, 100))
    assert used == "shoulders"
    seen = confidences[:, chosen] > 0
    assert seen.mean() > 0.9
    expected = recorded["norm_clip"].transpose(1, 2, 0)  # [T, 27, 2]
    assert result[:, chosen, :2][seen] == pytest.approx(expected[seen], abs=2e-6)


@pytest.mark.real
def test_real_poses_are_scaled_by_shoulders_with_the_nose_above(shared: Path) -> None:
    files = sorted((shared / "data" / "wlasl100_poses").glob("*.npz"))[:5]
    assert len(files) == 5
    for path in files:
        result, used = normalise(read_pose(path))
        assert used == "shoulders"
        assert np.isfinite(result).all()
        assert np.median(result[:, 0, 1]) < -0.3
        assert np.median(result[:, 11, 0] - result[:, 12, 0]) == pytest.approx(1.0, abs=0.1)
