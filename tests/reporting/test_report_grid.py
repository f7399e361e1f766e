"""The grid table: seeds averaged clip by clip, each cell against the random initialisation of its encoder."""

import csv
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from support.report_runs import FEATURES, SIGNS, write_finetuning, write_grid, write_probes
from support.video_files import make_video

from islr.data.manifest import Clip, Manifest
from islr.errors import UserError
from islr.evaluation.metrics import hits
from islr.evaluation.predictions import read_predictions, write_predictions
from islr.evaluation.results import load_results, save_results
from islr.reporting import build_report
from islr.reporting.findings import standings
from islr.reporting.findings.grid import grid_cells
from islr.reporting.findings.probe_standings import HEADLINE, mean_over_seeds, probe_sets
from islr.reporting.gather import scan


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


def test_a_score_is_marked_where_the_pretext_task_was_not_learned(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs, tmp_path / "runs")
    path = tmp_path / "runs" / "maskfeat-generic-0" / "result.json"
    failed = "not learned: loss 0.2 is not below 0.1 of zero everywhere"
    records = []
    for record in load_results(path):
        (stage,) = record.provenance.pretraining
        unlearned = record.provenance.model_copy(update={"pretraining": [stage | {"pretext": failed}]})
        records.append(record.model_copy(update={"provenance": unlearned}))
    save_results(path, records)
    table = build_report([tmp_path / "runs"], tmp_path / "r.md").read_text(encoding="utf-8").partition("## The grid")[2]
    assert f"† Pretext task not learned: maskfeat · generic ({failed})." in table
    (row,) = [line for line in table.splitlines() if line.startswith("| maskfeat") and "†" in line]
    assert row.count("†") == 1


