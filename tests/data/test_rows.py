"""Rows of published lists: what cannot be a clip is counted and named with its line, and the rest is written."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.video_files import make_video
from support.wlasl_files import instance

from islr.data.corpora.published import from_asl_citizen, from_kinetics, from_msasl, from_openasl, from_slovo
from islr.data.corpora.tables import read_table
from islr.data.corpora.wlasl import from_wlasl
from islr.data.manifest import Clip, Manifest
from islr.errors import UserError


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    make_video(folder / "aaaaaaaaaaa.mp4", 30)
    return folder


def entry(**changes: Any) -> dict[str, Any]:
    item = {
        "clean_text": "tea",
        "label": 1,
        "signer_id": 2,
        "start_time": 0.2,
        "end_time": 0.6,
        "url": "youtu.be/aaaaaaaaaaa",
    }
    return item | {"box": [0.0, 0.0, 1.0, 1.0]} | changes


BAD_ENTRIES = {
    "equal": (entry(start_time=0.5, end_time=0.5), "'end' is not after 'start'"),
    "reversed": (entry(start_time=0.5, end_time=0.1), "'end' is not after 'start'"),
    "before the file": (entry(start_time=-2.0, end_time=0.0), "'end' is not after 'start'"),
    "not a number": (entry(end_time=float("nan")), "'nan' is no time"),
    "infinite": (entry(end_time=float("inf")), "'inf' is no time"),
    "null": (entry(start_time=None), "'None' is neither seconds"),
    "no video": (entry(url="nowhere"), "no YouTube id in 'nowhere'"),
    "control": (entry(clean_text="te\ra"), "'gloss' holds a control character"),
    "surrogate": (entry(clean_text="te\udcffa"), "'gloss' is not UTF-8"),
    "no class": (entry(label=1e9), "label 1000000000 is none of 1000 classes"),
    "half a class": (entry(label=1.5), "label '1.5' is not a whole number"),
    "no box": (entry(box=[0, 1, float("nan"), 1]), "a box has four numbers"),
    "no entry": (["tea"], "not of the MS-ASL schema"),
}


@pytest.mark.parametrize("kind", BAD_ENTRIES)
def test_bad_row_is_named_and_the_rest_is_written(kind: str, tmp_path: Path, videos: Path) -> None:
    item, reason = BAD_ENTRIES[kind]
    (tmp_path / "MSASL_test.json").write_text(json.dumps([entry(), item, entry(label=0, clean_text="cup")]))
    manifest = from_msasl(tmp_path / "MSASL_test.json", videos, workers=0)
    manifest.save(tmp_path / "m.csv")
    assert [clip.clip_id for clip in Manifest.load(tmp_path / "m.csv")] == [
        "test_00000_aaaaaaaaaaa",
        "test_00002_aaaaaaaaaaa",
    ]
    (line,) = manifest.notes["rows_left_out"]
    assert line.startswith(f"{tmp_path}/MSASL_test.json entry 1: ")
    assert reason in line
    line.encode()


def test_list_of_bad_rows_is_refused_before_anything_is_decoded(tmp_path: Path) -> None:
    (tmp_path / "MSASL_test.json").write_text(json.dumps([item for item, _ in BAD_ENTRIES.values()]))
    with pytest.raises(UserError, match=f"none of {len(BAD_ENTRIES)} rows can be a clip"):
        from_msasl(tmp_path / "MSASL_test.json", tmp_path / "no folder")


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e400"])
def test_numbers_that_are_none_cost_a_row_of_kinetics_and_slovo(number: str, tmp_path: Path, videos: Path) -> None:
    stem = "aaaaaaaaaaa_000001_000002"
    make_video(tmp_path / f"{stem}.mp4", 5)
    rows = f"sit,aaaaaaaaaaa,1,2,train\nsit,bbbbbbbbbbb,{number},2,train\n"
    (tmp_path / "k.csv").write_text("label,youtube_id,time_start,time_end,split\n" + rows)
    kinetics = from_kinetics(tmp_path / "k.csv", tmp_path, workers=0)
    assert [clip.clip_id for clip in kinetics] == [stem]
    assert "k.csv line 3: " in kinetics.notes["rows_left_out"][0]
    rows = "aaaaaaaaaaa\tu\tsit\tTrue\t1\t9\n"
    rows += f"b\tu\tsit\tTrue\t{number}\t9\nc\tu\tsit\tmaybe\t1\t9\nd\tu\tsit\tTrue\t9\t1\n"
    (tmp_path / "s.csv").write_text("attachment_id\tuser_id\ttext\ttrain\tbegin\tend\n" + rows)
    slovo = from_slovo(tmp_path / "s.csv", videos, workers=0)
    assert [(clip.clip_id, clip.frames, clip.first_frame, clip.file_frames) for clip in slovo] == [
        ("aaaaaaaaaaa", 8, 1, 30)
    ]
    assert [line.split(" line ")[1][0] for line in slovo.notes["rows_left_out"]] == ["3", "4", "5"]


def test_writer_refuses_what_the_reader_refuses(tmp_path: Path) -> None:
    for clip, message in (
        (Clip("a", "a.mp4", start=2.0, end=2.0), "'end' is not after 'start'"),
        (Clip("a", "a.mp4", start=float("nan")), "'start' is not a number"),
        (Clip(" ", "a.mp4"), "'clip_id' is empty"),
        (Clip("a", "a\r.mp4"), "'path' holds a control character"),
        (Clip("a", "a.mp4", gloss="caf\udce9"), "'gloss' is not UTF-8"),
        (Clip("a", "a.mp4", label=0), "label 0 of only 0 classes"),
        (Clip("b", "a.mp4"), "occurs twice"),
    ):
        with pytest.raises(UserError, match=message):
            Manifest("m", (Clip("b", "b.mp4"), clip), tmp_path).save(tmp_path / "m.csv")
        assert not (tmp_path / "m.csv").exists()


def test_two_labels_of_one_name_and_a_column_given_twice_are_refused_at_once(tmp_path: Path) -> None:
    clips = (Clip("a", "a.mp4", "book", label=0), Clip("b", "b.mp4", "book", label=1))
    with pytest.raises(UserError, match="labels 0 and 1 are both called 'book'"):
        Manifest("m", clips, tmp_path, ("book", "book")).save(tmp_path / "m.csv")
    (tmp_path / "m.csv").write_text("clip_id,path,gloss,label\na,a.mp4,book,0\nb,b.mp4,book,1\n")
    with pytest.raises(UserError, match="labels 0 and 1 are both called 'book'"):
        Manifest.load(tmp_path / "m.csv")
    (tmp_path / "m.csv").write_text("clip_id,path,split,split\na,a.mp4,train,test\n")
    with pytest.raises(UserError, match="column 'split' occurs twice"):
        Manifest.load(tmp_path / "m.csv")


TABLES = {
    "quote at a cell's start": ('a\tb\n"I want\t1\nand "then"\t2\nend\t3\n', ['"I want', 'and "then"', "end"]),
    "one quote in all": ('a\tb\n"I want\t1\nx\t2\n', ['"I want', "x"]),
    "cells in quotes": ('a\tb\n"say ""hi"""\t1\n"x"\t2\n', ['say "hi"', "x"]),
    "csv with a lost quote": ('b,a\n1,"I want\n2,"x, y"\n3,end\n', ["I want", "x, y", "end"]),
    "csv with a line break": ('b,a\n1,"two\nlines"\n2,x\n', ["two\nlines", "x"]),
    "blank last lines": ("a,b\nx,1\n \n,\n\n", ["x"]),
    "semicolons": ("b;a\n1;x\n", ["x"]),
    "old line ends": ("a,b\rx,1\ry,2\r", ["x", "y"]),
    "byte order mark": ("\ufeffa,b\r\nx,1\r\n", ["x"]),
    "trailing delimiters": ("a,b\nx,1,,\n", ["x"]),
}


