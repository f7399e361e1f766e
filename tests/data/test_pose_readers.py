"""Foreign pose files: each format from its real layout to the canonical points."""

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.pose_files import (
    FPS,
    HEIGHT,
    MISSING_HAND,
    WIDTH,
    landmarks,
    only,
    openpose_person,
    signer,
    write_openpose,
    write_parquet,
    write_pkl,
    write_pose_format,
    write_spoter,
)
from support.pose_reading import FACTS, assert_pose, one, read

from islr.data.poses.openpose import OPENPOSE_BODY
from islr.data.poses.pickles import load_arrays
from islr.data.poses.pose import LEFT_HAND, POINTS, Pose, VideoFacts, write_pose
from islr.data.poses.readers import POSE_READERS, find_poses, format_of, pose_clips
from islr.data.poses.tables import SPOTER_BODY, SPOTER_HAND
from islr.errors import UserError


def write_one(name: str, folder: Path, pose: Pose) -> Path:
    """One clip called `clip` in a format; a source that `find_poses` takes."""
    if name == "npz":
        write_pose(folder / "clip.npz", pose)
    elif name == "pose":
        write_pose_format(folder / "clip.pose", pose)
    elif name == "openpose":
        write_openpose(folder / "clip", {i + 1: [openpose_person(pose, i)] for i in range(len(pose))})
    elif name == "kaggle":
        write_parquet(folder / "clip.parquet", pose)
    elif name == "openhands":
        write_pkl(folder / "clip.pkl", pose)
    else:
        write_spoter(folder / "clip.csv", [pose])
    return folder


@pytest.mark.parametrize("name", POSE_READERS)
def test_every_format_is_found_read_and_named(name: str, tmp_path: Path) -> None:
    pose = signer()
    (tmp_path / "about.txt").write_text("not a pose")
    (tmp_path / "list.csv").write_text("path,sign\na,b\n")
    (tmp_path / "list.json").write_text('[{"gloss": "book"}]')
    np.save(tmp_path / "features.npy", np.zeros((4, 8)))
    source = write_one(name, tmp_path, pose)
    found, others = find_poses(source)
    assert [format_of(path) for path in found] == [name]
    assert [path.name for path in others] == ["about.txt", "features.npy", "list.csv", "list.json"]
    (clip_id, result), *rest = read(source).items()
    assert not rest
    assert clip_id == ("clip/00000" if name == "spoter" else "clip")
    assert len(result) == len(pose)
    seen = (result.confidences > 0)[:, LEFT_HAND].all(axis=1)
    assert tuple(np.flatnonzero(~seen)) == MISSING_HAND
    assert read(source, name).keys() == read(source).keys()
    other = next(known for known in POSE_READERS if known != name)
    with pytest.raises(UserError, match="holds no poses of"):
        find_poses(source, other)


@pytest.mark.parametrize("name", [name for name in POSE_READERS if name not in ("npz", "pose")])
def test_what_a_format_does_not_say_must_be_given(name: str, tmp_path: Path) -> None:
    source = write_one(name, tmp_path, signer())
    with pytest.raises(UserError, match="--size"):
        read(source, facts=VideoFacts(fps=25.0))
    with pytest.raises(UserError, match=r"frame rate \(--fps\)"):
        read(source, facts=VideoFacts(width=640, height=480))


@pytest.mark.parametrize("world", [True, False])
def test_pose_format(tmp_path: Path, world: bool) -> None:
    pose = signer()
    path = write_pose_format(tmp_path / "a.pose", pose, world=world)
    assert_pose(one(path, VideoFacts()), pose, pose.confidences)


def test_pose_format_takes_the_person_who_is_seen_best(tmp_path: Path) -> None:
    pose = signer()
    assert_pose(one(write_pose_format(tmp_path / "a.pose", pose, people=2)), pose, pose.confidences)


