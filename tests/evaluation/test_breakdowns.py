"""Seen and unseen signers, calibration, clustered tests, fused and foreign rows: what a report says of them."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from support.report_runs import HASH, SIGNS, provenance, write_finetuning

from islr.evaluation.calibration import calibration_results
from islr.evaluation.metrics import accuracy_results, compare
from islr.evaluation.predictions import Predictions, read_predictions, write_predictions
from islr.evaluation.results import Provenance, load_results, save_results
from islr.reporting import build_report, compose
from islr.reporting.document.blocks import Chart, Notice, ReportTable, Section
from islr.reporting.findings.standings import palette, scored_sets
from islr.reporting.gather import scan

PARENTS = [
    {"name": "maskfeat", "weight": "0.65", "pool": "logits", "encoder": "mvit_tiny", "views": "1x3 whole"},
    {"name": "posemae", "weight": "0.35", "pool": "logits", "encoder": "pose_transformer_tiny", "views": "1x1 whole"},
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("breakdowns")
    for row in ("maskfeat", "posemae", "random init"):
        write_finetuning(root / row.replace(" ", "_"), row, 240, 240)
    return root


def write_row(folder: Path, name: str, predictions: Predictions, record: Provenance, seen: set[str] | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_predictions(folder / "predictions.csv", predictions)
    results = accuracy_results(predictions, name, len(SIGNS), record, seen, draws=100)
    save_results(folder / "result.json", results + calibration_results(predictions, name, record))


def section(root: Path, anchor: str) -> Section:
    return next(found for found in compose(scan([root]), "t").sections if found.anchor == anchor)


def table(found: Section) -> ReportTable:
    return next(block for block in found.blocks if isinstance(block, ReportTable))


def test_seen_and_unseen_signers_stand_beside_each_other(runs: Path) -> None:
    found = section(runs, "seen-signers")
    rows = {row[0].text: row for row in table(found).rows}
    records = load_results(runs / "maskfeat" / "result.json")
    by = {r.group.get("signer_in_training", ""): r for r in records if r.metric == "top1" and "signer" not in r.group}
    assert (rows["maskfeat"][1].raw, rows["maskfeat"][3].raw) == (by["yes"].value, by["no"].value)
    assert (rows["maskfeat"][2].raw, rows["maskfeat"][4].raw) == (120, 120)
    each = [r.value for r in records if set(r.group) == {"signer"}]
    assert rows["maskfeat"][5].raw == pytest.approx(np.mean(each))
    assert (rows["maskfeat"][6].raw, rows["maskfeat"][7].raw) == (min(each), max(each))
    (chart,) = (block for block in found.blocks if isinstance(block, Chart))
    assert "Seen in training (n = 120)" in chart.wide[0]
    assert "Not seen (n = 120)" in chart.wide[0]


@pytest.mark.parametrize(
    ("seen", "words"),
    [(set(), "None of the signers of the 240 clips was in training"), (None, "No model scored on")],
)
def test_where_there_is_nothing_to_compare_it_is_said(
    runs: Path, tmp_path: Path, seen: set[str] | None, words: str
) -> None:
    made = read_predictions(runs / "maskfeat" / "predictions.csv")
    write_row(tmp_path / "run", "maskfeat", made, provenance("maskfeat"), seen)
    notices = [block.text for block in section(tmp_path, "seen-signers").blocks if isinstance(block, Notice)]
    assert len(notices) == 1
    assert notices[0].startswith(words)


def test_calibration_says_who_is_too_sure(runs: Path, tmp_path: Path) -> None:
    made = read_predictions(runs / "maskfeat" / "predictions.csv")
    sure = dataclasses.replace(made, scores=np.clip(made.scores**0.1, 0, 1))
    write_row(tmp_path / "sure", "sure", sure, provenance("maskfeat"), None)
    honest = np.random.default_rng(0).random(240) < made.scores[:, 0]
    ranks = np.where(honest, 1, 2)
    names = tuple(row if right else (row[1], row[0], *row[2:]) for row, right in zip(made.ranked, honest, strict=True))
    true = np.where(honest, made.scores[:, 0], made.scores[:, 1])
    calibrated = dataclasses.replace(
        made, true_ranks=ranks, ranked=names, true_probabilities=true, classes=tuple(n[0] for n in names)
    )
    write_row(tmp_path / "calibrated", "calibrated", calibrated, provenance("posemae"), None)
    ranks_alone = dataclasses.replace(made, scores=made.scores * np.nan)
    write_row(tmp_path / "ranks", "ranks alone", ranks_alone, provenance("supervised"), None)
    found = section(tmp_path, "calibration")
    readings = {row[0].text: row[-1].text for row in table(found).rows}
    assert readings == {"sure": "over-confident", "calibrated": "no miscalibration shown"}
    (chart,) = (block for block in found.blocks if isinstance(block, Chart))
    assert len(chart.wide) == 2


def test_tests_draw_whole_signers_where_intervals_do(runs: Path, tmp_path: Path) -> None:
    for row, name in (("maskfeat", "maskfeat"), ("random init", "random init")):
        made = read_predictions(runs / row.replace(" ", "_") / "predictions.csv")
        write_row(tmp_path / row.replace(" ", "_"), name, made, provenance(row, cluster="signer"), None)
    gathered = scan([tmp_path])
    (found,), _ = scored_sets(gathered, palette(gathered))
    (versus,) = found.versus
    assert versus.difference is not None
    assert "4 whole signers" in versus.difference.method
    a, b = (read_predictions(tmp_path / name / "predictions.csv") for name in ("maskfeat", "random_init"))
    assert versus.difference == compare(a, b, cluster_by_signer=True)
    page = build_report([tmp_path], tmp_path / "report.md").read_text()
    assert "over the same clips, drawing whole signers, in percentage points" in page
    assert "Intervals draw whole signers, and there are 4." in page
    assert "whole signers" not in build_report([runs], tmp_path / "plain.md").read_text()


def test_fused_and_foreign_rows_are_told_from_trained_ones(runs: Path, tmp_path: Path) -> None:
    made = read_predictions(runs / "maskfeat" / "predictions.csv")
    better = dataclasses.replace(made, true_ranks=np.ones(240, np.int64))
    both = "mvit_tiny + pose_transformer_tiny"
    parents = [parent | {"checkpoint_hash": HASH} for parent in PARENTS]
    write_row(tmp_path / "fused", "both", made, provenance("maskfeat", encoder=both, parents=parents), None)
    unknown = {"encoder": "", "pretraining": [], "views": "not stated", "checkpoint_hash": "", "decoder": ""}
    write_row(tmp_path / "theirs", "theirs", better, provenance("maskfeat", **unknown), None)
    page = build_report([runs, tmp_path], tmp_path / "report.md").read_text().replace("\\_", "_")
    assert "**maskfeat recognises the sign in" in page  # the only one with a random initialisation to compare with
    assert "2 further pre-trained models could not be compared with their own random initialisation." in page
    assert "gained most" not in page
    assert "The highest top-1 overall is that of theirs (not trained here): 100.0 %" in page
    assert "0.65 x maskfeat (mvit_tiny, views 1x3 whole" in page
    assert "no random-initialisation run of mvit_tiny + pose_transformer_tiny" in page
    assert "its encoder is not stated" in page
    lineage = section(tmp_path, "lineage")
    steps = {row: [kind for kind, _, _ in parts] for row, _, parts in lineage.blocks[0].rows}  # type: ignore[union-attr]
    assert steps == {"both": ["fused", "fused", "pooling", "scored"], "theirs": ["start", "scored from", "scored"]}
    gathered = scan([tmp_path])
    (found,), _ = scored_sets(gathered, palette(gathered))
    assert not any(row.random for row in found.rows)
    assert len({row.series for row in found.rows}) == 2


def test_all_means_over_classes_are_behind_a_fold(runs: Path) -> None:
    tables = [block for block in section(runs, "accuracy").blocks if isinstance(block, ReportTable)]
    main, classes = tables[0], next(t for t in tables if t.name.startswith("classes-"))
    assert classes.folded
    assert [c.name for c in main.columns if c.interval] == [
        *("Top-1, %", "Top-5, %", "Top-10, %"),
        *("MRR, %", "DCG, %", "Top-1 per class, %"),
    ]
    row = dict(zip((c.name for c in classes.columns), classes.rows[0], strict=True))
    assert row["Top-10 per class, %"].low is not None
    assert (row["Classes"].raw, row["Without a clip"].raw) == (12, 0)