@pytest.mark.parametrize("kind", TABLES)
def test_no_line_of_a_table_swallows_another(kind: str, tmp_path: Path) -> None:
    text, cells = TABLES[kind]
    (tmp_path / "t").write_bytes(text.encode())
    assert [row["a"] for _, row in read_table(tmp_path / "t", ("a", "b")) if isinstance(row, dict)] == cells


def test_lines_that_are_no_rows_say_so(tmp_path: Path, videos: Path) -> None:
    header = b"vid\tyid\tstart\tend\traw-text\n"
    rows = b"a\taaaaaaaaaaa\t0.1\t0.2\t\xe9t\xe9\nb\taaaaaaaaaaa\t0.1\n\n"
    rows += b"c\xff\taaaaaaaaaaa\t0\t1\tx\n\taaaaaaaaaaa\t0\t1\tx\n"
    (tmp_path / "o.tsv").write_bytes(header + rows + b"a\taaaaaaaaaaa\t0.1\t0.2\tagain\n")
    manifest = from_openasl(tmp_path / "o.tsv", videos, workers=0)
    assert [clip.clip_id for clip in manifest] == ["a"]  # text that is not UTF-8 matters only where it is used
    lines = [line.removeprefix(f"{tmp_path}/o.tsv line ") for line in manifest.notes["rows_left_out"]]
    assert lines == [
        "3: has too few cells",
        "5: 'clip_id' is not UTF-8",
        "6: 'clip_id' is empty",
        f"7: repeats {tmp_path}/o.tsv line 2",
    ]