def test_pose_format_holding_openpose_points(tmp_path: Path) -> None:
    from pose_format.utils.openpose import load_openpose

    pose = signer()
    frames = {i: {"people": [openpose_person(pose, i)]} for i in range(len(pose))}
    with (tmp_path / "a.pose").open("wb") as file:
        load_openpose(frames, fps=FPS, width=WIDTH, height=HEIGHT).write(file)
    assert_pose(one(tmp_path / "a.pose", VideoFacts()), pose, only(pose, list(OPENPOSE_BODY)), depth=False)


def test_openpose_points_go_where_they_belong(tmp_path: Path) -> None:
    pose = signer()
    folder = write_openpose(tmp_path / "00001", {i + 1: [openpose_person(pose, i)] for i in range(len(pose))})
    assert_pose(one(folder), pose, only(pose, list(OPENPOSE_BODY)), depth=False)
    # By hand, so that the table itself is checked: number 4 is the right wrist, 7 the left, 2 the right shoulder.
    body = [0.0] * 75
    for number in (2, 4, 7):
        body[3 * number : 3 * number + 3] = [64.0 * number, 48.0, 0.5]
    result = one(write_openpose(tmp_path / "b", {0: [{"pose_keypoints_2d": body, "hand_left_keypoints_2d": []}]}))
    assert np.flatnonzero(result.confidences[0]).tolist() == [12, 15, 16]
    assert result.keypoints[0, [12, 15, 16], 0] == pytest.approx([0.2, 0.7, 0.4])
    assert result.keypoints[0, 12, 1] == pytest.approx(0.1)


def test_openpose_frames_keep_their_place(tmp_path: Path) -> None:
    pose = signer()
    frames = {i + 30: [openpose_person(pose, i)] for i in range(len(pose)) if i != 4}
    frames[31] = []
    result = one(write_openpose(tmp_path / "a", frames))
    expected = only(pose, list(OPENPOSE_BODY))
    expected[[1, 4]] = 0
    assert_pose(result, pose, expected, depth=False)


@pytest.mark.parametrize("layout", ["list", "names"])
def test_openpose_in_one_file(tmp_path: Path, layout: str) -> None:
    pose = signer(12)
    frames: Any = [{"people": [openpose_person(pose, i)]} for i in range(len(pose))]
    if layout == "names":
        frames = {f"image_{i}_keypoints.json": frame for i, frame in enumerate(frames)}
    (tmp_path / "a.json").write_text(json.dumps(frames))
    assert_pose(one(tmp_path / "a.json"), pose, only(pose, list(OPENPOSE_BODY)), depth=False)


def test_openpose_follows_the_person_it_started_with(tmp_path: Path) -> None:
    pose = signer()
    frames = {}
    for i in range(len(pose)):
        mine, other = openpose_person(pose, i), openpose_person(pose, i, shift=300, sure=0.5 if i == 0 else 2.0)
        frames[i] = [other, mine] if i % 2 else [mine, other]
    assert_pose(one(write_openpose(tmp_path / "a", frames)), pose, only(pose, list(OPENPOSE_BODY)), depth=False)


@pytest.mark.parametrize("suffix", ["npy", "parquet"])
def test_kaggle(tmp_path: Path, suffix: str) -> None:
    pose = signer()
    path = tmp_path / f"1000.{suffix}"
    if suffix == "npy":
        np.save(path, landmarks(pose))
    else:
        write_parquet(path, pose)
    expected = (pose.confidences > 0).astype(np.float32)
    assert_pose(one(path), pose, expected)


def test_kaggle_frames_keep_their_place_and_folders_their_names(tmp_path: Path) -> None:
    pose = signer()
    write_parquet(tmp_path / "train_landmark_files" / "26734" / "1000.parquet", pose, without=(1, 4))
    result = read(tmp_path)
    assert list(result) == ["train_landmark_files/26734/1000"]
    expected = (pose.confidences > 0).astype(np.float32)
    expected[[1, 4]] = 0
    assert_pose(result["train_landmark_files/26734/1000"], pose, expected)


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_openhands(tmp_path: Path, protocol: int) -> None:
    pose = signer()
    assert_pose(one(write_pkl(tmp_path / "a.pkl", pose, protocol)), pose, pose.confidences)


