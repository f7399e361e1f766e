"""The folder converter: splits and classes from folder names, or neither."""

from pathlib import Path

import pytest
from support.video_files import make_video

from islr.data.corpora.folder import from_folder
from islr.errors import UserError


def fill(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        make_video(folder / name, 2 + number)
    return folder


def test_flat_folder_is_unlabelled(tmp_path: Path) -> None:
    manifest = from_folder(fill(tmp_path / "v", "a.mp4", "b.webm.mp4", "c.avi"), workers=0)
    assert manifest.name == "v"
    assert [(c.clip_id, c.label, c.split, c.frames) for c in manifest] == [
        ("a", None, "none", 2),
        ("b.webm", None, "none", 3),
        ("c", None, "none", 4),
    ]
    assert manifest.classes == ()


def test_split_and_class_folders(tmp_path: Path) -> None:
    names = ("train/yes/1.mp4", "train/no/1.mp4", "dev/no/deep/2.mp4", "Test/yes/3.mp4")
    manifest = from_folder(fill(tmp_path / "v", *names), workers=0)
    assert manifest.classes == ("no", "yes")
    assert {c.clip_id: (c.gloss, c.label, c.split) for c in manifest} == {
        "Test/yes/3": ("yes", 1, "test"),
        "dev/no/deep/2": ("no", 0, "val"),
        "train/no/1": ("no", 0, "train"),
        "train/yes/1": ("yes", 1, "train"),
    }
    unlabelled = from_folder(tmp_path / "v", labelled=False, workers=0)
    assert unlabelled.classes == ()
    assert {c.split for c in unlabelled} == {"train", "val", "test"}


def test_class_folders_without_splits_and_poses_beside(tmp_path: Path) -> None:
    fill(tmp_path / "v", "hello/1.mp4", "bye/1.mp4")
    (tmp_path / "v" / "bye" / "2.mp4").write_bytes(b"")
    (tmp_path / "p" / "hello").mkdir(parents=True)
    (tmp_path / "p" / "hello" / "1.npz").write_bytes(b"x")
    manifest = from_folder(tmp_path / "v", poses=tmp_path / "p", workers=0)
    assert manifest.root == tmp_path
    assert [(c.clip_id, c.path, c.pose, c.status, c.split) for c in manifest] == [
        ("bye/1", "v/bye/1.mp4", "", "ok", "none"),
        ("bye/2", "v/bye/2.mp4", "", "corrupt:empty", "none"),
        ("hello/1", "v/hello/1.mp4", "p/hello/1.npz", "ok", "none"),
    ]


def test_wrong_folders_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        from_folder(tmp_path / "absent")
    fill(tmp_path / "v", "a/1.mp4", "1.mp4")
    with pytest.raises(UserError, match="in no class folder"):
        from_folder(tmp_path / "v", labelled=True, workers=0)
    fill(tmp_path / "w", "1.mp4", "1.avi")
    with pytest.raises(UserError, match="differ only in their suffix"):
        from_folder(tmp_path / "w", workers=0)
