"""Metrics on disk, and wandb that is real, offline by default, and never required."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from islr.training.tracking import Tracker, read_metrics


def test_rows_after_the_resumed_step_are_dropped(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, 0, "disabled", "run", {})
    for step in range(1, 6):
        tracker.log("train", step, step / 2, loss=1 / step)
    tracker.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')  # what a kill leaves
    tracker = Tracker(tmp_path, 3, "disabled", "run", {})
    tracker.log("val", 4, 2.0, top1=0.5)
    tracker.close()
    assert [(row["kind"], row["step"]) for row in read_metrics(tmp_path / "metrics.jsonl")] == [
        ("train", 1),
        ("train", 2),
        ("train", 3),
        ("val", 4),
    ]


def test_wandb_offline_writes_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    tracker = Tracker(tmp_path, 0, "offline", "run", {"optim": {"lr": 0.1}})
    tracker.log("train", 1, 0.5, loss=2.0)
    tracker.close()
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert read_metrics(tmp_path / "metrics.jsonl")[0]["loss"] == 2.0


@pytest.mark.parametrize("broken", ["init", "log", "finish"])
def test_a_failing_wandb_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], broken: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("no service")

    def fine(*_: Any, **__: Any) -> None:
        return None

    run = SimpleNamespace(log=fail if broken == "log" else fine, finish=fail if broken == "finish" else fine)
    init = fail if broken == "init" else lambda **_: run
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Settings=lambda **_: None))
    tracker = Tracker(tmp_path, 0, "offline", "run", {})
    tracker.log("train", 1, 0.5, loss=2.0)
    tracker.log("train", 2, 1.0, loss=1.0)
    tracker.close()
    assert [row["loss"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [2.0, 1.0]
    assert capsys.readouterr().err.count("wandb is not used") == 1
