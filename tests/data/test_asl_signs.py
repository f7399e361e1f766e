"""A corpus of poses without videos: its splits, and a pose encoder that is trained and scored on it."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from support.pose_files import signer, write_parquet

from islr.cli import run
from islr.data.audit.corpus import audit
from islr.data.corpora.asl_signs import from_asl_signs
from islr.data.labels import read_labels
from islr.data.manifest import Manifest
from islr.data.poses.pose import write_pose
from islr.errors import UserError

HEADER = "path,participant_id,sequence_id,sign\n"


def corpus(folder: Path, people: int = 8) -> tuple[Path, Path]:
    """A list and poses of two signs by some participants."""
    rows, poses = [], folder / "poses" / "train_landmark_files"
    for person in range(people):
        (poses / str(person + 2)).mkdir(parents=True)
        for number, sign in enumerate(("tv", "after")):
            name = 1000 + 10 * person + number
            rows.append(f"train_landmark_files/{person + 2}/{name}.parquet,{person + 2},{name},{sign}\n")
            write_pose(poses / str(person + 2) / f"{name}.npz", signer(6, seed=number))
    (folder / "train.csv").write_text(HEADER + "".join(rows))
    return folder / "train.csv", folder / "poses"


def test_participants_are_held_out(tmp_path: Path) -> None:
    manifest = from_asl_signs(*corpus(tmp_path))
    signers = {split: {clip.signer for clip in manifest.select(split)} for split in ("train", "val", "test")}
    assert signers == {"train": {"2", "3", "4", "5", "6", "7"}, "val": {"8"}, "test": {"9"}}
    assert manifest.classes == ("after", "tv")
    clip = manifest.clips[0]
    assert (clip.path, clip.pose, clip.frames) == (clip.path, clip.path, 6)
    assert not clip.has_video
    chosen = from_asl_signs(tmp_path / "train.csv", tmp_path / "poses", val_signers=["2"], test_signers=["3", "4"])
    assert [len(chosen.select(split)) for split in ("train", "val", "test")] == [10, 2, 4]
    with pytest.raises(UserError, match="participant '99' is not in the list"):
        from_asl_signs(tmp_path / "train.csv", tmp_path / "poses", test_signers=["99"])


def test_published_lists_and_class_numbers_are_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    csv, poses = corpus(tmp_path, people=3)
    with csv.open("a") as file:
        file.write("x,4,9999,tv\nx,4,nan,tv\n")
    (poses / "train_landmark_files" / "4" / "1021.npz").write_bytes(b"broken")
    (tmp_path / "map.json").write_text(json.dumps({"tv": 0, "after": 1, "unused": 2}))
    for split, names in (("train", "1000\n1001\n1010\n\n"), ("val", "1011\n"), ("test", "1021\n9999\n")):
        (tmp_path / f"{split}.txt").write_text(names)
    words = ["--csv", csv, "--poses", poses, "--classes", tmp_path / "map.json", "--out", tmp_path / "m.csv"]
    words += [word for split in ("train", "val", "test") for word in ("--split-list", tmp_path / f"{split}.txt")]
    assert run(["data", "asl-signs", *map(str, words)]) == 0
    assert "line 9: sequence_id 'nan' is not a whole number" in capsys.readouterr().out
    manifest = Manifest.load(tmp_path / "m.csv")
    assert manifest.classes == ("tv", "after", "unused")
    assert {clip.clip_id: (clip.label, clip.split, clip.status) for clip in manifest} == {
        "1000": (0, "train", "ok"),
        "1001": (1, "train", "ok"),
        "1010": (0, "train", "ok"),
        "1011": (1, "val", "ok"),
        "1020": (0, "none", "ok"),
        "1021": (1, "test", "corrupt:pose"),
        "9999": (0, "test", "missing"),
    }
    report = audit(manifest)
    assert (report["present"], report["poses"]["read"], report["files_gone"]) == (5, 5, [])


def test_pose_encoder_trains_and_is_scored_on_poses_alone(
    mini_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = Manifest.load(mini_corpus)
    bare = [dataclasses.replace(clip, path=clip.pose) for clip in manifest]
    dataclasses.replace(manifest, clips=tuple(bare)).save(tmp_path / "manifest.csv")
    words = [
        f"data.manifest={tmp_path}/manifest.csv",
        f"run.out={tmp_path}/run",
        "optim.epochs=1",
        "optim.batch_size=4",
        "optim.warmup_epochs=0",
    ]
    assert run(["finetune", "smoke/finetune_pose.yaml", *words]) == 0
    record = json.loads((tmp_path / "run" / "result.json").read_text())
    assert np.isfinite(record["results"][0]["value"])
    video = ["smoke/videomae.yaml", f"data.manifest={tmp_path}/manifest.csv", f"run.out={tmp_path}/v"]
    assert run(["pretrain", *video]) == 2
    assert "needs videos and 18 clips have a pose alone" in capsys.readouterr().err


def test_headed_numbers_of_classes_keep_their_numbers(tmp_path: Path) -> None:
    rows = "".join(f"{name},{number}\n" for name, number in (("a", 0), ("b", 2), ("c", 10), ("d", 11), ("e", 1)))
    (tmp_path / "labels.csv").write_text(f"video_id,label\n{rows}")
    (tmp_path / "names.txt").write_text("\n".join(f"sign {number}" for number in range(12)))
    labels = read_labels(tmp_path / "labels.csv", tmp_path / "names.txt")
    assert labels.of == {"a": 0, "b": 2, "c": 10, "d": 11, "e": 1}
    assert labels.classes[10] == "sign 10"
    assert read_labels(tmp_path / "labels.csv").classes[2] == "2"
    (tmp_path / "labels.csv").write_text("video_id,label\na,0.0\nb,123456789\n")
    with pytest.raises(UserError, match="class 123456789 is far beyond the 2 in use"):
        read_labels(tmp_path / "labels.csv")
    (tmp_path / "labels.csv").write_text("video_id,label\na,señal\nb,sen\u0303al\n")
    assert read_labels(tmp_path / "labels.csv").classes == ("señal",)


def test_landmark_files_become_the_corpus(tmp_path: Path) -> None:
    write_parquet(tmp_path / "in" / "2" / "1000.parquet", signer())
    (tmp_path / "train.csv").write_text(f"{HEADER}train_landmark_files/2/1000.parquet,2,1000,tv\n")
    words = ["--fps", "30", "--size", "640x480", "--made-by", "mediapipe"]
    assert run(["data", "poses", "convert", str(tmp_path / "in"), str(tmp_path / "poses"), *words]) == 0
    manifest = from_asl_signs(tmp_path / "train.csv", tmp_path / "poses")
    assert [(clip.pose, clip.frames, clip.status) for clip in manifest] == [("2/1000.npz", 6, "ok")]
    assert manifest.notes["poses_made_by"] == {"mediapipe": 1}
