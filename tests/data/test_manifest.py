"""The manifest: round trip, fingerprints, and one clear line for everything that is wrong with a file."""

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest

from islr.data.manifest import COLUMNS, Clip, Manifest
from islr.errors import UserError

CLIPS = (
    Clip("00001", "a/00001.mp4", gloss="don't want", label=0, split="train", signer="7", frames=40, fps=29.97),
    Clip("00002", 'b, "quoted".mp4', label=1, split="test", start=0.1, end=2.0, box=(0.0, 1.5, 20.0, 30.25)),
    Clip("é3", "c.mp4", form="dry+flat", split="test", status="missing", pose="p/c.npz"),
    Clip("4", "d.mp4", label=1, split="val", status="corrupt:not a video", width=96, height=64),
)


def corpus(root: Path) -> Manifest:
    return Manifest("mini", CLIPS, root, ("want", "dry"), {"source.json": "ab" * 32}, {"counted": 3})


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    corpus(tmp_path).save(tmp_path / "manifest.csv")
    for path in (tmp_path / "manifest.csv", tmp_path):
        assert Manifest.load(path) == corpus(tmp_path)
    header = (tmp_path / "manifest.csv").read_text().splitlines()[0]
    assert header == (
        "clip_id,path,start,end,box,gloss,form,label,variation,signer,source,split,frames,fps,width,height,status,pose,"
        "code,first_frame,file_frames"
    )
    assert [field.name for field in dataclasses.fields(Clip)] != list(COLUMNS)  # the file's order is its own
    assert {field.name for field in dataclasses.fields(Clip)} == set(COLUMNS)