def test_pickled_arrays_of_older_numpy_other_order_and_kinds() -> None:
    arrays = {
        "a": np.asfortranarray(np.arange(6, dtype=">f4").reshape(2, 3)),
        "b": np.array([True, False]),
        "c": np.arange(4, dtype=np.uint8),
    }
    for protocol in (3, 4, 5):
        content = pickle.dumps(arrays, protocol=protocol)
        # numpy 1 wrote the same with another module name; protocol 4 and 5 store its length before it.
        for old, new in (("multiarray", "multiarray"), ("numeric", "numeric")):
            long, short = f"numpy._core.{old}".encode(), f"numpy.core.{new}".encode()
            older = content.replace(bytes([len(long)]) + long, bytes([len(short)]) + short)
            found = load_arrays(_reframed(older) if protocol > 3 else content.replace(long, short))
            assert found.keys() == arrays.keys()
            for name, values in arrays.items():
                assert np.array_equal(found[name], values)


def _reframed(content: bytes) -> bytes:
    """A pickle whose frame length fits again after its content was changed."""
    assert content[2:3] == b"\x95"
    return content[:3] + (len(content) - 11).to_bytes(8, "little") + content[11:]


@pytest.mark.parametrize("sides", [("left", "right"), ("0", "1")])
def test_spoter_rows_turn_y_down(tmp_path: Path, sides: tuple[str, str]) -> None:
    poses = [signer(6), signer(9, seed=1)]
    path = write_spoter(tmp_path / "WLASL100_train_25fps.csv", poses, sides)
    found, _ = find_poses(path)
    clips = list(pose_clips(found, path))
    assert [clip.clip_id for clip in clips] == ["WLASL100_train_25fps/00000", "WLASL100_train_25fps/00001"]
    assert [clip.label for clip in clips] == ["1", "2"]
    for clip, pose in zip(clips, poses, strict=True):
        expected = (only(pose, list(SPOTER_BODY.values())) > 0).astype(np.float32)
        assert_pose(clip.read(FACTS), pose, expected, depth=False)


def test_spoter_names_are_holistic_points() -> None:
    """By hand, since the files above are written with the same tables that read them."""
    hand = {"wrist": 0, "thumbCMC": 1, "thumbTip": 4, "indexMCP": 5, "middleMCP": 9, "ringPIP": 14, "littleTip": 20}
    assert {name: SPOTER_HAND.index(name) for name in hand} == hand
    assert len(SPOTER_HAND) == 21
    assert (SPOTER_BODY["leftEye"], SPOTER_BODY["rightEye"], SPOTER_BODY["leftShoulder"]) == (2, 5, 11)


def test_points_that_are_not_finite_are_missing(tmp_path: Path) -> None:
    pose = signer()
    keypoints = pose.keypoints.copy()
    keypoints[0, 5, 0] = np.nan
    keypoints[0, 6, 2] = np.inf
    result = one(write_pkl(tmp_path / "a.pkl", Pose(keypoints, pose.confidences, FPS, WIDTH, HEIGHT)))
    assert result.confidences[0, 5] == 0
    assert result.confidences[0, 6] == pytest.approx(0.75)
    assert result.keypoints[0, 6, 2] == 0
    assert np.isfinite(result.keypoints).all()
    assert result.keypoints.shape == (6, POINTS, 3)


def semlex(pose: Pose) -> np.ndarray:
    """float16 `[T, 553, 3]`: a face of 478 points, body, left hand, right hand; NaN where missing."""
    points = np.where(pose.confidences[:, :, None] > 0, pose.keypoints, np.nan)
    return np.concatenate([np.full((len(pose), 478, 3), 0.5), points], axis=1).astype(np.float16)