def test_runs_on_other_clips_are_named_and_left_out(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs, tmp_path / "runs")
    path = tmp_path / "runs" / "supervised-sign-1" / "predictions.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-3]) + "\n")  # three clips could not be read
    page = build_report([tmp_path / "runs"], tmp_path / "r.md").read_text(encoding="utf-8")
    assert "Left out of the grid, scored on other clips than most: supervised" in page
    gathered = scan([tmp_path / "runs"])
    sets, _ = standings.scored_sets(gathered, standings.palette(gathered))
    assert sum(row.predictions is not None for row in sets[0].rows) == 4


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods in two regimes with two seeds, their pre-training and their probes."""
    return write_grid(tmp_path_factory.mktemp("small"), methods=2, regimes=2, seeds=2)


def table(page: str, caption: str) -> list[list[str]]:
    """The cells of a markdown table."""
    lines = page[page.index(f"**{caption}") :].split("\n\n")[1].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "---" not in line]


def test_scratch_is_a_column_filled_by_the_encoder_of_each_method(grid: Path, tmp_path: Path) -> None:
    page = build_report([grid], tmp_path / "r.md").read_text(encoding="utf-8")
    head, *lines = table(page, "Top-1 on")
    assert head == ["Method", "scratch, %", "generic, %", "sign, %", "Seeds", "Encoder"]
    assert [line[0] for line in lines] == ["maskfeat", "videomae", "random init pose"]  # no method used the last one
    assert lines[0][1] == lines[1][1] != lines[2][1]
    assert lines[2][2:4] == ["–", "–"]
    head, *lines = table(page, "What pre-training adds")
    assert head == ["Method", "generic, points", "sign, points"]
    head, *lines = table(page, "Phonology in the frozen features")
    assert head == ["Method", "scratch, %", "generic, %", "sign, %"]
    assert [line[0] for line in lines] == ["maskfeat", "videomae"]
    assert "Seed by seed" in page
    assert "| Regime |" not in page  # what is folded on the page is only named


def test_probe_seeds_are_averaged_and_a_mark_needs_every_seed(grid: Path) -> None:
    gathered = scan([grid])
    (found,) = probe_sets(gathered, standings.palette(gathered))
    assert found.seeds is not None
    row = next(row for row in found.rows if row.place == ("maskfeat", "sign"))
    singles = [r for r in found.seeds.rows if r.key[0].startswith("maskfeat · sign")]
    assert row.seeds == len(singles) == 2
    mean = found.get(row, "mean:bundles", HEADLINE)
    seeds = [found.seeds.get(single, "mean:bundles", HEADLINE) for single in singles]
    assert mean.value == pytest.approx(np.mean([seed.value for seed in seeds]))
    assert (mean.ci_low, mean.ci_high) == (min(s.ci_low for s in seeds), max(s.ci_high for s in seeds))
    marks = {f: (found.mark(row, f, HEADLINE), [found.seeds.mark(s, f, HEADLINE) for s in singles]) for f in FEATURES}
    assert all(set(each) == {mark} for mark, each in marks.values() if mark == standings.BETTER)
    assert standings.BETTER in {mark for mark, _ in marks.values()}
    key = ("balanced_accuracy_difference", *singles[1].key, "Handshape", HEADLINE, "chosen")
    worse = found.seeds.records[key].model_copy(update={"value": -0.3, "ci_low": -0.4, "ci_high": -0.2})
    changed = replace(found.seeds, records=found.seeds.records | {key: worse}, seeds=None)
    merged = mean_over_seeds(changed, standings.places(gathered))
    assert found.mark(row, "Handshape", HEADLINE) != ""
    assert merged.mark(row, "Handshape", HEADLINE) == ""


@pytest.mark.parametrize("loss", [0, 150])
def test_no_gain_and_a_loss_are_not_called_gains(runs: Path, tmp_path: Path, loss: int) -> None:
    shutil.copytree(runs, tmp_path / "runs")
    control = read_predictions(tmp_path / "runs" / "random init-scratch-0" / "predictions.csv")
    ranks = np.where(np.arange(len(control)) < loss, 12, control.true_ranks)
    for folder in (tmp_path / "runs").iterdir():
        if not folder.name.startswith("random"):
            write_predictions(folder / "predictions.csv", replace(control, true_ranks=ranks))
    page = build_report([tmp_path / "runs"], tmp_path / "r.md").read_text(encoding="utf-8")
    assert "None of 2 pre-trained models beat the random initialisation of its own encoder. The closest, " in page
    assert ("pre-training costs" in page) == (loss > 0)
    assert "gained most" not in page


def test_probes_below_their_random_initialisation_are_not_called_gains(tmp_path: Path) -> None:
    write_probes(tmp_path / "probe")
    for file in sorted((tmp_path / "probe").glob("result-*.json")):
        if "random" not in file.name:
            zero = {"value": 0.0, "ci_low": 0.0}
            records = load_results(file)
            save_results(file, [r.model_copy(update=zero) if r.metric == "balanced_accuracy" else r for r in records])
    page = build_report([tmp_path], tmp_path / "r.md").read_text(encoding="utf-8")
    assert "None of 3 encoders encodes phonology better than its own random initialisation." in page
    assert "gained most" not in page


def test_curves_are_drawn_for_each_method_with_scratch(grid: Path, tmp_path: Path) -> None:
    page = build_report([grid], tmp_path / "r.html").read_text(encoding="utf-8")
    for title in ("maskfeat: training loss", "maskfeat: selection-set top-1, %"):
        assert page.count(f'class="panel" text-anchor="start">{title}<') == (2 if "training" in title else 1)
    panel = page[page.index('aria-label="maskfeat: selection-set top-1, %') :].split("</svg>")[0]
    assert panel.count("<title>random init · scratch · seed 0</title></polyline>") == 1
    assert panel.count("</polyline>") == 6  # two regimes and scratch, two seeds each


def test_all_tables_go_into_a_folder(grid: Path, tmp_path: Path) -> None:
    out = build_report([grid], tmp_path / "tables")
    rows = list(csv.DictReader((out / "grid-synthetic-signs-test-split.csv").open()))
    assert float(rows[0]["scratch, fraction low"]) < float(rows[0]["scratch, fraction"]) < 1
    assert {"records.csv", "provenance.csv", "grid-pairs-synthetic-signs-test-split.csv"} <= {
        path.name for path in out.iterdir()
    }
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="names a folder"):
        build_report([grid], tmp_path / "file")


def test_latex_has_the_grid(grid: Path, tmp_path: Path) -> None:
    content = build_report([grid], tmp_path / "t.tex").read_text(encoding="utf-8")
    assert r"\label{tab:grid-synthetic-signs-test-split}" in content
    assert r"\rotatebox{90}{Handshape}" in content


def write_scored_corpus(root: Path) -> Path:
    """A corpus whose clips are those that runs of the grid were scored on, all in one small video."""
    path = make_video(root / "clip.mp4", 12)
    clips = [
        Clip(f"clip{i:04d}", path.name, SIGNS[i % 12], label=i % 12, split="test", signer=f"{i % 5}", frames=12)
        for i in range(60)
    ]
    Manifest("synthetic signs", tuple(clips), root, SIGNS).save(root / "manifest.csv")
    return root / "manifest.csv"


def test_confused_clips_are_shown_where_they_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    manifest = write_scored_corpus(tmp_path / "corpus")
    runs = write_grid(tmp_path / "runs", methods=1, regimes=1, seeds=1, data=str(manifest))
    fingerprint = Manifest.load(manifest).fingerprint("test")
    for path in runs.glob("finetune-*/result.json"):
        records = load_results(path)
        known = records[0].provenance.model_copy(update={"split_fingerprint": fingerprint})
        save_results(path, [record.model_copy(update={"provenance": known}) for record in records])

    def shown() -> str:
        page = build_report([runs], tmp_path / "r.html").read_text(encoding="utf-8")
        return page[page.index('<section id="confusions">') : page.index('<section id="probes">')]

    page = shown()
    assert page.count('<img alt="Frames of the clip') == 12
    assert page.count('<div class="card">') == 6
    sizes = [len(picture) for picture in re.findall(r'data:image/webp;base64,([^"]*)', page)]
    assert sum(sizes) < 600_000
    faceless = build_report([runs], tmp_path / "f.html", frames=False).read_text(encoding="utf-8")
    assert "data:image/webp" not in faceless
    assert '<section id="confusions">' in faceless
    (tmp_path / "corpus" / "clip.mp4").write_bytes(b"no video")
    page = shown()
    assert "<img" not in page
    assert page.count("clip.mp4: ") == 12
    assert str(tmp_path) not in page
    assert "12 clips could not be shown" in page
    manifest.unlink()
    assert "No pictures of the confused signs: the manifest of synthetic signs was not found" in shown()
