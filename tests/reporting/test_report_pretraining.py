"""What the report says of pre-training runs: scores against trivial predictors, features, and warnings."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.report_runs import write_metrics, write_run
from support.tiny_runs import PRETRAIN, write_config

from islr.config import load_config
from islr.data.manifest import Manifest
from islr.errors import UserError
from islr.evaluation.pretext import to_json
from islr.reporting import build_report
from islr.reporting.document.blocks import Notice, ReportTable
from islr.reporting.gather import scan
from islr.reporting.sections.pretraining import blocks_of as pretraining_blocks
from pretrain import RECIPES
from pretrain.run import PretrainConfig, run_pretrain


def blocks_of(
    folder: Path, name: str, values: dict[str, Any], evaluations: list[dict[str, Any]] | None = None
) -> list[Any]:
    write_run(folder, {"task": "pretrain", "name": name, "recipe": {"name": name}})
    if name in RECIPES:
        facts = {"predictors": to_json(RECIPES[name].trivial_predictors)}
        (folder / "recipe.json").write_text(json.dumps(facts))
    shared = {"kind": "train", "grad_norm": 2.5, "clips_per_s": 40.0, "data_wait": 0.25}
    rows = [shared | {"step": step, "epoch": step / 10} | values for step in range(1, 11)]
    rows[0]["loss"] = 99.0  # only the end counts
    write_metrics(folder, rows + [{"kind": "val", "step": 0} | one for one in evaluations or []])
    return pretraining_blocks(scan([folder]).of("pretrain"))


def cells_of(table: ReportTable) -> dict[str, str]:
    (row,) = table.rows
    return {column.name: cell.text for column, cell in zip(table.columns, row, strict=True)}


def warnings_of(blocks: list[Any]) -> list[str]:
    return [block.text for block in blocks if isinstance(block, Notice)]


@pytest.mark.parametrize(
    ("name", "values", "compared"),
    [
        ("maskfeat", {"loss": 0.05, "zero_prediction": 0.1, "place_mean": 0.08}, [("loss", "0.05", "0.08")]),
        ("bevt", {"loss": 9.0, "video_loss": 2.0, "unigram_entropy": 3.0}, [("video_loss", "2", "3")]),
        ("bevt", {"loss": 2.0, "unigram_entropy": 3.0}, [("loss", "2", "3")]),
        (
            "posemae",
            {"loss": 9.0, "points": 0.3, "motion": 0.04, "line_points": 0.9, "line_motion": 0.06, "no_motion": 0.05},
            [("points", "0.3", "0.9"), ("motion", "0.04", "0.05")],
        ),
        ("tokenizer", {"loss": 0.7, "reconstruction": 0.2, "mean_prediction": 0.4}, [("reconstruction", "0.2", "0.4")]),
        ("dpc", {"loss": 1.0, "accuracy": 0.5, "chance": 0.1, "repeated_accuracy": 0.3}, [("accuracy", "0.5", "0.3")]),
        ("svt", {"loss": 5.0, "teacher_entropy": 4.0, "uniform_teacher": 6.9}, [("loss", "5", "6.9")]),
        (
            "supervised",
            {"loss": 1.0, "uniform_classes": 1.8, "accuracy": 0.5, "majority_accuracy": 0.2},
            [("loss", "1", "1.8"), ("accuracy", "0.5", "0.2")],
        ),
    ],
)
def test_each_recipe_is_held_against_its_best_trivial_predictor(
    tmp_path: Path, name: str, values: dict[str, float], compared: list[tuple[str, str, str]]
) -> None:
    pretexts, end, *others = blocks_of(tmp_path / "run", name, values)
    assert [tuple(cell.text for cell in row[1:4]) for row in pretexts.rows] == compared
    assert {row[5].text for row in pretexts.rows} == {"learned"}
    found = cells_of(end)
    assert (found["loss"], found["gradient norm"], found["clips/s"]) == (f"{values['loss']:g}", "2.5", "40")
    logged = {"accuracy", "teacher entropy"} & {key.replace("_", " ") for key in values}
    assert {"accuracy", "perplexity", "teacher entropy"} & set(found) == logged  # columns no run fills are left out
    assert not warnings_of(others)


def test_runs_that_learned_nothing_or_collapsed_are_named(tmp_path: Path) -> None:
    idle = blocks_of(tmp_path / "a", "maskfeat", {"loss": 0.2, "zero_prediction": 0.2, "place_mean": 0.3})
    assert warnings_of(idle) == ["maskfeat: not learned: loss 0.2 is not below 0.2 of zero everywhere."]
    mute = blocks_of(tmp_path / "b", "bevt", {"loss": 0.1, "unigram_entropy": 0.2, "target_perplexity": 1.1})
    assert warnings_of(mute) == ["bevt: not learned: nearly all visual tokens are the same (perplexity 1.10)."]
    assert [row[5].text for row in mute[1].rows] == ["not learned"]
    evaluations = [
        {"epoch": 0, "feature_rank": 9.0, "feature_spread": 0.5, "collapsed": 0.0, "knn_top1": 0.1, "knn_chance": 0.1},
        {"epoch": 1, "feature_rank": 1.0, "feature_spread": 1e-6, "collapsed": 1.0, "knn_top1": 0.1, "knn_chance": 0.1},
    ]
    flat = blocks_of(tmp_path / "c", "flat", {"loss": 0.1}, evaluations)
    assert "flat: the features had collapsed at epoch 1." in warnings_of(flat)
    features = cells_of(flat[-1])
    assert (features["rank before"], features["rank after"], features["data wait"]) == ("9.0", "1.0", "25.0 %")


def test_a_run_that_fails_on_its_data_shows_the_reason(mini_corpus: Path, tmp_path: Path) -> None:
    corpus, out = tmp_path / "corpus", tmp_path / "runs" / "broken"
    shutil.copytree(mini_corpus, corpus)
    clip = Manifest.load(corpus / "manifest.csv").select("train").clips[0]
    (corpus / clip.path).write_bytes((corpus / clip.path).read_bytes()[:200])
    config = write_config(PRETRAIN, tmp_path / "broken.yaml", corpus / "manifest.csv", out)
    with pytest.raises(UserError):
        run_pretrain(load_config(PretrainConfig, config))
    page = build_report([tmp_path / "runs"], tmp_path / "r.md").read_text(encoding="utf-8")
    assert re.search(rf"failed: 1 of \d+ training clips could not be read.*{clip.clip_id}", page.replace("\\", ""))
    assert "not finished" not in page
