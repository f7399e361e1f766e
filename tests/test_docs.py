"""Every command of the documentation runs and prints what its page shows; README's numbers are those of the records."""

import json
import re
import runpy
import shlex
from pathlib import Path

import pytest
from support.doc_pages import DOCS, EXACT, PAGES, WIDTH, commands, missing, output_of, plain
from support.paths import CHECKOUT

from islr.config_files import read_tree

README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
TABLES = runpy.run_path(str(DOCS / "tables.py"))
RECORD = json.loads((DOCS / "records" / "small_grid.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_every_command_prints_what_its_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", WIDTH)
    for page in PAGES:
        for command in commands(DOCS / f"{page}.md"):
            where = f"{page}.md, line {command.line + 1}"
            code, actual = output_of(command.words)
            assert code == 0, where
            lost = missing(command.shown, actual, exact=page in EXACT)
            assert lost is None, f"{where}: the output has no line {lost!r}:\n" + "\n".join(actual)


def test_a_changed_output_is_noticed() -> None:
    actual = ["found 12 clips", "a  table   of 3", "done in 0.7 s"]
    assert missing(["found 12 clips", "...", "done in 1.25 s"], actual) is None
    assert missing(["done in 1.25 s"], actual, exact=True) == "done in 1.25 s"
    assert missing(["found 7 clips"], actual) == "found 7 clips"
    assert missing(["found 12 videos"], actual) == "found 12 videos"
    assert missing(["a table of 3", "found 12 clips"], actual) == "found 12 clips"  # order counts
    assert plain("key 0123456789ab -71.4 % in 13 steps") == "key 0123456789ab # % in # steps"


def test_every_page_is_known_and_linked() -> None:
    pages = {path.stem for path in DOCS.glob("*.md")}
    assert pages == {*PAGES, "results"}
    assert {page for page in pages if f"(docs/{page}.md)" not in README} == set()


def test_the_results_page_shows_the_records() -> None:
    assert TABLES["record_of"]((DOCS / "results.md").read_text(encoding="utf-8")) == RECORD


def test_the_readme_shows_the_records() -> None:
    assert TABLES["with_table"](README, TABLES["readme_table"](RECORD)) == README
    clips, _, expected = RECORD["protocol"]["Clips scored / expected"].partition(" / ")
    assert clips == expected
    assert f"{clips} test clips" in README


def test_every_relative_link_leads_somewhere() -> None:
    for page in (CHECKOUT / "README.md", CHECKOUT / "CONTRIBUTING.md", *DOCS.glob("*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), (page.name, target)


def test_every_configuration_that_the_readme_names_resolves() -> None:
    lines = [line for line in README.replace("\\\n", " ").splitlines() if line.startswith("islr ")]
    files = [word for line in lines for word in shlex.split(line, comments=True) if word.endswith(".yaml")]
    assert len(files) >= 4
    for file in files:
        assert read_tree(Path(file), [])["task"] == file.partition("/")[0].replace("smoke", "finetune")
