"""Corpora published as lists: each on a small copy of its real layout."""

import json
from pathlib import Path

import pytest
from support.video_files import FPS, make_video, numbers_of

from islr.data.corpora.published import (
    from_asl_citizen,
    from_autsl,
    from_id_list,
    from_kinetics,
    from_lsa64,
    from_msasl,
    from_openasl,
    from_slovo,
)
from islr.data.corpora.registry import CORPORA
from islr.data.manifest import Manifest
from islr.data.video.decode import decode
from islr.errors import UserError


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    return folder


def rows_of(manifest: Manifest) -> list[tuple]:
    return [(c.clip_id, c.gloss, c.label, c.split, c.signer, c.frames, c.status) for c in manifest]


def test_openasl_takes_ranges_and_boxes_inside_long_videos(tmp_path: Path, videos: Path) -> None:
    make_video(videos / "YIDyidYID-1.mp4", 100)
    tsv = tmp_path / "openasl.tsv"
    tsv.write_text(
        "vid\tyid\tstart\tend\traw-text\tsplit\n"
        "a-1\tYIDyidYID-1\t00:00:01.000\t00:00:02.000\tHello, world\ttrain\n"
        "a-2\tYIDyidYID-1\t00:00:01.600\t00:00:02.000\t\tvalid\n"
        "b-1\tnot_here_00\t0.5\t1\tx\ttest\n"
    )
    boxes = tmp_path / "bbox.json"
    boxes.write_text(json.dumps({"a-1": [0.25, 0.5, 0.75, 1.25]}))
    manifest = from_openasl(tsv, videos, boxes=boxes, workers=0)
    assert rows_of(manifest) == [
        ("a-1", "", None, "train", "", 25, "ok"),
        ("a-2", "", None, "val", "", 10, "ok"),
        ("b-1", "", None, "test", "", None, "missing"),
    ]
    assert manifest.clips[0].box == (24.0, 32.0, 72.0, 64.0)
    clip = manifest.clips[1]
    frames = decode(manifest.path_of(clip), start=clip.start, end=clip.end, root=manifest.root)
    assert numbers_of(frames) == list(range(40, 50))
    assert set(manifest.sources) == {"openasl.tsv", "bbox.json"}


def test_range_beyond_the_video_is_a_broken_clip(tmp_path: Path, videos: Path) -> None:
    make_video(videos / "short.mp4", 10)
    (tmp_path / "o.tsv").write_text("vid\tyid\tstart\tend\na\tshort\t5\t6\n")
    assert from_openasl(tmp_path / "o.tsv", videos, workers=0).clips[0].status == "corrupt:no frames"


def test_kinetics(tmp_path: Path, videos: Path) -> None:
    (videos / "val").mkdir()
    make_video(videos / "val" / "-bwYZwnwb8E_000013_000023.mp4", 5)
    (tmp_path / "val.csv").write_text(
        "label,youtube_id,time_start,time_end,split,is_cc\n"
        "tango dancing,-bwYZwnwb8E,13,23,validate,0\n"
        "sled dog racing,3caPS4FHFF8,36,46,validate,0\n"
    )
    manifest = from_kinetics([tmp_path / "val.csv"], videos, workers=0)
    assert rows_of(manifest) == [
        ("-bwYZwnwb8E_000013_000023", "tango dancing", 1, "val", "", 5, "ok"),
        ("3caPS4FHFF8_000036_000046", "sled dog racing", 0, "val", "", None, "missing"),
    ]


def test_asl_citizen(tmp_path: Path, videos: Path) -> None:
    make_video(videos / "1512781787144335-SAIL.mp4", 5)
    for split, line in (
        ("train", "P1,1512781787144335-SAIL.mp4,SAIL,A_01_002"),
        ("test", "P2,77-DOG_2.mp4,DOG_2,B"),
    ):
        (tmp_path / f"{split}.csv").write_text(f"Participant ID,Video file,Gloss,ASL-LEX Code\n{line}\n")
    manifest = from_asl_citizen([tmp_path / "train.csv", tmp_path / "test.csv"], videos, workers=0)
    assert rows_of(manifest) == [
        ("1512781787144335-SAIL", "SAIL", 1, "train", "P1", 5, "ok"),
        ("77-DOG_2", "DOG_2", 0, "test", "P2", None, "missing"),
    ]


