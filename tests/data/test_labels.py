"""Label spaces: public file layouts, revision with its coverage, form-aware scores and the label ceiling."""

from pathlib import Path

import pytest

from islr.data.corpora.wlasl_json import read_instances
from islr.data.labels import FormTable, form_hits, label_ceiling, read_labels, revise, with_forms
from islr.data.manifest import Clip, Manifest
from islr.errors import UserError


def corpus(*rows: tuple[str, str, str]) -> Manifest:
    """Clips from (split, gloss, form); ids 00000, 00001, ..."""
    classes = tuple(dict.fromkeys(gloss for _, gloss, _ in rows))
    clips = [
        Clip(f"{i:05d}", "x", gloss=gloss, form=form, label=classes.index(gloss), split=split)
        for i, (split, gloss, form) in enumerate(rows)
    ]
    return Manifest("mini", tuple(clips), Path(), classes)


def test_table_with_names_in_any_case_and_below_a_title(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(
        "\ufeffMy revised labels,,\nvideo_id,signer,CLASS\n00001,a,same\n2,b,dry+flat\n00003.mp4,c,same\n,,\n"
    )
    labels = read_labels(path)
    assert labels.classes == ("dry+flat", "same")
    assert labels.of == {"00001": 1, "2": 0, "00003": 1}
    assert labels.of_clip("00002") == 0  # the spreadsheet lost the zeros
    assert labels.of_clip("00004") is None
    assert list(labels.sources) == ["labels.csv"]


def test_videomae_lists_with_a_name_file(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("/some where/00001.mp4 1\n/some where/00002.mp4 0\n")
    (tmp_path / "test.csv").write_text("b/00003.mp4,2\n")
    (tmp_path / "names.txt").write_text("dry\nsame\nunused\n#ok")
    labels = read_labels([tmp_path / "train.csv", tmp_path / "test.csv"], tmp_path / "names.txt")
    assert labels.classes == ("dry", "same", "unused", "#ok")
    assert labels.of == {"00001": 1, "00002": 0, "00003": 2}
    assert read_labels(tmp_path / "train.csv").classes == ("0", "1")
    (tmp_path / "names.txt").write_text("dry\n")
    with pytest.raises(UserError, match="has 1 names but class 1 is used"):
        read_labels(tmp_path / "train.csv", tmp_path / "names.txt")


def test_spreadsheet(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in (["Revised labels", None], ["video_id", "CLASS"], [1, "same"], ["00002", "dry"]):
        book.active.append(row)
    book.save(tmp_path / "labels.xlsx")
    assert read_labels(tmp_path / "labels.xlsx").of == {"1": 1, "00002": 0}
    (tmp_path / "broken.xlsx").write_bytes(b"text")
    with pytest.raises(UserError, match="cannot be read as xlsx"):
        read_labels(tmp_path / "broken.xlsx")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such label file"),
        ("", "holds no labels"),
        ("a,b\n1,2\nx,y\n", "columns video_id and class"),
        ("video_id,class\n1,same\n1,dry\n", "video 1 has two classes"),
        ("video_id,class\n", "holds no labels"),
    ],
)
def test_wrong_file_is_one_line(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "l.csv").write_text(text)
    with pytest.raises(UserError) as caught:
        read_labels(tmp_path / "l.csv")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_revision_needs_at_least_one_clip(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("video_id,class\nabc,same\n")
    labels = read_labels(tmp_path / "l.csv")
    with pytest.raises(UserError, match="ids look like 'abc'"):
        revise(corpus(("test", "a", "")), labels)


# Form "same" is signed for like (3 training clips), also (2) and common (2); form "dry" for desert only.
MANIFEST = corpus(
    *[("train", "like", "same")] * 3,
    *[("train", "also", "same")] * 2,
    *[("train", "common", "same")] * 2,
    *[("train", "desert", "dry")] * 2,
    ("train", "desert", "sand"),
    ("test", "like", "same"),
    ("test", "also", "same"),
    ("test", "desert", "dry"),
    ("test", "desert", "sand"),
    ("test", "desert", "new"),
    ("test", "like", "dry"),
    ("test", "common", ""),
)


def test_ceiling_is_the_best_guess_of_a_perfect_form_recogniser() -> None:
    result = label_ceiling(MANIFEST, FormTable.count(MANIFEST))
    assert (result["n"], result["of"], result["unseen"]) == (6, 7, 1)
    assert result["top1"] == pytest.approx(3 / 6)  # like, desert, desert; never also, and "new" was not in training
    assert result["top5"] == pytest.approx(4 / 6)  # "like" never had the form dry: no guess, however many are allowed
    assert result["top1_other_ties"] == result["top1"]


def test_ceiling_shows_both_orders_of_ties() -> None:
    tied = corpus(("train", "a", "f"), ("train", "b", "f"), ("test", "a", "f"), ("test", "a", "f"), ("test", "b", "f"))
    result = label_ceiling(tied, FormTable.count(tied))
    assert (result["top1"], result["top1_other_ties"]) == (pytest.approx(2 / 3), pytest.approx(1 / 3))


def test_scores_by_form() -> None:
    table = FormTable.count(MANIFEST)
    ranked = [
        ["also", "desert"],
        ["desert", "like"],
        ["common", "also"],
        ["desert", "also"],
    ]
    classes = ["like", "like", "desert", "desert"]
    forms = ["same", "same", "dry", "sand"]
    result = {name: right.mean() for name, right in form_hits(table, ranked, classes, forms).items()}
    assert (result["original_top1"], result["original_top5"]) == (1 / 4, 2 / 4)
    assert (result["same_form_top1"], result["same_form_top5"]) == (2 / 4, 3 / 4)
    # desert stands for its usual form dry, so a clip of sand is not found
    assert (result["revised_top1"], result["revised_top5"]) == (1 / 4, 2 / 4)
    with pytest.raises(UserError, match="class 'nothing'"):
        form_hits(table, [["nothing"]], ["like"], ["same"])


def test_forms_are_added_without_touching_labels(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("video_id,class\n00000,same\n")
    manifest = corpus(("train", "like", ""), ("test", "dry", ""))
    formed = with_forms(manifest, read_labels(tmp_path / "l.csv"))
    assert [clip.form for clip in formed] == ["same", ""]
    assert formed.fingerprint() == manifest.fingerprint()
    assert "l.csv" in formed.sources
    with pytest.raises(UserError, match="no test clip"):
        FormTable.count(formed, "test")
    (tmp_path / "other.csv").write_text("video_id,class\n77777,same\n")
    with pytest.raises(UserError, match="none of the 2 clips"):
        with_forms(manifest, read_labels(tmp_path / "other.csv"))


def test_labels_and_forms_that_are_the_same_thing_are_trivial() -> None:
    assert FormTable.count(corpus(("train", "like", "a"), ("train", "dry", "b"))).is_trivial
    assert not FormTable.count(corpus(("train", "like", "a"), ("train", "same", "a"))).is_trivial
    assert not FormTable.count(corpus(("train", "like", "a"), ("train", "like", "b"))).is_trivial


@pytest.mark.real
def test_ceiling_of_the_published_labels(shared: Path) -> None:
    folder = shared / "data" / "gloss_based"
    lists = [folder / f"wlasl_1573_{split}.csv" for split in ("train", "dev", "test")]
    labels = read_labels(lists, folder / "label_map_wlasl1573.txt")
    instances, glosses, _ = read_instances(shared / "data" / "wlasl" / "WLASL_v0.3.json")
    clips = [Clip(i.video_id, "x", gloss=i.gloss, label=i.label, split=i.split) for i in instances]
    manifest = Manifest("wlasl", tuple(clips), Path(), tuple(glosses))
    formed = with_forms(manifest, labels)
    table = FormTable.count(formed)
    result = label_ceiling(formed, table)
    assert (result["n"], result["of"], result["unseen"]) == (2660, 2878, 0)
    assert (round(100 * result["top1"], 2), round(100 * result["top5"], 2)) == (81.24, 99.14)
    assert (round(100 * result["top1_other_ties"], 2), round(100 * result["top5_other_ties"], 2)) == (
        80.98,
        99.17,
    )
    validation = label_ceiling(formed, table, "val")
    assert (round(100 * validation["top1"], 2), round(100 * validation["top5"], 2)) == (80.41, 99.26)
    # A model that names every clip's own gloss is right about the form of 94.06 % of them.
    test = [clip for clip in formed if clip.split == "test" and clip.form]
    own = form_hits(table, [[c.gloss] for c in test], [c.gloss for c in test], [c.form for c in test])
    assert own["original_top1"].all()
    assert round(100 * own["revised_top1"].mean(), 2) == 94.06
    revised = revise(manifest, labels)
    assert revised.notes["revised_label_coverage"]["train"] == {"labelled": 12656, "of": 14289}
    assert revised.notes["revised_label_coverage"]["test"] == {"labelled": 2660, "of": 2878}
