"""The folder converter: splits and classes from folder names, or neither."""

import csv
import os
from pathlib import Path

import pytest
from support.video_files import make_video

from islr.data.corpora.folder import FolderLayout, from_folder
from islr.data.video.decode import DecodeError, decode
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
    unlabelled = from_folder(tmp_path / "v", layout=FolderLayout(labelled=False), workers=0)
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
    with pytest.raises(UserError, match=r"1 videos lie in folders \(a\) and 1 in none \(1.mp4\); give --labelled"):
        from_folder(tmp_path / "v", workers=0)
    fill(tmp_path / "w", "1.mp4", "1.avi")
    with pytest.raises(UserError, match="differ only in their suffix"):
        from_folder(tmp_path / "w", workers=0)


def outcomes(manifest_path: Path) -> dict[str, str]:
    with manifest_path.with_suffix(".outcomes.csv").open(newline="") as file:
        return {row["file"]: row["outcome"] for row in csv.DictReader(file)}


def test_every_file_has_an_outcome_and_what_was_recognised_is_said(tmp_path: Path) -> None:
    folder = fill(tmp_path / "v", "train_set/yes/1.mp4", "Test/no/1.MP4")
    for name in ("__MACOSX/train_set/._1.mp4", "train_set/notes.txt", "train_set/yes/._1.mp4", "Test/.cache/1.mp4"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    bad = os.fsdecode(b"train_set/no/caf\xe9.mp4")
    (folder / "train_set" / "no").mkdir()
    (folder / bad).write_bytes(b"x")
    manifest = from_folder(folder, workers=0, out=tmp_path / "m.csv")
    assert {clip.clip_id: (clip.gloss, clip.split) for clip in manifest} == {
        "Test/no/1": ("no", "test"),
        "train_set/yes/1": ("yes", "train"),
    }
    assert outcomes(tmp_path / "m.csv") == {
        "Test/.cache/": "ignored: a hidden folder, or one that a system wrote",
        "Test/no/1.MP4": "clip, ok",
        "__MACOSX/": "ignored: a hidden folder, or one that a system wrote",
        "train_set/no/caf\\udce9.mp4": "left out: 'clip_id' is not UTF-8",
        "train_set/notes.txt": "ignored: no video's suffix",
        "train_set/yes/._1.mp4": "ignored: hidden",
        "train_set/yes/1.mp4": "clip, ok",
    }
    assert manifest.notes["recognised"] == (
        "2 classes (no, yes), splits Test = test, train_set = train, 2 clips;"
        " 2 ignored: a hidden folder, or one that a system wrote; 1 ignored: hidden; 1 ignored: no video's suffix;"
        " 1 left out: 'clip_id' is not UTF-8"
    )
    manifest.save(tmp_path / "m.csv")


@pytest.mark.parametrize("odd", ["unseen/yes/2.mp4", "Eval/yes/2.mp4", "stray.mp4"])
def test_folder_beside_splits_is_refused_with_the_options_that_decide(odd: str, tmp_path: Path) -> None:
    folder = fill(tmp_path / "v", "train/yes/1.mp4", "test/yes/1.mp4", odd)
    top = odd.partition("/")[0]
    with pytest.raises(UserError, match=f"not {top}; say with --split {top}=test .* --ignore '{top}',.* --no-splits"):
        from_folder(folder, workers=0)
    ignored = from_folder(folder, layout=FolderLayout(ignore=[top]), workers=0)
    assert {clip.split for clip in ignored} == {"train", "test"}
    if top != odd:
        manifest = from_folder(folder, layout=FolderLayout(splits={top: "val"}), workers=0)
        assert {clip.split for clip in manifest} == {"train", "val", "test"}
        assert manifest.classes == ("yes",)
        signs = from_folder(folder, layout=FolderLayout(splits=None), workers=0)
        assert (signs.classes, {clip.split for clip in signs}) == (tuple(sorted(["train", "test", top])), {"none"})
        with pytest.raises(UserError, match="--split nowhere=val"):
            from_folder(folder, layout=FolderLayout(splits={"nowhere": "val"}), workers=0)


def test_one_stray_video_does_not_take_the_labels_of_the_others(tmp_path: Path) -> None:
    folder = fill(tmp_path / "v", "yes/1.mp4", "no/1.mp4", "stray.mp4")
    with pytest.raises(UserError, match=r"1 in none \(stray.mp4\); give --labelled .* --unlabelled"):
        from_folder(folder, workers=0)
    labelled = from_folder(folder, layout=FolderLayout(labelled=True), workers=0, out=tmp_path / "m.csv")
    assert labelled.classes == ("no", "yes")
    assert outcomes(tmp_path / "m.csv")["stray.mp4"] == "left out: in no class folder"
    assert len(from_folder(folder, layout=FolderLayout(labelled=False), workers=0)) == 3


def test_links_are_followed_and_a_link_out_of_the_root_says_so(tmp_path: Path) -> None:
    blobs = fill(tmp_path / "hub" / "blobs", "a.mp4", "b.mp4")
    snapshot = tmp_path / "hub" / "snapshots" / "1"
    (snapshot / "yes").mkdir(parents=True)
    (snapshot / "yes" / "1.mp4").symlink_to(blobs / "a.mp4")
    (snapshot / "no").symlink_to(blobs)
    (blobs / "back").symlink_to(blobs)
    with pytest.raises(UserError, match=f"is a link to .*, outside the data root .*; give --root {tmp_path / 'hub'}$"):
        from_folder(snapshot, workers=0)
    manifest = from_folder(snapshot, root=tmp_path / "hub", workers=0)
    assert [(c.clip_id, c.gloss, c.status) for c in manifest] == [
        ("no/a", "no", "ok"),
        ("no/b", "no", "ok"),
        ("yes/1", "yes", "ok"),
    ]
    assert decode(manifest.path_of(manifest.clips[2]), root=manifest.root).shape[0] == 2
    fill(snapshot, "yes/own.mp4")
    mixed = from_folder(snapshot, workers=0)
    assert [c.status for c in mixed] == ["corrupt:outside root"] * 3 + ["ok"]
    assert mixed.notes["links_out_of_the_data_root"][0].startswith("3 files: ")
    with pytest.raises(DecodeError, match="a link to "):
        decode(mixed.path_of(mixed.clips[2]), root=mixed.root)
