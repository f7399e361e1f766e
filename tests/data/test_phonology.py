"""Phonology: the table as it is published, the join by form or gloss, ambiguity, what is missing."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from islr.cli import run
from islr.data.labels import read_labels, revise
from islr.data.manifest import Clip, Manifest
from islr.data.phonology import ASL_LEX, FEATURES, UNKNOWN, Columns, join, read_asl_lex, render_coverage
from islr.errors import UserError

SMALL = Columns(
    entry="EntryID", lemma="LemmaID", features={name: f"{name}.2.0" for name in ("Handshape", "Movement", "Spread")}
)


def write(path: Path, rows: list[tuple[str, str, str, str, str]], encoding: str = "latin-1") -> Path:
    header = ["EntryID", "LemmaID", "Code", "Handshape.2.0", "Movement.2.0", "Spread.2.0"]
    with open(path, "w", newline="", encoding=encoding) as file:
        writer = csv.writer(file)  # CRLF, as published
        writer.writerow(header)
        writer.writerows((entry, lemma, f"A_{i}", *rest) for i, (entry, lemma, *rest) in enumerate(rows))
    return path


ROWS = [
    ("book", "book", "open_b", "Curved", "NA"),
    ("drink", "drink", "c", "Curved", "0"),
    ("drink_2", "drink", "C", "Curved", "1"),
    ("TRUE", "true", "1", "None", ""),
    ("murder ", "murder", "1", "Straight ", "0"),
    ("caf\xe9", "caf\xe9", "5", "None", "1"),
    ("bathroom", "bathroom", "t", "Other", "NA"),
    ("washroom", "bathroom", "t", "Other", "0"),
]


def manifest(*words: str, forms: bool = False) -> Manifest:
    clips = [Clip(f"{i}", f"{i}.mp4", split="train", **{"form" if forms else "gloss": w}) for i, w in enumerate(words)]
    return Manifest("mini", tuple(clips), Path())


def names(found, feature: str) -> list[str]:
    return ["-" if t == UNKNOWN else found.levels[feature][t] for t in found.targets[feature]]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8-sig"])
def test_table_reads_as_published(tmp_path: Path, encoding: str) -> None:
    table = read_asl_lex(write(tmp_path / "lex.csv", ROWS, encoding), SMALL)
    assert [entry.name for entry in table.entries][3:6] == ["TRUE", "murder", "caf\xe9"]
    assert table.levels == {
        "Handshape": ("1", "5", "C", "c", "open_b", "t"),  # c and C are two handshapes
        "Movement": ("Curved", "None", "Other", "Straight"),  # None is a level, the trailing blank is not
        "Spread": ("0", "1"),  # NA and empty are missing
    }
    assert table.entries[3].levels == {"Handshape": "1", "Movement": "None", "Spread": None}


def test_words_are_matched_apart_from_case_and_punctuation(tmp_path: Path) -> None:
    table = read_asl_lex(write(tmp_path / "lex.csv", ROWS), SMALL)
    found = join(manifest("book", "Book", "true", "murder", "unknown word", ""), table)
    assert found.signs == ("book", "book", "TRUE", "murder", "", "")
    assert names(found, "Movement") == ["Curved", "Curved", "None", "Straight", "-", "-"]
    assert names(found, "Spread") == ["-", "-", "-", "0", "-", "-"]


def test_ambiguous_words_keep_what_their_entries_agree_on(tmp_path: Path) -> None:
    table = read_asl_lex(write(tmp_path / "lex.csv", ROWS), SMALL)
    clips = manifest("drink", "bathroom", "book")
    agree = join(clips, table)
    assert agree.signs[0] == "drink|drink_2"
    assert names(agree, "Handshape") == ["-", "t", "open_b"]
    assert names(agree, "Movement") == ["Curved", "Other", "Curved"]
    assert names(agree, "Spread") == [
        "-",
        "-",
        "-",
    ]  # missing in one entry and 0 in the other is no agreement
    assert names(join(clips, table, policy="exact"), "Handshape") == ["c", "t", "open_b"]
    assert names(join(clips, table, policy="single"), "Movement") == ["-", "-", "Curved"]
    mixed = join(clips, table, policy={"Handshape": "exact"})
    assert names(mixed, "Handshape") == ["c", "t", "open_b"]
    assert names(mixed, "Spread") == ["-", "-", "-"]
    assert mixed.coverage["features"]["Spread"]["clips_dropped_as_ambiguous"] == 2
    assert agree.coverage["words_with_several_entries"] == 2
    with pytest.raises(UserError, match="unknown policy 'guess'"):
        join(clips, table, policy="guess")
    with pytest.raises(UserError, match="unknown feature 'Colour'"):
        join(clips, table, policy={"Colour": "agree"})


def test_forms_that_are_entries_mean_exactly_these(tmp_path: Path) -> None:
    table = read_asl_lex(write(tmp_path / "lex.csv", ROWS), SMALL)
    own = join(manifest("drink", "drink_2", "book", forms=True), table)
    assert names(own, "Handshape") == ["c", "C", "open_b"]
    assert own.coverage["joined_by"] == "form"
    # Another lexicon's numbers are not ours: its drink_2 may be any of our two.
    other = join(manifest("drink_2", "(1)murder", "#true", "book_volume", "nothing", forms=True), table)
    assert other.signs == ("drink|drink_2", "murder", "TRUE", "book", "")
    assert names(other, "Handshape") == ["-", "1", "1", "open_b", "-"]


def test_groups_join_what_a_split_may_not_separate(tmp_path: Path) -> None:
    rows = [*ROWS, ("volume", "volume", "open_b", "Curved", "NA"), ("sip", "drink", "x", "Other", "1")]
    table = read_asl_lex(write(tmp_path / "lex.csv", rows), SMALL)
    found = join(manifest("book", "volume", "drink", "sip", "murder", "unknown"), table)
    book, volume, drink, sip, murder, unknown = found.groups()
    assert book == volume  # no feature tells them apart
    assert drink == sip  # they share an entry
    assert len({book, drink, murder}) == 3
    assert unknown == UNKNOWN


def test_targets_of_a_part_are_those_of_the_whole(tmp_path: Path) -> None:
    table = read_asl_lex(write(tmp_path / "lex.csv", ROWS), SMALL)
    whole = manifest("book", "drink", "murder")
    part = join(whole.replace(whole.clips[2:]), table)
    assert part.levels == join(whole, table).levels
    assert np.array_equal(part.targets["Movement"], join(whole, table).targets["Movement"][2:])
    assert part.targets["Movement"].dtype == np.int64


def test_coverage_is_counted_and_shown(tmp_path: Path) -> None:
    table = read_asl_lex(write(tmp_path / "lex.csv", ROWS), SMALL)
    coverage = join(manifest("book", "book", "drink", "nothing"), table).coverage
    assert (coverage["words_matched"], coverage["words"]) == (2, 3)
    assert (coverage["clips_matched"], coverage["clips"]) == (3, 4)
    assert coverage["features"]["Handshape"] == {
        "clips_with_target": 2,
        "signs_with_target": 1,
        "clips_dropped_as_ambiguous": 1,
        "levels": 6,
    }
    text = render_coverage(coverage)
    assert "2 of 3 words" in text
    assert "3 of 4 clips (train 3)" in text


def test_another_lexicon_declares_its_own_columns(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("sign;x\n")
    path.write_text("sign,hand,note\nhello,flat,?\nbye,?,a\n")
    columns = Columns(entry="sign", features={"Hand": "hand"}, missing=("?",))
    found = join(manifest("hello", "bye"), read_asl_lex(path, columns))
    assert names(found, "Hand") == ["flat", "-"]
    assert found.features == ("Hand",)


def test_wrong_tables_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such lexicon"):
        read_asl_lex(tmp_path / "absent.csv")
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(UserError, match="no entries"):
        read_asl_lex(tmp_path / "a.csv")
    path = write(tmp_path / "b.csv", ROWS)
    with pytest.raises(UserError, match=r"no column 'SelectedFingers\.2\.0'"):
        read_asl_lex(path, ASL_LEX)
    with pytest.raises(UserError, match="no gloss of manifest 'mini'"):
        join(manifest("nothing"), read_asl_lex(path, SMALL))


@pytest.mark.real
def test_asl_lex_joins_wlasl_as_counted(shared: Path) -> None:
    table = read_asl_lex(shared / "data" / "asl_lex" / "signdata_updated11-18.csv")
    assert len(table.entries) == 2723
    sizes = {feature: len(table.levels[feature]) for feature in FEATURES}
    assert (sizes["Handshape"], sizes["Movement"], sizes["SignType"], sizes["MinorLocation"]) == (
        58,
        8,
        6,
        37,
    )
    movement = [entry.levels["Movement"] for entry in table.entries]
    assert (movement.count("None"), movement.count(None)) == (417, 0)
    assert [entry.levels["NonDominantHandshape"] for entry in table.entries].count(None) == 1067
    with open(shared / "data" / "asl_lex" / "wlasl_to_asllex_join.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    clips = [Clip(f"{i}", "x", gloss=r["gloss"]) for i, r in enumerate(rows) for _ in range(int(r["n_instances"]))]
    unique = [Clip(f"{i}", "x", gloss=clip.gloss) for i, clip in enumerate(clips)]
    coverage = join(Manifest("w", tuple(unique), Path()), table).coverage
    assert (coverage["words_matched"], coverage["clips_matched"]) == (1383, 15911)
    assert coverage["words_matched_by_name"] == 1289
    assert (coverage["words_with_several_entries"], coverage["clips_with_several_entries"]) == (203, 2534)
    assert coverage["features"]["Movement"]["clips_with_target"] == 14737


@pytest.mark.real
def test_revised_form_names_find_entries(shared: Path) -> None:
    folder = shared / "data" / "gloss_based"
    names_file = folder / "label_map_wlasl1573.txt"
    labels = read_labels(folder / "wlasl_1573_test.csv", names_file)
    clips = tuple(Clip(video, "x", split="test") for video in labels.of)
    table = read_asl_lex(shared / "data" / "asl_lex" / "signdata_updated11-18.csv")
    coverage = join(revise(Manifest("w", clips, Path()), labels), table).coverage
    assert coverage["joined_by"] == "form"
    assert coverage["words"] == 1573
    assert coverage["words_matched"] > 1098  # as many as stripping the prefix or taking the first alternative finds


def test_coverage_command_takes_another_lexicon_and_policies_by_feature(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lexicon = tmp_path / "words.csv"
    lexicon.write_text("sign,hand,place\ndrink,c,mouth\ndrink_2,c,chin\nbook,b,?\n", encoding="utf-8")
    columns = tmp_path / "columns.yaml"
    columns.write_text('entry: sign\nfeatures: {Hand: hand, Place: place}\nmissing: ["?"]\n')
    clips = [Clip("a", "a.mp4", gloss="drink", split="train"), Clip("b", "b.mp4", gloss="book", split="test")]
    manifest = tmp_path / "manifest.csv"
    Manifest("two", tuple(clips), tmp_path).save(manifest)
    command = ["data", "phonology", str(manifest), "--lexicon", str(lexicon), "--columns", str(columns)]

    def targets(*more: str) -> dict[str, int]:
        assert run([*command, "--json", *more]) == 0
        found = json.loads(capsys.readouterr().out)["features"]
        return {feature: row["clips_with_target"] for feature, row in found.items()}

    assert targets() == {"Hand": 2, "Place": 0}
    assert targets("--policy", "single") == {"Hand": 1, "Place": 0}
    assert targets("--policy", "Place=exact") == {"Hand": 2, "Place": 1}
    assert run(command) == 0
    assert "2 of 2 words" in capsys.readouterr().out
    for wrong, message in (
        (["--policy", "Shape=single"], "unknown feature 'Shape'"),
        (["--policy", "often"], "unknown policy 'often'"),
        (["--policy", "exact", "--policy", "Hand=single"], "policy 'exact'"),
    ):
        assert run([*command, *wrong]) == 2
        assert message in capsys.readouterr().err
    columns.write_text("entry: sign\nfeatures: {Hand: handshape}\n")
    assert run(command) == 2
    assert "handshape" in capsys.readouterr().err


def test_code_comes_before_any_spelling(tmp_path: Path) -> None:
    (tmp_path / "lexicon.csv").write_text(
        "EntryID,LemmaID,Code,Handshape\nother,other,C_01,5\ndog,dog,C_02,1\nbook,book,B_01,a\n"
    )
    columns = Columns(entry="EntryID", lemma="LemmaID", code="Code", features={"Handshape": "Handshape"})
    table = read_asl_lex(tmp_path / "lexicon.csv", columns)
    clips = (Clip("1", "1.mp4", "DOG1", code="C_01"), Clip("2", "2.mp4", "BOOK"), Clip("3", "3.mp4", "DOG2", code="X"))
    manifest = Manifest("m", clips, tmp_path)
    joined = join(manifest, table)
    assert (joined.coverage["joined_by"], joined.signs) == ("code", ("other", "", ""))
    assert "joined by code: 1 of 2 words (1 by code), 1 of 3 clips" in render_coverage(joined.coverage)
    assert join(manifest, table, by="gloss").signs == ("", "book", "")
    with pytest.raises(UserError, match=r"no code of manifest 'm' .* --by gloss"):
        join(manifest.replace([clips[2]]), table)
    bare = read_asl_lex(tmp_path / "lexicon.csv", Columns(entry="EntryID", features={"Handshape": "Handshape"}))
    assert join(manifest, bare).coverage["joined_by"] == "gloss"
    with pytest.raises(UserError, match="has no column of codes"):
        join(manifest, bare, by="code")


def test_table_in_asl_lex_columns_may_lack_codes(tmp_path: Path) -> None:
    (tmp_path / "lexicon.csv").write_text("EntryID,LemmaID,Handshape\ndog,dog,1\n")
    columns = ASL_LEX.model_copy(update={"features": {"Handshape": "Handshape"}})  # as a configuration holds it
    assert read_asl_lex(tmp_path / "lexicon.csv", columns).entries[0].code == ""
    with pytest.raises(UserError, match="no column 'Number'"):
        read_asl_lex(tmp_path / "lexicon.csv", columns.model_copy(update={"code": "Number"}))