def test_null_stays_unknown(tmp_path: Path, videos: Path) -> None:
    unknown = {"signer_id": None, "source": None, "url": None, "bbox": None, "variation_id": None, "frame_end": None}
    items = [instance(name, "train") | unknown for name in ("aaaaaaaaaaa", "b")]
    items += [instance("c", "test") | {"split": None, "signer_id": -1}, instance("d", "test") | {"video_id": None}]
    (tmp_path / "w.json").write_text(json.dumps([{"gloss": "book", "instances": items}]))
    manifest = from_wlasl(tmp_path / "w.json", videos, workers=0)
    assert [(c.clip_id, c.signer, c.source, c.variation, c.split) for c in manifest][:2] == [
        ("aaaaaaaaaaa", "", "", "", "train"),
        ("b", "", "", "", "train"),
    ]
    assert (manifest.clips[2].signer, manifest.clips[2].split) == ("", "none")
    assert manifest.notes["same_origin"] == []
    assert "instance 3: has no video_id" in manifest.notes["rows_left_out"][0]


def test_asl_citizen_keeps_its_codes_and_names_that_say_no_split_need_the_option(tmp_path: Path, videos: Path) -> None:
    text = "Participant ID,Video file,Gloss,ASL-LEX Code\nP1,aaaaaaaaaaa.mp4,DOG1,C_01_001\nnan,x.mp4,CAT,\n"
    (tmp_path / "seed.csv").write_text(text)
    with pytest.raises(UserError, match="say with --split"):
        from_asl_citizen(tmp_path / "seed.csv", videos)
    manifest = from_asl_citizen(tmp_path / "seed.csv", videos, splits=["dev"], workers=0)
    assert [(c.code, c.signer, c.split) for c in manifest] == [("C_01_001", "P1", "val"), ("", "", "val")]
    manifest.save(tmp_path / "m.csv")
    assert Manifest.load(tmp_path / "m.csv").clips == manifest.clips


def test_names_of_msasl_do_not_hang_on_the_order_of_rows(tmp_path: Path, videos: Path) -> None:
    rows = [entry(label=1, clean_text=text) for text in ("dad", "father", "dad", "papa")] + [
        entry(label=0, clean_text="cup")
    ]
    (tmp_path / "synonyms.json").write_text(json.dumps([["father", "dad", "daddy"], ["cup", "mug"]]))
    (tmp_path / "classes.json").write_text(json.dumps(["cup", "parent", "third"]))
    options: dict[str, dict[str, Any]] = {
        "usual": {},
        "synonyms": {"synonyms": tmp_path / "synonyms.json"},
        "classes": {"class_names": tmp_path / "classes.json"},
    }
    names = {}
    for order in (rows, rows[::-1]):
        (tmp_path / "MSASL_train.json").write_text(json.dumps(order))
        for kind, given in options.items():
            manifest = from_msasl(tmp_path / "MSASL_train.json", videos, workers=0, **given)
            names.setdefault(kind, set()).add(manifest.classes)
    assert names == {
        "usual": {("cup", "dad")},
        "synonyms": {("cup", "father")},
        "classes": {("cup", "parent", "third")},
    }
    assert manifest.notes["classes_spelt_otherwise_by_rows"] == ["1 parent: dad, father, papa"]
    assert {clip.gloss for clip in manifest} == {"cup", "parent"}


def test_composed_and_decomposed_letters_are_one_class(tmp_path: Path, videos: Path) -> None:
    rows = "P1,aaaaaaaaaaa.mp4,señal,\nP1,x.mp4,sen\u0303al,\n"
    (tmp_path / "train.csv").write_text(f"Participant ID,Video file,Gloss,ASL-LEX Code\n{rows}")
    manifest = from_asl_citizen(tmp_path / "train.csv", videos, workers=0)
    assert manifest.classes == ("señal",)
    assert manifest.notes["glosses_respelt_with_composed_letters"] == 1


@pytest.mark.real
def test_real_msasl_rows_agree_with_the_published_classes(shared: Path, tmp_path: Path) -> None:
    heads = shared / "data" / "other_metadata"
    first = json.loads((heads / "MSASL_test.head200.json").read_text())[0]
    make_video(tmp_path / f"{first['url'].split('v=')[1]}.mp4", 80)
    files = {"class_names": heads / "MSASL_classes.json", "synonyms": heads / "MSASL_synonym.json"}
    manifest = from_msasl(heads / "MSASL_test.head200.json", tmp_path, splits=["test"], workers=0, **files)
    assert (len(manifest), len(manifest.classes)) == (200, 1000)
    assert "classes_spelt_otherwise_by_rows" not in manifest.notes
