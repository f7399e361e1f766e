"""The pages of `docs/` as programs: every `$ islr ...` line in a console block is run, its output stands below it.

`python tests/support/doc_pages.py` runs all pages in one folder, in their order, and writes the outputs into them.
"""

import contextlib
import io
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from islr.cli import run

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = ("data", "pretrain", "finetune", "probe", "grid", "check", "clusters")  # each may use what those before left
FENCE, SHELL = "```console", "$ "
CUT = "..."  # stands for lines that are left out
WIDTH = "100"  # columns that tables are made for


@dataclass
class Command:
    """One command of a page and the output that the page shows.

    Attributes:
        line: Number of the command's first line in the page, from 0.
        words: The command line after the program's name.
        after: Number of the line after the command.
        shown: Lines of output in the page.
    """

    line: int
    words: list[str]
    after: int
    shown: list[str]


def commands(page: Path) -> Iterator[Command]:
    """The commands of a page, in order; a backslash continues a command on the next line."""
    lines = page.read_text(encoding="utf-8").splitlines()
    number, inside = 0, False
    while number < len(lines):
        if lines[number].startswith("```"):
            inside = lines[number] == FENCE
        elif inside and lines[number].startswith(SHELL):
            start = number
            while lines[number].endswith("\\"):
                number += 1
            text = " ".join(line.removesuffix("\\") for line in lines[start : number + 1])
            end = number + 1
            while not lines[end].startswith((SHELL, "```")):
                end += 1
            program, *words = shlex.split(text.removeprefix(SHELL))
            if program != "islr":
                raise ValueError(f"{page.name}, line {start + 1}: only islr commands can be run, not {program}")
            yield Command(start, words, number + 1, lines[number + 1 : end])
            number = end - 1
        number += 1


def output_of(words: list[str]) -> tuple[int, list[str]]:
    """Exit code and lines on the standard output of a command, run in this process."""
    written = io.StringIO()
    with contextlib.redirect_stdout(written):
        code = run(words)
    return code, [line.rstrip() for line in written.getvalue().splitlines()]


def plain(line: str) -> str:
    """A line without what differs between machines and runs: numbers, hashes, marks, runs of spaces and rules."""
    line = re.sub(r"\b[0-9a-f]{10,64}\b", "#", line)
    line = re.sub(r"[+\N{MINUS SIGN}-]?\d[\d,.:]*", "#", line)
    return re.sub(r"[\s\u2500-\u257f*!-]+", " ", line).strip()


def missing(shown: list[str], actual: list[str]) -> str | None:
    """The first line of the page that the output does not have, in this order; None when it has all."""
    left = [plain(line) for line in actual]
    for line in shown:
        if line.strip() == CUT or not plain(line):
            continue
        if plain(line) not in left:
            return line
        left = left[left.index(plain(line)) + 1 :]
    return None


def rewrite(page: Path) -> None:
    """Run a page in the current folder and put the outputs into it; where a page cuts an output short, it stays."""
    lines = page.read_text(encoding="utf-8").splitlines()
    for command in reversed([(c, *output_of(c.words)) for c in commands(page)]):
        found, code, actual = command
        if code:
            raise SystemExit(f"{page.name}, line {found.line + 1}: exit {code}")
        if CUT not in found.shown or found.shown == [CUT]:
            lines[found.after : found.after + len(found.shown)] = actual
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    os.environ["COLUMNS"] = WIDTH
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name in sys.argv[1:] or PAGES:
            if (DOCS / f"{name}.md").exists():
                rewrite(DOCS / f"{name}.md")
