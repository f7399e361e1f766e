"""Foreign pose files: each format from its real layout to the canonical points, and what is refused."""

import json
import os
import pickle
from collections.abc import Callable
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

from islr.data.poses.openpose import OPENPOSE_BODY
from islr.data.poses.pickles import load_arrays
from islr.data.poses.pose import LEFT_HAND, POINTS, Pose, VideoFacts, write_pose
from islr.data.poses.readers import POSE_READERS, find_poses, format_of, pose_clips
from islr.data.poses.tables import SPOTER_BODY, SPOTER_HAND
from islr.errors import UserError

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


class Runs:
    """A pickle of this runs a command when it is loaded."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("way", ["system", "eval", "numpy", "inside"])
def test_a_malicious_pickle_is_refused_and_does_not_run(tmp_path: Path, protocol: int, way: str) -> None:
    canary = tmp_path / "canary"
    evil: Any = {
        "system": Runs(os.system, f"touch {canary}"),
        "eval": Runs(eval, f"open({str(canary)!r}, 'w')"),
        "numpy": Runs(np.savetxt, str(canary), [1.0]),
        "inside": {"keypoints": np.array([Runs(os.system, f"touch {canary}")], dtype=object)},
    }[way]
    content = pickle.dumps(evil, protocol=protocol)
    path = tmp_path / "a.pkl"
    path.write_bytes(content)
    with pytest.raises(UserError, match="refused, or not a pickle of arrays") as caught:
        one(path)
    assert "\n" not in str(caught.value)
    assert not canary.exists()
    pickle.loads(content)  # the same bytes do run elsewhere, so the test can fail
    assert canary.exists()


class Claims:
    """Pickles as an array of another shape than its content has."""

    def __reduce__(self) -> tuple[Any, ...]:
        build, _, _ = np.zeros(2).__reduce__()
        return build, (np.ndarray, (10**12,), b"b"), (1, (10**12,), np.dtype("f8"), False, b"12345678")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps(Claims()), "shape does not fit"),
        (pickle.dumps([1, 2]), "not a dict"),
        (pickle.dumps({"keypoints": np.zeros(1, "M8[s]")}), "only numbers"),
        (b"not a pickle", "refused"),
        (b"", "refused"),
        (pickle.dumps({"keypoints": np.zeros((3, 75, 3))})[:-20], "refused"),
        (pickle.dumps({"keypoints": np.zeros((3, 75, 3))}), "no array 'confidences'"),
        (pickle.dumps({"keypoints": [[1.0]], "confidences": np.zeros((3, 75))}), "no array 'keypoints'"),
        (pickle.dumps({"keypoints": np.zeros((3, 27, 2)), "confidences": np.zeros((3, 27))}), "keypoints are"),
        (pickle.dumps({"keypoints": np.zeros((3, 75, 3)), "confidences": np.zeros(3)}), "confidences are"),
        (pickle.dumps({"keypoints": np.zeros((0, 75, 3)), "confidences": np.zeros((0, 75))}), "no frames"),
    ],
)
def test_wrong_pickles_are_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        one(tmp_path / "a.pkl")
    assert "\n" not in str(caught.value)


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


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npz", b"PK broken", "cannot be read as a pose file"),
        ("a.pose", b"\0" * 40, "a.pose: "),
        ("a.pose", b"text", "cannot be read as a .pose file"),
        ("a.parquet", b"text", "cannot be read as a table"),
        ("a.json", b'{"people": []}', "holds one frame"),
        ("a.json", b'[{"people": 3}]', "without a list of 'people'"),
        ("a.json", b'[{"people": [', "not valid json"),
        ("a.json", b'{"first": {"people": []}}', "does not end in a frame number"),
        ("a.json", b'{"1": {"people": []}, "9999999": {"people": []}}', "frame numbers reach from 1 to 9999999"),
        ("a.json", b'[{"people": [{"pose_keypoints_2d": [1, 2, 3]}]}]', r"has 3 numbers; we know 25 or 18 points"),
        ("a.json", b'[{"people": [{"pose_keypoints_2d": ["x"]}]}]', "not a list of numbers"),
        ("a.csv", b"nose_X,nose_Y,labels\n[1],[1],1\n", "there is no column"),
    ],
)
def test_broken_files_are_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        one(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_spoter_row_with_lists_that_do_not_fit_is_one_line(tmp_path: Path) -> None:
    path = write_spoter(tmp_path / "a.csv", [signer(), signer(), signer()])
    rows = path.read_text().splitlines()
    rows[1] = rows[1].replace('"[', '"[0.5, ', 1)
    rows[2] = rows[2].replace('"[', '"print(', 1)
    path.write_text("\n".join(rows) + "\n")
    found, _ = find_poses(path)
    reads = [clip.read for clip in pose_clips(found, path)]
    with pytest.raises(UserError, match="between 6 and 7 frames"):
        reads[0](FACTS)
    with pytest.raises(UserError, match="nose_X is not a list of numbers"):
        reads[1](FACTS)
    assert len(reads[2](FACTS)) == 6


def test_a_parquet_of_something_else_is_one_line(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"x": [1.0]}), tmp_path / "a.parquet")
    row = {"frame": [1], "type": ["pose"], "landmark_index": [33], "x": [0.1], "y": [0.1], "z": [0.1]}
    parquet.write_table(pyarrow.table(row), tmp_path / "b.parquet")
    with pytest.raises(UserError, match="cannot be read as a table of landmarks"):
        one(tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"landmark_index of 'pose' is not in 0\.\.32"):
        one(tmp_path / "b.parquet")


@pytest.mark.parametrize(("library", "name"), [("pose_format", "a.pose"), ("pyarrow", "a.parquet")])
def test_a_library_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, name: str
) -> None:
    (tmp_path / name).write_bytes(b"content")
    monkeypatch.setitem(__import__("sys").modules, library, None)
    with pytest.raises(UserError, match=r"pip install 'islr-bench\[pose-io\]'"):
        one(tmp_path / name)


def test_sources_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown pose format 'mmpose'; known: auto, npz, pose, openpose"):
        find_poses(tmp_path, "mmpose")
    with pytest.raises(UserError, match="no such file or folder of poses"):
        find_poses(tmp_path / "none")
    with pytest.raises(UserError, match="holds no poses of any known format"):
        find_poses(tmp_path)
    write_pkl(tmp_path / "a.pkl", signer())
    write_pose(tmp_path / "a.npz", signer())
    with pytest.raises(UserError, match="would be one clip; name one --format"):
        read(tmp_path)
    assert list(read(tmp_path, "openhands")) == ["a"]


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


# Absent is not at a place, and layouts are what their files say


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


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((5, 57, 3), "57 points of 3"),
        ((5, 118, 3), "118 points of 3 .* a selection of lips, eyes and hands"),
        ((5, 42, 3), "42 points of 3 .* two hands"),
        ((5, 2, 21, 3), r"\[5, 2, 21, 3\] points of 3"),
        ((5, 543, 2), "543 points of 2"),
    ],
)
def test_other_layouts_are_refused_by_name(tmp_path: Path, shape: tuple[int, ...], message: str) -> None:
    np.save(tmp_path / "a.npy", np.zeros(shape, np.float32))
    with pytest.raises(UserError, match=message):
        one(tmp_path / "a.npy")


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


def test_openpose_without_a_list_we_know_is_refused_by_its_keys(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a person without pose_keypoints_2d, .*; it has pose_keypoints_3d"):
        one(write_openpose(tmp_path / "clip", {0: [{"pose_keypoints_3d": [1.0] * 100}]}))
    (tmp_path / "clip" / "other_00000_keypoints.json").write_text('{"people": []}')
    with pytest.raises(UserError, match="several files have one frame number"):
        one(tmp_path / "clip")


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
