"""`islr synth` on the command line: what it prints, and how it refuses."""

from pathlib import Path

import pytest

from islr.cli import DONE, WRONG_INPUT, run
from islr.data.manifest import Manifest
from islr.synth import built_in_lexicon, write_lexicon

TINY = ("--signers", "1", "--reps", "1", "--size", "64", "--val-signers", "0", "--test-signers", "0")


def test_a_lexicon_of_yours_is_rendered_and_its_coverage_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "mine.csv"
    write_lexicon(table, built_in_lexicon(3))
    table.write_text(table.read_text().replace(",Z-shaped,", ",Other,", 1))
    out = tmp_path / "corpus"
    assert run(["synth", str(out), "--lexicon", str(table), "--signs", "2", "--difficulty", "easy", *TINY]) == DONE
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "2 signs: 1 rendered in full, 1 with a documented fallback",
        "     1  Movement.2.0 Other: drawn as a wave",
        str(out / "manifest.csv"),
    ]
    manifest = Manifest.load(out / "manifest.csv")
    assert len(manifest) == 2
    assert manifest.notes["difficulty"] == "easy"


def test_kind_is_a_choice_of_the_command(tmp_path: Path) -> None:
    assert run(["synth", str(tmp_path / "k"), "--kind", "actions", "--signs", "1", *TINY]) == DONE
    assert Manifest.load(tmp_path / "k" / "manifest.csv").classes == ("arm circles",)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kind", "actions", "--signs", "40"], "signs is 40, but there are 17 actions"),
        (["--kind", "dance"], "dance"),
        (["--difficulty", "studio"], "studio"),
    ],
)
def test_a_wrong_choice_ends_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(["synth", str(tmp_path / "out"), *arguments]) == WRONG_INPUT
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
