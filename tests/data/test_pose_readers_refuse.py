"""Foreign pose files that are refused: hostile pickles, broken files, layouts that say too little."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.pose_files import (
    signer,
    write_openpose,
    write_pkl,
    write_spoter,
)
from support.pose_reading import FACTS, one, read

from islr.data.poses.pose import write_pose
from islr.data.poses.readers import find_poses, pose_clips
from islr.errors import UserError


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


def test_openpose_without_a_list_we_know_is_refused_by_its_keys(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a person without pose_keypoints_2d, .*; it has pose_keypoints_3d"):
        one(write_openpose(tmp_path / "clip", {0: [{"pose_keypoints_3d": [1.0] * 100}]}))
    (tmp_path / "clip" / "other_00000_keypoints.json").write_text('{"people": []}')
    with pytest.raises(UserError, match="several files have one frame number"):
        one(tmp_path / "clip")
