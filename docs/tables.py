"""README's table: taken from the records behind `docs/results.md`, never typed.

`islr report RUNS --out docs/results.md` renders the page of all tables from run folders; `python docs/tables.py` then
writes the cells of its grid to `docs/records/small_grid.json`, and README's table from that file.
"""

import json
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
README, RESULTS, RECORD = DOCS.parent / "README.md", DOCS / "results.md", DOCS / "records" / "small_grid.json"
BEGIN, END = "<!-- docs/tables.py writes from here -->", "<!-- to here -->"
CAPTION = re.compile(r"\*\*Top-1 on (?P<corpus>\S+), (?P<split>\w+) split\*\*")
CELL = re.compile(r"(?P<value>[\d.]+)(?: (?P<mark>[▲▼]))? \((?P<low>[\d.]+)\N{EN DASH}(?P<high>[\d.]+)\)")
PROTOCOL = ("Protocol", "Split fingerprint", "Label fingerprint", "Clips scored / expected", "Chosen on", "Code")
METHODS = {
    "bevt": "BEVT",
    "dpc": "SL-DPC",
    "maskfeat": "MaskFeat",
    "posemae": "PoseMAE",
    "svt": "SVT",
    "videomae": "VideoMAE",
}


def record_of(page: str) -> dict[str, Any]:
    """The grid of a results page: its protocol, and one entry for each cell."""
    lines = page.splitlines()
    start = next(number for number, line in enumerate(lines) if CAPTION.fullmatch(line))
    caption = CAPTION.fullmatch(lines[start])
    assert caption is not None
    header, _, *rows = _table(lines, start)
    regimes = [name.removesuffix(", %") for name in header[1:-2]]
    cells = [
        {"method": method, "regime": regime, "encoder": encoder, "seeds": int(seeds)}
        | {key: float(match[key]) for key in ("value", "low", "high")}
        | {"mark": match["mark"] or ""}
        for method, *values, seeds, encoder in rows
        for regime, text in zip(regimes, values, strict=True)
        if (match := CELL.fullmatch(text))
    ]
    facts = dict(_table(lines, next(n for n, line in enumerate(lines) if line.startswith("**The same for every"))))
    return caption.groupdict() | {"protocol": {key: facts[key] for key in PROTOCOL}, "cells": cells}


def _table(lines: list[str], caption: int) -> list[list[str]]:
    """The rows of the table below a caption, its heading and rule included."""
    end = caption + 2
    while end < len(lines) and lines[end].startswith("|"):
        end += 1
    return [
        [cell.strip().replace("\\", "") for cell in line.strip("| ").split(" | ")] for line in lines[caption + 2 : end]
    ]


def readme_table(record: dict[str, Any]) -> str:
    """README's table: a row for each method, a column for each regime."""
    cells = record["cells"]
    regimes = list(dict.fromkeys(cell["regime"] for cell in cells))
    lines = [f"| pre-training (encoder) | {' | '.join(regimes)} | seeds |", f"|---|{'---:|' * (len(regimes) + 1)}"]
    for method in dict.fromkeys(cell["method"] for cell in cells):
        row = {cell["regime"]: cell for cell in cells if cell["method"] == method}
        first = next(iter(row.values()))
        shown = [_cell(row[regime]) if regime in row else "" for regime in regimes]
        name = f"{METHODS.get(method, method)} (`{first['encoder']}`)"
        lines.append(f"| {' | '.join([name, *shown, str(first['seeds'])])} |")
    return "\n".join(lines)


def _cell(cell: dict[str, Any]) -> str:
    value = f"{cell['value']:.1f}"
    shown = f"**{value}** {cell['mark']}" if cell["mark"] else value
    return f"{shown} [{cell['low']:.1f}, {cell['high']:.1f}]"


def with_table(readme: str, table: str) -> str:
    """README with the text between its two marks replaced."""
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    record = record_of(RESULTS.read_text(encoding="utf-8"))
    cells = ",\n".join(f"  {json.dumps(cell, ensure_ascii=False)}" for cell in record.pop("cells"))
    head = json.dumps(record, indent=1, ensure_ascii=False).removesuffix("\n}")
    RECORD.write_text(f'{head},\n "cells": [\n{cells}\n ]\n}}\n', encoding="utf-8")
    table = readme_table(json.loads(RECORD.read_text(encoding="utf-8")))
    README.write_text(with_table(README.read_text(encoding="utf-8"), table), encoding="utf-8")
