"""Every command of the documentation runs, in the order of the pages, and prints what the page shows."""

import os
from pathlib import Path

import pytest
from support.doc_pages import DOCS, PAGES, WIDTH, commands, missing, output_of, plain
from support.paths import CHECKOUT


@pytest.mark.slow
def test_every_command_prints_what_its_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", WIDTH)
    for page in PAGES:
        for command in commands(DOCS / f"{page}.md"):
            where = f"{page}.md, line {command.line + 1}"
            code, actual = output_of(command.words)
            assert code == 0, where
            lost = missing(command.shown, actual)
            assert lost is None, f"{where}: the output has no line {lost!r}:\n" + "\n".join(actual)


def test_a_changed_output_is_noticed() -> None:
    actual = ["found 12 clips", "a  table   of 3", "done"]
    assert missing(["found 7 clips", "...", "done"], actual) is None
    assert missing(["found 12 videos"], actual) == "found 12 videos"
    assert missing(["done", "found 12 clips"], actual) == "found 12 clips"  # order counts
    assert plain("key 0123456789abcdef 71.4 %") == "key # # %"


def test_every_page_is_known_and_linked() -> None:
    pages = {path.stem for path in DOCS.glob("*.md")}
    assert pages == {*PAGES, "results"}
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    for page in pages:
        assert f"docs/{page}.md" in readme
    assert os.sep not in "".join(PAGES)