@pytest.mark.parametrize("value", [0.0, -1.0, 0.5])
@pytest.mark.parametrize("layout", ["npy", "parquet", "Sem-Lex"])
def test_hand_at_one_place_was_not_found(tmp_path: Path, layout: str, value: float) -> None:
    pose = signer()
    gone = replace(pose, keypoints=pose.keypoints.copy(), confidences=np.ones_like(pose.confidences))
    gone.keypoints[:, LEFT_HAND] = value
    gone.keypoints[1, 40] = pose.keypoints[
        1, 40
    ]  # where one point moves, the others tell: only 0, 0 and -1, -1 are absent
    if layout == "parquet":
        path = write_parquet(tmp_path / "a.parquet", gone)
    else:
        path = tmp_path / "a.npy"
        np.save(path, semlex(gone) if layout == "Sem-Lex" else landmarks(gone))
    found = one(path)
    hand = found.confidences[:, LEFT_HAND] > 0
    assert hand[1].sum() == (21 if value == 0.5 else 1)
    assert not np.delete(hand, 1, axis=0).any()
    assert (found.confidences[:, 54:] > 0).all()
    frames = 5 if value == 0.5 else 6
    assert found.remarks == (f"left hand: points at ({value:g}, {value:g}) read as missing, in {frames} of 6 frames",)


def test_sem_lex(tmp_path: Path) -> None:
    pose = signer()
    np.save(tmp_path / "a.npy", semlex(pose))
    found = one(tmp_path / "a.npy")
    assert found.keypoints == pytest.approx(pose.keypoints, abs=1e-3)
    assert np.array_equal(found.confidences > 0, pose.confidences > 0)


def test_openpose_of_the_first_version(tmp_path: Path) -> None:
    pose = signer()
    people = [openpose_person(pose, frame) for frame in range(len(pose))]
    coco = {0: 0, 2: 12, 3: 14, 4: 16, 5: 11, 6: 13, 7: 15, 8: 24, 11: 23, 14: 5, 15: 2, 16: 8, 17: 7}
    for frame, person in enumerate(people):
        body = np.zeros((18, 3))
        for theirs, ours in coco.items():
            body[theirs] = [*(pose.keypoints[frame, ours, :2] * (WIDTH, HEIGHT)), pose.confidences[frame, ours]]
        person["pose_keypoints"] = body.ravel().tolist()
        for key in ("hand_left_keypoints", "hand_right_keypoints"):
            person[key] = person.pop(f"{key}_2d")
        del person["pose_keypoints_2d"]
    found = one(write_openpose(tmp_path / "clip", {frame: [person] for frame, person in enumerate(people)}))
    assert_pose(found, pose, only(pose, list(coco.values())), depth=False)


@pytest.mark.parametrize("values", ["XYC", "XYZKC", "KYXC"])
def test_pose_format_says_where_its_values_are(tmp_path: Path, values: str) -> None:
    pose = signer()
    found = one(write_pose_format(tmp_path / "a.pose", pose, values=values))
    assert_pose(found, pose, pose.confidences, depth="Z" in values)
    with pytest.raises(UserError, match="without X and Y"):
        one(write_pose_format(tmp_path / "b.pose", pose, values="XC"))


def test_pose_format_of_few_points_is_read_by_their_names(tmp_path: Path) -> None:
    pose = signer()
    names = [
        "NOSE",
        "RIGHT_SHOULDER",
        "LEFT_SHOULDER",
        "LEFT_ELBOW",
        "RIGHT_ELBOW",
        "LEFT_WRIST",
        "RIGHT_WRIST",
        "LEFT_HIP",
    ]
    found = one(write_pose_format(tmp_path / "a.pose", pose, body=names))
    assert_pose(found, pose, only(pose, [0, 12, 11, 13, 14, 15, 16, 23]))


@pytest.mark.parametrize(
    ("given", "video", "frames", "rate"),
    [
        (None, None, None, 30.0),
        (29.5, 29.97, 6, 29.5),
        (None, 29.97, None, 29.97),  # a rounded rate
        (None, 25.0, 6, 25.0),  # a pose for each frame of the video
        (None, 25.0, 5, 30.0),  # made at another rate
    ],
)
def test_rate_of_the_video_comes_before_a_rounded_one(
    tmp_path: Path, given: float | None, video: float | None, frames: int | None, rate: float
) -> None:
    path = write_pose_format(tmp_path / "a.pose", replace(signer(), fps=30.0))
    assert one(path, VideoFacts(given, None, None, video, (frames, None))).fps == rate
