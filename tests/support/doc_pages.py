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
PAGES = (
    "data",
    "pretrain",
    "finetune",
    "real_signs",
    "probe",
    "grid",
    "check",
    "clusters",
)  # each may use what those before left
FENCE, SHELL = "```console", "$ "
EXACT = ("data",)  # pages whose numbers are the same on every machine
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
    """Yield the commands of a page, in order; a backslash continues a command on the next line."""
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
    """Run a command in this process; return its exit code and the lines of its standard output."""
    written = io.StringIO()
    with contextlib.redirect_stdout(written):
        code = run(words)
    return code, [line.rstrip() for line in written.getvalue().splitlines()]


def plain(line: str, exact: bool = False) -> str:
    """A line without what differs between machines, and without runs of spaces, rules and marks.

    Args:
        line: As it was printed.
        exact: All numbers are kept. Otherwise fractions (scores, losses, times) and numbers of steps are left out, and
            whole numbers (of clips, classes, stages) and fingerprints stay.
    """
    if not exact:
        line = re.sub(r"[+\N{MINUS SIGN}-]?\d[\d,]*\.\d+", "#", line)
        line = re.sub(r"\bin \d+ steps\b", "in # steps", line)
    line = re.sub(r"\b\d+(\.\d+)? MB\b", "# MB", line)
    return re.sub(r"[\s\u2500-\u257f*!-]+", " ", line).strip()


def missing(shown: list[str], actual: list[str], exact: bool = False) -> str | None:
    """The first line of the page that the output does not have, in this order; None when it has all."""
    left = [plain(line, exact) for line in actual]
    for line in shown:
        text = plain(line, exact)
        if line.strip() == CUT or not text:
            continue
        if text not in left:
            return line
        left = left[left.index(text) + 1 :]
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
