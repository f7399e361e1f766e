"""Metrics on disk."""

from pathlib import Path

from islr.training.tracking import Tracker, read_metrics


def test_rows_after_the_resumed_step_are_dropped(tmp_path: Path) -> None:
    with Tracker(tmp_path, 0) as tracker:
        for step in range(1, 6):
            tracker.log("train", step, step / 2, loss=1 / step)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')  # what a kill leaves
    with Tracker(tmp_path, 3) as tracker:
        tracker.log("val", 4, 2.0, top1=0.5)
    assert [(row["kind"], row["step"]) for row in read_metrics(tmp_path / "metrics.jsonl")] == [
        ("train", 1),
        ("train", 2),
        ("train", 3),
        ("val", 4),
    ]
