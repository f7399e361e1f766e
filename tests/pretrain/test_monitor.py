"""Looks at the features of a pre-training run: collapse is flagged, neighbours vote, test is never looked at."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny_runs import PRETRAIN, write_config
from torch import nn

from islr.config import load_config
from islr.data.loading.config import DataConfig
from islr.data.manifest import Manifest
from islr.models import create_model
from islr.training.distributed.world import World
from islr.training.tracking import read_metrics
from pretrain.monitor import FeatureMonitor, MonitorConfig, neighbour_votes, spread_and_rank
from pretrain.recipe import Recipe
from pretrain.run import PretrainConfig, run_pretrain


def test_spread_and_rank_tell_collapse_from_use() -> None:
    torch.manual_seed(0)
    full = spread_and_rank(torch.randn(2000, 16))
    assert full["feature_spread"] == pytest.approx(1, abs=0.05)
    assert full["feature_rank"] == pytest.approx(16, rel=0.05)
    point = spread_and_rank(torch.ones(50, 16) + 1e-7 * torch.randn(50, 16))
    assert point["feature_spread"] < 1e-4
    line = spread_and_rank(torch.randn(50, 1) * torch.randn(16))
    assert line["feature_rank"] == pytest.approx(1, abs=0.01)
    plane = spread_and_rank(torch.randn(500, 2) @ torch.linalg.qr(torch.randn(16, 2)).Q.T)
    assert plane["feature_rank"] == pytest.approx(2, abs=0.05)
    assert spread_and_rank(torch.zeros(5, 4))["feature_rank"] == pytest.approx(1)


def test_neighbours_vote_by_likeness() -> None:
    voters = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    asked = torch.tensor([[5.0, 0.1], [0.1, 2.0]])
    found = neighbour_votes(asked, np.array([0, 1]), voters, np.array([0, 0, 1]), neighbours=3)
    assert found == {"knn_top1": 1.0, "knn_chance": 0.5}
    wrong = neighbour_votes(asked, np.array([1, 0]), voters, np.array([0, 0, 1]), neighbours=1)
    assert wrong["knn_top1"] == 0.0


def test_val_is_looked_at_and_test_never(mini_corpus: Path) -> None:
    manifest = Manifest.load(mini_corpus / "manifest.csv")
    health = FeatureMonitor(MonitorConfig(), manifest, DataConfig(manifest=("m",)), 8, World("cpu"))
    assert {clip.split for clip in health.encoded} == {"val"}
    assert {clip.split for clip in health.voters} == {"train"}
    assert health.due == {0, 2, 4, 6, 8}
    unlabelled = manifest.replace(clip for clip in manifest if clip.split != "val")
    other = FeatureMonitor(MonitorConfig(looks=1), unlabelled, DataConfig(manifest=("m",)), 8, World("cpu"))
    assert {clip.split for clip in other.encoded} == {"train"}
    assert not other.votes
    assert other.due == {8}


def test_a_collapsed_run_is_flagged(mini_corpus: Path, caplog: pytest.LogCaptureFixture) -> None:
    manifest = Manifest.load(mini_corpus / "manifest.csv")
    recipe = Recipe()
    recipe.encoder = create_model("pose_transformer_tiny", frames=4)
    health = FeatureMonitor(MonitorConfig(looks=2), manifest, DataConfig(manifest=("m",)), 1, World("cpu"))
    assert health(recipe, 0.0)["collapsed"] == 0.0
    assert not caplog.text
    for parameter in recipe.encoder.parameters():
        nn.init.zeros_(parameter)
    assert health(recipe, 1.0)["collapsed"] == 1.0
    assert "the features have collapsed" in caplog.text


def test_a_run_logs_its_looks_once(mini_corpus: Path, tmp_path: Path) -> None:
    path = write_config(PRETRAIN, tmp_path / "c.yaml", mini_corpus / "manifest.csv", tmp_path / "run")
    run_pretrain(load_config(PretrainConfig, path, ["health.looks=3", "health.clips=8"]))
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    looks = [row for row in rows if row["kind"] == "val"]
    assert [row["epoch"] for row in looks] == [0.0, 1.0, 2.0]
    assert all({"feature_spread", "feature_rank", "knn_top1", "knn_chance", "collapsed"} <= set(row) for row in looks)
    assert all(0 <= row["data_wait"] <= 1 for row in rows if row["kind"] == "train")


def test_clips_that_cannot_be_read_are_counted(mini_corpus: Path, tmp_path: Path) -> None:
    shutil.copytree(mini_corpus, tmp_path / "corpus")
    manifest = Manifest.load(tmp_path / "corpus" / "manifest.csv")
    val = list(manifest.select("val"))
    recipe = Recipe()
    recipe.encoder = create_model("mvit_tiny", frames=4, size=32)
    for broken in (val[:1], val):
        for clip in broken:
            (tmp_path / "corpus" / clip.path).write_bytes(b"no video")
        monitor = FeatureMonitor(MonitorConfig(looks=1), manifest, DataConfig(manifest=("m",)), 1, World("cpu"))
        numbers = monitor(recipe, 1.0)
        assert numbers["looked_at"] == len(val) - len(broken)
        assert ("feature_rank" in numbers) == (len(broken) < len(val))