def test_msasl(tmp_path: Path, videos: Path) -> None:
    make_video(videos / "wX78EPtSuzU.mp4", 60)
    item = {
        "clean_text": "beer",
        "label": 2,
        "signer_id": 20,
        "start_time": 0.4,
        "end_time": 1.2,
        "fps": 29.97,
    }
    item |= {"url": "www.youtube.com/watch?v=wX78EPtSuzU", "box": [0.0, 0.25, 1.0, 0.75]}
    other = {**item, "label": 0, "clean_text": "hello", "url": "https://youtu.be/abcdefghijk?t=5"}
    (tmp_path / "MSASL_test.json").write_text(json.dumps([item, other]))
    manifest = from_msasl(tmp_path / "MSASL_test.json", videos, workers=0)
    assert rows_of(manifest) == [
        ("test_00000_wX78EPtSuzU", "beer", 2, "test", "20", 20, "ok"),
        ("test_00001_abcdefghijk", "hello", 0, "test", "20", None, "missing"),
    ]
    assert manifest.classes == ("hello", "1", "beer")
    assert manifest.clips[0].box == (24.0, 0.0, 72.0, 64.0)
    make_video(videos / "abcdefghijk.mp4", 60)
    assert len(from_msasl(tmp_path / "MSASL_test.json", videos, subset=2, workers=0)) == 1
    (tmp_path / "MSASL_test.json").write_text(json.dumps([{**item, "url": "nowhere"}]))
    with pytest.raises(UserError, match="entry 0: no YouTube id"):
        from_msasl(tmp_path / "MSASL_test.json", videos, workers=0)


def test_autsl(tmp_path: Path, videos: Path) -> None:
    make_video(videos / "signer34_sample1_color.mp4", 5)
    make_video(videos / "signer34_sample1_depth.mp4", 7)
    (tmp_path / "test_labels.csv").write_text("signer34_sample1,1\n")
    (tmp_path / "validation_labels.csv").write_text("signer1_sample1,0\n")
    (tmp_path / "signs.csv").write_text("ClassId,TR,EN\n0,abla,sister\n1,acele,hurry\n")
    lists = [tmp_path / "test_labels.csv", tmp_path / "validation_labels.csv"]
    manifest = from_autsl(lists, videos, signs=tmp_path / "signs.csv", workers=0)
    assert rows_of(manifest) == [
        ("signer34_sample1", "acele", 1, "test", "34", 5, "ok"),
        ("signer1_sample1", "abla", 0, "val", "1", None, "missing"),
    ]
    (tmp_path / "test_labels.csv").write_text("signer34_sample1,9\n")
    with pytest.raises(UserError, match="'signer34_sample1,9'"):
        from_autsl(lists, videos, signs=tmp_path / "signs.csv", workers=0)


def test_lsa64_is_split_by_person(tmp_path: Path, videos: Path) -> None:
    for name in ("001_001_001", "002_009_001", "002_010_003"):
        make_video(videos / f"{name}.mp4", 3)
    (tmp_path / "signs.md").write_text("01|Opaque|R|\n02|Red|R|\n")
    manifest = from_lsa64(videos, signs=tmp_path / "signs.md", workers=0)
    assert [(c.gloss, c.split, c.signer) for c in manifest] == [
        ("Opaque", "train", "1"),
        ("Red", "val", "9"),
        ("Red", "test", "10"),
    ]
    assert from_lsa64(videos, val_signers=(), test_signers=(1,), workers=0).select("train").classes == (
        "001",
        "002",
    )


