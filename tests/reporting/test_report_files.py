"""A report as markdown, LaTeX and CSV, from several folders, and what it refuses."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
from support.report_runs import FEATURES, HASH, write_run

from islr.errors import UserError
from islr.reporting import build_report
from islr.reporting.document import figures, text
from islr.reporting.gather import scan


def test_markdown_has_the_tables_and_the_prose(runs: Path, tmp_path: Path) -> None:
    content = build_report([runs], tmp_path / "report.md").read_text()
    assert content.startswith("# Isolated sign recognition")
    assert "## Recognition accuracy" in content
    assert "**Balanced accuracy on unseen signs, synthetic signs**" in content
    for line in re.findall(r"^\|.*\|$", content, flags=re.M):
        assert line.count("|") - line.count("\\|") >= 3
    blocks = re.findall(r"(?:^\|.*\|\n)+", content, flags=re.M)
    for block in blocks:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.strip().splitlines()}
        assert len(widths) == 1


def test_latex_tables_are_balanced_and_escaped(runs: Path, tmp_path: Path) -> None:
    content = build_report([runs], tmp_path / "tables.tex").read_text()
    assert content.count(r"\begin{table}") == content.count(r"\end{table}") == 3
    assert r"mvit\_tiny" in content
    body = "\n".join(line for line in content.splitlines() if not line.startswith("%"))
    assert not re.search(r"(?<!\\)[%#]", body.replace("{!}{%", ""))
    for character in "–▲△·→":
        assert character not in body
    tabular = re.search(r"\\begin\{tabular\}\{([lr]+)\}(.*?)\\end\{tabular\}", content, flags=re.S)
    assert tabular is not None
    rows = [line for line in tabular[2].splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(tabular[1]) - 1}


def test_csv_has_every_record_with_its_provenance(runs: Path, tmp_path: Path) -> None:
    rows = list(csv.DictReader(build_report([runs], tmp_path / "records.csv").open()))
    assert len(rows) == sum(len(run.results) for run in scan([runs]).runs)
    row = next(row for row in rows if row["name"] == "maskfeat" and row["metric"] == "top1" and not row["signer"])
    assert row["split_fingerprint"] == HASH[::-1]
    assert json.loads(row["pretraining"])[0]["recipe"] == "maskfeat"
    assert {row["feature"] for row in rows} >= set(FEATURES)


def test_no_cell_of_a_csv_runs_as_a_formula(runs: Path, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    shutil.copytree(runs, root)
    path = root / "finetune" / "maskfeat" / "result.json"
    path.write_text(path.read_text().replace('"name": "maskfeat"', '"name": "=HYPERLINK(1)"'))
    rows = list(csv.reader(build_report([root], tmp_path / "r.csv").open()))
    assert any("'=HYPERLINK(1)" in row for row in rows)
    cells = [cell for row in rows for cell in row if cell.startswith(("=", "@", "+", "-"))]
    assert all(float(cell) < 0 for cell in cells), "numbers stay numbers"


def test_the_same_folders_give_the_same_bytes(runs: Path, tmp_path: Path) -> None:
    first, second = (build_report([runs], tmp_path / name).read_bytes() for name in ("a.html", "b.html"))
    assert first == second


def test_several_folders_and_a_run_folder_itself(runs: Path, tmp_path: Path) -> None:
    labels = {run.label for run in scan([runs / "finetune" / "maskfeat", runs / "probe", runs / "probe"]).runs}
    assert labels == {"maskfeat", "probe"}


@pytest.mark.parametrize(
    ("folder", "out", "message"),
    [("absent", "r.html", "is not a folder"), ("empty", "r.html", "no run folders"), ("empty", "r.pdf", "ends in")],
)
def test_wrong_input_is_explained(tmp_path: Path, folder: str, out: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        build_report([tmp_path / folder], tmp_path / out)
    assert not (tmp_path / out).exists()


def test_a_config_of_something_else_is_no_run(tmp_path: Path, runs: Path) -> None:
    write_run(tmp_path / "runs" / "other", {"task": "dishes"})
    shutil.copytree(runs / "probe", tmp_path / "runs" / "probe")
    assert [run.label for run in scan([tmp_path / "runs"]).runs] == ["probe"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.79, "79.0"), (-0.004, "\N{MINUS SIGN}0.4"), (-0.0001, "0.0"), (None, "–"), (1.0, "100.0")],
)
def test_percent(value: float | None, shown: str) -> None:
    assert text.percent(value) == shown


def test_ticks_are_round_and_inside() -> None:
    assert figures.ticks(0, 1, 6) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert figures.ticks(0.13, 0.39) == pytest.approx([0.15, 0.2, 0.25, 0.3, 0.35])
    assert figures.ticks(3, 3) == [3]


def test_thinning_keeps_the_mean_and_bounds_the_points() -> None:
    xs, ys = figures.thin(list(range(1000)), [float(i % 7) for i in range(1000)], most=100)
    assert len(xs) == 100
    assert sum(ys) / 100 == pytest.approx(sum(i % 7 for i in range(1000)) / 1000)
