"""Every published corpus from the command line, on a small copy of its real layout."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support.video_files import make_video, numbers_of

from islr.cli import run
from islr.commands.data import data_app
from islr.data.corpora.registry import CORPORA
from islr.data.manifest import Manifest
from islr.data.video.decode import decode
from islr.data.video.scan import scan

# (clip id, gloss, label, split, signer, frames, status) of each clip.
Rows = list[tuple[str, str, int | None, str, str, int | None, str]]


def openasl(lists: Path, videos: Path) -> tuple[str, Rows]:
    make_video(videos / "YIDyidYID-1.mp4", 100)
    (lists / "o.tsv").write_text(
        "vid\tyid\tstart\tend\traw-text\tsplit\n"
        "a-1\tYIDyidYID-1\t00:00:01.000\t00:00:02.000\tHello\ttrain\n"
        "b-1\tnot_here_00\t0.5\t1\tx\ttest\n"
    )
    (lists / "bbox.json").write_text(json.dumps({"a-1": [0.25, 0.5, 0.75, 1.0]}))
    rows: Rows = [("a-1", "", None, "train", "", 25, "ok"), ("b-1", "", None, "test", "", None, "missing")]
    return f"--tsv {lists}/o.tsv --boxes {lists}/bbox.json", rows


def kinetics(lists: Path, videos: Path) -> tuple[str, Rows]:
    make_video(videos / "-bwYZwnwb8E_000013_000023.mp4", 5)
    header = "label,youtube_id,time_start,time_end,split\n"
    (lists / "val.csv").write_text(f"{header}tango dancing,-bwYZwnwb8E,13,23,validate\n")
    (lists / "train.csv").write_text(f"{header}sled dog racing,3caPS4FHFF8,36,46,train\n")
    rows: Rows = [
        ("-bwYZwnwb8E_000013_000023", "tango dancing", 1, "val", "", 5, "ok"),
        ("3caPS4FHFF8_000036_000046", "sled dog racing", 0, "train", "", None, "missing"),
    ]
    return f"--list {lists}/val.csv --list {lists}/train.csv", rows


def asl_citizen(lists: Path, videos: Path) -> tuple[str, Rows]:
    make_video(videos / "15-SAIL.mp4", 5)
    header = "Participant ID,Video file,Gloss,ASL-LEX Code\n"
    (lists / "train.csv").write_text(f"{header}P1,15-SAIL.mp4,SAIL,A_01_002\n")
    (lists / "test.csv").write_text(f"{header}P2,77-DOG 2.mp4,DOG2,B\n")
    rows: Rows = [
        ("15-SAIL", "SAIL", 1, "train", "P1", 5, "ok"),
        ("77-DOG 2", "DOG2", 0, "test", "P2", None, "missing"),
    ]
    return f"--list {lists}/train.csv --list {lists}/test.csv", rows


def msasl(lists: Path, videos: Path) -> tuple[str, Rows]:
    make_video(videos / "wX78EPtSuzU.mp4", 60)
    item = {"clean_text": "beer", "label": 1, "signer_id": 20, "start_time": 0.4, "end_time": 1.2}
    item |= {"url": "www.youtube.com/watch?v=wX78EPtSuzU", "box": [0.0, 0.25, 1.0, 0.75]}
    (lists / "MSASL_test.json").write_text(json.dumps([item, {**item, "label": 2, "clean_text": "tea"}]))
    (lists / "MSASL_val.json").write_text(json.dumps([{**item, "label": 0, "clean_text": "cup"}]))
    rows: Rows = [
        ("test_00000_wX78EPtSuzU", "beer", 1, "test", "20", 20, "ok"),
        ("val_00000_wX78EPtSuzU", "cup", 0, "val", "20", 20, "ok"),
    ]
    return f"--list {lists}/MSASL_test.json --list {lists}/MSASL_val.json --subset 2", rows


def autsl(lists: Path, videos: Path) -> tuple[str, Rows]:
    make_video(videos / "signer34_sample1_color.mp4", 5)
    make_video(videos / "signer34_sample1_depth.mp4", 7)
    (lists / "test_labels.csv").write_text("signer34_sample1,1\n")
    (lists / "validation_labels.csv").write_text("signer1_sample1,0\n")
    (lists / "signs.csv").write_text("ClassId,TR,EN\n0,abla,sister\n1,acele,hurry\n")
    rows: Rows = [
        ("signer34_sample1", "acele", 1, "test", "34", 5, "ok"),
        ("signer1_sample1", "abla", 0, "val", "1", None, "missing"),
    ]
    chosen = f"--list {lists}/test_labels.csv --list {lists}/validation_labels.csv"
    return f"{chosen} --signs {lists}/signs.csv", rows


def lsa64(lists: Path, videos: Path) -> tuple[str, Rows]:
    for name in ("001_001_001", "002_009_001", "002_010_003"):
        make_video(videos / f"{name}.mp4", 3)
    (lists / "signs.md").write_text("01|Opaque|R|\n02|Red|R|\n")
    rows: Rows = [
        ("001_001_001", "Opaque", 0, "test", "1", 3, "ok"),
        ("002_009_001", "Red", 1, "val", "9", 3, "ok"),
        ("002_010_003", "Red", 1, "train", "10", 3, "ok"),
    ]
    return f"--signs {lists}/signs.md --test-signer 1", rows


def slovo(lists: Path, videos: Path) -> tuple[str, Rows]:
    make_video(videos / "whole.mp4", 60)
    make_video(videos / "trimmed.mp4", 20)
    (lists / "annotations.csv").write_text(
        "attachment_id\tuser_id\twidth\theight\tlength\ttext\ttrain\tbegin\tend\n"
        "whole\tu1\t96\t64\t60.0\tПривет!\tTrue\t10\t30\n"
        "trimmed\tu2\t96\t64\t60.0\tДа\tFalse\t10\t30\n"
    )
    rows: Rows = [("whole", "Привет!", 1, "train", "u1", 20, "ok"), ("trimmed", "Да", 0, "test", "u2", 20, "ok")]
    return f"--annotations {lists}/annotations.csv", rows


def youtube_asl(lists: Path, videos: Path) -> tuple[str, Rows]:
    make_video(videos / "-jR5TcwvWiQ.mp4", 5)
    (lists / "ids.txt").write_text("-jR5TcwvWiQ\nl5oS6UtZ0S8\n")
    rows: Rows = [
        ("-jR5TcwvWiQ", "", None, "none", "", 5, "ok"),
        ("l5oS6UtZ0S8", "", None, "none", "", None, "missing"),
    ]
    return f"--ids {lists}/ids.txt --name unlabelled", rows


LAYOUTS: dict[str, Callable[[Path, Path], tuple[str, Rows]]] = {
    "openasl": openasl,
    "kinetics": kinetics,
    "asl-citizen": asl_citizen,
    "msasl": msasl,
    "autsl": autsl,
    "lsa64": lsa64,
    "slovo": slovo,
    "youtube-asl": youtube_asl,
}


def test_every_corpus_has_a_command_and_is_tested_here() -> None:
    commands = {command.name for command in data_app.registered_commands}
    assert set(CORPORA) <= commands
    assert set(LAYOUTS) == set(CORPORA) - {"wlasl", "folder", "asl-signs"}


@pytest.mark.parametrize("name", LAYOUTS)
def test_from_the_command_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = lambda jobs, base, workers, **options: scan(jobs, base, workers=0, **options)  # noqa: E731
    monkeypatch.setattr("islr.data.corpora.assemble.scan", here)  # no process for each of so many corpora
    lists, videos, poses = tmp_path / "lists", tmp_path / "videos" / "deep", tmp_path / "poses"
    for folder in (lists, videos, poses):
        folder.mkdir(parents=True)
    given, rows = LAYOUTS[name](lists, videos)
    (poses / f"{rows[0][0]}.npz").write_bytes(b"x")
    out = tmp_path / "made" / "manifest.csv"
    words = [*given.split(), "--videos", str(tmp_path / "videos"), "--poses", str(poses), "--workers", "1"]
    assert run(["data", name, *words, "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    manifest = Manifest.load(out)
    assert [(c.clip_id, c.gloss, c.label, c.split, c.signer, c.frames, c.status) for c in manifest] == rows
    assert manifest.clips[0].pose == f"poses/{rows[0][0]}.npz"
    assert manifest.name == ("unlabelled" if name == "youtube-asl" else name)
    assert manifest.name in shown
    for clip in manifest.select():
        frames = decode(manifest.path_of(clip), start=clip.start, end=clip.end, root=manifest.root)
        assert len(frames) == clip.frames
        if clip.start is not None:
            first = round(clip.start * 25)
            assert numbers_of(frames) == list(range(first, first + len(frames)))


@pytest.mark.parametrize("name", LAYOUTS)
def test_help_names_the_files(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", name, "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    wanted = {"openasl": "--tsv", "slovo": "--annotations", "youtube-asl": "--ids", "lsa64": "--signs"}
    for option in ("--videos", "--out", "--poses", "--workers", wanted.get(name, "--list")):
        assert option in shown


def test_what_is_left_out_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", "kinetics", "--videos", str(tmp_path), "--out", "m.csv"]) == 2
    assert "--list" in capsys.readouterr().err
    (tmp_path / "o.tsv").write_text("vid\tyid\tstart\tend\na\tb\t0\t1\n")
    words = ["--tsv", str(tmp_path / "o.tsv"), "--videos", str(tmp_path / "none"), "--out", str(tmp_path / "m.csv")]
    assert run(["data", "openasl", *words]) == 2
    assert "no such folder of videos" in capsys.readouterr().err.strip().splitlines()[-1]