def test_slovo_cuts_untrimmed_files_only(tmp_path: Path, videos: Path) -> None:
    make_video(videos / "whole.mp4", 60)
    make_video(videos / "trimmed.mp4", 20)
    (tmp_path / "annotations.csv").write_text(
        "attachment_id\tuser_id\twidth\theight\tlength\ttext\ttrain\tbegin\tend\n"
        "whole\tu1\t96\t64\t60.0\t\u041f\u0440\u0438\u0432\u0435\u0442!\tTrue\t10\t30\n"
        "trimmed\tu2\t96\t64\t60.0\t\u0414\u0430\tFalse\t10\t30\n"
    )
    manifest = from_slovo(tmp_path / "annotations.csv", videos, workers=0)
    whole, trimmed = manifest.clips
    assert (whole.frames, whole.split, whole.signer) == (20, "train", "u1")
    frames = decode(manifest.path_of(whole), start=whole.start, end=whole.end)
    assert numbers_of(frames) == list(range(10, 30))
    assert (trimmed.start, trimmed.end, trimmed.frames, trimmed.split) == (None, None, 20, "test")


def test_list_of_ids(tmp_path: Path, videos: Path) -> None:
    make_video(videos / "-jR5TcwvWiQ.mp4", 5)
    (tmp_path / "ids.txt").write_text("-jR5TcwvWiQ\nl5oS6UtZ0S8\n-jR5TcwvWiQ\n")
    manifest = from_id_list(tmp_path / "ids.txt", videos, workers=0)
    assert [(c.clip_id, c.status, c.split) for c in manifest] == [
        ("-jR5TcwvWiQ", "ok", "none"),
        ("l5oS6UtZ0S8", "missing", "none"),
    ]
    assert manifest.clips[0].fps == FPS


def test_wrong_lists_are_one_line(tmp_path: Path, videos: Path) -> None:
    make_video(videos / "a.mp4", 2)
    tsv = tmp_path / "o.tsv"
    with pytest.raises(UserError, match="no such file"):
        from_openasl(tsv, videos)
    for text, message in (
        ("vid\tyid\tstart\n1\ta\t0\n", "no column 'end'"),
        ("vid\tyid\tstart\tend\n", "lists no clips"),
        ("vid\tyid\tstart\tend\n1\ta\n", "too few cells"),
        ("vid\tyid\tstart\tend\n1\ta\tzero\t1\n", "'zero' is neither seconds"),
        ("vid\tyid\tstart\tend\n1\ta\t0\t1\n1\ta\t1\t2\n", "'1' is listed twice"),
        ("vid\tyid\tstart\tend\n1\tb\t0\t1\n", "no video belongs to the list"),
        ("vid\tyid\tstart\tend\tsplit\n1\ta\t0\t1\tfinal\n", "unknown split 'final'"),
    ):
        tsv.write_text(text)
        with pytest.raises(UserError, match=message) as caught:
            from_openasl(tsv, videos, workers=0)
        assert "\n" not in str(caught.value)


def test_all_are_listed_by_name() -> None:
    expected = "wlasl folder openasl kinetics asl-citizen msasl autsl lsa64 slovo youtube-asl asl-signs"
    assert sorted(CORPORA) == sorted(expected.split())


@pytest.mark.real
def test_heads_of_the_published_lists_are_understood(shared: Path, videos: Path) -> None:
    heads = shared / "data" / "other_metadata"
    first = json.loads((heads / "MSASL_test.head200.json").read_text())[0]
    make_video(videos / f"{first['url'].split('v=')[1]}.mp4", 80)
    (videos / "MSASL_test.json").write_text((heads / "MSASL_test.head200.json").read_text())
    manifest = from_msasl(videos / "MSASL_test.json", videos, workers=0)
    assert len(manifest) == 200
    assert manifest.clips[0].gloss == first["clean_text"]
    assert manifest.clips[0].status == "ok"
    make_video(videos / "signer34_sample1_color.mp4", 2)
    (videos / "test_labels.csv").write_text((heads / "autsl_test_labels.head200.csv").read_text())
    signs = heads / "autsl_SignList_ClassId_TR_EN.csv"
    autsl = from_autsl(videos / "test_labels.csv", videos, signs=signs, workers=0)
    assert (len(autsl), len(autsl.classes)) == (200, 226)
    ids = (heads / "youtube_asl_video_ids.head200.txt").read_text().split()
    make_video(videos / f"{ids[3]}.mp4", 2)
    assert len(from_id_list(heads / "youtube_asl_video_ids.head200.txt", videos, workers=0)) == 200
