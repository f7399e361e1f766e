"""The grid table: seeds averaged clip by clip, each cell against the random initialisation of its encoder."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from report_runs import write_finetuning

from islr.evaluation.metrics import hits
from islr.evaluation.predictions import read_predictions
from islr.evaluation.results import load_results, save_results
from islr.reporting import build_report, standings
from islr.reporting.grid import grid_cells
from islr.reporting.scan import scan


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MaskFeat in two regimes, one of them with two seeds, and one random initialisation."""
    root = tmp_path_factory.mktemp("grid")
    for row, regime, seed in (
        ("maskfeat", "sign", 0),
        ("supervised", "sign", 1),  # plays the second seed of maskfeat: other predictions
        ("maskfeat", "generic", 0),
        ("random init", "scratch", 0),
    ):
        folder = root / f"{row}-{regime}-{seed}"
        write_finetuning(folder, row, 240, 240)
        config = yaml.safe_load((folder / "config.yaml").read_text())
        method = "maskfeat" if row == "supervised" else row
        config["tags"] = {"method": method, "regime": regime}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        records = [
            record.model_copy(update={"provenance": record.provenance.model_copy(update={"seed": seed})})
            for record in load_results(folder / "result.json")
        ]
        save_results(folder / "result.json", records)
    return root


def test_seeds_are_averaged_clip_by_clip(runs: Path) -> None:
    gathered = scan([runs])
    sets, _ = standings.scored_sets(gathered, standings.palette(gathered))
    cells = grid_cells(sets[0].rows)
    assert set(cells) == {("maskfeat", "sign"), ("maskfeat", "generic"), ("random init", "scratch")}
    seeds = [
        hits(read_predictions(runs / f"{name}" / "predictions.csv").sorted(), 1)
        for name in ("maskfeat-sign-0", "supervised-sign-1")
    ]
    both = cells["maskfeat", "sign"]
    assert both.score.value == pytest.approx(np.mean(seeds))
    assert len(both.rows) == 2
    control = cells["random init", "scratch"]
    assert control.versus is None
    assert both.versus is not None
    assert both.versus.value == pytest.approx(both.score.value - control.score.value)
    assert both.mark == standings.BETTER
    assert both.score.low is not None
    assert cells["maskfeat", "generic"].score.low is not None
    # Two seeds that err on different clips leave less uncertainty over clips than one of them.
    width = both.score.high - both.score.low
    one = cells["maskfeat", "generic"].score
    assert width < one.high - one.low


def test_the_page_shows_methods_by_regimes(runs: Path, tmp_path: Path) -> None:
    page = build_report([runs], tmp_path / "r.md").read_text(encoding="utf-8")
    table = page[page.index("## The grid") :]
    assert "| Method |" in table
    head = table[table.index("| Method |") :].splitlines()
    assert all(regime in head[0] for regime in ("sign", "generic", "scratch"))
    assert head[2].startswith("| maskfeat")
    assert "One seed only: maskfeat · generic and random init · scratch." in table
    plain = build_report([runs / "maskfeat-sign-0"], tmp_path / "one.md").read_text(encoding="utf-8")
    assert "## The grid" in plain


def test_runs_on_other_clips_are_named_and_left_out(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs, tmp_path / "runs")
    path = tmp_path / "runs" / "supervised-sign-1" / "predictions.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-3]) + "\n")  # three clips could not be read
    page = build_report([tmp_path / "runs"], tmp_path / "r.md").read_text(encoding="utf-8")
    assert "Left out of the grid, scored on other clips than most: supervised" in page
    gathered = scan([tmp_path / "runs"])
    sets, _ = standings.scored_sets(gathered, standings.palette(gathered))
    assert sum(row.predictions is not None for row in sets[0].rows) == 4