def test_root_elsewhere_is_kept_and_a_root_inside_moves_with_the_folder(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    corpus(tmp_path / "videos").save(tmp_path / "made" / "manifest.csv")
    assert Manifest.load(tmp_path / "made").root == tmp_path / "videos"
    corpus(tmp_path / "made" / "videos").save(tmp_path / "made" / "manifest.csv")
    (tmp_path / "made").rename(tmp_path / "moved")
    assert Manifest.load(tmp_path / "moved").root == tmp_path / "moved" / "videos"


def test_fingerprint_is_the_documented_hash_of_all_clips_of_a_split(tmp_path: Path) -> None:
    manifest = corpus(tmp_path)
    assert manifest.fingerprint("test") == hashlib.sha256("00002\t1\né3\t\n".encode()).hexdigest()
    assert manifest.fingerprint("test") == manifest.replace(reversed(CLIPS)).fingerprint("test")
    present = manifest.replace(dataclasses.replace(clip, status="ok", path="x") for clip in CLIPS)
    assert present.fingerprint("test") == manifest.fingerprint("test")  # the machine's files do not matter
    relabelled = manifest.replace(dataclasses.replace(clip, label=0) for clip in CLIPS)
    assert relabelled.fingerprint("test") != manifest.fingerprint("test")
    assert relabelled.fingerprint("train") == manifest.fingerprint("train")
    assert len({manifest.fingerprint(split) for split in (None, "train", "val", "test")}) == 4


def test_select_by_split_and_status(tmp_path: Path) -> None:
    manifest = corpus(tmp_path)
    assert [clip.clip_id for clip in manifest.select("test")] == ["00002"]
    assert [clip.clip_id for clip in manifest.select("test", status=None)] == ["00002", "é3"]
    assert [clip.clip_id for clip in manifest.select()] == ["00001", "00002"]
    assert manifest.select("test").classes == manifest.classes
    with pytest.raises(UserError, match="unknown split 'tset'"):
        manifest.select("tset")


def test_paths_hang_on_the_root(tmp_path: Path) -> None:
    manifest = corpus(tmp_path)
    assert manifest.path_of(CLIPS[0]) == tmp_path / "a" / "00001.mp4"
    assert manifest.pose_of(CLIPS[0]) is None
    assert manifest.pose_of(CLIPS[2]) == tmp_path / "p" / "c.npz"


def test_plain_csv_without_json_takes_its_classes_from_the_glosses(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("clip_id,path,gloss,label\nx,x.mp4,book,1\ny,y.mp4,drink,0\n")
    manifest = Manifest.load(tmp_path)
    assert manifest.classes == ("drink", "book")
    assert manifest.root == tmp_path


def test_json_of_other_rows_is_refused(tmp_path: Path) -> None:
    corpus(tmp_path).save(tmp_path / "manifest.csv")
    path = tmp_path / "manifest.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))  # a copy that lost its last line
    with pytest.raises(UserError, match="not those recorded"):
        Manifest.load(path)


def test_failed_save_leaves_the_old_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus(tmp_path).save(tmp_path / "manifest.csv")
    before = (tmp_path / "manifest.csv").read_text()

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        corpus(tmp_path).replace(CLIPS[:1]).save(tmp_path / "manifest.csv")
    assert (tmp_path / "manifest.csv").read_text() == before
    assert Manifest.load(tmp_path).clips == CLIPS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names its columns"),
        ("clip_id,path\n", "has no clips"),
        ("id,file\n1,2\n", "at least clip_id and path"),
        ("clip_id,path,lable\na,a.mp4,1\n", "unknown column 'lable'"),
        ("clip_id,path\na,a.mp4\na,b.mp4\n", "line 3: clip_id 'a' occurs twice"),
        ("clip_id,path\n,a.mp4\n", "line 2: 'clip_id' is empty"),
        ("clip_id,path\na,\n", "'path' is empty"),
        ("clip_id,path\na\n", "number of cells"),
        ("clip_id,path\na,b,c\n", "number of cells"),
        ("clip_id,path,split\na,a.mp4,dev\n", "unknown split 'dev'"),
        ("clip_id,path,label\na,a.mp4,two\n", "'label' is not a whole number: 'two'"),
        ("clip_id,path,label\na,a.mp4,-1\n", "'label' is negative"),
        ("clip_id,path,label\na,a.mp4,99999999\n", "far beyond"),
        ("clip_id,path,fps\na,a.mp4,nan\n", "'fps' is not a number: 'nan'"),
        ("clip_id,path,start,end\na,a.mp4,2,1\n", "'end' is not after 'start'"),
        ('clip_id,path,box\na,a.mp4,"5,0,1,2"\n', "'box' is x0,y0,x1,y1"),
        ("clip_id,path,status\na,a.mp4,fine\n", "unknown status 'fine'"),
        ('clip_id,path\na,"b\nc.mp4"\n', "control character"),
        ('clip_id,path\na,"b.mp4\n', "not valid csv"),
    ],
)
def test_wrong_csv_is_one_line_that_says_what(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "manifest.csv"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        Manifest.load(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("not json", "not valid json"),
        ({"version": 99}, "version 1"),
        ({"classes": None}, "classes: Input should be a valid list"),
        ({"classes": ["only one"]}, "has label 1 of only 1 classes"),
    ],
)
def test_wrong_json_is_one_line_that_says_what(tmp_path: Path, change: str | dict, message: str) -> None:
    corpus(tmp_path).save(tmp_path / "manifest.csv")
    path = tmp_path / "manifest.json"
    about = json.loads(path.read_text())
    broken = change if isinstance(change, str) else json.dumps({**about, **change})
    path.write_text(broken)
    with pytest.raises(UserError) as caught:
        Manifest.load(tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such manifest"):
        Manifest.load(tmp_path / "manifest.csv")
    with pytest.raises(UserError, match=r"is a \.csv file"):
        Manifest.load(tmp_path / "manifest.json")
    (tmp_path / "manifest.csv").write_bytes(b"\xff\xfe\x00binary")
    with pytest.raises(UserError, match="cannot be read"):
        Manifest.load(tmp_path)
